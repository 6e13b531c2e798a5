"""The figure of `lucky`: chances by width and level, best selectivity, and what became of roots."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.figures import WIDTH, level_colours


def draw(table: pd.DataFrame) -> Figure:
    """One row per polarity: three panels."""
    groups = list(table.groupby("polarity_low"))
    figure = plt.figure(figsize=(WIDTH, 3.7 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 3, squeeze=False)
    colours = level_colours(int(table["level"].max()))
    for row, (low, part) in zip(panels, groups, strict=True):
        _chances(row[0], part, colours)
        _selectivity(row[1], part, colours)
        _roots(row[2], part)
        if len(groups) > 1:
            row[0].set_ylabel(f"polarity >= {low:g}\n{row[0].get_ylabel()}")
    for letter, axes, title in zip(
        "abc", panels[0], ("chance of a lucky unit", "best |s| before training", "luck lasts at the root?"),
        strict=True,
    ):  # fmt: skip
        axes.set_title(f"{letter}  {title}")
    handles, words = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=len(words), handlelength=1.4)
    return figure


def _chances(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    for level, part in rows.groupby("level"):
        by_width = part.groupby("units")
        seen, predicted = by_width["lucky"].mean(), by_width["predicted"].mean()
        error = by_width["predicted"].apply(lambda p: (p * (1 - p)).sum() ** 0.5 / len(p))
        axes.plot(
            predicted.index, predicted, color=colours[int(level)], lw=1.5, label=f"level {level}"
        )
        axes.errorbar(
            seen.index, seen, yerr=1.96 * error, fmt="o", ms=4.5, lw=1, color=colours[int(level)]
        )
    axes.set_xscale("log")
    axes.set_xticks(
        sorted(rows["units"].unique()), [str(u) for u in sorted(rows["units"].unique())]
    )
    axes.minorticks_off()
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("units per latent")
    axes.set_ylabel("latents with a lucky unit")
    axes.plot([], [], color="#777777", lw=1.5, label="predicted")
    axes.plot([], [], "o", color="#777777", ms=4.5, label="seen, 95% range")


def _selectivity(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    for level, part in rows.groupby("level"):
        by_width = part.groupby("units")[["selectivity", "selectivity_predicted"]].mean()
        axes.plot(
            by_width.index, by_width["selectivity_predicted"], color=colours[int(level)], lw=1.5
        )
        axes.plot(by_width.index, by_width["selectivity"], "o", ms=4.5, color=colours[int(level)])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(
        sorted(rows["units"].unique()), [str(u) for u in sorted(rows["units"].unique())]
    )
    axes.minorticks_off()
    axes.set_xlabel("units per latent")
    axes.set_ylabel("best |selectivity|, mean over latents")


def _roots(axes: Axes, rows: pd.DataFrame) -> None:
    root = rows[rows["level"] == rows["level"].max()]
    sizes = sorted(root["units"].unique())
    shades = plt.get_cmap("plasma")(np.linspace(0.05, 0.8, len(sizes)))
    for colour, units in zip(shades, sizes, strict=True):
        part = root[root["units"] == units]
        axes.scatter(part["initial"] / part["ceiling"], part["final"] / part["ceiling"], s=14, color=colour,
                     lw=0, label=f"{units} units")  # fmt: skip
    axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, zorder=0)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("root's best unit before training, over ceiling")
    axes.set_ylabel("after training, over ceiling")
    axes.legend(loc="lower right")
