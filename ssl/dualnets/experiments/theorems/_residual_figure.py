"""The figure of `residual`: the residue as views become quiet, and the form as a guide along training."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems._residual_rules import (
    NETWORKS,
    path_name,
    paths,
    rate_settings,
)
from dualnets.experiments.theorems.residual import GUIDE, USUAL
from dualnets.lab.report.style import DISTINCT, MARKS, WIDTH
from dualnets.lab.stats import mean_interval

GREY = "#777777"


def draw(table: pd.DataFrame) -> Figure:
    """Residue and relative residue against the augmentation's variance; cosines along training."""
    figure, panels = plt.subplots(2, 2, figsize=(WIDTH, 8.2), layout="constrained")
    _rates(panels[0, 0], panels[0, 1], table)
    _training(panels[1, 0], table, normalize=False)
    _training(panels[1, 1], table, normalize=True)
    return figure


def _rates(left: Axes, right: Axes, table: pd.DataFrame) -> None:
    """Medians over trees with quartiles, all weights together."""
    colours: dict[Any, str] = {}
    kinds: dict[Any, Any] = {}
    reach = []
    for name, rows in rate_settings(table):
        first = rows.iloc[0]
        network = tuple(first[column] for column in NETWORKS if column != "depth")
        kind = (first["depth"], first["augment"].partition(":")[0])
        colour = colours.setdefault(network, DISTINCT[len(colours) % len(DISTINCT)])
        mark, line = kinds.setdefault(kind, MARKS[len(kinds) % len(MARKS)])
        whole = rows[rows["layer"] == 0]
        whole = whole.assign(relative=whole["residue"] / whole["update"])
        by = whole.groupby("cell")
        x = by["variance"].median().sort_values()
        reach += list(x)
        for axes, column in ((left, "residue"), (right, "relative")):
            low, middle, high = (by[column].quantile(q).loc[x.index] for q in (0.25, 0.5, 0.75))
            axes.errorbar(x, middle, [middle - low, high - middle], color=colour, ls=line, marker=mark, ms=4,
                          lw=1.3, elinewidth=0.8, label=name if axes is left else None)  # fmt: skip
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="variance of the augmentation, E tr V[f]")
    left.set(
        title="a  residue |θ| of untrained networks", ylabel="|exact update - covariance form|"
    )
    right.set(title="b  the same over the update's own length", ylabel="|θ| / |exact update|")
    if reach:
        ends = np.array([min(reach), max(reach)])
        middle = float(np.exp(np.mean(np.log(left.get_ylim()))))
        left.plot(ends, middle * ends / np.sqrt(ends.prod()), color="black", lw=3, alpha=0.25, zorder=0,
                  label="slope 1, the theorem's order")  # fmt: skip
        left.legend(fontsize=6.5, loc="upper left", handlelength=3)
        left.set_ylim(top=left.get_ylim()[1] * 10 ** (0.28 * len(left.get_lines()) ** 0.5 + 2))


def _training(axes: Axes, table: pd.DataFrame, *, normalize: bool) -> None:
    """Means over trees with their 95% intervals, and dashed the same with another tree's views."""
    shown = [
        (at, rows)
        for at, rows in paths(table)
        if at["polarity_low"] == USUAL and at["normalize"] == normalize
    ]
    for (at, rows), colour in zip(shown, DISTINCT * 9, strict=False):
        found = {
            step: mean_interval(part["form"].to_numpy()) for step, part in rows.groupby("step")
        }
        steps, middle = list(found), [estimate.value for estimate in found.values()]
        axes.fill_between(steps, [e.low for e in found.values()], [e.high for e in found.values()],
                          color=colour, alpha=0.13, lw=0)  # fmt: skip
        axes.plot(steps, middle, color=colour, lw=1.7, marker="o", ms=3, label=path_name(at))
        axes.plot(steps, rows.groupby("step")["other"].mean(), color=colour, lw=1, ls=(0, (2, 2)))
    axes.axhline(GUIDE, color=GREY, lw=1, ls=(0, (4, 2)))
    axes.annotate(f"a good guide: above {GUIDE:g} ", (1, GUIDE), xycoords=("axes fraction", "data"),
                  ha="right", va="bottom", fontsize=7, color=GREY)  # fmt: skip
    axes.set_xscale("symlog", linthresh=1)
    title = (
        "d  the same, normalised outputs"
        if normalize
        else "c  training, raw outputs; dashed: another tree"
    )
    axes.set(title=title, xlabel="updates", ylim=(-1.05, 1.08), xlim=(-0.05, None),
             ylabel="cosine of exact update and form")  # fmt: skip
    if shown:
        axes.legend(fontsize=6.5, loc="lower left")
