"""The figure of the phase experiment: roots and ceilings over branching * polarity², their fall with depth,
and both objectives level by level."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualnets.experiments.prediction._phase import OBJECTIVES, Cell, cells_of, compared, falls
from dualnets.lab.report.ablation_figure import finite_mean
from dualnets.lab.report.intervals import bars
from dualnets.lab.report.style import AFTER, BEFORE, CEILING, WIDTH, level_colours
from dualnets.lab.report.sweep_figure import THRESHOLD, left_out
from dualnets.lab.stats import mean_interval
from dualnets.lab.variants import variant_stats

STYLES: dict[str, dict[str, Any]] = {
    OBJECTIVES[0]: {"color": AFTER, "marker": "o"},
    OBJECTIVES[1]: {"color": "#009e73", "marker": "s"},
}


def draw(table: pd.DataFrame) -> Figure:
    """A panel of roots per shape, one of their fall per level, one of both objectives against each other."""
    cells = cells_of(table)
    shapes = sorted({(cell.branching, cell.depth) for cell in cells})
    columns = max(len(shapes), 2)
    figure = plt.figure(figsize=(WIDTH, 7.0), layout="constrained")
    grid = figure.add_gridspec(2, 2 * columns, height_ratios=(1, 1.25))
    first = None
    for at, shape in enumerate(shapes):
        axes = figure.add_subplot(grid[0, 2 * at : 2 * at + 2], sharey=first)
        _roots(axes, [cell for cell in cells if (cell.branching, cell.depth) == shape])
        axes.set(ylim=(0, 1.02), xlabel="b ρ²")
        axes.set_title(f"{'abcdefghijkl'[at]}  {shape[0]} children, depth {shape[1]}")
        if first is None:
            axes.set_ylabel("root, best |correlation|")
            first = axes
        else:
            axes.tick_params(labelleft=False)
    letters = "abcdefghijklmn"[len(shapes) :]
    fall = figure.add_subplot(grid[1, :columns])
    _falls(fall, table)
    fall.set_title(f"{letters[0]}  fall of the root per level of depth")
    both = figure.add_subplot(grid[1, columns:])
    _both(both, table, {level for pair in compared(table) for level in _levels(pair[0])})
    both.set_title(f"{letters[1]}  gap closed, level by level, on the same trees")
    figure.legend(handles=_keys(cells), loc="outside upper left", ncols=8)
    return figure


def _levels(cell: Cell) -> list[int]:
    """The levels that are compared: an untrained network leaves no gap at level 1."""
    return list(range(2, cell.depth + 1))


def _roots(axes: Any, cells: list[Cell]) -> None:
    """Ceilings, roots before and after training with 95% intervals over trees, and the null."""
    for place, objective in enumerate(OBJECTIVES):
        own = [cell for cell in cells if cell.objective == objective]
        x = [cell.strength for cell in own]
        if not own:
            continue
        roots = [cell.root for cell in own]
        if place == 0:
            axes.plot(x, [finite_mean(root.ceiling) for root in roots], color=CEILING, lw=1.4)
            axes.plot(x, [finite_mean(root.initial) for root in roots], ":", color=BEFORE)
            axes.plot(x, [_null(cell) for cell in own], "-.", color="0.5", lw=1)
        aside = (place - 0.5) * 0.03
        shown = [mean_interval(root.value) for root in roots]
        bars(axes, [v + aside for v in x], shown, ms=4, ls="", lw=1.2, **STYLES[objective])
    axes.axvline(1, **THRESHOLD)


def _null(cell: Cell) -> float:
    """What the best of as many meaningless units reaches at the root, mean over trees."""
    rows = cell.rows
    last = (rows["step"] == rows["step"].max()) & (rows["level"] == cell.depth)
    return finite_mean(rows.loc[last & (rows["metric"] == "correlation"), "null"].to_numpy())


def _falls(axes: Any, table: pd.DataFrame) -> None:
    """The factor by which a root shrinks per level of depth, its ceiling's, and the limit of the latter."""
    lines = falls(table)
    for line in lines:
        objective = line["variant"].partition(",")[0]
        aside = (OBJECTIVES.index(objective) - 0.5) * 0.02
        bars(
            axes,
            [line["strength"] + aside],
            [line["fall"]],
            ms=4,
            ls="",
            lw=1.2,
            **STYLES[objective],
        )
        axes.plot(line["strength"], line["ceiling"], "_", color=CEILING, ms=14, mew=1.6)
    x = np.linspace(min([cell["strength"] for cell in lines], default=0.5) * 0.9, 1, 50)
    axes.plot(x, x**0.5, color="0.4", lw=1)
    axes.plot(x, (1 + x**0.5) / 2, ":", color="0.4", lw=1.4)
    top = max([line["strength"] for line in lines], default=1.0) * 1.05
    axes.plot([1, max(top, 1.0)], [1, 1], color="0.4", lw=1)
    axes.axvline(1, **THRESHOLD)
    axes.set(xlabel="branching b · polarity ρ²", ylabel="factor per level")


def _both(axes: Any, table: pd.DataFrame, levels: set[int]) -> None:
    """Gap closed by prediction over that by contrast; filled above the boundary, open below it."""
    colours = level_colours(max(levels, default=1))
    for pair in compared(table):
        for level in _levels(pair[0]):
            x, y = (variant_stats(cell.rows, [level]).gap.value for cell in pair)
            above = pair[0].strength > 1
            mark = {"mfc": colours[level] if above else "none", "mec": colours[level], "ms": 6}
            axes.plot(x, y, "D" if level == pair[0].depth else "o", **mark)
    axes.plot([-0.2, 1], [-0.2, 1], color="0.6", lw=0.8)
    for level in sorted(levels):
        axes.plot([], [], "o", color=colours[level], label=f"level {level}")
    axes.plot([], [], "D", mfc="none", mec="0.3", label="a root")
    axes.plot([], [], "o", mfc="none", mec="0.3", label="b ρ² < 1")
    axes.set(xlim=(-0.25, 1.05), ylim=(-0.25, 1.05))
    axes.set(xlabel="gap closed by contrast", ylabel="gap closed by prediction")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _keys(cells: list[Cell]) -> list[Any]:
    """The key of all panels."""
    keys = [Line2D([], [], color=CEILING, label="ceiling")]
    keys += [Line2D([], [], ls="", ms=4, label=name, **style) for name, style in STYLES.items()]
    keys += [
        Line2D([], [], color=BEFORE, ls=":", label="before training"),
        Line2D([], [], color="0.5", ls="-.", lw=1, label="null"),
        Line2D([], [], label="b ρ² = 1", **THRESHOLD),
        Line2D([], [], color="0.4", lw=1, label="limit of the ceiling's fall"),
        Line2D([], [], color="0.4", ls=":", lw=1.4, label="slowest fall that is allowed"),
    ]
    return keys + left_out([cell.rows for cell in cells])
