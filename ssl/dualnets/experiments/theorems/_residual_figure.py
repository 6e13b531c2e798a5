"""The figure of `residual`: the references against noise, then what else the residual depends on."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems._residual import along, references
from dualnets.experiments.theorems.residual import SMALL
from dualnets.lab.report.style import WIDTH

LABELS = {
    "weights": ("b  size of weights", "standard deviation of weights"),
    "temperature": ("c  temperature", "temperature τ"),
    "negatives": ("d  negatives", "negatives per anchor H"),
}
COLOURS = ["#440154", "#21918c", "#e08214", "#d1495b", "#31688e", "#b5a90f"]


def draw(table: pd.DataFrame) -> Figure:
    """The residual at the references, and against weights, temperature and negatives.

    Medians over trees with quartiles; full lines are the top layer, dashed ones those below.
    """
    figure, panels = plt.subplots(
        1, 4, figsize=(WIDTH, 3.7), layout="constrained", sharey=True, width_ratios=[1.5, 1, 1, 0.8]
    )
    first = panels[0]
    for colour, (name, rows) in zip(COLOURS, references(table), strict=False):
        _lines(first, rows.assign(x=1 - rows["polarity_low"]), name, colour)
    first.set(xscale="log", title="a  noise of the views", xlabel="1 - lowest polarity",
              ylabel="|exact - covariance form| / |exact|")  # fmt: skip
    for axes, (axis, (title, label)) in zip(panels[1:], LABELS.items(), strict=True):
        axes.set(title=title, xlabel=label)
        _by_polarity(axes, along(table, axis), axis)
    for axes in panels:
        axes.set_yscale("log")
        axes.axhline(SMALL, color="#777777", lw=1, ls=(0, (4, 2)))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", handlelength=1.4)
    panels[-1].legend().set_visible(False)
    return figure


def _by_polarity(axes: Axes, rows: pd.DataFrame, axis: str) -> None:
    """One colour for each polarity at which the axis was varied most."""
    if rows.empty:
        return
    often = rows.groupby("polarity_low")[axis].nunique()
    chosen: list[Any] = sorted(often[often == often.max()].index)[:3]
    for colour, polarity in zip(COLOURS[::-1], chosen, strict=False):
        part = rows[rows["polarity_low"] == polarity]
        _lines(axes, part.assign(x=part[axis]), f"polarity ≥ {polarity:g}", colour)
    if axis == "negatives":
        ticks = sorted(rows[axis].unique())
        axes.set(xticks=ticks, xlim=(ticks[0] - 0.4, ticks[-1] + 0.4))
    else:
        axes.set_xscale("log")


def _lines(axes: Axes, rows: pd.DataFrame, name: str, colour: str) -> None:
    top = rows["layer"].max()
    for layer, at in rows.groupby("layer"):
        by = at.groupby("x")["residual"].quantile([0.25, 0.5, 0.75]).unstack()
        style: Any = "-" if layer == top else (0, (3, 1.5))
        axes.plot(by.index, by[0.5], color=colour, ls=style, lw=1.6, marker="o", ms=3,
                  label=name if layer == top else None)  # fmt: skip
        axes.fill_between(by.index, by[0.25], by[0.75], color=colour, alpha=0.12, lw=0)
