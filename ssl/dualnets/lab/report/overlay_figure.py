"""The curves of two runs, one over the other: a panel per metric and group of cells."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from dualnets.lab.report.style import AFTER, CEILING, WIDTH, house_style
from hltm._names import PLAIN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from dualnets.lab.comparison import Curves

COLUMNS, MOST_METRICS, MOST_GROUPS = 4, 4, 12
HEIGHT = 1.75  # inches, of a panel
STYLES: tuple[dict[str, Any], ...] = (
    {"color": AFTER, "linestyle": "-"}, {"color": CEILING, "linestyle": "--"},
)  # fmt: skip


def draw(curves: Curves, names: Sequence[str]) -> Figure:
    """Draw the mean over members, with a band of one standard deviation.

    Args:
        curves: of two runs; at most four metrics and twelve groups are drawn.
        names: of the runs, for the legend.
    """
    groups = curves.groups[:MOST_GROUPS]
    metrics = curves.metrics[:MOST_METRICS]
    columns = min(len(groups), COLUMNS) if len(groups) > 1 else min(len(metrics), COLUMNS)
    panels = [(metric, group) for metric in metrics for group in groups]
    block = math.ceil(len(groups) / columns) * columns if len(groups) > 1 else 1
    places = [
        block * (at // len(groups)) + at % len(groups) for at in range(len(panels))
    ]  # every metric begins a row of its own
    rows = math.ceil((max(places) + 1) / columns)
    with house_style():
        figure, axes = plt.subplots(
            rows, columns, figsize=(WIDTH, 0.7 + HEIGHT * rows), layout="constrained", squeeze=False
        )
        first: dict[str, Any] = {}  # metric -> its first panel
        for (metric, group), place in zip(panels, places, strict=True):
            panel = axes.flat[place]
            if first.setdefault(metric, panel) is not panel:
                panel.sharey(first[metric])  # before anything is drawn, so that all of it fits
            own = curves.table
            _panel(panel, own[(own["metric"] == metric) & (own["group"] == group)])
            title = metric.replace("_", " ") if len(groups) == 1 else group
            panel.set_title("\n".join(textwrap.wrap(title, 34)), **PLAIN)
            if place % columns == 0 and len(groups) > 1:
                panel.set_ylabel(metric.replace("_", " "), **PLAIN)
        for at in set(range(rows * columns)) - set(places):
            axes.flat[at].set_visible(False)
        figure.supxlabel("updates + 1 (bands: one standard deviation over members)", fontsize=9)
        lines = [Line2D([], [], **style) for style in STYLES]
        legend = figure.legend(lines, names, loc="outside upper center", ncols=2)
        for text in legend.get_texts():
            text.set(**PLAIN)
    plt.close(figure)
    return figure


def _panel(axes: Any, rows: pd.DataFrame) -> None:
    """Both runs' curves of one metric."""
    for run, style in enumerate(STYLES):
        found = rows[rows["run"] == run].groupby("step")["value"].agg(["mean", "std"])
        axes.plot(found.index + 1, found["mean"], linewidth=1.4, **style)
        low, high = found["mean"] - found["std"].fillna(0), found["mean"] + found["std"].fillna(0)
        axes.fill_between(found.index + 1, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
