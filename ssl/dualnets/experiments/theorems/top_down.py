"""Does the top layer's covariance operator drive the features of the layer below?

A root, latents below it, leaves below each; every hidden unit sees the leaves of one latent, and views keep
the root (docs/theory.md, Equations 5.1 to 5.3). The expected dynamics of the simple loss are integrated
without sampling, in full and with the top layer's part taken away in three ways: without the operator's
blocks between groups, with the upper weights frozen, and with their norm held constant. Without weight
decay all weights explode and the full dynamics win by scale alone, so what is compared does not depend on
scale: a unit's selectivity per norm of its weights and its correlation with its latent, at equal time with
a constant norm, and at an equal norm.

Growth rates are d log(s / ||w||) / dt, and likewise of |correlation|, of every intervention over the same
interval of a tree's time: until the full dynamics have made the first half of their log growth (which,
growth being explosive, takes some .8 of the time). They are reported in addition to the ends, which the
rule compares, and they do depend on scale: the gradient of the lower layer grows with W_2.

Found (32 trees, polarity .6, .8, .95, 2 to 20 units): an upper layer that learns takes features
further than a frozen one at the same ||W_2|| in all 24 comparisons, by 12% to 17% in selectivity per
norm and by 0.5% to 7% in correlation. Of that, the coupling between groups is little: at an equal norm,
the full dynamics are ahead of the uncoupled by at most about 3% in selectivity per norm (5 units: 3.2%,
2.7%, 2.5%; p 1e-4 to 2.4e-4 before adjustment; the mean is positive at all 12 settings, but only one
passes the rule), and by -0.6% to 1.4% in correlation. In time it does much more, for it makes W_2 grow:
the mean rate of s / ||w|| is 1.5 to 1.6 times the uncoupled one's with 2 units, 2.9 to 3.0 with 5 and
4.7 to 4.8 with 20, at every polarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Grid
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import TreeSettings, setting

# with the operator, without it, and what the two are compared at
PAIRS = (("constant", "frozen", "equal time"), ("full", "uncoupled", "equal norm"))


@dataclass(frozen=True, kw_only=True)
class Settings(TreeSettings):
    """Two-level trees and a network on each."""

    depth: int = setting(2, "levels of the tree below its root; two layers need 2", low=2, high=2)
    branching: int = setting(4, "latents, and leaves of each", low=2, high=8)
    units: int = setting(5, "hidden units per latent", low=1, high=1024)
    members: int = setting(32, "trees, each with a network of its own", low=1, high=1 << 20)
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
RULE = (
    "Two pairs are compared: the full dynamics with constant ||W_2|| against frozen W_2 at equal time, "
    "and the full dynamics against those without blocks between groups at equal ||W_2||. In each, the "
    "best unit's selectivity per norm and |correlation|, mean over latents, must be larger with the "
    "operator (Wilcoxon's exact signed-rank test over trees, one-sided, p < "
    f"{SIGNIFICANCE} after Bonferroni over settings, pairs and measures). Holds if all are, fails if "
    f"none is, open otherwise or with fewer than {FEWEST_TREES} trees."
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "The top-level covariance operator accelerates the learning of low-level features",
            "arXiv 2010.00578, Section 4: two layers under one root",
            Rule(RULE, Deferred("dualnets.experiments.theorems._top_down:judge")),
            plateau=None,
        ),
    ),
    summary="the top layer's operator speeds up features below it",
    result_version=1,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.theorems._top_down",
)
