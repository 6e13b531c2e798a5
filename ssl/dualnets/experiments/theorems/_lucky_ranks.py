"""Rank correlations, over trees, of what was learned with the luck before training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from dualnets.lab.stats import NOTHING, Estimate, bootstrap

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
    """Spearman's correlation of a measure of what trees learned with their luck before training."""
    found = by_tree(rows)[["selectivity", measure]].dropna()
    if len(found) < 3 or found.nunique().min() < 2:
        return Ranks(float("nan"), 1.0, len(found))
    rank = stats.spearmanr(found["selectivity"], found[measure], alternative="greater")
    return Ranks(float(rank.statistic), float(rank.pvalue), len(found))


def root(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of roots."""
    return rows[rows["level"] == rows["depth"]]


def mean_ranks(cells: Iterable[pd.DataFrame]) -> Estimate:
    """The rank correlation of gap closed with luck, mean over cells, bootstrapped over trees.

    All cells have the same trees, so a tree is drawn with its values in all of them.
    """
    cells = [by_tree(rows)[["selectivity", GAP]].dropna() for rows in cells]
    kept = sorted(set.intersection(*(set(part.index) for part in cells))) if cells else []
    if len(kept) < 3:
        return NOTHING
    pairs = [part.loc[kept].to_numpy() for part in cells]
    return bootstrap(
        lambda picks: np.mean([_rank_correlations(each, picks) for each in pairs], axis=0),
        len(kept),
        resamples=RESAMPLES,
    )


def _rank_correlations(pairs: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """`(R,)` Spearman's correlations of `(n, 2)` pairs in `(R, n)` samples of them."""
    drawn = stats.rankdata(pairs[picks], axis=1)  # (R, n, 2)
    centred = drawn - drawn.mean(1, keepdims=True)
    a, b = centred[..., 0], centred[..., 1]
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found: np.ndarray = (a * b).sum(1) / np.where(size > 0, size, np.nan)
    return found
