"""How many samples does each objective need, level by level?

Data are those of the Random Hierarchy Model (Cagnetta et al., arXiv 2307.02129; the experiment `hierarchy`
describes it). Training uses a fixed set of P samples, again and again. The samples that a level needs are
those with which half of what there is to learn from it is learned, on fresh rows: where leaves are
predicted, masked ones or the next, half of the way from the exact loss of the tree that is filtered at the
level below to that of the tree filtered at the level; with the root's state as the label (its class and the
rule that rewrites it, which leaves determine), half of the way from a guess to a loss of 0. Contrast
(SimCLR) and latent prediction (BYOL's target, from a view that misses tuples of leaves) have no such loss:
there a level's share is that of the way from the untrained network to 1 of a linear readout's R² of its
symbols, and what is asked for is half of the share that the largest set gives.

With one rule per symbol (m = 1) a class has one string of leaves, and there is no hierarchy to learn: the
control. Networks are dense, but for the next leaf, which needs a causal one: a transformer. The ranges of m
are short, so that exponents have wide intervals. The experiment `samples` measures what networks of the
trees' shape need, by invariance to synonyms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dualnets.experiments.emergence.samples import CLASSIFIED, TOLERANCE
from dualnets.experiments.prediction._prediction_settings import GrammarPrediction
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import FEWEST_TREES, Claim, Deferred, Rule

CODE = "dualnets.experiments.prediction._complexity"
LABEL, MASKED, NEXT, CONTRAST, LATENT = "label", "masked", "next leaf", "contrast", "latent"

SHOWN, TUPLES = "resample-leaves:0", "drop-subtrees:0.5:1"
OBJECTIVES: dict[str, dict[str, Any]] = {
    LABEL: {"method": "supervised", "augment": SHOWN, "network": "mlp"},
    MASKED: {"method": "masked-prediction", "augment": "drop-leaves:0.3", "network": "mlp"},
    NEXT: {"method": "next-leaf", "augment": SHOWN, "network": "transformer", "width": 16},
    CONTRAST: {"method": "simclr", "loss": "ntxent", "augment": TUPLES, "network": "mlp"},
    LATENT: {"method": "latent-prediction", "augment": TUPLES, "network": "mlp"},
}
# Largest shares of level 2 with fresh samples and m = 2, with 0.001, 0.003 and 0.01: masked 0.61, 0.86, 0.75,
# next leaf 1.11, 1.22, 1.25, contrast 0.41, 0.42, 0.27, latent 0.20, 0.34, 0.30; all learn the label
#   hltm run complexity --seed 1000 --members 4 --samples 0 --lr 0.001 0.003 0.01 --only …
# with the variants of m = 2 (and 2000 updates with masked leaves, 1000 else).
RATES = {LABEL: 0.003, MASKED: 0.003, NEXT: 0.01, CONTRAST: 0.003, LATENT: 0.003}
STEPS = {LABEL: 800, MASKED: 1500, NEXT: 500, CONTRAST: 1000, LATENT: 1500}
SLOWEST = (MASKED, 2)  # whose second level is asked about: twice as many
RULES: Mapping[str, Sequence[int]] = {
    LABEL: (2, 4), MASKED: (1, 2, 4), NEXT: (2, 4), CONTRAST: (2,), LATENT: (2,),
}  # fmt: skip
BY_READOUT = (CONTRAST, LATENT)  # with fresh samples 0.42 and 0.34 of level 2 at most

NEEDED = (
    "The samples that a tree needs for a level: where the largest share learned of it along training, "
    "linear in the logarithm of the size of the set, first reaches half (by contrast and latent "
    "prediction, half of that with the largest set, where this is more than 0.1); infinite where it "
    "does not with the largest set, and between 1 sample and the smallest set where it "
    "does with that. The median over trees has a 95% interval between two trees (order statistics). "
)
DECIDED = (
    f"Holds if the interval lies within {TOLERANCE:g} of {{target}}, fails if it lies wholly outside, open "
    f"otherwise, or with fewer than {FEWEST_TREES} trees."
)
PREDICTED = (
    "arXiv 2406.00048, Appendices D to F: v m^(2l - 1) / (1 - m / v) samples, with which correlations of "
    "leaves with a common ancestor at level l exceed their noise; not in "
    "arXiv 2010.00578"
)
LATENTS = (
    "arXiv 2605.27734: latent prediction needs about m^3 samples for every level; not in arXiv "
    "2010.00578"
)


@dataclass(frozen=True, kw_only=True)
class Settings(GrammarPrediction):
    """One objective: rules, a network on each set of them, a set of samples."""

    def __post_init__(self) -> None:
        if 0 < self.samples < self.batch:  # a set smaller than a batch is read as a whole
            object.__setattr__(self, "batch", self.samples)
        super().__post_init__()
        if self.depth < 2:
            raise ValueError(f"depth must be at least 2 for two levels, got {self.depth}")


def _variants(
    rules: Mapping[str, Sequence[int]], steps: Mapping[str, int] = STEPS, times: int = 1
) -> dict[str, dict[str, Any]]:
    """Every objective with its numbers of rules m."""
    return {
        f"{name}, m {m}": {
            **OBJECTIVES[name], "lr": RATES[name], "rules": m,
            "steps": times * steps[name] * (2 if (name, m) == SLOWEST else 1),
        }
        for name, counts in rules.items()
        for m in counts
    }  # fmt: skip


def _claim(
    text: str, reference: str, name: str, judge: str, number: str, target: str, **options: Any
) -> Claim:
    """A claim whose own effect must be flat; options are those of its rule."""
    rule = Deferred(f"{CODE}:{judge}", options)
    return Claim(
        text,
        reference,
        Rule(f"{NEEDED}{number} {DECIDED.format(target=target)}", rule),
        name=name,
        plateau=Deferred(f"{CODE}:effect", {"judge": rule}),
        negligible=TOLERANCE / 2,
    )


SLOPE = (
    "A tree's number is the slope of the logarithm of the samples needed{of} on log m, over all m "
    "above 1."
)
RATIO = (
    "A tree's number is the logarithm to the base m (2 if m is 1) of the ratio of the samples needed for "
    "level 2 to those for level 1, with m = {m}."
)

EXPERIMENT = ablation(
    __name__,
    claims=(
        _claim(
            "With the root as the label, the samples needed grow as m to the power L",
            f"P* ≈ n_c m^L: {CLASSIFIED}",
            "label", "judge_exponent", SLOPE.format(of=""), "L", objective=LABEL,
        ),
        _claim(
            "Predicting masked leaves, the samples needed for level 1 grow with m as published for its "
            "correlations",
            PREDICTED,
            "masked", "judge_exponent", SLOPE.format(of=" for level 1"),
            "the same slope of the published numbers", objective=MASKED,
        ),
        _claim(
            "Predicting the next leaf, the samples needed for level 1 grow with m as published for its "
            "correlations",
            PREDICTED,
            "next leaf", "judge_exponent", SLOPE.format(of=" for level 1"),
            "the same slope of the published numbers", objective=NEXT,
        ),
        _claim(
            "Predicting masked leaves, level 2 needs about m² times as many samples as level 1",
            PREDICTED,
            "level by level", "judge_levels", RATIO.format(m=2), "2", objective=MASKED, rules=2,
            claimed=2.0,
        ),
        _claim(
            "Predicting the next leaf, level 2 needs about m² times as many samples as level 1",
            PREDICTED,
            "next level", "judge_levels", RATIO.format(m=2), "2", objective=NEXT, rules=2, claimed=2.0,
        ),
        _claim(
            "With one rule per symbol, masked leaves of both levels are learned from as many samples",
            f"the control, where nothing hierarchical has to be learned: {PREDICTED}, at m = 1",
            "control", "judge_levels", RATIO.format(m=1), "0", objective=MASKED, rules=1, claimed=0.0,
        ),
        _claim(
            "Predicting latents, level 2 needs about as many samples as level 1",
            LATENTS,
            "latent", "judge_levels", RATIO.format(m=2), "0", objective=LATENT, rules=2, claimed=0.0,
        ),
        _claim(
            "By contrast, level 2 needs about as many samples as level 1",
            "ours: not in the papers",
            "contrast", "judge_levels", RATIO.format(m=2), "0", objective=CONTRAST, rules=2, claimed=0.0,
        ),
    ),
    summary="samples per level and objective on a grammar",
    settings=Settings,
    variants=_variants(RULES),
    variants_at={
        "smoke": _variants({MASKED: (1, 2), CONTRAST: (2,)}, {MASKED: 20, CONTRAST: 20}),
        "long": _variants(RULES, times=4),
        "paper": _variants(dict.fromkeys(OBJECTIVES, (1, 2, 3, 4)), times=10),
    },
    common={
        "depth": 3, "symbols": 8, "members": 12, "batch": 32, "width": 64, "optimizer": "adam",
        "snapshots": 6, "evaluation_samples": 2048, "samples": [4, 16, 64, 256, 1024],
    },
    scales={
        "smoke": {"samples": [4, 64], "snapshots": 3, "evaluation_samples": 512},
        "default": {},
        "long": {"samples": [4, 16, 64, 256, 1024, 4096]},
        "paper": {"members": 30, "samples": [2**k for k in range(2, 17)]},
    },
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.prediction._complexity_figure:draw"),
    code=CODE,
)  # fmt: skip
