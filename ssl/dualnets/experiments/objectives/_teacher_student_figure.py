"""The figure of teachers and students: what was found over training, by layer, and where it is reproduced."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.objectives._teacher_student import (
    FOUND,
    LOWEST,
    SPECIALISATION,
    UNEXPLAINED,
    of_trees,
)
from dualnets.experiments.objectives.teacher_student import ALIKE, REPRODUCED
from dualnets.lab.report.intervals import band
from dualnets.lab.report.style import WIDTH, distinct
from dualnets.lab.stats import last_step
from dualnets.lab.variants import by_variant


def draw(table: pd.DataFrame) -> Figure:
    """Three panels; the students in the order of their first cells."""
    variants = by_variant(table)
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.0), layout="constrained")
    for (name, rows), style in zip(variants.items(), distinct(len(variants)), strict=True):
        solid = {**style, "linestyle": "-", "markersize": 4}
        _training(axes[0], rows, {**solid, "label": name})
        _layers(axes[1], rows, solid)
        found, share = (of_trees(rows, *what)["value"] for what in ((FOUND,), (UNEXPLAINED, None)))
        axes[2].plot(share, found, **{**solid, "linestyle": "none"}, alpha=0.6)
    axes[0].set(
        xscale="log",
        ylim=(-0.03, 1.03),
        xlabel="updates + 1",
        ylabel=f"share of units above {ALIKE}",
        title="a  lowest layer, over training",
    )
    axes[1].set(
        ylim=(0, 1.03),
        xlabel="layer",
        ylabel="best correlation",
        title="b  by layer (dashed: before,\ndotted: null)",
    )
    axes[2].axvline(REPRODUCED, color="0.6", linewidth=0.8)
    axes[2].set(
        xscale="log",
        ylim=(-0.03, 1.03),
        xlabel="variance unexplained",
        ylabel=f"share of units above {ALIKE}",
        title="c  every tree (reproduced:\nleft of the line)",
    )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return figure


def _training(axes: Any, rows: pd.DataFrame, style: dict[str, Any]) -> None:
    """The share of the lowest layer's units that are found, with 95% intervals."""
    lowest = rows[(rows["metric"] == FOUND) & (rows["level"] == LOWEST)]
    by_step = {step: part["value"].to_numpy(np.float64) for step, part in lowest.groupby("step")}
    band(axes, [step + 1 for step in by_step], list(by_step.values()), alpha=0.12, **style)


def _layers(axes: Any, rows: pd.DataFrame, style: dict[str, Any]) -> None:
    """Layer by layer after training, with 95% intervals; dashed before, dotted the null."""
    now = last_step(rows)
    by_layer = dict(iter(now[now["metric"] == SPECIALISATION].groupby("level")))
    values = [part["value"].to_numpy(np.float64) for part in by_layer.values()]
    band(axes, list(by_layer), values, alpha=0.12, **style)
    for column, dashes in (("initial", "--"), ("null", ":")):
        level = [part[column].mean() for part in by_layer.values()]
        axes.plot(list(by_layer), level, dashes, color=style["color"], linewidth=1)
    axes.set_xticks(list(by_layer))
