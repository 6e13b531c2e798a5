"""The figure of `operator_norm`: the norm of every level's operators over training, one panel per network."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.emergence._emergence_figure import DASHED, over_updates
from dualnets.experiments.emergence._operator_norm import GROUP, by_level
from dualnets.experiments.emergence.emergence import CONTROL
from dualnets.lab.report.intervals import band
from dualnets.lab.report.style import WIDTH, level_colours


def draw(table: pd.DataFrame) -> Figure:
    """A row per range of polarities, a panel per network: norms over their start.

    Thick lines are means over trees and the latents of a level, thin ones the latents of one tree.
    """
    found = by_level(table)
    found["control"] = found["augment"] == CONTROL
    ranges = list(found.groupby(GROUP))
    kinds = list(found.groupby(["control", "units"]).groups)
    figure, grid = plt.subplots(
        len(ranges), len(kinds), figsize=(WIDTH, 3.2 * len(ranges)), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for row, ((low, high), part) in enumerate(ranges):
        for column, (control, units) in enumerate(kinds):
            axes = grid[row, column]
            rows = part[(part["control"] == control) & (part["units"] == units)]
            of_cells = table[table["cell"].isin(rows["cell"])]
            _latents_of_one_tree(axes, of_cells[of_cells["member"] == rows["member"].min()])
            _over_training(axes, rows, legend=row == column == 0)
            name = "control, views share nothing" if control else "views keep the root"
            letter = "abcdefghijkl"[row * len(kinds) + column]
            axes.set_title(f"{letter}  {units} units, ± U[{low:g}, {high:g}]\n{name}")
            if row == len(ranges) - 1:
                axes.set_xlabel("updates")
        grid[row, 0].set_ylabel("norm of the operator,\nlog2 of after / before")
    return figure


def _latents_of_one_tree(axes: Axes, rows: pd.DataFrame) -> None:
    """A thin line for every latent; a latent whose units are dead has none."""
    colours = level_colours(int(rows["level"].max())) if len(rows) else {}
    for (level, _), part in rows.sort_values("step").groupby(["level", "node"]):
        own = part[(part["value"] > 0) & (part["initial"] > 0)]
        growth = np.log2(own["value"] / own["initial"])
        axes.plot(own["step"], growth, color=colours[level], lw=0.5, alpha=0.5, zorder=1)


def _over_training(axes: Axes, rows: pd.DataFrame, legend: bool) -> None:
    """The levels of one network: means over trees with 95% intervals."""
    axes.axhline(0, **DASHED)
    if rows.empty:
        return
    steps = np.array(sorted(rows["step"].unique()), dtype=float)
    root = int(rows["level"].max())
    for level, part in rows.groupby("level"):
        over = [at["growth"].to_numpy() for _, at in part.groupby("step")]
        label = f"level {level}" + (" (root)" if level == root else "")
        band(axes, steps, over, color=level_colours(root)[level], alpha=0.18, lw=1.8, label=label)
    over_updates(axes, steps[-1])
    if legend:
        axes.legend(loc="upper left")
