"""Do networks use the units that are aligned?

Alignment is a correlation: a unit may follow a latent without anything reading it. Here the unit of each
latent's block that follows the latent best is put from a run on source leaves into a run on base leaves
(an interchange intervention, `hltm.probe.patch`), and the answer about the root, a linear probe of the
network's outputs that is fitted on other rows, changes by Δ; by C when all leaves below the latent are the
source's. What counts is how far the two agree, 2 ΣΔC / (Σ|Δ|² + Σ|C|²), between -1 and 1: 0 where the unit is
not used, 1 where all of the change comes through it. Another unit of the same block, drawn at random, has the
same wires, so an agreement that is not larger shows nothing of alignment. SimCLR, BYOL and a network that
learns the root's label, on the same trees, each with the learning rate that did best for it.

The measure replaces ΣΔC / Σ|C|², which has no bounds, so that a single tree could decide; the rules were
fixed after that, and seeds 2 and 3, which no earlier run had used, decide.
"""

from __future__ import annotations

from dataclasses import dataclass

from dualnets.experiments.objectives.methods import COMMON, LABEL, SWEEP
from dualnets.lab.ablation import AblationSettings, ablation
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import setting

CODE = "dualnets.experiments.objectives._use"
NEGLIGIBLE = 0.05  # of an agreement, whose leads are some tenths
_WITH_ALL = (
    f"(Wilcoxon's exact signed-rank test over trees, one-sided, p < {SIGNIFICANCE} after Bonferroni over "
    "methods). Holds if it is with all methods; fails if with one it is below 0 (the same test), or if with "
    f"none it is above 0 and each is below {NEGLIGIBLE} with its whole 95% interval (all methods' at once, "
    f"Bonferroni); open otherwise, or with fewer than {FEWEST_TREES} trees."
)
_LEAD = (
    "A tree's lead is how much further the answer's change agrees with its own through the best aligned "
    "unit than through another unit of the same block, mean over the latents below the root. "
)


def _claim(text: str, rule: str, name: str, *, growth: bool) -> Claim:
    return Claim(
        text,
        "ours: not in the paper, which measures alignment only (arXiv 2010.00578, Section 5)",
        Rule(_LEAD + rule + _WITH_ALL, Deferred(f"{CODE}:judge", {"growth": growth})),
        name,
        Deferred(f"{CODE}:leads_by_method"),
        negligible=NEGLIGIBLE,
    )


@dataclass(frozen=True, kw_only=True)
class Settings(AblationSettings):
    """One method: trees with latents below the root, a network on each, a budget."""

    depth: int = setting(5, "levels of the tree below its root", low=2, high=16)


EXPERIMENT = ablation(
    __name__,
    claims=(
        _claim(
            "The unit of a block that is best aligned with its latent is used more than another unit of it",
            "Tested is whether the lead is above 0 ",
            "used",
            growth=False,
        ),
        _claim(
            "Training makes the best aligned unit's lead over the others larger",
            "Tested is whether the lead after training less that before is above 0 ",
            "training",
            growth=True,
        ),
    ),
    summary="are the aligned units those that the answer comes from?",
    variants={
        "simclr": {"method": "simclr", "loss": "ntxent", "lr": SWEEP.best("simclr")},
        "byol": {"method": "byol", "lr": SWEEP.best("byol")},
        LABEL: {"method": "supervised", "labels": "root", "lr": SWEEP.best(LABEL)},
    },
    settings=Settings,
    # leads grow in some hundred updates and shrink in some ten thousand
    common={**COMMON, "seed": [2, 3], "members": 24, "steps": 32_000, "snapshots": 8},
    scales={
        "smoke": {
            "seed": 2, "depth": 3, "members": 12, "steps": 60, "snapshots": 4, "evaluation_samples": 2048,
        },
        "default": {},
        "long": {"steps": 100_000},
        "paper": {"depth": 5, "batch": 128, "members": 30, "snapshots": 16},
    },
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.objectives._use_figure:draw"),
    code=CODE,
    result_version=2,
)  # fmt: skip
