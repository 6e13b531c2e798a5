"""Do more children per latent bring back a root that too few could not reveal?

Trees of one depth and one weak polarity, with more and more children per latent. Branching *
polarity² crosses 1 on the way (Kesten and Stigum): the ceiling of the root rises from nearly nothing
to nearly 1. Does what a network reaches rise with it, though its blocks have more inputs to weigh?
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.emergence.polarity import RATE
from dualnets.lab.ablation import ablation, sweep_figure
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, ROOT, SIGNIFICANCE, Claim, Deferred, Rule

WEAK = 0.55  # the threshold lies at 3.3 children
OWN = "ours: not in the paper (arXiv 2010.00578), whose trees are binary"


def _variants(*counts: int) -> dict[str, dict[str, Any]]:
    return {f"{count} children": {"branching": count} for count in counts}


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "With more children per latent the root is better represented after training",
            OWN,
            Rule(
                "Holds if the root's best |correlation| after training is larger with the most children "
                "than with the fewest (Wilcoxon's exact signed-rank test over trees, one-sided, p < "
                f"{SIGNIFICANCE}), fails if it is smaller by the same test, open otherwise, or with fewer "
                f"than {FEWEST_TREES} trees.",
                Deferred("dualnets.experiments.emergence._branching:more_children_help"),
            ),
            name="more",
            plateau=ROOT,
        ),
        Claim(
            "The root's gap closes as far where many children have raised its ceiling",
            f"{OWN}; the threshold is that of Kesten and Stigum 1966",
            Rule(
                "Settings are parted by branching * polarity² > 1. A setting's gap closed at the root is "
                "the mean gain over the mean room between untrained network and ceiling, and a side's is "
                "the mean over its settings. Holds if the lower end of Student's 95% interval over trees "
                f"of (above - below) is above -{NEGLIGIBLE}, fails if the upper end is below it, open "
                "otherwise; open as well if the root does not emerge (its best |correlation| grows: "
                f"Wilcoxon's exact signed-rank test, one-sided, p < {SIGNIFICANCE} after Bonferroni over "
                "settings) everywhere above the threshold, or with fewer than "
                f"{FEWEST_TREES} trees.",
                Deferred(
                    "dualnets.experiments.emergence._kesten_stigum:compare", {"asked": "above"}
                ),
            ),
            name="ceiling",
            plateau=ROOT,
        ),
    ),
    summary="do more children bring back a root?",
    variants=_variants(2, 3, 4, 5, 6),
    variants_at={"smoke": _variants(2, 3, 4, 6), "paper": _variants(2, 3, 4, 5, 6, 8)},
    common={
        "members": 16, "depth": 3, "steps": 8000, "snapshots": 8, "lr": RATE, "polarity_low": WEAK,
        "polarity_high": WEAK,
    },
    scales={
        "smoke": {"members": 12, "depth": 2, "steps": 300, "snapshots": 4},
        "default": {},
        "paper": {"members": 30, "steps": 30_000, "snapshots": 12},
    },
    figure=sweep_figure("branching", "children per latent", threshold=True),
)  # fmt: skip
