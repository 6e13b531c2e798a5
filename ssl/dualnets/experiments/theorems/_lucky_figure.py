"""The figure of `lucky`: chances by width, level and depth, best selectivity, and what roots learned."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems._lucky_ranks import FINAL, GAP, by_tree, ranks, root
from dualnets.lab.report.style import WIDTH, level_colours

GREY = "#777777"


def draw(table: pd.DataFrame) -> Figure:
    """Two rows per polarity: chances and selectivity, then what roots learned against their luck."""
    groups = list(table.groupby("polarity_low"))
    figure = plt.figure(figsize=(WIDTH, 6.9 * len(groups)), layout="constrained")
    blocks = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    for block, (low, rows) in zip(blocks, groups, strict=True):
        if len(groups) > 1:
            block.suptitle(f"polarity >= {low:g}")
        upper, lower = block.subfigures(2, 1)
        by_width, by_depth, best = upper.subplots(1, 3)
        deepest = rows[rows["depth"] == rows["depth"].max()]
        colours = level_colours(int(deepest["level"].max()))
        _chances(by_width, deepest, colours)
        _roots(by_depth, rows)
        _selectivity(best, deepest, colours)
        by_width.set_title(f"{next(letters)}  chance of luck, depth {deepest['depth'].iloc[0]}")
        by_depth.set_title(f"{next(letters)}  the root's, by depth")
        best.set_title(f"{next(letters)}  best |s| before training")
        handles, words = by_width.get_legend_handles_labels()
        upper.legend(handles, words, loc="outside lower center", ncols=len(words), handlelength=1.4)
        learned = lower.subplots(1, 2)
        for axes, measure, word, title in zip(
            learned, (GAP, FINAL), ("gap closed", "|correlation| after, over its ceiling"),
            ("do the luckier gain more?", "do the luckier end higher?"), strict=True,
        ):  # fmt: skip
            _learned(axes, rows, measure)
            axes.set_ylabel(f"root's {word}")
            axes.set_title(f"{next(letters)}  {title}")
    return figure


def _shades(rows: pd.DataFrame) -> dict[int, Any]:
    """A colour per width."""
    sizes = sorted(rows["units"].unique())
    return dict(zip(sizes, plt.get_cmap("plasma")(np.linspace(0.05, 0.8, len(sizes))), strict=True))


def _counted(
    axes: Axes, groups: Any, colour: Any, *, line: str = "", points: str = "", aside: float = 0.0
) -> None:
    """The predicted share of latents with a lucky unit as a line, the counted one with its 95% range."""
    counted, predicted = groups["lucky"].mean(), groups["predicted"].mean()
    # the standard error of a share whose chances are known
    error = groups["predicted"].apply(lambda p: (p * (1 - p)).sum() ** 0.5 / len(p))
    axes.plot(predicted.index, predicted, color=colour, lw=1.5, label=line)
    axes.errorbar(counted.index + aside, counted, yerr=1.96 * error, fmt="o", ms=4.5, lw=1,
                  color=colour, label=points)  # fmt: skip
    axes.set_ylim(-0.03, 1.03)


def _by_width(axes: Axes, rows: pd.DataFrame) -> None:
    axes.set_xscale("log")
    sizes = sorted(rows["units"].unique())
    axes.set_xticks(sizes, [str(u) for u in sizes])
    axes.minorticks_off()
    axes.set_xlabel("units per latent")


def _chances(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    for level, part in rows.groupby("level"):
        _counted(axes, part.groupby("units"), colours[int(level)], line=f"level {level}")
    _by_width(axes, rows)
    axes.set_ylabel("latents with a lucky unit")
    axes.plot([], [], color=GREY, lw=1.5, label="predicted")
    axes.plot([], [], "o", color=GREY, ms=4.5, label="counted, 95% range")


def _roots(axes: Axes, rows: pd.DataFrame) -> None:
    """Roots of trees of several depths, one colour per width."""
    shades = _shades(rows)
    for i, (units, part) in enumerate(root(rows).groupby("units")):
        aside = (i - (len(shades) - 1) / 2) * 0.06
        _counted(axes, part.groupby("depth"), shades[int(units)], points=str(units), aside=aside)
    depths = sorted(rows["depth"].unique())
    axes.set(xticks=depths, xlim=(depths[0] - 0.4, depths[-1] + 0.4), xlabel="depth of the tree",
             ylabel="roots with a lucky unit")  # fmt: skip
    axes.legend(loc="upper right", title="units", title_fontsize=8)


def _selectivity(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    for level, part in rows.groupby("level"):
        found = part.groupby("units")[["selectivity", "selectivity_predicted"]].mean()
        colour = colours[int(level)]
        axes.plot(found.index, found["selectivity_predicted"], color=colour, lw=1.5)
        axes.plot(found.index, found["selectivity"], "o", ms=4.5, color=colour)
    axes.set_yscale("log")
    _by_width(axes, rows)
    axes.set_ylabel("best |selectivity|, mean over latents")


def _learned(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    """Every tree's root of every width that was trained."""
    trained = root(rows[rows["final"].notna()])
    axes.set_xlabel("best |selectivity| of the root's units before training")
    if trained.empty:
        axes.text(0.5, 0.5, "nothing was trained", transform=axes.transAxes, ha="center")
        return
    shades = _shades(rows)
    for units, part in trained.groupby("units"):
        made, found = by_tree(part), ranks(part, measure)
        axes.scatter(made["selectivity"], made[measure], s=16, color=shades[int(units)], lw=0, alpha=0.85,
                     label=f"{units} units, rank correlation {found.value:+.2f}")  # fmt: skip
    axes.set_xscale("log")
    low = min(0.0, float(by_tree(trained)[measure].min()))
    axes.set_ylim(low - 0.05, 1.03)
    axes.legend(loc="upper left", handletextpad=0.1)
