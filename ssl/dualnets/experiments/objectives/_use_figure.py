"""The figure of `use`: aligned and other units by method, level and over training."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.objectives._use import OTHERS, USED, agreements, leads
from dualnets.lab.report.ablation_figure import gaps, spreads
from dualnets.lab.report.intervals import band
from dualnets.lab.report.style import AFTER, WIDTH, distinct
from dualnets.lab.stats import last_step, mean_interval
from dualnets.lab.variants import by_variant

GREY = "#8a8a8a"


def draw(table: pd.DataFrame) -> Figure:
    """Five panels; the methods in the order of their first cells."""
    variants = by_variant(table)
    figure = plt.figure(figsize=(WIDTH, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(1.0, 0.7))
    top = [figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3)]
    low = [figure.add_subplot(grid[1, :4]), figure.add_subplot(grid[1, 4:])]
    styles = dict(zip(variants, distinct(len(variants)), strict=True))
    _methods(top[0], variants)
    _levels(top[1], variants, styles)
    _training(top[2], variants, styles)
    gaps(low[0], variants)
    spreads(low[1], variants)
    low[0].set_title("d  which latents emerge")
    low[1].set_title("e  what collapses")
    handles, names = top[1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=6)
    return figure


def _methods(axes: Any, variants: dict[str, pd.DataFrame]) -> None:
    """Every tree a dot, means with 95% intervals; 95% points of other units dotted."""
    for i, rows in enumerate(map(last_step, variants.values())):
        for metric, colour, shift in ((USED, AFTER, -0.15), (OTHERS, GREY, 0.15)):
            values = agreements(rows, metric)
            found = mean_interval(values)
            axes.plot(np.full(len(values), i + shift), values, ".", color=colour, alpha=0.35)
            ends = [[found.value - found.low], [found.high - found.value]]
            label = {USED: "best aligned unit", OTHERS: "another unit"}[metric] if i == 0 else None
            axes.errorbar(i + shift, found.value, ends, fmt="o", color=colour, label=label)
        for metric, shift in ((USED, -0.15), (OTHERS, 0.15)):
            before = agreements(rows, metric, "initial").mean()
            label = "before training" if (i, metric) == (0, USED) else None
            axes.plot(i + shift, before, "_", color="black", markersize=12, label=label)
        null = agreements(rows, USED, "null").mean()
        axes.hlines(null, i - 0.35, i + 0.35, colors="black", linestyles=":", linewidth=1)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xticks(range(len(variants)), [name.replace(" of the ", "\n") for name in variants])
    axes.set(ylabel="agreement", title="a  by method (dotted: 95%\npoint of other units)")
    axes.legend(loc="best", frameon=False)


def _levels(axes: Any, variants: dict[str, pd.DataFrame], styles: dict[str, Any]) -> None:
    """Level by level, the lead of the aligned unit with its 95% interval."""
    for name, rows in variants.items():
        by_level = {
            level: leads(part) for level, part in last_step(rows[_shown(rows)]).groupby("level")
        }
        style = {**styles[name], "linestyle": "-"}
        band(axes, list(by_level), by_level.values(), label=name, **style)
        axes.set_xticks(list(by_level))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="level", ylabel="lead over another unit", title="b  by level")


def _training(axes: Any, variants: dict[str, pd.DataFrame], styles: dict[str, Any]) -> None:
    """The lead over training with its 95% interval."""
    for name, rows in variants.items():
        by_step = {step: leads(part) for step, part in rows[_shown(rows)].groupby("step")}
        style = {**styles[name], "linestyle": "-", "markersize": 3.5}
        band(axes, [step + 1 for step in by_step], by_step.values(), **style)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(
        xscale="log",
        xlabel="updates + 1",
        ylabel="lead over another unit",
        title="c  over training",
    )


def _shown(rows: pd.DataFrame) -> pd.Series:
    return rows["metric"].isin([USED, OTHERS])
