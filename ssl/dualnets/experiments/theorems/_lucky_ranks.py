"""What trees have learned beside the luck that they were born with: rank correlations over trees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from dualnets.lab.stats import NOTHING, Estimate

RESAMPLES = 2000
GAP, FINAL = "gap_closed", "final_over_ceiling"


class Ranks(NamedTuple):
    """Over trees, a rank correlation with the best |selectivity| before training.

    Attributes:
        value: Spearman's.
        rises: p that it is above 0, one-sided.
        n: trees.
    """

    value: float
    rises: float
    n: int


def by_tree(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per tree: means over latents, the gap they closed together, the end over the ceiling."""
    names = ["selectivity", "initial", "final", "ceiling"]
    found = rows.groupby("member")[names].mean()
    room = found["ceiling"] - found["initial"]
    found[GAP] = (found["final"] - found["initial"]) / room.where(room > 0)
    found[FINAL] = found["final"] / found["ceiling"]
    return found


def ranks(rows: pd.DataFrame, measure: str) -> Ranks:
    """How what trees have learned goes with the luck that they were born with."""
    found = by_tree(rows)[["selectivity", measure]].dropna()
    if len(found) < 3 or found.nunique().min() < 2:
        return Ranks(float("nan"), 1.0, len(found))
    seen = stats.spearmanr(found["selectivity"], found[measure], alternative="greater")
    return Ranks(float(seen.statistic), float(seen.pvalue), len(found))


def root(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of roots."""
    return rows[rows["level"] == rows["depth"]]


def mean_ranks(cells: Iterable[pd.DataFrame]) -> Estimate:
    """The rank correlation of gap closed with luck, mean over cells, bootstrapped over trees.

    The same trees stand in every cell, so they are drawn together.
    """
    cells = [by_tree(rows)[["selectivity", GAP]].dropna() for rows in cells]
    kept = sorted(set.intersection(*(set(part.index) for part in cells))) if cells else []
    if len(kept) < 3:
        return NOTHING
    picks = np.random.default_rng(0).integers(0, len(kept), size=(RESAMPLES, len(kept)))
    picks = np.vstack([np.arange(len(kept)), picks])
    means = np.mean(
        [_rank_correlations(part.loc[kept].to_numpy(), picks) for part in cells], axis=0
    )
    low, high = np.nanquantile(means[1:], [0.025, 0.975])
    return Estimate(float(means[0]), float(low), float(high), len(kept))


def _rank_correlations(pairs: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Spearman's correlation of `(n, 2)` pairs in every one of `(R, n)` draws of them."""
    drawn = stats.rankdata(pairs[picks], axis=1)  # (R, n, 2)
    centred = drawn - drawn.mean(1, keepdims=True)
    a, b = centred[..., 0], centred[..., 1]
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found: np.ndarray = (a * b).sum(1) / np.where(size > 0, size, np.nan)
    return found
