"""How far the root's gap closes on either side of the Kesten-Stigum threshold: two rules.

Leaves far below a root carry information about it, however deep the tree, iff branching * polarity² > 1
(Kesten and Stigum 1966; Evans, Kenyon, Peres and Schulman 2000). Below that the root's ceiling falls to 0
with depth. The rules ask whether what a network reaches falls with the ceiling, or before it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from dualnets.experiments.emergence.polarity import MARGIN
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Array, Estimate, Judgement, Outcome, bootstrap, too_few
from dualnets.lab.variants import VariantStats, by_variant, contrast, of_root

Side = Literal["below", "above"]


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
    gains = [np.mean([found.gain for found in side], axis=0) for side in (a, b)]
    rooms = [np.mean([found.ceiling - found.initial for found in side], axis=0) for side in (a, b)]
    n = len(gains[0])
    if not all(room.mean() > 0 for room in rooms):
        return NOTHING._replace(n=n)

    def difference(picks: Any) -> Array:
        means = [room[picks].mean(-1) for room in rooms]
        of_a, of_b = (
            gain[picks].mean(-1) / np.where(mean > 0, mean, np.nan)
            for gain, mean in zip(gains, means, strict=True)
        )
        found: Array = of_a - of_b
        return found

    return bootstrap(difference, n)


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
    counts = {detail["n"] for detail in details}
    difference = NOTHING
    outcome: Outcome = "open"
    if reason := too_few(min(counts)):
        pass
    elif len(counts) > 1:
        reason = "settings with different numbers of trees cannot be compared tree by tree"
    elif not on[asked] or not on[other]:
        reason = "all settings lie on one side of the threshold"
    elif not_emerged:
        reason = f"the root does not emerge with {', '.join(not_emerged)}, above the threshold"
    else:
        difference = gap_difference(on[asked], on[other])
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
    return Judgement(outcome, reason, effect, difference, details)


def compare_and_more_help(table: pd.DataFrame, *, asked: Side) -> Judgement:
    """The same, unless the root is not better with the most children than with the fewest."""
    found = compare(table, asked=asked)
    roots = {int(rows["branching"].iloc[0]): of_root(rows) for rows in by_variant(table).values()}
    most, fewest = roots[max(roots)], roots[min(roots)]
    if found.estimate.n < FEWEST_TREES or len(roots) < 2 or len(most.value) != len(fewest.value):
        return found
    against = contrast(most.value, fewest.value)
    if against.p_more < SIGNIFICANCE:
        return found
    worse = against.p_less < SIGNIFICANCE
    shown = "worse" if worse else "shown neither better nor worse"
    reason = (
        f"with {max(roots)} children the root is {shown} than with {min(roots)} (difference "
        f"{against.difference})"
    )
    return found._replace(outcome="fails" if worse else "open", reason=reason)
