"""How far emergence reaches: the root beside its ceiling on both sides of the Kesten-Stigum threshold.

Leaves far below a root say something of it, however deep the tree, iff branching * polarity² > 1
(Kesten and Stigum 1966; Evans, Kenyon, Peres and Schulman 2000). Below that its ceiling falls to 0
with depth. Whether what a network reaches falls with it, or before it, is what these rules ask.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from dualnets.lab.stats import LEVEL, NOTHING, RESAMPLES, Estimate, Verdict, exceeds, verdict_of
from dualnets.lab.variants import FEWEST_TREES, SIGNIFICANCE, VariantStats, by_variant, of_root

Side = Literal["below", "above"]
MARGIN = 0.2  # of the room between the untrained network and the ceiling: less is not told apart


def strength(rows: pd.DataFrame) -> float:
    """branching * polarity² of a cell whose edges all have one polarity, or of its mean square."""
    first = rows.iloc[0]
    low, high = float(first["polarity_low"]), float(first["polarity_high"])
    return float(first["branching"]) * (low**2 + low * high + high**2) / 3


def gap_difference(a: list[VariantStats], b: list[VariantStats]) -> Estimate:
    """Gap closed by some variants minus that by others, with a bootstrap over the trees they share.

    A side's gap closed is the mean gain over the mean room of its variants. Not defined where a
    side has no room.

    Example:
        >>> zero = np.zeros(12)
        >>> def side(share):
        ...     return [VariantStats(zero, zero + share, zero + 1, zero, zero, np.arange(12))]
        >>> print(gap_difference(side(0.25), side(0.75)))
        -0.50 [-0.50, -0.50]
    """
    gain_a, room_a = _gain_and_room(a)
    gain_b, room_b = _gain_and_room(b)
    n = len(gain_a)
    if not (room_a.mean() > 0 and room_b.mean() > 0):
        return NOTHING._replace(n=n)
    picks = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, n))
    drawn = _share(gain_a[picks], room_a[picks]) - _share(gain_b[picks], room_b[picks])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = gain_a.mean() / room_a.mean() - gain_b.mean() / room_b.mean()
    return Estimate(float(value), float(low), float(high), n)


def _gain_and_room(side: list[VariantStats]) -> tuple[np.ndarray, np.ndarray]:
    gain = np.mean([found.value - found.initial for found in side], axis=0)
    room = np.mean([found.ceiling - found.initial for found in side], axis=0)
    return gain, room


def _share(gain: np.ndarray, room: np.ndarray) -> np.ndarray:
    mean = room.mean(-1)
    return gain.mean(-1) / np.where(mean > 0, mean, np.nan)


def grown(rows: pd.DataFrame, tests: int) -> float:
    """P that the root's best |correlation| did not grow, after Bonferroni over so many tests."""
    found = of_root(rows)
    return min(exceeds(found.value, found.initial) * tests, 1.0)


def described(name: str, rows: pd.DataFrame, tests: int) -> dict[str, Any]:
    """A variant's line in the details of a verdict."""
    found = of_root(rows)
    p = grown(rows, tests)
    return {
        "variant": name, "initial": float(found.initial.mean()), "root": float(found.value.mean()),
        "ceiling": float(found.ceiling.mean()), "emerges": p < SIGNIFICANCE, "p_grown": p,
        "gap_closed": found.gap.value, "low": found.gap.low, "high": found.gap.high,
        "spread": float(found.spread.mean()), "n": len(found.value),
    }  # fmt: skip


def ceiling_or_learner(
    table: pd.DataFrame,
    claim: str,
    rule: str,
    *,
    asked: Side = "below",
) -> Verdict:
    """Whether the root's gap closes as far on one side of the threshold as on the other.

    Args:
        table: of a run.
        claim, rule: in words.
        asked: the side that the claim is about, where the gap is to close no less.
    """
    variants = by_variant(table)
    details = [
        {**described(name, rows, len(variants)), "kesten_stigum": strength(rows)}
        for name, rows in variants.items()
    ]
    sides: dict[Side, list[VariantStats]] = {"above": [], "below": []}
    other: Side = "above" if asked == "below" else "below"
    silent = []
    for (name, rows), told in zip(variants.items(), details, strict=True):
        sides["above" if told["kesten_stigum"] > 1 else "below"].append(of_root(rows))
        if told["kesten_stigum"] > 1 and not told["emerges"]:
            silent.append(name)
    counts = {len(found.value) for side in sides.values() for found in side}
    difference = NOTHING
    outcome, reason = "open", ""
    if min(counts) < FEWEST_TREES:
        reason = f"{min(counts)} trees are fewer than {FEWEST_TREES}"
    elif len(counts) > 1:
        reason = "settings with different numbers of trees cannot be compared tree by tree"
    elif not sides[asked] or not sides[other]:
        reason = "all settings lie on one side of the threshold"
    elif silent:
        reason = f"the root does not emerge with {', '.join(silent)}, above the threshold"
    else:
        difference = gap_difference(sides[asked], sides[other])
        if not np.isfinite(difference.value):
            reason = "an untrained network has reached the ceiling already"
        elif difference.low > -MARGIN:
            outcome = "holds"
            reason = f"{asked} the threshold the root's gap closes as far as {other} it"
        elif difference.high < -MARGIN:
            outcome = "fails"
            reason = (
                f"{asked} the threshold the root's gap closes less: the learner, not the ceiling"
            )
        else:
            reason = f"the interval holds -{MARGIN}"
    effect = f"gap closed at the root, {asked} the threshold minus {other} it"
    return verdict_of(claim, outcome, rule, reason, effect, difference, details)
