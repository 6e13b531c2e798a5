"""Where does the root stop emerging as edges get noisier, and is that the ceiling or the learner?

Binary trees whose every edge has one polarity, from barely informative to nearly certain. Below branching *
polarity² = 1 (Kesten and Stigum) the leaves of a deep tree carry no information about its root, and the
Bayes ceiling falls. Does what a network reaches fall with the ceiling, or before it?
"""

from __future__ import annotations

from typing import Any

from dualnets.lab.ablation import ablation, sweep_figure
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule

# One rate for all polarities. Of 0.1, 0.3, 1, 3 and 10, 3 does better than 1 by .03 to .04 of the gap from
# .75 up, 1 does better than 3 by .08 at .7 and as well or better below .65:
#   hltm run polarity --seed 1000 --members 8 --steps 1000 --lr 0.1 0.3 1 3 10
# Other experiments on trees have the same rate; it was not tuned again for them.
RATE = 1.0
MARGIN = 0.2  # of the room between the untrained network and the ceiling: less is not distinguished


def _variants(*values: float) -> dict[str, dict[str, Any]]:
    return {f"polarity {rho}": {"polarity_low": rho, "polarity_high": rho} for rho in values}


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "As edges get noisier the root fades with its ceiling, and no sooner",
            "not in the paper, whose polarities are 0.7 and above; Kesten and Stigum 1966",
            Rule(
                "Polarities are parted by branching * polarity² > 1. A side's gap closed at the root is "
                "the mean gain over the mean room between untrained network and ceiling, over its "
                "polarities and trees. Holds if the lower end of the 95% interval of (below - above), "
                f"bootstrapped over trees, is above -{MARGIN}, fails if the upper end is below it, open "
                "otherwise; open as well if the root's best |correlation| does not grow at every "
                "polarity above the threshold (Wilcoxon's exact signed-rank test, one-sided, p < "
                f"{SIGNIFICANCE} after Bonferroni over polarities), or with fewer than {FEWEST_TREES} "
                "trees.",
                Deferred(
                    "dualnets.experiments.emergence._kesten_stigum:compare", {"asked": "below"}
                ),
            ),
        ),
    ),
    summary="where the root fades: its ceiling, or the learner?",
    variants=_variants(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9),
    variants_at={"smoke": _variants(0.5, 0.65, 0.8, 0.9)},
    common={"members": 12, "steps": 2000, "snapshots": 6, "lr": RATE},
    scales={
        "smoke": {"depth": 3, "steps": 300, "snapshots": 4},
        "default": {},
        "paper": {"members": 30, "steps": 30_000, "snapshots": 12},
    },
    figure=sweep_figure("polarity_low", "polarity", threshold=True),
)
