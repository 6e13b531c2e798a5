"""How far the root's gap closes on either side of the Kesten-Stigum threshold: a rule.

Leaves far below a root carry information about it, however deep the tree, iff branching * polarity² > 1
(Kesten and Stigum 1966; Evans, Kenyon, Peres and Schulman 2000). Below that the root's ceiling falls to 0
with depth. The rule asks whether what a network reaches falls with the ceiling, or before it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, mean_interval, too_few
from dualnets.lab.variants import VariantStats, by_variant, of_root

Side = Literal["below", "above"]


def mean_square(rows: pd.DataFrame) -> float:
    """The mean square of a cell's polarities, which are uniform between their bounds."""
    first = rows.iloc[0]
    low, high = float(first["polarity_low"]), float(first["polarity_high"])
    return (low**2 + low * high + high**2) / 3


def strength(rows: pd.DataFrame) -> float:
    """branching * polarity² of a cell, the square being a mean over edges."""
    return float(rows["branching"].iloc[0]) * mean_square(rows)


def gap_difference(a: list[VariantStats], b: list[VariantStats]) -> Estimate:
    """Mean gap closed by some variants minus that by others, with Student's interval over their trees.

    A variant's gap closed is its mean gain over its mean room, linearised about these means as in
    `dualnets.lab.ratios.ratio_difference`, so that every tree has a share of it. Trees with a value that
    is not finite with some variant are left out. Not defined (NaN) where some variant has no room.

    Example:
        >>> zero = np.zeros(12)
        >>> def variant(gain, room):
        ...     return VariantStats(zero, zero + gain, zero + room, zero, zero, np.arange(12))
        >>> print(gap_difference([variant(0.25, 1.0), variant(0.1, 0.2)], [variant(0.75, 1.0)]))
        -0.38 [-0.38, -0.38]
    """
    gain, room = (
        np.stack([getattr(found, name) - found.initial for found in (*a, *b)])
        for name in ("value", "ceiling")
    )  # (variants, S)
    kept = np.isfinite(gain + room).all(0)
    gain, room = gain[:, kept], room[:, kept]
    if not kept.any() or not (room.mean(1) > 0).all():
        return NOTHING._replace(n=int(kept.sum()))
    closed, mean = (gain.mean(1) / room.mean(1))[:, None], room.mean(1)[:, None]
    shares = closed + (gain - closed * room) / mean
    return mean_interval(shares[: len(a)].mean(0) - shares[len(a) :].mean(0))


def root_entry(name: str, rows: pd.DataFrame, tests: int) -> dict[str, Any]:
    """A variant's entry in the details of a verdict: its root, tested among so many variants."""
    found = of_root(rows)
    p = found.p_grown(tests)
    return {
        "variant": name, "initial": float(found.initial.mean()), "root": float(found.value.mean()),
        "ceiling": float(found.ceiling.mean()), "emerges": p < SIGNIFICANCE, "p_grown": p,
        **found.gap.detail("gap_closed"), "spread": float(found.spread.mean()),
        "n": len(found.value),
    }  # fmt: skip


def compare(table: pd.DataFrame, *, asked: Side) -> Judgement:
    """Whether the root's gap closes as far on one side of the threshold as on the other.

    Args:
        table: of a run.
        asked: the side that the claim is about, where the gap is to close no less.
    """
    variants = by_variant(table)
    details: list[dict[str, Any]] = []
    on: dict[Side, list[VariantStats]] = {"above": [], "below": []}
    not_emerged = []
    for name, rows in variants.items():
        detail = root_entry(name, rows, len(variants)) | {"kesten_stigum": strength(rows)}
        details.append(detail)
        side: Side = "above" if detail["kesten_stigum"] > 1 else "below"
        on[side].append(of_root(rows))
        if side == "above" and not detail["emerges"]:
            not_emerged.append(name)
    other: Side = "above" if asked == "below" else "below"
    members = {tuple(found.members) for side in on.values() for found in side}
    difference = NOTHING
    outcome: Outcome = "open"
    if reason := too_few(min(map(len, members))):
        pass
    elif len(members) > 1:
        reason = "settings on different trees cannot be compared tree by tree"
    elif not on[asked] or not on[other]:
        reason = "all settings lie on one side of the threshold"
    elif not_emerged:
        reason = f"the root does not emerge with {', '.join(not_emerged)}, above the threshold"
    else:
        difference = gap_difference(on[asked], on[other])
        if not np.isfinite(difference.value):
            reason = "an untrained network has reached the ceiling already"
        elif difference.low > -NEGLIGIBLE:
            outcome = "holds"
            reason = f"{asked} the threshold the root's gap closes as far as {other} it"
        elif difference.high < -NEGLIGIBLE:
            outcome = "fails"
            reason = (
                f"{asked} the threshold the root's gap closes less: the learner, not the ceiling"
            )
        else:
            reason = f"the interval holds -{NEGLIGIBLE}"
    effect = f"gap closed at the root, {asked} the threshold minus {other} it"
    return Judgement(outcome, reason, effect, difference, details)
