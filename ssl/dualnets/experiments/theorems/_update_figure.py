"""The figure of `update`: every comparison's error by identity, estimates against their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems._update_comparisons import OTHER
from dualnets.experiments.theorems.update import BROKEN, EXACT, EXCESS
from dualnets.lab.report.style import WIDTH

COLOURS = {"tree": "#3b528b", "irregular": "#21918c", "digits": "#e08214"}
NAMES = {"tree": "balanced tree", "irregular": "irregular tree", "digits": "digits"}
FLOOR = 1e-18  # where an error of zero is drawn


def draw(table: pd.DataFrame) -> Figure:
    """Errors of identities to the left, of estimates to the right."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 5.0), layout="constrained", width_ratios=[1.75, 1]
    )
    identities(
        left, table[table["standard_error"] == 0], title="a  identities against autograd, float64"
    )
    left.legend(loc="lower center", bbox_to_anchor=(0.4, -0.27), ncols=4, handletextpad=0.2)
    estimates(right, table[table["standard_error"] > 0], title="b  estimates from samples")
    return figure


def identities(
    axes: Axes,
    rows: pd.DataFrame,
    *,
    title: str,
    colours: Mapping[str, str] = COLOURS,
    broken: str = "assumption broken, or another tree",
) -> None:
    """Every comparison's error, by identity, form and data; the axes' legend is left to the caller.

    Args:
        axes: to draw on.
        rows: of comparisons that are no estimates.
        title: of the axes.
        colours: kind of data -> its colour.
        broken: what the controls are.
    """
    rows = rows.assign(form=rows["form"].replace({OTHER: "operator"}))
    both = rows.groupby("identity")["form"].transform("nunique") > 1
    form = rows["form"].replace({"outputs": "with f", "operator": "operator on w"})
    rows = rows.assign(name=rows["identity"].where(~both, rows["identity"] + ", " + form))
    names = list(dict.fromkeys(rows["name"]))
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        part = rows[rows["name"] == name]
        for data, colour in colours.items():
            for met in (True, False):
                shown = part[(part["data"] == data) & ((part["assumptions"] == "met") == met)]
                if len(shown):
                    x = shown["relative_error"].clip(lower=FLOOR)
                    y = -i + rng.uniform(-0.28, 0.28, len(shown))
                    axes.scatter(x, y, s=14, alpha=0.75, **_marks(met, colour, "#d1495b"))
    axes.axvline(EXACT, color="#555555", lw=1, ls=(0, (4, 2)))
    axes.axvline(BROKEN, color="#d1495b", lw=1, ls=(0, (4, 2)))
    axes.annotate("exact: below ", (EXACT, 0.55), ha="right", fontsize=7, color="#555555")
    axes.annotate(" broken: above", (BROKEN, 0.55), ha="left", fontsize=7, color="#d1495b")
    axes.set(xscale="log", xlim=(FLOOR / 2, 1e2), ylim=(-len(names) + 0.4, 0.95),
             xlabel="|predicted - actual| / |actual|, whole weight",
             title=title)  # fmt: skip
    axes.set_yticks([-i for i in range(len(names))], names)
    ticks = [10.0**power for power in range(-15, 1, 3)]
    axes.set_xticks([FLOOR, *ticks], ["0", *(f"$10^{{{p}}}$" for p in range(-15, 1, 3))])
    axes.minorticks_off()
    axes.grid(axis="y", visible=False)
    for data, colour in colours.items():
        axes.scatter([], [], s=20, color=colour, label=NAMES.get(data, data))
    axes.scatter([], [], s=20, facecolor="none", edgecolor="#d1495b", marker="D", label=broken)


def _marks(met: bool, colour: str, broken: str) -> dict[str, Any]:
    """Full circles where assumptions are met, hollow diamonds in another colour where one is broken."""
    face, edge = (colour, "none") if met else ("none", broken)
    return {"facecolor": face, "edgecolor": edge, "lw": 0.9, "marker": "o" if met else "D"}


def estimates(
    axes: Axes, rows: pd.DataFrame, *, title: str, colours: Mapping[str, str] = COLOURS
) -> None:
    """Every estimate's error against its standard error; `rows`: of estimates."""
    axes.set(title=title, ylabel="|predicted - actual| / |actual|",
             xlabel="standard error of the difference / |actual|")  # fmt: skip
    if rows.empty:
        axes.text(0.5, 0.5, "none in this run", transform=axes.transAxes, ha="center")
        return
    low = float(rows[["standard_error", "relative_error"]].min().min()) / 1.5
    high = float(rows[["standard_error", "relative_error"]].max().max()) * 1.5
    line = np.array([low, high])
    axes.plot(line, line, color="#777777", lw=1, label="1 standard error")
    axes.plot(line, EXCESS**0.5 * line, color="#d1495b", lw=1, ls=(0, (4, 2)),
              label=f"mean square {EXCESS:g}")  # fmt: skip
    for data, colour in colours.items():
        for met in (True, False):
            shown = rows[(rows["data"] == data) & ((rows["assumptions"] == "met") == met)]
            axes.scatter(shown["standard_error"], shown["relative_error"], s=16, alpha=0.8,
                         **_marks(met, colour, colour))  # fmt: skip
    axes.scatter([], [], s=16, facecolor="none", edgecolor="#777777", marker="D",
                 label="prediction halved")  # fmt: skip
    axes.legend(loc="lower right")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    marks = [m * 10.0**power for power in range(-4, 2) for m in (1, 2, 5)]
    shown = [mark for mark in marks if low <= mark <= high]
    axes.set_xticks(shown, [f"{mark:g}" for mark in shown])
    axes.set_yticks(shown, [f"{mark:g}" for mark in shown])
    axes.minorticks_off()
