"""The figure of the teacher and its students: what was found, by layer and over training; latents; spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.objectives._teacher_student import SPECIALISATION
from dualnets.lab.report.ablation_figure import gaps, spreads
from dualnets.lab.report.intervals import band
from dualnets.lab.report.style import WIDTH, distinct
from dualnets.lab.stats import last_step
from dualnets.lab.variants import by_variant


def draw(table: pd.DataFrame) -> Figure:
    """Four panels: what was found by layer and over training, latents, spread; the variants in order."""
    variants = by_variant(table)
    figure, axes = plt.subplots(
        2, 2, figsize=(WIDTH, 5.6), height_ratios=(1.0, 0.7), layout="constrained"
    )
    styles = dict(zip(variants, distinct(len(variants)), strict=True))
    taught = {n: rows[rows["metric"] == SPECIALISATION] for n, rows in variants.items()}
    taught = {n: rows for n, rows in taught.items() if len(rows)}
    _layers(axes[0, 0], taught, styles)
    _training(axes[0, 1], taught, styles)
    gaps(axes[1, 0], variants)
    spreads(axes[1, 1], variants)
    axes[1, 0].set_title("c  which latents emerge")
    axes[1, 1].set_title("d  what collapses")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=6)
    return figure


def _layers(axes: Any, taught: Mapping[str, pd.DataFrame], styles: Mapping[str, Any]) -> None:
    """Layer by layer after training, with 95% intervals; dashed before, dotted the null."""
    for name, rows in taught.items():
        by_layer = {int(layer): part for layer, part in last_step(rows).groupby("level")}
        layers = list(by_layer)
        values = [part["value"].to_numpy(np.float64) for part in by_layer.values()]
        style = {**styles[name], "linestyle": "-", "markersize": 5}
        band(axes, layers, values, alpha=0.12, label=name, **style)
        for column, dashes in (("initial", "--"), ("null", ":")):
            level = [part[column].mean() for part in by_layer.values()]
            axes.plot(layers, level, dashes, color=style["color"], linewidth=1)
        axes.set_xticks(layers)
    axes.set(
        ylim=(0, 1.03),
        xlabel="layer",
        ylabel="best correlation of a teacher's unit",
        title="a  what was found (dashed: before training, dotted: null)",
    )


def _training(axes: Any, taught: Mapping[str, pd.DataFrame], styles: Mapping[str, Any]) -> None:
    """Hidden layers over training."""
    for name, rows in taught.items():
        below = rows[rows["level"] < rows["level"].max()]
        mean = (below if len(below) else rows).groupby("step")["value"].mean()
        axes.plot(
            mean.index + 1, mean.to_numpy(), **{**styles[name], "linestyle": "-"}, markersize=3.5
        )
    axes.set(
        xscale="log",
        ylim=(0, 1.03),
        xlabel="updates + 1",
        ylabel="mean over hidden units",
        title="b  over training",
    )
