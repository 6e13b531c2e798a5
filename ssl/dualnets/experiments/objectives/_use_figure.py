"""The figure of `use`: shares through aligned and other units, by method, level and over training."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.objectives._use import OTHERS, USED, shares
from dualnets.lab.report.ablation_figure import gaps, spreads
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
    """Every tree a dot, means with 95% intervals; the null as a dotted line."""
    for i, rows in enumerate(map(last_step, variants.values())):
        for metric, colour, shift in ((USED, AFTER, -0.15), (OTHERS, GREY, 0.15)):
            values = shares(rows, metric)
            found = mean_interval(values)
            axes.plot(np.full(len(values), i + shift), values, ".", color=colour, alpha=0.35)
            ends = [[found.value - found.low], [found.high - found.value]]
            label = {USED: "best aligned unit", OTHERS: "another unit"}[metric] if i == 0 else None
            axes.errorbar(i + shift, found.value, ends, fmt="o", color=colour, label=label)
        null = shares(rows, USED, "null").mean()
        axes.hlines(null, i - 0.35, i + 0.35, colors="black", linestyles=":", linewidth=1)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xticks(range(len(variants)), [name.replace(" of the ", "\n") for name in variants])
    axes.set(ylabel="share of the answer's own change", title="a  by method (dotted: null)")
    axes.legend(loc="best", frameon=False)


def _levels(axes: Any, variants: dict[str, pd.DataFrame], styles: dict[str, Any]) -> None:
    """Level by level, the lead of the aligned unit."""
    for name, rows in variants.items():
        means = last_step(rows).groupby(["metric", "level"])["value"].mean()
        lead = means[USED] - means[OTHERS]
        axes.plot(lead.index, lead.to_numpy(), label=name, **{**styles[name], "linestyle": "-"})
        axes.set_xticks(lead.index)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="level", ylabel="lead over another unit", title="b  by level")


def _training(axes: Any, variants: dict[str, pd.DataFrame], styles: dict[str, Any]) -> None:
    """The lead over training."""
    for name, rows in variants.items():
        means = rows.groupby(["metric", "step"])["value"].mean()
        lead = means[USED] - means[OTHERS]
        axes.plot(
            lead.index + 1, lead.to_numpy(), markersize=3.5, **{**styles[name], "linestyle": "-"}
        )
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(
        xscale="log",
        xlabel="updates + 1",
        ylabel="lead over another unit",
        title="c  over training",
    )
