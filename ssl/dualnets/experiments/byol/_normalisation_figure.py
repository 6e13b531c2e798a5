"""The figure of `byol_normalisation`: gap closed over updates, and every tree's time to half of it."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.lab.report.ablation_figure import COLUMNS
from dualnets.lab.report.style import WIDTH, distinct
from dualnets.lab.time_to_threshold import half_gap_times, median_time
from dualnets.lab.variants import by_variant, variant_stats


def draw(table: pd.DataFrame) -> Figure:
    """Draw curves with 95% intervals over trees, and times, what is censored at the right."""
    rows_of = {name: rows[COLUMNS] for name, rows in by_variant(table).items()}
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 4.2), width_ratios=(1.15, 1), layout="constrained"
    )
    last = int(table["step"].max())
    for at, ((name, rows), style) in enumerate(
        zip(rows_of.items(), distinct(len(rows_of)), strict=True)
    ):
        _curve(left, name, rows, style)
        _times(right, at, half_gap_times(rows, for_good=True), style["color"], last)
    left.axhline(0.5, color="0.6", linewidth=0.8, linestyle=":")
    for height in (0, 1):
        left.axhline(height, color="0.6", linewidth=0.8)
    left.set_xscale("log")
    left.set(
        xlabel="updates", ylabel="gap closed, levels ≥ 2", ylim=(-0.25, 1.05),
        title="a  over training (0: untrained, 1: ceiling, dotted: half)",
    )  # fmt: skip
    right.set_xscale("log")
    right.axvline(last, color="0.6", linewidth=0.8)
    right.set(
        xlim=(1, 2.5 * last), ylim=(len(rows_of) - 0.5, -0.5), yticks=range(len(rows_of)),
        xlabel="updates (dots: trees, arrows: not reached;\ncircle and bar: median and its 95% interval)",
        title="b  until half of the gap is closed for good",
    )  # fmt: skip
    right.set_yticklabels(list(rows_of))
    right.grid(visible=False, axis="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _curve(axes: Any, name: str, rows: pd.DataFrame, style: dict[str, Any]) -> None:
    steps = sorted(step for step in rows["step"].unique() if step > 0)
    gaps = [variant_stats(rows, None, step).gap for step in steps]
    low, high = ([gap[i] for gap in gaps] for i in (1, 2))
    axes.plot(steps, [gap.value for gap in gaps], markersize=4, linewidth=1.4, label=name, **style)
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _times(axes: Any, at: int, times: Any, colour: str, last: int) -> None:
    """One row: dots of trees, the median with its interval; censored ones are arrows beyond all updates."""
    reached = np.isfinite(times)
    scatter = np.linspace(-0.28, 0.28, len(times))
    axes.plot(times[reached], at + scatter[reached], ".", color=colour, markersize=6, alpha=0.5)
    beyond = np.full((~reached).sum(), 1.5 * last)
    axes.plot(beyond, at + scatter[~reached], ">", color=colour, markersize=4, alpha=0.5)
    middle = median_time(times)
    if middle.low > 0:  # there are enough trees for an interval
        ends = np.clip([middle.low, middle.high], 1, 1.5 * last)
        axes.plot(ends, [at, at], color=colour, linewidth=2.5, solid_capstyle="butt")
    axes.plot(min(middle.value, 1.5 * last), at, "o", color=colour, markersize=6,
              markeredgecolor="white", markeredgewidth=0.8)  # fmt: skip
