"""How many samples until the symbols of each level are learned?

Data are those of the Random Hierarchy Model (Cagnetta et al., arXiv 2307.02129; the experiment `hierarchy`
describes it): v symbols per level, m synonymous rules per symbol, tuples of s = 2, L levels. Training uses a
fixed set of P samples, again and again; what a view hides is hidden, and nothing is drawn anew, so that a
network sees no more of the model than its samples.

A level is learned where synonyms make no difference: invariance is 1 - r / s, with r the mean squared change
of the layer above where the rule of a symbol is drawn again, and all below it, and s that where the symbol,
too, is replaced by that of another sample. It is 1 if the layer depends on the symbol alone; before training
it is above 0. (The papers measure such ratios, too.) The samples that a level needs are those with which a
tree's invariance grows half as much as with fresh samples; a tree that does not get there with the largest
set needs more than that, and one that gets there with the smallest may need fewer.

Four kinds of training: a label, the class; a hidden leaf, the last, predicted from all others (the layer then
looks at the symbols beside the path to that leaf); and two that compare views of which whole tuples of leaves
are hidden, SimCLR and BYOL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dualnets.experiments.emergence.hierarchy import HierarchySettings
from dualnets.lab.ablation import VariantSettings, ablation
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import setting

if TYPE_CHECKING:
    from dualnets.methods.protocol import Method
    from hltm.sampling.augment import Augmentation

CODE = "dualnets.experiments.emergence._samples"
CLASS, LEAF = "class", "hidden leaf"
# Powers of m by which an exponent may miss the published one. Half of what separates the published answers:
# the same samples for all levels (0), and m² times as many for each (2).
TOLERANCE = 1.0

NEEDED = (
    "The samples that a tree needs: where its curve over the size of the set, linear in the logarithm of "
    "the size, first reaches half of the growth with fresh samples; infinite where it does not with the "
    "largest set, or where fresh samples do not help. A tree that gets there with the smallest set needs "
    "between 1 sample and that set, one that never does more than the largest: its number has two bounds. "
)
MEDIAN = (
    "the median over trees has a 95% interval between two trees (order statistics: its lower end from the "
    "lower bounds, its upper end from the upper ones)"
)
OPEN = (
    f"open otherwise, where fresh samples close less than {NEGLIGIBLE} of the gap, or with fewer than "
    f"{FEWEST_TREES} trees"
)
EXPONENT = (
    f"{NEEDED}Of the mean invariance of all levels, trained with the class. A tree's number is the slope of "
    f"the logarithm of the samples needed on log m, over all m; {MEDIAN}. Holds if the interval lies within "
    f"{TOLERANCE:g} of L, fails if it lies wholly outside, {OPEN}."
)
LOWEST = (
    f"{NEEDED}Of the lowest level, trained to predict a hidden leaf. A tree's number is the slope of the "
    f"logarithm of the samples needed on log m, over all m; {MEDIAN}. Holds if the interval lies within "
    f"{TOLERANCE:g} of the same slope of the published numbers, fails if it lies wholly outside, {OPEN}."
)
TOGETHER = (
    f"{NEEDED}Trained with the class, level by level. A tree's number is the mean over m of log_m of the "
    "ratio of the samples needed for the highest level below the root to those for the lowest, per level "
    f"between them; {MEDIAN}. Holds if the interval lies within {TOLERANCE:g} of 0, less than a factor m per "
    f"level, fails if it lies wholly outside, {OPEN}."
)
LEVEL_BY_LEVEL = (
    f"{NEEDED}Trained to predict a hidden leaf, with the fewest rules m that were run. A tree's number is "
    "log_m of the ratio of the samples needed for the highest level below the root to those for the lowest, "
    f"per level between them; {MEDIAN}. Holds if the interval lies within {TOLERANCE:g} of 2, fails if it "
    f"lies wholly outside, {OPEN}."
)
VIEWS = (
    f"{NEEDED}For SimCLR and for BYOL, an exact signed-rank test over trees (Wilcoxon, one-sided, p < "
    f"{SIGNIFICANCE} after Bonferroni over methods, censored trees last) of whether the highest level below "
    "the root needs more samples than the lowest, and whether it needs fewer. Holds if it needs more with "
    f"every method, fails if it needs fewer with one and more with none, {OPEN}."
)


@dataclass(frozen=True, kw_only=True)
class Settings(VariantSettings, HierarchySettings):
    """One training: rules, a network on each set of them, a method, a set of samples."""

    predict: str = setting(
        "labels",
        "what a supervised network predicts: its labels, or the last leaf, which it is not shown",
        choices=("labels", "leaf"),
    )

    def __post_init__(self) -> None:
        if 0 < self.samples < self.batch:  # a set smaller than a batch is read as a whole
            object.__setattr__(self, "batch", self.samples)
        super().__post_init__()
        if self.depth < 3:
            raise ValueError(f"depth must be at least 3 for two levels, got {self.depth}")
        if self.predict == "leaf" and self.method != "supervised":
            raise ValueError(f"predict leaf needs method supervised, got {self.method}")

    def build_augmentation(self) -> Augmentation:
        """The augmentation by name, which also hides the last leaf where that is predicted."""
        from dualnets.experiments.emergence._hidden_leaf import hide_last_leaf

        made = super().build_augmentation()
        return made.then(hide_last_leaf()) if self.predict == "leaf" else made

    def build_method(self) -> Method:
        """The method; a supervised one with the last leaf as its label where that is predicted."""
        made: Any = super().build_method()
        last = len(self.build_topology()) - 1
        return replace(made, targets=(last,)) if self.predict == "leaf" else made


def _variants(*counts: int, steps: int, longer: int) -> dict[str, dict[str, Any]]:
    """The kinds of training; those that the papers are about with several numbers of rules.

    Args:
        counts: numbers of rules m.
        steps: updates with labels.
        longer: updates of those that compare views.
    """
    shown = {
        "method": "supervised",
        "labels": "root",
        "augment": "resample-leaves:0",
        "steps": steps,
    }
    labelled = {CLASS: {**shown, "lr": 0.3}, LEAF: {**shown, "predict": "leaf", "lr": 0.1}}
    views: dict[str, dict[str, Any]] = {
        "simclr": {"method": "simclr", "loss": "ntxent", "temperature": 0.5, "lr": 1.0, "momentum": 0.0,
                   "augment": "drop-subtrees:0.7:1", "steps": longer},
        "byol": {"method": "byol", "lr": 0.3, "augment": "drop-subtrees:0.5:1", "steps": longer},
    }  # fmt: skip
    of_rules = {
        f"{name}, m {m}": {**own, "rules": m} for name, own in labelled.items() for m in counts
    }
    few = counts[0]
    return of_rules | {f"{name}, m {few}": {**own, "rules": few} for name, own in views.items()}


def _by(function: str, text: str, **options: Any) -> dict[str, Any]:
    """A rule of a claim, whose own effect must be flat at the end of training."""
    judge = Deferred(f"{CODE}:{function}", options)
    plateau = Deferred(f"{CODE}:effect", {"judge": judge})
    return {"rule": Rule(text, judge), "plateau": plateau, "negligible": TOLERANCE / 2}


CLASSIFIED = "arXiv 2307.02129v5 (Phys. Rev. X 14, 031001); not in arXiv 2010.00578"
PREDICTED = (
    "arXiv 2406.00048, Appendices D to F: with v m^(2l - 1) / (1 - m / v^(s - 1)) samples, correlations of "
    "leaves with a common ancestor at level l exceed their noise; l = level + 1 is our reading; not in "
    "arXiv 2010.00578"
)

EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "With the class as the label, the samples needed grow as m to the power L",
            f"P* ≈ n_c m^L, measured, and from the noise of correlations (Equation 10): {CLASSIFIED}",
            **_by("judge_exponent", EXPONENT, kind=CLASS),
            name="class",
        ),
        Claim(
            "With the class as the label, levels differ by less than a factor m in the samples needed",
            f"sensitivities to synonyms of all levels fall at the same P*: {CLASSIFIED}",
            **_by("judge_levels", TOGETHER, kind=CLASS, claimed=0.0),
            name="at once",
        ),
        Claim(
            "Predicting a hidden leaf, the samples needed for the lowest level grow with m as its "
            "correlations with that leaf emerge from noise",
            PREDICTED,
            **_by("judge_exponent", LOWEST, kind=LEAF),
            name="leaf",
        ),
        Claim(
            "Predicting a hidden leaf, every further level needs about m² times as many samples",
            PREDICTED,
            **_by("judge_levels", LEVEL_BY_LEVEL, kind=LEAF, claimed=2.0, fewest=True),
            name="level by level",
        ),
        Claim(
            "Comparing views that hide tuples of leaves, higher levels need more samples",
            "ours: not in the papers",
            **_by("judge_views", VIEWS),
            name="views",
        ),
    ),
    summary="how many samples each level of a grammar needs",
    settings=Settings,
    variants=_variants(2, 3, 4, steps=1500, longer=4000),
    variants_at={
        "smoke": _variants(2, 3, steps=40, longer=40),
        **dict.fromkeys(("long", "paper"), _variants(2, 3, 4, steps=3000, longer=12_000)),
    },
    common={
        "depth": 3, "symbols": 8, "members": 14, "batch": 32, "units": 32, "bias": True, "momentum": 0.9,
        "snapshots": 4, "evaluation_samples": 2048, "samples": [4, 16, 64, 256, 1024, 4096, 0],
    },
    scales={
        "smoke": {"units": 8, "evaluation_samples": 512, "samples": [4, 256, 0]},
        "default": {},
        "long": {"members": 24, "samples": [4, 16, 64, 256, 1024, 4096, 16_384, 0]},
        "paper": {"members": 30, "samples": [*(2**k for k in range(2, 15)), 0]},
    },
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.emergence._samples_figure:draw"),
    code=CODE,
    result_version=2,
)  # fmt: skip
