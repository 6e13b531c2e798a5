"""Does the top layer's covariance operator drive the features of the layer below?

A root, latents below it, leaves below each; every hidden unit sees the leaves of one latent, and views keep
the root (docs/theory.md, Equations 5.1 to 5.3). The expected dynamics of the simple loss are integrated
without sampling, in full and with the top layer's part taken away in three ways: without the operator's
blocks between groups, with the upper weights frozen, and with their norm held constant. Without weight
decay all weights explode and the full dynamics win by scale alone, so what is compared does not depend on
scale: a unit's selectivity per norm of its weights and its correlation with its latent, at equal time with
a constant norm, and at an equal norm.

The claim is about growth: the rate d log(s / ||w||) / dt with the operator and without its blocks between
groups, over the same interval of a tree's time, until the full dynamics have made the first half of their
log growth (which, growth being explosive, takes some .8 of the time). Rates do depend on scale, since the
gradient of the lower layer grows with W_2, and making W_2 grow is a part of what the operator does. Whether
it does more than that is asked apart, at an equal norm: does it matter that the upper layer learns, and
does it matter that groups are coupled?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Grid
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, Claim, Deferred, Rule
from dualnets.lab.settings import TreeSettings, setting

LEARNED, COUPLED = "constant / frozen", "full / uncoupled"
# with the operator / without it -> what the two are compared at
PAIRS = {LEARNED: "equal time", COUPLED: "equal norm"}


@dataclass(frozen=True, kw_only=True)
class Settings(TreeSettings):
    """Two-level trees and a network on each."""

    depth: int = setting(2, "levels of the tree below its root; two layers need 2", low=2, high=2)
    branching: int = setting(4, "latents, and leaves of each", low=2, high=8)
    units: int = setting(5, "hidden units per latent", low=1, high=1024)
    members: int = setting(64, "trees, each with a network of its own", low=1, high=1 << 20)
    growth: float = setting(2.0, "||W_2|| grows by this factor until the end", above=1)
    points: int = setting(21, "times that are kept", low=3, high=1001)


def _grid(units: list[int], strengths: list[float], **others: Any) -> list[Grid]:
    """Every width with every polarity, the same for all edges."""
    return [
        {"units": units, "polarity_low": [p], "polarity_high": [p], **others} for p in strengths
    ]


GRIDS: dict[str, list[Grid]] = {
    "smoke": _grid([5], [0.8], members=[12], branching=[2]),
    "default": _grid([2, 5, 10, 20], [0.6, 0.8, 0.95]),
    "paper": _grid([2, 5, 10, 20, 50], [0.5, 0.6, 0.7, 0.8, 0.9, 0.95], members=[100]),
}

_CODE = "dualnets.experiments.theorems._top_down"
_FEW = f"It is open otherwise, and with fewer than {FEWEST_TREES} trees."
GROWTH = Rule(
    "In every setting the growth rate of the best unit's selectivity per norm, mean over latents, in the "
    "full dynamics is divided by that without the operator's blocks between groups: a ratio of means over "
    "trees with Fieller's 95% interval, simultaneous over settings. Holds if every interval lies above "
    f"{1 + NEGLIGIBLE:g}, fails if every one lies below. {_FEW}",
    Deferred(f"{_CODE}:faster"),
)


def _further(pair: str, words: str) -> Rule:
    return Rule(
        f"{words}: the log ratio, with the operator to without it, of the best unit's selectivity per norm, "
        "mean over latents. Means over trees have Student's 95% intervals, simultaneous over settings. Holds "
        f"if every interval lies above {NEGLIGIBLE}, fails if every one lies below. Expectations are exact, "
        "so that a test of the sign would find any difference; |correlation|, which starts near its ceiling, "
        f"is shown beside. {_FEW}",
        Deferred(f"{_CODE}:further", {"pair": pair}),
    )


EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "The top-level covariance operator accelerates the learning of low-level features",
            "arXiv 2010.00578 v6, Section 4: two layers under one root; docs/theory.md, Section 5",
            GROWTH,
            "growth",
            plateau=None,
        ),
        Claim(
            "At an equal norm of the upper weights, features are more than a tenth further if the upper "
            "layer learns",
            "ours: what remains of the acceleration without scale",
            _further(
                LEARNED, "The full dynamics with constant ||W_2|| against frozen W_2, at equal time"
            ),
            "learned",
            plateau=None,
        ),
        Claim(
            "At an equal norm of the upper weights, features are more than a tenth further if groups are "
            "coupled",
            "ours: what remains of the coupling's acceleration without scale",
            _further(
                COUPLED,
                "The full dynamics against those without blocks between groups, at equal ||W_2||",
            ),
            "coupled",
            plateau=None,
        ),
    ),
    summary="the top layer's operator speeds up features below it",
    result_version=1,
    Settings=Settings,
    grids=GRIDS,
    code=_CODE,
)
