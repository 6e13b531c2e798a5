"""Does training amplify the directions of the covariance operator, and do the first stay first?

With views that keep the root, the operator of a layer is V[Kbar] = (Kbar_+ - Kbar_-)(Kbar_+ - Kbar_-)^T / 4
(docs/theory.md, Equation 3.5), which has as many directions as there are outputs. There are two classes of
samples, so that a pair weight is one factor, and a contrastive loss has the directions of the simple one.
Along training, the growth rate of the weights along each eigenvector is compared with its eigenvalue (for
plain outputs, where the operator acts on the weights).

Then the units. The operator amplifies what is selective already, so the unit that follows its latent best
before training should win more often than one in n, the chance of a unit that is picked blindly. Whether
the operator tells more than that is asked of a forecast of our own (Equation 4.6), which follows the
operator's direction from the untrained network, on samples of its own: does it name the winner more often
than the ranking before training, which costs nothing?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Grid
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    setting,
)

DIRECTION, UNIT = "direction", "unit"  # the kinds of rows


@dataclass(frozen=True, kw_only=True)
class Settings(ProbeSettings, TrainSettings, ContrastSettings, NetworkSettings, TreeSettings):
    """Trees, a network on each, how it is trained, and how far the forecast follows the update."""

    depth: int = setting(4, "levels of the tree below its root", low=1, high=16)
    members: int = setting(64, "trees, each with a network of its own", low=1, high=1 << 20)
    network: str = setting("tree", "a block of units per latent", choices=("tree",))
    steps: int = setting(4000, "updates", low=2, high=10**9)
    snapshots: int = setting(
        10, "times the networks are probed, evenly in log steps", low=2, high=1000
    )
    growth: float = setting(1.0, "of the forecast: changes of a layer over its norm", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment != "keep-root":
            raise ValueError(
                f"augment must be keep-root, for which the operator is known, got {self.augment!r}"
            )
        self.build_loss()


_USUAL: dict[str, Any] = {"normalize": [True], "lr": [0.3]}
_PLAIN: dict[str, Any] = {"normalize": [False], "depth": [3], "lr": [1.0]}
_SMOKE: dict[str, Any] = {
    "depth": [2], "units": [4], "members": [12], "steps": [150], "snapshots": [4],
}  # fmt: skip
GRIDS: dict[str, list[Grid]] = {
    "smoke": [{**_USUAL, **_SMOKE}, {**_PLAIN, **_SMOKE}],
    "default": [{**_USUAL, "units": [10]}, {**_PLAIN, "units": [10]}],
    "paper": [
        {**_USUAL, "units": [5, 10, 20], "depth": [5], "steps": [20_000]},
        {**_PLAIN, "units": [5, 10, 20], "steps": [10_000]},
    ],
}

_RULES = "dualnets.experiments.theorems._amplification_rules"
_FEW = f"It is open otherwise, and with fewer than {FEWEST_TREES} trees."
GROWTH = Rule(
    "With plain outputs, at every level below the top (where the operator has but one eigenvalue), the rank "
    "correlation of eigenvalues and growth rates, mean over the intervals between snapshots, must be above 0 "
    f"(Wilcoxon's exact signed-rank test over trees, one-sided, p < {SIGNIFICANCE} after Bonferroni over "
    "levels). Holds if it is at every level, fails if at none and every mean is below "
    f"{NEGLIGIBLE} with its whole 95% interval (all levels at once). {_FEW}",
    Deferred(f"{_RULES}:growth"),
)
FIRST = Rule(
    "With plain and with normalised outputs, at every level, the unit with the largest |correlation| before "
    "training must have the largest after it in more latents than one in n, for n units per latent "
    f"(Student's test over trees of the shares of latents, one-sided, p < {SIGNIFICANCE} after Bonferroni "
    "over levels and outputs). Holds if it has everywhere, fails if nowhere and every share exceeds chance "
    f"by less than {NEGLIGIBLE} with its whole 95% interval (all at once). {_FEW}",
    Deferred(f"{_RULES}:first"),
)
FORECAST = Rule(
    "With plain and with normalised outputs, at every level, the forecast must name the unit that is best "
    "after training in more latents than the ranking before training does (Student's test over trees of the "
    f"difference of both shares, one-sided, p < {SIGNIFICANCE} after Bonferroni over levels and outputs). "
    "Holds if it does everywhere, fails if nowhere and every difference is below "
    f"{NEGLIGIBLE} with its whole 95% interval (all at once). {_FEW}",
    Deferred(f"{_RULES}:forecast"),
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "Training amplifies the covariance operator's directions the more, the larger their eigenvalues",
            "arXiv 2010.00578 v6, Theorems 3 and 4, whose operators have the same directions if views keep "
            "a binary root: docs/theory.md, Equations 3.5 and 3.6",
            GROWTH,
            "growth",
            plateau=None,
        ),
        Claim(
            "The first stay first: the unit that follows its latent best before training is the best after "
            "it more often than by chance",
            "arXiv 2010.00578 v6, lucky nodes: the covariance operator amplifies what is selective already "
            "(weights that hardly move would keep the first, too)",
            FIRST,
            "first",
            plateau=Deferred(f"{_RULES}:shares", {"of": "first_stays"}),
        ),
        Claim(
            "The operator's forecast names the winner more often than the ranking before training",
            "ours: docs/theory.md, Equation 4.6",
            FORECAST,
            "forecast",
            plateau=Deferred(f"{_RULES}:shares", {"of": "advantage"}),
        ),
    ),
    summary="the operator amplifies; do the best units stay the best?",
    result_version=2,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.theorems._amplification",
)
