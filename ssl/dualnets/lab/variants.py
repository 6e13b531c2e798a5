"""The numbers of variants, read from the table of a run, and their comparison on the same trees.

Alignment alone hides collapse, so the spread and the effective rank of what the loss compares are read
with it. Values are per tree; comparisons are paired tree by tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dualnets.lab.free_settings import free_settings
from dualnets.lab.ratios import gap_closed
from dualnets.lab.rules import LOST, NEGLIGIBLE, TREES, Members
from dualnets.lab.stats import (
    NOTHING,
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    last_step,
    mean_interval,
    pooled,
    too_few,
)

GAP = "gap closed ≥ 2"  # the column: of the latents of levels >= 2
SPREAD, RANK = "spread", "effective_rank"
PRE, RATIO = "correlation", "correlation_ratio"  # of latents of two states both are the same number
ALIGNMENT = (PRE, RATIO)
ACCURACY = "linear all"  # of pictures: a linear probe on all labels, by `dualnets.images.evaluate`
SCORES = (*ALIGNMENT, ACCURACY)  # a table has one of them
READ = ("metric", "node", "level", "member", "initial", "value", "ceiling")
FEW = 0.25  # of the trees of a variant
INTERVALS = "means over n trees; ± and [ ]: 95% intervals over trees"


# the numbers of a variant


class VariantStats(NamedTuple):
    """The numbers of one variant, one value per tree: `(S,)` float64 each.

    Attributes:
        initial, value, ceiling: means over the chosen latents of their best alignment, before and after
            training, and of their ceilings.
        spread, rank: of the embedding, at the end.
        members: the trees.
    """

    initial: np.ndarray
    value: np.ndarray
    ceiling: np.ndarray
    spread: np.ndarray
    rank: np.ndarray
    members: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """`(S,)` growth of the alignment."""
        return self.value - self.initial

    @property
    def gap(self) -> Estimate:
        """Gap closed, with its interval over trees."""
        return self.gap_among(1)

    def gap_among(self, count: int) -> Estimate:
        """Gap closed, with one of `count` intervals that hold all at once."""
        return gap_closed(self.initial, self.value, self.ceiling, count)

    @property
    def collapse_columns(self) -> dict[str, Any]:
        """Spread with its interval (a dash unless it is finite for every tree), rank, lost trees and n."""
        spread = mean_interval(self.spread).brief if np.isfinite(self.spread).all() else "–"
        return {"spread": spread, "rank": f"{self.rank.mean():.1f}", "collapsed": self.collapsed,
                "diverged": self.diverged, "n": len(self.value)}  # fmt: skip

    @property
    def collapsed(self) -> int:
        """Trees whose embedding's spread is below LOST."""
        return int((self.spread < LOST).sum())

    @property
    def diverged(self) -> int:
        """Trees with an alignment or a spread that is not finite."""
        return int((~np.isfinite(self.value + self.spread)).sum())

    def p_grown(self, tests: int = 1, *, exact: bool = True) -> float:
        """P that the alignment did not grow, as `exceeds` has it, after Bonferroni over `tests` tests."""
        return exceeds(self.value, self.initial, tests, exact=exact)


def variant_stats(
    rows: pd.DataFrame, levels: Sequence[int] | None = None, step: int | None = None
) -> VariantStats:
    """The numbers of one variant.

    Args:
        rows: of one cell.
        levels: whose latents; by default all >= 2, or the root's where the tree has one level. Pictures have
            level 1 alone.
        step: the last by default.
    """
    step = int(rows["step"].max()) if step is None else step
    # numpy, since a rule reads hundreds of such small tables
    now = rows.loc[rows["step"].to_numpy() == step, list(READ)]
    metric, node, level, member = (
        now[name].to_numpy() for name in ("metric", "node", "level", "member")
    )
    score = np.isin(metric, SCORES)
    if levels is None:
        levels = [own for own in np.unique(level[score]) if own >= 2] or [1]
    score &= np.isin(level, levels)
    members, of_member = np.unique(member[score], return_inverse=True)

    def mean(name: str) -> np.ndarray:
        """Per member, of the values that are known."""
        values = now[name].to_numpy(np.float64)[score]
        known = ~np.isnan(values)
        sums, counts = (
            np.bincount(of_member[known], own, len(members)) for own in (values[known], None)
        )
        return np.divide(sums, counts, out=np.full(len(members), np.nan), where=counts > 0)

    def collapse(name: str) -> np.ndarray:
        """Of the embedding, per member; NaN where it was not measured."""
        own = (metric == name) & (node == "embedding") & np.isin(member, members)
        found = np.full(len(members), np.nan)
        found[np.searchsorted(members, member[own])] = now["value"].to_numpy(np.float64)[own]
        return found

    return VariantStats(
        mean("initial"), mean("value"), mean("ceiling"), collapse(SPREAD), collapse(RANK), members
    )


def of_root(rows: pd.DataFrame) -> VariantStats:
    """The root's numbers of one variant."""
    return variant_stats(rows, [int(rows["level"].max())])


def by_variant(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Variant -> its rows, in order; the trees of all seeds together.

    Cells of one variant that differ in anything but their seed are named apart; in a table without
    variants all cells are of one.
    """
    together = pooled(table).groupby(table["cell"].map(_names(table)), sort=False)
    return {str(name): rows for name, rows in together}


def _names(table: pd.DataFrame) -> dict[str, str]:
    """Cell -> its variant, as `by_variant` names it."""
    columns = list(table.columns)
    end = columns.index("variant") + 1 if "variant" in columns else columns.index("member")
    settings = table.columns[:end].drop(["experiment", "run", "cell", "seed"], errors="ignore")
    cells = table.drop_duplicates("cell").set_index("cell")[settings].to_dict("index")
    free, names = free_settings([{"variant": "", **own} for own in cells.values()]), {}
    for cell, own in cells.items():
        name = str(own.get("variant", ""))
        extra = ", ".join(f"{field.replace('_', ' ')} {own[field]}" for field in free)
        names[cell] = f"{name} ({extra})" if name and extra else name or extra or "all"
    return names


def lost_members(table: pd.DataFrame) -> set[int]:
    """Trees that diverged or collapsed with a variant with which at least three of four did neither.

    A tree diverged if an alignment or the spread of its embedding is not finite at the end, and collapsed
    if this spread is below LOST. What befalls more trees is what the variant does, and is no loss.

    Args:
        table: of a run, the trees of all seeds together; without alignments nothing is lost.
    """
    if not {"metric", "step", "value", "member", "cell"} <= set(table):
        return set()
    ends = last_step(pooled(table))
    ends = ends[ends["metric"].isin((*SCORES, SPREAD)) & (ends["node"] != "output")]
    bad = ~np.isfinite(ends["value"]) | ((ends["metric"] == SPREAD) & (ends["value"] < LOST))
    of_tree = bad.groupby([ends["cell"].map(_names(table)), ends["member"]]).any()
    few = of_tree.groupby(level=0).transform("mean") < FEW
    return {int(member) for _, member in of_tree.index[of_tree & few]}


# comparisons of variants


class Contrast(NamedTuple):
    """One variant against another on the same trees.

    Attributes:
        difference: a - b, the mean over trees with its 95% interval.
        p_more, p_less: one-sided P (Wilcoxon's exact signed ranks, or Student's) that a is no more, no less
            than b, after Bonferroni.
    """

    difference: Estimate
    p_more: float
    p_less: float


def contrast(a: np.ndarray, b: np.ndarray, among: int = 1, *, exact: bool = True) -> Contrast:
    """Compare two variants, one value per tree each, in the same order.

    Args:
        a, b: `(S,)` each.
        among: how many such comparisons are made: their intervals hold all at once, and each P is
            multiplied by this number.
        exact: whether by signed ranks; else by Student's test.

    Example:
        >>> found = contrast(np.arange(10) + 1.0, np.zeros(10))
        >>> found.difference.value, found.p_more < 0.01, found.p_less
        (5.5, True, 1.0)
    """
    p_more, p_less = (exceeds(*pair, among, exact=exact) for pair in ((a, b), (b, a)))
    return Contrast(mean_interval(a - b, among), p_more, p_less)


# judging


def at_once(count: int) -> str:
    """The words for an interval that is one of so many.

    Example:
        >>> at_once(9), at_once(1)
        (', intervals of all 9 at once', '')
    """
    return f", intervals of all {count} at once" if count > 1 else ""


def all_emerge(table: pd.DataFrame, *, plural: str, members: Members = TREES) -> Judgement:
    """Apply `dualnets.lab.rules.all_emerge`; the effect is the smallest gap closed of all variants.

    Args:
        table: of a run.
        plural: what the variants are.
        members: what the members are.
    """
    variants, latents = by_variant(table), members.found
    if not variants:
        return Judgement("open", f"none of the {plural} was run", "", NOTHING, [], members.of)
    found = {name: variant_stats(rows) for name, rows in variants.items()}
    gaps = {name: own.gap_among(len(found)) for name, own in found.items()}
    for name, own in found.items():
        if gaps[name].n <= (1 - FEW) * len(own.value):  # then those left do not stand for all
            gaps[name] = gaps[name]._replace(low=float("nan"), high=float("nan"))
    details = [
        {"variant": name, "emerges": gap.low > NEGLIGIBLE, **gap.detail("gap_closed"),
         "p_grown": found[name].p_grown(len(found), exact=members.exact),
         "spread": float(found[name].spread.mean())}
        for name, gap in gaps.items()
    ]  # fmt: skip
    not_emerged = [name for name, gap in gaps.items() if not gap.low > NEGLIGIBLE]
    outcome: Outcome = "open"
    if reason := too_few(min(gap.n for gap in gaps.values()), members.fewest, members.of):
        pass
    elif not not_emerged:
        outcome, reason = "holds", f"{latents} emerge with all {len(gaps)} {plural}"
    elif all(gap.high < NEGLIGIBLE for gap in gaps.values()):
        outcome, reason = "fails", f"{latents} emerge with none of {len(gaps)} {plural}"
    elif len(not_emerged) == len(gaps):
        reason = f"{latents} are shown to emerge with none of {len(gaps)} {plural}"
    else:
        reason = f"{latents} are not shown to emerge with {', '.join(not_emerged)}"
    effect = f"smallest gap closed of all {plural}{at_once(len(gaps))}"
    smallest = min(gaps.values(), key=lambda gap: gap.value)
    return Judgement(outcome, reason, effect, smallest, details, members.of)


# the short table


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the root before and after, its ceiling, gap closed, spread, rank, n.

    Root and spread have half of their 95% intervals over trees behind a `±`.
    """
    found = []
    for name, rows in by_variant(table).items():
        upper = variant_stats(rows)
        root = of_root(rows)
        found.append(
            {
                "variant": name,
                "before": root.initial.mean(),
                "root": mean_interval(root.value).brief,
                "ceiling": root.ceiling.mean(),
                GAP: str(upper.gap),
                **upper.collapse_columns,
            }
        )
    made = pd.DataFrame(found)
    what = "before, root: best |correlation| with the root, untrained and trained"
    made.attrs["caption"] = f"{what}; {INTERVALS}"
    return made
