"""The figure of `root_alignment`: the root tree by tree for every range, and its mean against units."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.emergence._emergence_figure import tree_by_tree
from dualnets.experiments.emergence._root_alignment import roots
from dualnets.lab.report.intervals import bars
from dualnets.lab.report.style import WIDTH, ordered
from dualnets.lab.stats import mean_interval

PER_ROW = 4


def draw(table: pd.DataFrame) -> Figure:
    """One panel per range of polarities, and the means of all ranges."""
    found = roots(table)
    ranges = list(found.groupby("where", sort=False))
    panels = len(ranges) + 1
    across, down = min(panels, PER_ROW), -(-panels // PER_ROW)
    figure, grid = plt.subplots(
        down, across, figsize=(WIDTH, 3.6 * down), sharey=True, squeeze=False, layout="constrained"
    )
    places = grid.flatten()
    for number, (where, part) in enumerate(ranges):
        axes = places[number]
        widths = [own for _, own in part.groupby("units")]
        tree_by_tree(axes, widths, [str(own["units"].iloc[0]) for own in widths])
        axes.set_title(f"{'abcdefghijklm'[number]}  polarities ± {where}")
        axes.set_xlabel("units per latent")
    places[0].set_ylabel("best |correlation| with the root")
    handles, words = places[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=4, handletextpad=0.4)
    _means(places[panels - 1], ranges, "abcdefghijklm"[panels - 1])
    for axes in places[panels:]:
        axes.set_axis_off()
    return figure


def _means(axes: Axes, ranges: list[Any], letter: str) -> None:
    """Means over trees with 95% intervals against units: after training, and before it in dashes."""
    widths = sorted({int(units) for _, part in ranges for units in part["units"]})
    place = {units: i for i, units in enumerate(widths)}
    shifts = (np.arange(len(ranges)) - (len(ranges) - 1) / 2) * 0.1
    for (where, part), style, shift in zip(ranges, ordered(len(ranges)), shifts, strict=True):
        groups = list(part.groupby("units"))
        x = np.array([place[int(units)] for units, _ in groups]) + shift
        for name, line, label in (("value", "-", where), ("initial", ":", None)):
            found = [mean_interval(own[name].to_numpy()) for _, own in groups]
            bars(axes, x, found, color=style["color"], marker=style["marker"], ls=line, ms=4, lw=1.2,
                 label=label)  # fmt: skip
    axes.set_xticks(range(len(widths)), [str(units) for units in widths])
    axes.set(xlim=(-0.5, len(widths) - 0.5), xlabel="units per latent")
    axes.set_title(f"{letter}  means; dotted: before")
    axes.legend(loc="lower right")
    axes.grid(axis="x", visible=False)
