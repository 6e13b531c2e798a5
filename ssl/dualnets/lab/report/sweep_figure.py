"""The figure of a sweep: the root between its start and its ceiling, gap closed, levels, collapse."""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualnets.lab.report.ablation_figure import finite_mean
from dualnets.lab.report.intervals import bars
from dualnets.lab.report.style import AFTER, BEFORE, CEILING, WIDTH, ordered
from dualnets.lab.variants import ALIGNMENT, by_variant, of_root, variant_stats

THRESHOLD: dict[str, Any] = {"color": "0.4", "lw": 1, "ls": (0, (4, 2))}


class Line(NamedTuple):
    """The cells of one line.

    Attributes:
        value: of the second setting, None where there is one line.
        name: in the key.
        style: colour, marker and line style.
        cells: the swept setting's values, in order, and the rows of each.
    """

    value: Any
    name: str
    style: dict[str, Any]
    cells: list[tuple[Any, pd.DataFrame]]


def draw(
    table: pd.DataFrame,
    *,
    axis: str,
    label: str,
    line: str | None = None,
    line_label: str = "",
    threshold: bool = False,
    score: str = "best |correlation|",
) -> Figure:
    """Draw four panels over the values of one setting, the fourth in two parts.

    Args:
        table: of a run.
        axis, label: the setting that is swept, and its name on the figure.
        line, line_label: a second setting, a line for each of its values.
        threshold: whether to mark where on the axis branching * polarity² is 1.
        score: what a latent is scored by, in words.
    """
    lines = lines_of(table, axis, line, line_label)
    values = sorted({x for one in lines for x, _ in one.cells})
    critical = critical_value(table, axis) if threshold else None
    figure = plt.figure(figsize=(WIDTH, 7.4), layout="constrained")
    grid = figure.add_gridspec(2, 2)
    root, gap, levels = (figure.add_subplot(grid[at]) for at in ((0, 0), (0, 1), (1, 0)))
    lower = grid[1, 1].subgridspec(2, 1)
    spread = figure.add_subplot(lower[0])
    rank = figure.add_subplot(lower[1], sharex=spread)
    width = 0.012 * (values[-1] - values[0])
    for at, one in enumerate(lines):
        root_panel(root, one)
        gap_panel(gap, one, width * (at - (len(lines) - 1) / 2), width)
        _collapse(spread, rank, one)
    _levels(levels, lines[-1], label, score)
    for panel in (root, gap, spread, rank):
        panel.set_xticks(values, [f"{value:g}" for value in values])
        if critical is not None:
            panel.axvline(critical, **THRESHOLD)
    for panel in (root, gap, rank):
        panel.set_xlabel(label)
    spread.tick_params(labelbottom=False)
    root.set(ylabel=f"root, {score}", ylim=(0, 1.02), title="a  the root and its ceiling")
    gap.axhline(0, color="0.6", lw=0.8)
    gap.axhline(1, color=CEILING, lw=0.8)
    low, high = gap.get_ylim()
    gap.set(
        ylabel="gap closed (95% intervals)",
        ylim=(max(low, -0.6), min(high, 1.3)),
        title="b  how far the gap closes",
    )
    spread.set(ylim=(0, 1.05), ylabel="spread", title="d  collapse of the embedding")
    rank.set(ylim=(0.8, None), ylabel="effective rank")
    figure.legend(handles=_keys(lines, threshold), loc="outside upper left", ncols=7)
    return figure


def critical_value(table: pd.DataFrame, axis: str) -> float:
    """Where branching * polarity² is 1 (Kesten and Stigum 1966), on the axis of either."""
    first = table.iloc[0]
    if axis == "branching":
        return float(first["polarity_low"]) ** -2
    return float(first["branching"]) ** -0.5


def lines_of(table: pd.DataFrame, axis: str, line: str | None, line_label: str) -> list[Line]:
    """The cells by line, lines and cells in the order of their settings."""
    cells = [
        (rows[axis].iloc[0], None if line is None else rows[line].iloc[0], rows)
        for rows in by_variant(table).values()
    ]
    cells.sort(key=lambda cell: (cell[1] is not None and cell[1], cell[0]))
    values = list(dict.fromkeys(cell[1] for cell in cells))
    if line is None:
        styles = [{"color": AFTER, "marker": "o", "linestyle": "-"}]
    else:
        styles = [{**style, "linestyle": "-"} for style in ordered(len(values))]
    return [
        Line(value, "" if value is None else f"{value} {line_label}", style,
             [(x, rows) for x, other, rows in cells if other == value])
        for value, style in zip(values, styles, strict=True)
    ]  # fmt: skip


def _keys(lines: list[Line], threshold: bool) -> list[Any]:
    """The key of all panels."""
    alone = lines[0].value is None
    keys = [Line2D([], [], color=CEILING, label="ceiling")]
    keys += [Line2D([], [], ms=4, label=one.name or "root, after", **one.style) for one in lines]
    if alone:
        keys.append(Line2D([], [], **UPPER, label="levels ≥ 2, after"))
        keys.append(Line2D([], [], color=AFTER, marker=".", alpha=0.4, ls="", label="trees"))
    colour = BEFORE if alone else "0.3"
    keys.append(Line2D([], [], color=colour, ls=":", label="before training"))
    if threshold:
        label = "branching · polarity² = 1 (Kesten-Stigum)"
        keys.append(Line2D([], [], **THRESHOLD, label=label))
    return keys + left_out([rows for one in lines for _, rows in one.cells])


def left_out(cells: list[pd.DataFrame]) -> list[Line2D]:
    """An entry of a key with the number of trees whose numbers are not finite, if there are any."""
    found = [variant_stats(rows) for rows in cells]
    lost, trees = sum(each.diverged for each in found), sum(len(each.value) for each in found)
    return [Line2D([], [], ls="", label=f"{lost} of {trees} not finite, left out")] if lost else []


UPPER: dict[str, Any] = {"color": "#56b4e9", "marker": "s", "ms": 4, "ls": "--"}


def root_panel(axes: Any, line: Line) -> None:
    """Means before and after training, and of the ceilings; with one line, every tree is a dot."""
    xs = [x for x, _ in line.cells]
    found = [of_root(rows) for _, rows in line.cells]
    alone = line.value is None
    if alone:
        for x, now in zip(xs, found, strict=True):
            axes.plot(np.full(len(now.value), x), now.value, ".", color=AFTER, alpha=0.25, ms=4)
    axes.plot(xs, [finite_mean(f.ceiling) for f in found], color=CEILING, lw=1.4)
    colour = BEFORE if alone else line.style["color"]
    axes.plot(xs, [finite_mean(f.initial) for f in found], ":", color=colour)
    axes.plot(xs, [finite_mean(f.value) for f in found], ms=4, **line.style)


def gap_panel(axes: Any, line: Line, aside: float, width: float) -> None:
    """Gap closed at the root; where there is one line, of all latents of levels >= 2 as well.

    A line is moved `aside` and its parts stand a `width` apart, so that no interval hides another.
    """
    parts = [(of_root, {**line.style, "ms": 4})]
    if line.value is None:
        parts.append((variant_stats, UPPER))
    for at, (part, style) in enumerate(parts):
        xs = [x + aside + at * width for x, _ in line.cells]
        bars(axes, xs, [part(rows).gap for _, rows in line.cells], lw=1.2, **style)


def _levels(axes: Any, line: Line, label: str, score: str) -> None:
    """Alignment over ceiling by level, of the last line, with its key beside the panel."""
    for (x, rows), style in zip(line.cells, ordered(len(line.cells)), strict=True):
        levels = sorted(rows.loc[rows["metric"].isin(ALIGNMENT), "level"].unique())
        found = [variant_stats(rows, [level]) for level in levels]
        share = [finite_mean(f.value) / finite_mean(f.ceiling) for f in found]
        start = [finite_mean(f.initial) / finite_mean(f.ceiling) for f in found]
        axes.plot(levels, share, ms=4, label=f"{x:g}", **{**style, "linestyle": "-"})
        axes.plot(levels, start, ":", color=style["color"], lw=1, marker=style["marker"], ms=2.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(
        xlabel="level of the latents (dotted: before training)",
        ylabel=f"{score} / ceiling",
        title="c  by level" + (f" ({line.name} only)" if line.name else ""),
    )
    axes.legend(title=label.replace(" ", "\n", 1), title_fontsize=8, loc="center left",
                bbox_to_anchor=(1.0, 0.5))  # fmt: skip


def _collapse(spread: Any, rank: Any, line: Line) -> None:
    """Spread and effective rank of the embedding, means over trees."""
    xs = [x for x, _ in line.cells]
    found = [variant_stats(rows) for _, rows in line.cells]
    spread.plot(xs, [finite_mean(f.spread) for f in found], ms=4, **line.style)
    rank.plot(xs, [finite_mean(f.rank) for f in found], ms=4, **line.style)
