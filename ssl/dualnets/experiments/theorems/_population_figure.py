"""The figure of `population`: training with every batch, trees one by one, bias and noise."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems._population import batch_name, by_tree, compare
from dualnets.experiments.theorems.population import INFINITE
from dualnets.lab.report.style import AFTER, CEILING, WIDTH
from dualnets.lab.rules import NEGLIGIBLE


def draw(table: pd.DataFrame) -> Figure:
    """One row per network and depth: training with every batch, trees one by one, bias and noise."""
    groups = list(table.groupby(["network", "depth"], sort=False))
    figure = plt.figure(figsize=(WIDTH, 3.6 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 3, squeeze=False)
    batches = sorted(table["batch"].unique(), key=lambda b: b or np.inf)
    shades = dict(
        zip(batches, plt.get_cmap("viridis_r")(np.linspace(0.1, 0.95, len(batches))), strict=True)
    )
    titles = (
        "the root, over training",
        "each tree, after training",
        "bias and noise; dashed: small",
    )
    for i, (row, ((network, depth), rows)) in enumerate(zip(panels, groups, strict=True)):
        _training(row[0], rows, shades)
        _trees(row[1], by_tree(rows), shades)
        if len(made := compare(rows)):
            _judged(row[2], made)
        for j, title in enumerate(titles):
            more = f" ({network}, depth {depth})" if len(groups) > 1 and j == 0 else ""
            row[j].set_title(f"{'abcdefghijkl'[3 * i + j]}  {title}{more}")
    return figure


def _training(axes: Axes, rows: pd.DataFrame, shades: dict[int, object]) -> None:
    root = rows[rows["level"] == rows["level"].max()]
    for batch, colour in shades.items():
        part = root[root["batch"] == batch]
        if part.empty:
            continue
        mean = part.groupby("step")["value"].mean()
        axes.plot(mean.index, mean, color=colour, lw=1.8, label=f"batch {batch_name(batch)}")
    axes.axhline(root["ceiling"].mean(), color="#d1495b", lw=1.2, label="mean ceiling")
    axes.set_xscale("symlog", linthresh=1)
    axes.set(xlim=(0, float(root["step"].max()) * 1.1), xlabel="updates",
             ylabel="best |correlation|, mean over trees")  # fmt: skip
    axes.legend(loc="lower right")


def _trees(axes: Axes, ends: pd.DataFrame, shades: dict[int, object]) -> None:
    reference = INFINITE if (ends["batch"] == INFINITE).any() else ends["batch"].max()
    infinite = ends[ends["batch"] == reference].groupby("member")["value"].mean()
    for batch, colour in shades.items():
        part = ends[ends["batch"] == batch]
        if batch == reference or part.empty:
            continue
        x = part["member"].map(infinite)
        axes.scatter(x, part["value"], s=9, color=colour, lw=0, label=str(batch))
    low, high = ends["value"].min() - 0.02, ends["value"].max() + 0.02
    axes.plot([low, high], [low, high], color="#bbbbbb", lw=1, zorder=0)
    axes.set(
        xlabel=f"batch {batch_name(int(reference))}", ylabel="finite batch, one point per data seed"
    )
    axes.legend(loc="upper left", title="batch", title_fontsize=8)


def _judged(axes: Axes, made: pd.DataFrame) -> None:
    """Bias and noise of every finite batch with their 95% intervals, beside what counts as small."""
    place = np.arange(len(made))
    parts = {"share": ("bias over gain", AFTER), "noise": ("variance, seeds over trees", CEILING)}
    for i, (column, (word, colour)) in enumerate(parts.items()):
        values = np.array([estimate.value for estimate in made[column]])
        ends = np.array([[e.low, e.high] for e in made[column]]).T.clip(-9, 9)
        axes.errorbar(place + (i - 0.5) * 0.2, values, np.abs(ends - values), color=colour, ls="none",
                      marker="os"[i], ms=5, capsize=3, label=word)  # fmt: skip
    for border in (-NEGLIGIBLE, NEGLIGIBLE):
        axes.axhline(border, color="#777777", lw=1, ls=(0, (4, 2)))
    axes.set_xticks(place, [str(b) for b in made["batch"]])
    axes.set(xlabel="batch", ylim=(-0.32, 0.42), xlim=(-0.5, len(made) - 0.5),
             ylabel="against the infinite batch, or the largest")  # fmt: skip
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")
