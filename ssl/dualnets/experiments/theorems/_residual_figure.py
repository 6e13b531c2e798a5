"""The figure of `residual`: the residue as views become quiet, and the form as a guide along training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    settings = []
    for name, rows in rate_settings(table):
        first = rows.iloc[0]
        network = tuple(first[column] for column in NETWORKS if column != "depth")
        kind = (first["depth"], first["augment"].partition(":")[0])
        settings.append((name, network, kind, rows))
    rates(panels[0, 0], panels[0, 1], settings)
    for axes, letter, normalize in ((panels[1, 0], "c", False), (panels[1, 1], "d", True)):
        shown = [
            (path_name(at), rows)
            for at, rows in paths(table)
            if at["polarity_low"] == USUAL and at["normalize"] == normalize
        ]
        training(axes, shown, letter=letter, normalize=normalize, other="another tree")
    return figure


def rates(
    left: Axes,
    right: Axes,
    settings: Iterable[tuple[str, Any, Any, pd.DataFrame]],
    letters: tuple[str, str] = ("a", "b"),
) -> None:
    """The residue and the relative one: medians over members with quartiles, all weights together.

    Args:
        left, right: to draw on.
        settings: name, what has a colour of its own, what has a marker and line of its own, rows.
        letters: of both panels.
    """
    colours: dict[Any, str] = {}
    kinds: dict[Any, Any] = {}
    reach = []
    for name, network, kind, rows in settings:
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
        title=f"{letters[0]}  residue |θ| of untrained networks",
        ylabel="|exact update - covariance form|",
    )
    right.set(
        title=f"{letters[1]}  the same over the update's own length", ylabel="|θ| / |exact update|"
    )
    if reach:
        ends = np.array([min(reach), max(reach)])
        middle = float(np.exp(np.mean(np.log(left.get_ylim()))))
        left.plot(ends, middle * ends / np.sqrt(ends.prod()), color="black", lw=3, alpha=0.25, zorder=0,
                  label="slope 1, the theorem's order")  # fmt: skip
        left.legend(fontsize=6.5, loc="upper left", handlelength=3)
        left.set_ylim(top=left.get_ylim()[1] * 10 ** (0.28 * len(left.get_lines()) ** 0.5 + 2))


def training(
    axes: Axes,
    shown: Sequence[tuple[str, pd.DataFrame]],
    *,
    letter: str,
    normalize: bool,
    other: str,
) -> None:
    """Means over members with their 95% intervals, and dashed the same with what the form competes with.

    Args:
        axes: to draw on.
        shown: name and rows of every path of training.
        letter: of the panel.
        normalize: whether outputs are normalised.
        other: what the form competes with.
    """
    for (name, rows), colour in zip(shown, DISTINCT * 9, strict=False):
        found = {
            step: mean_interval(part["form"].to_numpy()) for step, part in rows.groupby("step")
        }
        steps, middle = list(found), [estimate.value for estimate in found.values()]
        axes.fill_between(steps, [e.low for e in found.values()], [e.high for e in found.values()],
                          color=colour, alpha=0.13, lw=0)  # fmt: skip
        axes.plot(steps, middle, color=colour, lw=1.7, marker="o", ms=3, label=name)
        axes.plot(steps, rows.groupby("step")["other"].mean(), color=colour, lw=1, ls=(0, (2, 2)))
    axes.axhline(GUIDE, color=GREY, lw=1, ls=(0, (4, 2)))
    axes.annotate(f"a good guide: above {GUIDE:g} ", (1, GUIDE), xycoords=("axes fraction", "data"),
                  ha="right", va="bottom", fontsize=7, color=GREY)  # fmt: skip
    axes.set_xscale("symlog", linthresh=1)
    title = (
        "the same, normalised outputs" if normalize else f"training, raw outputs; dashed: {other}"
    )
    axes.set(title=f"{letter}  {title}", xlabel="updates", ylim=(-1.05, 1.08), xlim=(-0.05, None),
             ylabel="cosine of exact update and form")  # fmt: skip
    if shown:
        axes.legend(fontsize=6.5, loc="lower left")
