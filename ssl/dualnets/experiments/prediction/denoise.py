"""Does a trained denoiser follow the exact one, and do leaves change together where the exact ones do?

Each leaf of symmetric binary trees is replaced by a uniform state with probability t, the level of noise, and
transformers learn to predict all leaves of the sample, one training per level. The least loss is that of
the exact denoiser, the posterior of every leaf given all noisy ones; a denoiser that looks at each leaf
alone (the filtered tree of level 0) has the loss that stands for nothing learnt of the tree.

Then noise is put on samples and taken back: every leaf is drawn anew, each by itself, from the
probabilities that a denoiser gives it, and the changes of two leaves correlate by the level of their nearest
common ancestor. The sum of these correlations, the susceptibility, is the number of leaves that change
together; in Random Hierarchy Models and in images its peak marks the transition at which the class changes
(arXiv 2410.13770). On small trees the peak is broad, so that here the transition is the level of noise at
which the susceptibility has grown by half. At t = 1 leaves that are drawn each by itself are independent,
and those that are drawn together are a new sample of the tree. Networks are compared with the exact denoiser
by the same procedure; beside both stands the exact reverse process, which draws all leaves together.
"""

from __future__ import annotations

from dualnets.experiments.prediction._loss_claims import OURS, attains
from dualnets.experiments.prediction._prediction_settings import BinaryPrediction
from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import FEWEST_TREES, Claim, Deferred, Rule

CODE = "dualnets.experiments.prediction._denoise"
NEAR = 0.05  # of correlations, and of levels of noise
LEVELS = (0.1, 0.25, 0.4, 0.6, 0.8)
# The share of the way from independent leaves to the Bayes loss, in place of a gap closed; the best rate with
# little noise is that of all levels.
SWEEP = Sweep(
    "hltm run denoise --only 'noise 0.1' --seed 1000 --members 3 --steps 150 --snapshots 3 "
    "--lr 0.001 0.003 0.01",
    (0.001, 0.003, 0.01),
    {"noise 0.1": (0.870, 0.919, 0.886)},
)
OPEN = f"open otherwise, with fewer than {FEWEST_TREES} trees, or where one diverged."

EXPERIMENT = ablation(
    __name__,
    claims=(
        attains(
            "Denoising attains at least nine tenths of the way to the exact denoiser's loss",
            f"{OURS} arXiv 2410.13770; not in arXiv 2010.00578",
        ),
        Claim(
            "Leaves that are drawn from a network's predictions change together as those drawn from the "
            "exact denoiser's",
            f"{OURS} arXiv 2410.13770",
            Rule(
                "For every level of noise and every level of the nearest common ancestor, the correlation of "
                "two leaves' changes with the network is compared with that with the exact denoiser, tree by "
                f"tree. Holds if all mean differences lie within {NEAR:g} of 0 with their whole 95% "
                f"intervals (all at once, Bonferroni), fails if one lies wholly outside; {OPEN}",
                Deferred(f"{CODE}:judge_follows"),
            ),
            "follows",
            Deferred(f"{CODE}:differences"),
            negligible=2 * NEAR,
        ),
        Claim(
            "The transition with networks lies at the level of noise where the exact denoiser has it",
            f"{OURS} arXiv 2410.13770",
            Rule(
                "A tree's transition is the level of noise, linear between those run, at which the "
                "susceptibility has grown by half of the way from 1 to its largest value. Holds if the "
                "transition with the network less that with the exact denoiser, mean over trees, lies within "
                f"{NEAR:g} of 0 with its whole 95% interval, fails if it lies wholly outside; {OPEN}",
                Deferred(f"{CODE}:judge_transition"),
            ),
            "transition",
            Deferred(f"{CODE}:transition_shift"),
            negligible=2 * NEAR,
        ),
    ),
    summary="noise on leaves: a denoiser beside the exact one",
    settings=BinaryPrediction,
    variants={
        f"noise {level}": {
            "method": "denoising", "augment": f"flip-leaves:{level}", "lr": SWEEP.best("noise 0.1"),
        }
        for level in LEVELS
    },
    common={
        "polarity_low": 0.95, "polarity_high": 0.95, "depth": 3, "seed": [0, 1], "members": 6, "layers": 2,
        "width": 32, "heads": 2, "batch": 64, "steps": 600, "snapshots": 6, "evaluation_samples": 4096,
        "optimizer": "adam",
    },
    scales={
        "smoke": {
            "seed": 0, "depth": 2, "members": 12, "steps": 40, "snapshots": 3, "evaluation_samples": 512,
        },
        "default": {},
        "long": {"steps": 2400, "snapshots": 10},
        "paper": {"depth": 4, "members": 12, "steps": 20_000, "snapshots": 12, "width": 64},
    },
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.prediction._denoise_figure:draw"),
    code=CODE,
    result_version=1,
)  # fmt: skip
