"""Does training amplify the directions of the covariance operator, and can the winners be forecast?

With views that keep the root, the operator of a layer is V[Kbar] = (Kbar_+ - Kbar_-)(Kbar_+ - Kbar_-)^T / 4
(docs/theory.md, Equation 3.5), which has as many directions as there are outputs. Along training, the growth
rate of the weights along each eigenvector is compared with its eigenvalue (for plain outputs, where the
operator acts on the weights). Then the units: are those that end up with the best correlation the ones
that were most selective at the start, and does the forecast from the untrained network's own operator
name them, from samples of its own, more often than chance and than the initial ranking alone?

Found (48 trees, depth 4, 10 units, levels 1 to 4): directions grow in the order of their eigenvalues
(rank correlation 0.33 and 0.30) and units keep their order (0.97, 0.78, 0.46, 0.37). The forecast names
the winner in .38, .30, .31, .23 of the cases, chance being .10, but the unit that was best before does so
in .83, .55, .34, .40: the trivial ranking is the better guide. No level shows the forecast ahead of
it, and two show it behind (-.45 [-.51, -.39], -.25 [-.33, -.17], -.03 [-.17, .11], -.17 [-.30, -.03];
at growth 0 the forecast is that ranking). How well the winner will do, the forecast predicts better from
level 2 up (R² .80, .40, .27 against .75, .13, .04; at level 1 .92, .99).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Grid
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class Settings(ProbeSettings, TrainSettings, ContrastSettings, NetworkSettings, TreeSettings):
    """Trees, a network on each, how it is trained, and how far the forecast follows the update."""

    depth: int = setting(4, "levels of the tree below its root", low=1, high=16)
    members: int = setting(48, "trees, each with a network of its own", low=1, high=1 << 20)
    network: str = setting("tree", "a block of units per latent", choices=("tree",))
    steps: int = setting(1000, "updates", low=1, high=10**9)
    snapshots: int = setting(
        8, "times the networks are probed, evenly in log steps", low=2, high=1000
    )
    growth: float = setting(1.0, "of the forecast: changes of a layer over its norm", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment != "keep-root":
            raise ValueError(
                f"augment must be keep-root, for which the operator is known, got {self.augment!r}"
            )
        self.build_loss()


_PLAIN: dict[str, Any] = {"normalize": [False], "depth": [3], "lr": [1.0]}
_SMOKE: dict[str, Any] = {
    "depth": [2], "units": [4], "members": [12], "steps": [150], "snapshots": [4],
}  # fmt: skip
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {**_SMOKE, "lr": [0.3]},
        {**_PLAIN, **_SMOKE},
    ],
    "default": [{"units": [10]}, {**_PLAIN, "units": [10]}],
    "paper": [
        {"units": [5, 10, 20], "depth": [5], "members": [64], "steps": [10_000]},
        {**_PLAIN, "units": [5, 10, 20], "members": [64], "steps": [4000]},
    ],
}
RULE = (
    "Over trees, (1) with plain outputs, at every level below the top (where the operator has but one "
    "eigenvalue), the rank correlation of eigenvalues and growth rates, mean over the intervals between "
    "snapshots, is above 0; with normalised outputs, at every level, (2) the rank correlation of units' "
    "|correlation| before and after, within blocks, is above 0, and (3) the forecast names the winning "
    "unit more often than one in n. (1) and (2) by Wilcoxon's exact signed-rank test, (3) by Student's, "
    f"one-sided, p < {SIGNIFICANCE} after Bonferroni over levels. Holds if all are, fails if (1) or (2) is "
    "at no level, open otherwise, without one of the two networks, or with fewer than "
    f"{FEWEST_TREES} trees. Also "
    "reported, by Student's test paired by tree: at how many levels the forecast names the winner more, "
    "and less, often than the trivial ranking does, by which the unit that was best before wins."
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "Training amplifies the covariance operator's directions, so the most selective units win",
            "arXiv 2010.00578, Theorems 2-5: the covariance operator and lucky nodes",
            Rule(RULE, Deferred("dualnets.experiments.theorems._amplification:judge")),
            plateau=None,
        ),
    ),
    summary="the operator amplifies; do the best units stay the best?",
    result_version=1,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.theorems._amplification",
)
