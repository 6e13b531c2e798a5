"""Do networks use the units that are aligned?

Alignment is a correlation: a unit may follow a latent without anything reading it. Here the unit of each
latent's block that follows the latent best is put from a run on source leaves into a run on base leaves
(an interchange intervention, `hltm.probe.patch`), and the answer about the root, a linear probe of the
network's outputs that is fitted on other rows, changes by Δ; by C when all leaves below the latent are the
source's. What counts is the share of its own change that comes through the unit, ΣΔC / Σ|C|².
Another unit of the same block, drawn at random, has the same wires, so a share that is not larger shows
nothing of alignment. SimCLR, BYOL and a network that learns the root's label, on the same trees, each with
the learning rate that did best for it.

The measure was changed after a first smoke run.

Found (16 trees of seed 0): the share of the best aligned unit is .29 with SimCLR, .34 with BYOL and .18
with labels, that of another unit .06, so what is aligned is used; with labels by a hair (p = .009 after
Bonferroni): at the level below the root their mean lead is -.21 (median .06, and -2.8 in one tree; .16 with
seed 1). Much of the lead is there before training: an untrained network has one of .10, and that training
makes it larger is shown for BYOL (p = .004, and .002 with seed 1), not for SimCLR (.02 and .12) and labels
(.9 and 1). Nor is the best aligned unit the only one that is used: the best of ten other units of its block
often carries as much (null .25, .27 and .27, so that with labels the mean share is below its null).
"""

from __future__ import annotations

from dataclasses import dataclass

from dualnets.experiments.objectives.methods import COMMON, LABEL, SWEEP
from dualnets.lab.ablation import AblationSettings, ablation
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import setting

CODE = "dualnets.experiments.objectives._use"
RULE = (
    "A tree's lead is how much larger the share of the answer's own change is through the best aligned "
    "unit than through another unit of the same block, mean over the latents below the root. Aligned units "
    "are used if over trees the lead is above 0 (Wilcoxon's exact signed-rank test, one-sided, "
    f"p < {SIGNIFICANCE} after Bonferroni over methods). Holds if they are with all methods; fails if with "
    "one the lead is below 0 (the same test), or if with none it is above 0 and each is below "
    f"{NEGLIGIBLE} with its whole 95% interval (all methods' at once, Bonferroni); open otherwise, or with "
    f"fewer than {FEWEST_TREES} trees."
)


@dataclass(frozen=True, kw_only=True)
class Settings(AblationSettings):
    """One method: trees with latents below the root, a network on each, a budget."""

    depth: int = setting(5, "levels of the tree below its root", low=2, high=16)


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "Networks use the units that are aligned with the latents",
            "not in the paper, which measures alignment only (arXiv 2010.00578, Section 5)",
            Rule(RULE, Deferred(f"{CODE}:judge")),
        ),
    ),
    summary="are the aligned units those that the answer comes from?",
    variants={
        "simclr": {"method": "simclr", "loss": "ntxent", "lr": SWEEP.best("simclr")},
        "byol": {"method": "byol", "lr": SWEEP.best("byol")},
        LABEL: {"method": "supervised", "labels": "root", "lr": SWEEP.best(LABEL)},
    },
    settings=Settings,
    common={**COMMON, "members": 16},
    scales={
        "smoke": {
            "depth": 3,
            "members": 12,
            "steps": 60,
            "snapshots": 4,
            "evaluation_samples": 2048,
        },
        "default": {},
        "paper": {"depth": 5, "batch": 128, "members": 30, "steps": 10_000, "snapshots": 16},
    },
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.objectives._use_figure:draw"),
    code=CODE,
)
