"""The root on both sides of the Kesten-Stigum boundary, by contrast and by prediction: the rules applied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dualnets.experiments.emergence._kesten_stigum import gap_difference, root_entry, strength
from dualnets.experiments.prediction.phase import CONTRAST, MOST, PREDICTION
from dualnets.lab import variants
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, bootstrap, too_few
from dualnets.lab.variants import VariantStats, at_once, by_variant, of_root

OBJECTIVES = (CONTRAST, PREDICTION)
COMPARED = (
    2  # the level of the second comparison: two leaves tell untrained units all about level 1
)


class Cell(NamedTuple):
    """One objective on trees of one shape and polarity.

    Attributes:
        name: of the variant.
        objective: one of OBJECTIVES.
        branching, polarity, depth: of the trees.
        strength: branching * polarity².
        rows: of the table.
    """

    name: str
    objective: str
    branching: int
    polarity: float
    depth: int
    strength: float
    rows: pd.DataFrame

    @property
    def root(self) -> VariantStats:
        """The root's numbers, one per tree each."""
        return of_root(self.rows)


def cells_of(table: pd.DataFrame) -> list[Cell]:
    """The cells of a run, by objective, children, polarity and depth."""
    found = []
    for name, rows in by_variant(table).items():
        first = rows.iloc[0]
        objective = str(first["variant"]).partition(",")[0]
        shape = int(first["branching"]), float(first["polarity_low"]), int(first["depth"])
        found.append(Cell(name, objective, *shape, strength(rows), rows))
    return sorted(found, key=lambda cell: cell[1:5])


def _trees(cells: Iterable[Cell]) -> int:
    """The fewest trees of cells."""
    return min((cell.rows["member"].nunique() for cell in cells), default=0)


def judge_above(table: pd.DataFrame) -> Judgement:
    """Apply the rule `above`; the effect is the smallest gap closed."""
    cells = [cell for cell in cells_of(table) if cell.strength > 1]
    effect = f"smallest gap closed at the root above the boundary{at_once(len(cells))}"
    if not cells:
        return Judgement("open", "nothing lies above the boundary", effect, NOTHING, [])
    gaps = [cell.root.gap_among(len(cells)) for cell in cells]
    details = [
        root_entry(cell.name, cell.rows, len(cells)) | {"kesten_stigum": cell.strength}
        for cell in cells
    ]
    less = [cell.name for cell, gap in zip(cells, gaps, strict=True) if gap.high < MOST]
    shown = sum(gap.low > MOST for gap in gaps)
    outcome: Outcome = "open"
    if reason := too_few(_trees(cells)):
        pass
    elif less:
        outcome, reason = "fails", f"less than {MOST} is closed with {'; '.join(less)}"
    elif shown == len(cells):
        outcome, reason = "holds", f"more than {MOST} is closed in all {len(cells)}"
    else:
        reason = f"more than {MOST} is shown to be closed in {shown} of {len(cells)}"
    return Judgement(outcome, reason, effect, min(gaps, key=lambda gap: gap.value), details)


def falls(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Per objective, children and polarity with several depths, how the root and its ceiling fall per level.

    Every entry has `fall`, an `Estimate` of the root's, with one of so many intervals as there are such
    entries below the boundary, `ceiling`, the fall of the ceiling, and `allowed`, half way to no fall.
    """
    lines: dict[tuple[str, int, float], list[Cell]] = {}
    for cell in cells_of(table):
        lines.setdefault(cell[1:4], []).append(cell)
    lines = {key: cells for key, cells in lines.items() if len({cell.depth for cell in cells}) > 1}
    count = sum(cells[0].strength < 1 for cells in lines.values())
    found = []
    for (objective, branching, polarity), cells in lines.items():
        shallow, deep = cells[0].root, cells[-1].root
        levels = cells[-1].depth - cells[0].depth
        found.append({
            "variant": f"{objective}, {branching} children, polarity {polarity:g}",
            "strength": cells[0].strength,
            "fall": _fall(shallow.value, deep.value, levels, max(count, 1)),
            "ceiling": float((deep.ceiling.mean() / shallow.ceiling.mean()) ** (1 / levels)),
            "allowed": (1 + cells[0].strength ** 0.5) / 2,
        })  # fmt: skip
    return found


def _fall(shallow: np.ndarray, deep: np.ndarray, levels: int, among: int) -> Estimate:
    if len(shallow) != len(deep):
        return NOTHING

    def per_level(picks: Any) -> np.ndarray:
        ratio: np.ndarray = deep[picks].mean(-1) / shallow[picks].mean(-1)
        return ratio ** (1 / levels)

    return bootstrap(per_level, len(shallow), among=among)


def fall_by_variant(table: pd.DataFrame) -> dict[str, Estimate]:
    """The fall per level at the last step of a table."""
    return {line["variant"]: line["fall"] for line in falls(table)}


def judge_below(table: pd.DataFrame) -> Judgement:
    """Apply the rule `below`; the effect is the slowest fall per level, as a share of what is allowed."""
    lines = [line for line in falls(table) if line["strength"] < 1]
    effect = f"slowest fall of the root per level below the boundary{at_once(len(lines))}"
    if not lines:
        return Judgement("open", "no two depths lie below the boundary", effect, NOTHING, [])
    details = [
        {"variant": line["variant"], **line["fall"].detail("fall_per_level"),
         "of_ceiling": line["ceiling"], "allowed": line["allowed"]}
        for line in lines
    ]  # fmt: skip
    slow = [line["variant"] for line in lines if line["fall"].low > line["allowed"]]
    fast = sum(line["fall"].high < line["allowed"] for line in lines)
    outcome: Outcome = "open"
    if reason := too_few(_trees(cells_of(table))):
        pass
    elif slow:
        outcome, reason = "fails", f"the root falls too slowly with {'; '.join(slow)}"
    elif fast == len(lines):
        outcome, reason = "holds", f"the root falls with depth in all {len(lines)}"
    else:
        reason = f"the root is shown to fall in {fast} of {len(lines)}"
    slowest = max(lines, key=lambda line: line["fall"].value - line["allowed"])
    return Judgement(outcome, reason, effect, slowest["fall"], details)


def compared(table: pd.DataFrame) -> list[tuple[Cell, Cell]]:
    """The cells of contrast and of prediction on the same trees."""
    by_trees: dict[tuple[Any, ...], dict[str, Cell]] = {}
    for cell in cells_of(table):
        by_trees.setdefault(cell[2:5], {})[cell.objective] = cell
    pairs = [[own.get(objective) for objective in OBJECTIVES] for own in by_trees.values()]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def gap_by_objective(table: pd.DataFrame) -> dict[str, Estimate]:
    """Each objective's gap closed at the root, mean over variants, at the last step of a table."""
    found = {}
    for objective, cells in zip(OBJECTIVES, zip(*compared(table), strict=True), strict=False):
        roots = [cell.root for cell in cells]
        zero, one = np.zeros_like(roots[0].value), np.ones_like(roots[0].value)
        nothing = VariantStats(zero, zero, one, zero, zero, roots[0].members)
        found[objective] = gap_difference(roots, [nothing])
    return found


def judge_objectives(table: pd.DataFrame, *, more: str) -> Judgement:
    """Apply the rule on two objectives; the effect is the difference of the gaps closed at the root.

    Args:
        table: of a run.
        more: the objective that is to close more.
    """
    pairs = compared(table)
    order = [OBJECTIVES.index(more), 1 - OBJECTIVES.index(more)]
    less = OBJECTIVES[order[1]]
    effect = f"gap closed at the root, {more} minus {less}"
    if not pairs:
        return Judgement("open", "no two objectives on the same trees", effect, NOTHING, [])
    a, b = ([pair[at].root for pair in pairs] for at in order)
    if len({tuple(own.members) for own in (*a, *b)}) > 1:
        reason = "settings on different trees cannot be compared tree by tree"
        return Judgement("open", reason, effect, NOTHING, [])
    difference = gap_difference(a, b)
    details = [
        {"variant": pair[0].name.partition(", ")[2], "kesten_stigum": pair[0].strength,
         more: own.gap.value, less: other.gap.value,
         **gap_difference([own], [other]).detail("difference")}
        for pair, own, other in zip(pairs, a, b, strict=True)
    ]  # fmt: skip
    outcome: Outcome = "open"
    if reason := too_few(difference.n):
        pass
    elif difference.low > 0:
        outcome, reason = "holds", f"{more} closes more of the gap"
    elif difference.high < 0:
        outcome, reason = "fails", f"{less} closes more of the gap"
    else:
        reason = "neither is shown to close more of the gap"
    return Judgement(outcome, reason, effect, difference, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, with branching * polarity² and the gap closed at the root."""
    made = variants.summary_table(table)
    found = by_variant(table)
    made.insert(1, "b ρ²", [f"{strength(found[name]):.2f}" for name in made["variant"]])
    gaps = [str(of_root(found[name]).gap) for name in made["variant"]]
    made.insert(5, "gap closed, root", gaps)
    made.attrs["caption"] += (
        "; b ρ²: branching * polarity², above 1 roots of deep trees can be known"
    )
    return made
