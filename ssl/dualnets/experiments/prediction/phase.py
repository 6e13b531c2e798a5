"""Where can a root be known, and where is it learned, by contrast and by prediction?

Leaves far below a root carry information about it, however deep the tree, iff branching * polarity² > 1
(Kesten and Stigum 1966): above this boundary the Bayes ceiling of the root stays away from 0 as trees grow
deeper, and below it the ceiling falls, in the limit by (branching * polarity²)^(1/2) per level. Ceilings are
those of each tree, so that what a network misses is told apart from what nobody can know.

On every tree the same network, one block of units per latent, is trained twice: by contrast (SimCLR; two
views share the root alone), and by prediction (masked leaves, from those that are shown, by a linear
classifier on the network's output, which is its block at the root). Leaves are one-hot, so that they can be
missing. A latent is compared with its best unit, on complete leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dualnets.lab.ablation import AblationSettings, ablation
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, ROOT, Claim, Deferred, Rule
from dualnets.lab.settings import setting

CODE = "dualnets.experiments.prediction._phase"
CONTRAST, PREDICTION = "contrast", "prediction"
MOST = 0.5  # of the gap
# One rate per objective for all trees. Mean gap closed on levels >= 2 over the four polarities at depth 5,
# with 0.001, 0.003 and 0.01: contrast 0.46, 0.54, 0.50, prediction 0.648, 0.645, 0.63.
#   hltm run phase --seed 1000 --members 6 --steps 1000 --lr 0.001 0.003 0.01 --only …
# with all variants of 2 children and depth 5.
RATES = {CONTRAST: 0.003, PREDICTION: 0.001}

OBJECTIVES: dict[str, dict[str, Any]] = {
    CONTRAST: {"method": "simclr", "augment": "keep-root"},
    PREDICTION: {
        "method": "masked-prediction",
        "augment": "drop-leaves:0.3",
        "normalize": False,
    },
}
GAP = (
    "A tree's gap is that between the root's best |correlation| in the untrained network and its Bayes "
    "ceiling. "
)


@dataclass(frozen=True, kw_only=True)
class Settings(AblationSettings):
    """One objective on trees of one shape and polarity."""

    one_hot: bool = setting(True, "whether leaves are one-hot, so that they can be missing")


def _variants(trees: Iterable[tuple[int, int, float]]) -> dict[str, dict[str, Any]]:
    """Both objectives on trees of so many children, depth and polarity."""
    return {
        f"{name}, {branching} children, depth {depth}, polarity {polarity:g}": {
            **own, "lr": RATES[name], "branching": branching, "depth": depth,
            "polarity_low": polarity, "polarity_high": polarity,
        }
        for branching, depth, polarity in trees
        for name, own in OBJECTIVES.items()
    }  # fmt: skip


def _map(
    shapes: Mapping[int, Sequence[int]], signals: Mapping[int, Sequence[float]]
) -> list[tuple[int, int, float]]:
    """Children, depth and polarity: every depth of a number of children with every polarity of it."""
    return [
        (b, depth, rho) for b, depths in shapes.items() for depth in depths for rho in signals[b]
    ]


POLARITIES = {2: (0.5, 0.6, 0.8, 0.9), 3: (0.5, 0.65)}
DEFAULT = _map({2: (3, 5), 3: (2, 3)}, POLARITIES)
SMOKE = _map({2: (2, 3)}, {2: (0.6, 0.9)})
PAPER = _map(
    {2: (3, 4, 5, 6), 3: (2, 3, 4)},
    {2: (*POLARITIES[2], 0.65, 0.75), 3: (*POLARITIES[3], 0.4, 0.8)},
)
ABOVE, BELOW = (
    tuple(
        _variants(
            each for each in (*SMOKE, *DEFAULT, *PAPER) if (each[0] * each[2] ** 2 > 1) is side
        )
    )
    for side in (True, False)
)


def _claim(
    text: str, rule: str, name: str, judge: str, plateau: Deferred, about: tuple[str, ...],
    negligible: float = NEGLIGIBLE, **options: Any,
) -> Claim:  # fmt: skip
    """One claim on one side of the boundary; options are those of its rule."""
    return Claim(
        text,
        "ours: not in arXiv 2010.00578; the boundary is that of Kesten and Stigum 1966",
        Rule(rule, Deferred(f"{CODE}:{judge}", options)),
        name=name,
        plateau=plateau,
        about=about,
        negligible=negligible,
    )


def _compared(more: str, less: str, side: str, about: tuple[str, ...]) -> Claim:
    """The claim that one objective closes more of the root's gap on one side of the boundary."""
    return _claim(
        f"On the same trees, {side} the boundary, {more} closes more of the root's gap than {less}",
        f"{GAP}An objective's gap closed is the mean over all shapes and polarities {side} the boundary of "
        f"the mean gain over the mean room. Holds if Student's 95% interval over trees of ({more} - {less}) "
        f"is above 0, fails if it is below 0, open otherwise, or with fewer than {FEWEST_TREES} trees.",
        f"{more} {side}",
        "judge_objectives",
        Deferred(f"{CODE}:gap_by_objective"),
        about=about,
        more=more,
    )


EXPERIMENT = ablation(
    __name__,
    claims=(
        _claim(
            "Where branching * polarity² > 1, networks close most of the root's gap at every depth, by "
            "contrast and by prediction",
            f"{GAP}Holds if with every shape and polarity above the boundary, and with both objectives, more "
            f"than {MOST} of the gap is closed with the whole 95% interval over trees (of all at once, "
            "Bonferroni); fails if with one of them less is, with the whole interval; open otherwise, with "
            f"nothing above the boundary, or with fewer than {FEWEST_TREES} trees.",
            "above",
            "judge_above",
            ROOT,
            about=ABOVE,
        ),
        _claim(
            "Where branching * polarity² < 1, the root that networks find vanishes with depth as fast as its "
            "ceiling",
            "For a number of children, a polarity and an objective, the fall per level is (r' / r)^(1 / d), "
            "where r and r' are the means over trees of the root's best |correlation| after training in "
            "the shallowest and in the deepest trees, and d their difference in depth. Holds if with every "
            "one below the boundary the fall's whole 95% interval (bootstrapped over trees, of all at once, "
            "Bonferroni) is below half way between the limit of its ceiling's fall, (branching * "
            "polarity²)^(1/2), and 1, no fall; fails if with one it is above that; open otherwise, with "
            f"nothing below the boundary or one depth only, or with fewer than {FEWEST_TREES} trees.",
            "below",
            "judge_below",
            Deferred(f"{CODE}:fall_by_variant"),
            about=BELOW,
            negligible=0.05,  # of a fall per level, whose limits here are between 0.7 and 0.9
        ),
        _compared(CONTRAST, PREDICTION, "above", ABOVE),
        _compared(PREDICTION, CONTRAST, "below", BELOW),
    ),
    summary="where a root can be known, and where it is learned",
    settings=Settings,
    variants=_variants(DEFAULT),
    variants_at={
        "smoke": _variants(SMOKE), "paper": _variants(PAPER),
    },
    common={"members": 12, "steps": 3000, "snapshots": 6, "optimizer": "adam", "batch": 128},
    scales={
        "smoke": {"steps": 40, "snapshots": 3, "evaluation_samples": 1024},
        "default": {},
        "long": {"steps": 12_000},
        "paper": {"members": 30, "steps": 30_000, "snapshots": 12},
    },
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.prediction._phase_figure:draw"),
)  # fmt: skip
