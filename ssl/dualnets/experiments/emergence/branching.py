"""Do more children per latent bring back a root that too few could not reveal?

Trees of one depth and one weak polarity, with more and more children per latent. Branching *
polarity² crosses 1 on the way (Kesten and Stigum): the ceiling of the root rises from nearly nothing
to nearly 1. Does what a network reaches rise with it, though its blocks have more inputs to weigh?
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.emergence.polarity import MARGIN, RATE
from dualnets.lab.ablation import ablation, sweep_figure
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule

WEAK = 0.55  # the threshold lies at 3.3 children


def _variants(*counts: int) -> dict[str, dict[str, Any]]:
    return {f"{count} children": {"branching": count} for count in counts}


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "More children per latent bring back a root, as far as its ceiling rises",
            "not in the paper, whose trees are binary; Kesten and Stigum 1966",
            Rule(
                "Fails if the root's best |correlation| after training is smaller with the most children "
                "than with the fewest (Wilcoxon's exact signed-rank test over trees, one-sided, p < "
                f"{SIGNIFICANCE}), and is open if by the same test it is neither smaller nor larger. "
                "Otherwise settings are parted by branching * polarity² > 1, and a side's gap closed at "
                "the root is the mean gain over the mean room between untrained network and ceiling. "
                "Holds if the lower end of the 95% interval of (above - below), bootstrapped over trees, "
                f"is above -{MARGIN}, fails if the upper end is below it, open otherwise; open as well if "
                "the root does not emerge (its best |correlation| grows, as above, after Bonferroni) "
                f"everywhere above the threshold, or with fewer than {FEWEST_TREES} trees.",
                Deferred(
                    "dualnets.experiments.emergence._kesten_stigum:compare_and_more_help",
                    {"asked": "above"},
                ),
            ),
        ),
    ),
    summary="do more children bring back a root?",
    variants=_variants(2, 3, 4, 5, 6),
    variants_at={"smoke": _variants(2, 3, 4, 6), "paper": _variants(2, 3, 4, 5, 6, 8)},
    common={
        "members": 12,
        "depth": 3,
        "steps": 1500,
        "snapshots": 4,
        "lr": RATE,
        "polarity_low": WEAK,
        "polarity_high": WEAK,
    },
    scales={
        "smoke": {"depth": 2, "steps": 300},
        "default": {},
        "paper": {"members": 30, "steps": 30_000, "snapshots": 12},
    },
    figure=sweep_figure("branching", "children per latent", threshold=True),
)
