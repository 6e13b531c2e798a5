"""The figure of the experiment on polarities: learning curves of the root, its time, its end, its ceiling."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualnets.experiments.emergence._polarity import judge, times_of
from dualnets.lab.report.ablation_figure import finite_mean
from dualnets.lab.report.intervals import bars
from dualnets.lab.report.style import AFTER, BEFORE, CEILING, WIDTH, ordered
from dualnets.lab.report.sweep_figure import (
    THRESHOLD,
    UPPER,
    critical_value,
    gap_panel,
    left_out,
    lines_of,
    root_panel,
)
from dualnets.lab.variants import ALIGNMENT, variant_stats

NULL: dict[str, Any] = {"color": "0.5", "lw": 1, "ls": "-."}
HALF: dict[str, Any] = {"color": "0.3", "lw": 0.8, "ls": ":"}


def draw(table: pd.DataFrame) -> Figure:
    """Four panels: the root's gap closed over updates and at the end, times over signals, the root."""
    (line,) = lines_of(table, "polarity_low", None, "")
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 7.4), layout="constrained")
    (curves, times), (root, gap) = panels
    for (polarity, rows), style in zip(line.cells, ordered(len(line.cells)), strict=True):
        _curve(curves, rows, label=f"{polarity:g}", color=style["color"])
    curves.axhline(0.5, **HALF)
    curves.set(xscale="log", xlabel="updates", ylabel="gap closed at the root (95% intervals)",
               ylim=(-0.4, 1.2), title="a  the root over training")  # fmt: skip
    curves.legend(title="polarity", loc="center left", bbox_to_anchor=(1.0, 0.5))
    _times(times, table)
    root_panel(root, line)
    root.plot([x for x, _ in line.cells], [_null(rows) for _, rows in line.cells], **NULL)
    root.set(ylabel="root, best |correlation|", ylim=(0, 1.02), title="c  the root and its ceiling")
    gap_panel(gap, line, 0.0, 0.012 * (line.cells[-1][0] - line.cells[0][0]))
    gap.set(
        ylabel="gap closed (95% intervals)", ylim=(-0.4, 1.2), title="d  at the end of training"
    )
    for panel in (root, gap):
        panel.axvline(critical_value(table, "polarity_low"), **THRESHOLD)
        panel.set_xticks([x for x, _ in line.cells])
        panel.set_xlabel("polarity")
    for panel in (curves, gap):
        panel.axhline(1, color=CEILING, lw=0.8)
    figure.legend(handles=_keys(line.cells), loc="outside upper left", ncols=7)
    return figure


def _null(rows: pd.DataFrame) -> float:
    """What the best of as many meaningless candidates reaches at the root, mean over trees."""
    top = rows["metric"].isin(ALIGNMENT) & (rows["level"] == rows["level"].max())
    return finite_mean(rows.loc[top & (rows["step"] == rows["step"].max()), "null"].to_numpy())


def _curve(axes: Any, rows: pd.DataFrame, **style: Any) -> None:
    """The root's gap closed at every snapshot but the first, within its 95% intervals."""
    steps = sorted(rows["step"].unique())[1:]
    gaps = [variant_stats(rows, [int(rows["level"].max())], step).gap for step in steps]
    low, high = [gap.low for gap in gaps], [gap.high for gap in gaps]
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.plot(steps, [gap.value for gap in gaps], lw=1.3, **style)


def _times(axes: Any, table: pd.DataFrame) -> None:
    """Times to half of the gap: every tree, medians with intervals, and the power, where there is one."""
    found = times_of(table)
    last = max(each.last for each in found)
    for each in found:
        never = np.isinf(each.times)
        at = np.full(len(never), each.signal)
        axes.plot(at[~never], each.times[~never], ".", color=AFTER, alpha=0.3, ms=4)
        axes.plot(
            at[never], np.full(int(never.sum()), 1.5 * last), "^", color=AFTER, alpha=0.3, ms=4
        )
    known = [each for each in found if np.isfinite(each.median.value)]
    medians = [each.median._replace(high=min(each.median.high, 1.5 * last)) for each in known]
    bars(axes, [each.signal for each in known], medians, fmt="o", color=AFTER, ms=4, lw=1.2)
    power = [detail for detail in judge(table).details if "power_law" in detail]
    axes.plot(
        [p["signal"] for p in power], [p["power_law"] for p in power], "-", color=CEILING, lw=1
    )
    axes.set(xscale="log", yscale="log", xlabel="signal: polarity ** (2 · depth)",
             ylabel="updates to half of the root's gap", title="b  time and signal")  # fmt: skip
    axes.invert_xaxis()


def _keys(cells: list[tuple[Any, pd.DataFrame]]) -> list[Line2D]:
    """The key of all panels but that of the curves' colours."""
    keys = [
        Line2D([], [], color=CEILING, label="ceiling; in b the fitted power"),
        Line2D([], [], color=AFTER, marker="o", ms=4, label="root, after; in b its median"),
        Line2D([], [], label="levels ≥ 2, after", **UPPER),
        Line2D([], [], color=AFTER, marker=".", alpha=0.4, ls="", label="trees"),
        Line2D([], [], color=AFTER, marker="^", alpha=0.4, ls="", ms=4, label="half never closed"),
        Line2D([], [], color=BEFORE, ls=":", label="before training"),
        Line2D([], [], label="null", **NULL),
        Line2D([], [], label="branching · polarity² = 1", **THRESHOLD),
    ]
    return keys + left_out([rows for _, rows in cells])
