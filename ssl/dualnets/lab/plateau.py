"""Whether the curves behind a claim about the end of training are flat there.

A curve is flat if over the last doubling of updates its effect changes by no more than half the width of the
effect's 95% interval, where this lies between half of what is negligible and all of it: few trees, whose
intervals are wide, do not make a curve flat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import NOTHING, Estimate
from dualnets.lab.variants import by_variant, of_root, variant_stats

EARLIEST = 0.4  # of all updates: a snapshot that is earlier does not stand for half of them

Effects = Callable[[pd.DataFrame], Mapping[str, Estimate]]


class Change(NamedTuple):
    """The change of one effect over the last doubling of updates.

    Attributes:
        part: whose effect, e.g. the name of a variant.
        half, last: the effect after half of the updates, and after all of them.
        change: last - half; NaN if either is not known.
        allowed: the largest change of a flat curve.
    """

    part: str
    half: float
    last: float
    change: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether the change is known, and no larger than allowed."""
        return bool(abs(self.change) <= self.allowed)


def changes(effects: Effects, table: pd.DataFrame, negligible: float = NEGLIGIBLE) -> list[Change]:
    """Compare the effects of a run with those after half of its updates.

    Args:
        effects: takes a table and returns part -> the effect at the last step of the table.
        table: of a run, with snapshots. Cells without updates cannot change, and are left out.
        negligible: no curve that changes by more is flat, one that changes by half of it always is.
    """
    last = table.groupby("cell")["step"].transform("max")
    trained = table[last > 0]
    if trained.empty:
        return []
    step, last = trained["step"], last[last > 0]
    until = trained[step <= last / 2]
    reached = until["step"].groupby(until["cell"]).transform("max")
    before = effects(until[reached >= EARLIEST * last[until.index]])
    found = []
    for part, now in effects(trained).items():
        half, width = before.get(part, NOTHING).value, (now.high - now.low) / 2
        allowed = (
            min(max(width, negligible / 2), negligible) if np.isfinite(width) else negligible / 2
        )
        found.append(Change(part, half, now.value, now.value - half, allowed))
    return found


def upper_levels(table: pd.DataFrame) -> dict[str, Estimate]:
    """Gap closed on the levels >= 2 at the last step, per variant, or else per setting."""
    return {name: variant_stats(rows).gap for name, rows in by_variant(table).items()}


def root(table: pd.DataFrame) -> dict[str, Estimate]:
    """Gap closed at the root at the last step, per variant, or else per setting."""
    return {name: of_root(rows).gap for name, rows in by_variant(table).items()}
