"""What was learned with every set of samples, and the samples that a level needs, found and published."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd

from dualnets.experiments.emergence.samples import CLASS, LEAF
from dualnets.lab.ratios import gap_closed
from dualnets.lab.stats import Array, Estimate
from dualnets.lab.time_to_threshold import member_times
from dualnets.lab.variants import by_variant

INVARIANCE = "invariance"
KINDS = (CLASS, LEAF, "simclr", "byol")


class Learned(NamedTuple):
    """The cells of one kind of training with one number of rules.

    Attributes:
        kind: as in KINDS.
        rules: m.
        depth: L.
        samples: the fixed sets' sizes, growing.
        initial: level -> `(S,)` invariance before training.
        fixed: level -> `(S, P)` with each set, after training.
        fresh: level -> `(S,)` with fresh samples.
        rows: of every set, fresh samples last, where they were run.
    """

    kind: str
    rules: int
    depth: int
    samples: list[int]
    initial: dict[int, Array]
    fixed: dict[int, Array]
    fresh: dict[int, Array]
    rows: list[pd.DataFrame]

    @property
    def levels(self) -> list[int]:
        """Levels, from the lowest to the highest below the root."""
        return sorted(self.initial)

    def _mean(self, of: dict[int, Array], levels: Collection[int]) -> Array:
        found: Array = np.mean([of[level] for level in levels], axis=0)
        return found

    def needed(self, *levels: int) -> Array:
        """`(S,)` samples with which the mean invariance of levels grows half as much as with fresh ones."""
        initial, fixed, fresh = (
            self._mean(of, levels) for of in (self.initial, self.fixed, self.fresh)
        )
        half = np.where(fresh > initial, (initial + fresh) / 2, np.inf)
        # of a tree that fresh samples do not help, nothing is known
        return np.where(fresh > initial, member_times(self.samples, fixed, half), np.inf)

    def bounds(self, *levels: int) -> tuple[Array, Array]:
        """`(S,)` bounds of the samples needed: half may be reached below the smallest set, or beyond all."""
        needed = self.needed(*levels)
        initial, fresh = (self._mean(of, levels) for of in (self.initial, self.fresh))
        least = np.where(np.isinf(needed), self.samples[-1], needed)
        least[(needed <= self.samples[0]) | ~(fresh > initial)] = 1.0
        return least, needed

    def gap(self, *levels: int) -> Estimate:
        """The gap that fresh samples close."""
        initial = self._mean(self.initial, levels)
        return gap_closed(initial, self._mean(self.fresh, levels), np.ones_like(initial))

    @property
    def complete(self) -> bool:
        """Whether fixed and fresh samples were run."""
        return bool(self.fresh) and len(self.samples) > 1


def learned(table: pd.DataFrame, kinds: Collection[str] = KINDS) -> list[Learned]:
    """What was learned, per kind of training and number of rules; the trees of all seeds together."""
    table = table[table["variant"].str.rpartition(", m ")[0].isin(list(kinds))]
    cells: dict[str, dict[int, pd.DataFrame]] = {}
    for size in sorted(set(table["samples"])):
        for name, rows in by_variant(table[table["samples"] == size]).items():
            cells.setdefault(name, {})[int(size)] = rows
    return [_learned(own) for own in cells.values()]


def _learned(cells: dict[int, pd.DataFrame]) -> Learned:
    sizes = [size for size in sorted(cells) if size]
    rows = [cells[size] for size in [*sizes, *([0] if 0 in cells else [])]]
    first = rows[0].iloc[0]
    ends = [_means(own, "value", int(own["step"].max())) for own in rows]
    levels = sorted(ends[0])
    return Learned(
        kind=str(first["variant"]).rpartition(", m ")[0],
        rules=int(first["rules"]),
        depth=int(first["depth"]),
        samples=sizes,
        initial=_means(rows[0], "initial", int(rows[0]["step"].max())),
        fixed={
            level: np.stack([end[level] for end in ends[: len(sizes)]], axis=1) if sizes
            else np.empty((0, 0))
            for level in levels
        },
        fresh=ends[-1] if 0 in cells else {},
        rows=rows,
    )  # fmt: skip


def _means(rows: pd.DataFrame, column: str, step: int) -> dict[int, Array]:
    """Level -> `(S,)` means over its latents."""
    now = rows[(rows["step"] == step) & (rows["metric"] == INVARIANCE)]
    means = now.groupby(["level", "member"])[column].mean()
    return {int(level): own.to_numpy(np.float64) for level, own in means.groupby("level")}


def published(own: Learned, level: int) -> float:
    """The samples that the papers name for the symbols of a level.

    n_c m^L with the class as the label (arXiv 2307.02129), for all levels; here n_c = v. Where a leaf is
    predicted, v m^(2 l - 1) / (1 - m / v^(s - 1)), with which the covariance of two leaves whose common
    ancestor has level l, of root mean square ((1 - m / v^(s - 1)) / (v³ m^(2 l - 1)))^(1/2) over grammars
    for large v and m, exceeds its sampling noise (v² P)^(-1/2) (arXiv 2406.00048, Appendices D to F). That
    the symbols of a level are learned by correlations across the level above, l = level + 1, is our reading.
    """
    first = own.rows[0].iloc[0]
    v, s, m = int(first["symbols"]), int(first["branching"]), own.rules
    if own.kind == CLASS:
        return float(v * m**own.depth)
    return float(v * m ** (2 * level + 1) / (1 - m / v ** (s - 1)))
