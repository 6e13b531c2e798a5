"""The figure of `masked` and `next_leaf`: loss over updates beside the exact losses of filtered trees
(dashed), distance of the networks from the predictor of each level, and the readout of levels by layer or
the loss by leaf; means over trees with 95% intervals.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.prediction._loss_rules import LOSS, READOUT, readouts, stages
from dualnets.lab.report.intervals import band, bars
from dualnets.lab.report.style import AFTER, BEFORE, CEILING, WIDTH, level_colours
from dualnets.lab.stats import last_step, mean_interval
from dualnets.lab.variants import by_variant

INDEPENDENT = "0.45"  # the colour of level 0


def draw(table: pd.DataFrame) -> Figure:
    """Three panels, of the first variant."""
    rows = next(iter(by_variant(table).values()))
    figure, axes = plt.subplots(
        1, 3, figsize=(WIDTH, 3.7), width_ratios=(1.15, 1.15, 1), layout="constrained"
    )
    _loss(axes[0], rows)
    _distances(axes[1], rows)
    if (rows["metric"] == READOUT).any():
        _layers(axes[2], rows)
    else:
        _leaves(axes[2], rows)
    entries: dict[str, Any] = {}
    for panel in axes:
        entries |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5, fontsize=7)
    return figure


def _colours(depth: int) -> dict[int, Any]:
    return {0: INDEPENDENT, **level_colours(depth)}


def _loss(axes: Any, rows: pd.DataFrame) -> None:
    """The loss over updates, and the exact losses of filtered trees: means over trees."""
    losses = rows[rows["metric"] == LOSS]
    course = stages(rows)
    by_tree = losses.groupby(["step", "member"])[["value", "ceiling"]].mean()
    curve = by_tree["value"].unstack()
    bayes = by_tree["ceiling"].groupby("step").mean().iloc[0]
    depth = len(course.filtered) - 1
    for level, colour in _colours(depth).items():
        at = bayes + course.filtered[level].mean()
        axes.axhline(at, color=colour, lw=1.2, ls="--", label=f"level {level}")
    shown = curve.loc[course.steps]
    band(axes, course.steps, list(shown.to_numpy()), color="black", label="loss of the networks")
    axes.set(xscale="log", xlabel="updates", ylabel="nats per predicted leaf")
    axes.set_title("a  loss, and filtered losses")


def _distances(axes: Any, rows: pd.DataFrame) -> None:
    """Distances from the predictors of all levels over updates."""
    course = stages(rows)
    for level, colour in _colours(len(course.filtered) - 1).items():
        band(axes, course.steps, list(course.distances[level].T), color=colour)
    axes.set(xscale="log", xlabel="updates", ylabel="KL(level's predictor || network), nats")
    top = 1.3 * course.filtered[0].mean()
    if np.isfinite(top) and top > 0:
        axes.set_ylim(0, top)
    axes.set_title("b  distance from each level's predictor")


def _layers(axes: Any, rows: pd.DataFrame) -> None:
    """Readouts of every level by layer, before training dotted."""
    values, levels, layers = readouts(rows)
    before, *_ = readouts(rows, "initial")
    places = np.arange(1, len(layers) + 1)
    colours = _colours(max(levels))
    for i, level in enumerate(levels):
        band(axes, places, list(values[:, i].T), color=colours[level], marker="o", ms=4)
        label = {"label": "untrained"} if i == 0 else {}
        axes.plot(places, before[:, i].mean(0), ":", color=colours[level], lw=1.2, **label)
    axes.set(xlabel="layer", ylabel="readout of the ancestor", ylim=(0, 1.02))
    axes.set_xticks(places)
    axes.set_title("c  levels by layer")


def _leaves(axes: Any, rows: pd.DataFrame) -> None:
    """Losses leaf by leaf: of the networks, of independent leaves, before training, and the Bayes loss."""
    last = last_step(rows)
    last = last[last["metric"] == LOSS]
    nodes = list(dict.fromkeys(last["node"]))
    places = np.arange(1, len(nodes) + 1)
    by_leaf = last.groupby(["node", "member"])[["value", "initial", "null", "ceiling"]].mean()
    for column, style in (
        ("initial", {"color": BEFORE, "linestyle": ":", "label": "untrained"}),
        ("null", {"color": INDEPENDENT, "linestyle": "--"}),
        ("ceiling", {"color": CEILING, "linestyle": "-", "label": "Bayes loss"}),
    ):
        means = by_leaf[column].groupby("node").mean().reindex(nodes)
        axes.plot(places, means, lw=1.2, **style)
    found = [mean_interval(by_leaf["value"][node].to_numpy()) for node in nodes]
    bars(axes, places, found, fmt="o", color=AFTER, ms=4, label="networks, trained")
    axes.set(xlabel="leaf", ylabel="nats")
    axes.set_xticks(places)
    axes.set_title("c  leaf by leaf")
