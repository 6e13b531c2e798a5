"""The figure of `denoise`: loss, correlation of two leaves' changes by the level of their nearest common
ancestor, and susceptibility, over the level of noise; points: networks, lines: exact, drawn leaf by leaf,
dotted: exact, drawn together; means over trees with 95% intervals.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.prediction._denoise import ALONE, NETWORK, TOGETHER, curves
from dualnets.experiments.prediction._loss_rules import means
from dualnets.lab.report.intervals import band, bars
from dualnets.lab.report.style import AFTER, BEFORE, CEILING, WIDTH, level_colours
from dualnets.lab.stats import last_step, mean_interval
from dualnets.lab.variants import by_variant


def draw(table: pd.DataFrame) -> Figure:
    """Three panels."""
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.7), layout="constrained")
    _losses(axes[0], table)
    found = curves(table)
    colours = level_colours(found.untrained.shape[-1])
    for level, colour in colours.items():
        at = level - 1
        exact, together = (found.correlation[by][..., at].T for by in (ALONE, TOGETHER))
        band(axes[1], found.noise, list(exact), color=colour, label=f"level {level}")
        axes[1].plot(found.noise, together.mean(1), ":", color=colour, lw=1.2)
        own = [mean_interval(values) for values in found.correlation[NETWORK][..., at].T]
        bars(axes[1], found.noise, own, fmt="o", color=colour, ms=4)
    axes[1].set_ylabel("correlation of changes")
    axes[1].set_title("b  leaves that change together")
    own = [mean_interval(values) for values in found.size[NETWORK].T]
    band(
        axes[2], found.noise, list(found.size[ALONE].T), color=CEILING, label="exact, leaf by leaf"
    )
    together, before = (found.size[by].mean(0) for by in (TOGETHER, "untrained"))
    axes[2].plot(found.noise, together, ":", color="black", lw=1.2, label="exact, leaves together")
    axes[2].plot(found.noise, before, "--", color=BEFORE, lw=1.2, label="untrained")
    bars(axes[2], found.noise, own, fmt="o", color=AFTER, ms=4, label="networks, trained")
    axes[2].set_ylabel("susceptibility, leaves")
    axes[2].set_title("c  susceptibility")
    for panel in axes:
        panel.set_xlabel("level of noise t")
    entries: dict[str, Any] = {}
    for panel in axes:
        entries |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5, fontsize=7)
    return figure


def _losses(axes: Any, table: pd.DataFrame) -> None:
    """Losses over noise: of the networks, before training, of leaves alone, and the Bayes loss."""
    noise = curves(table).noise
    every = [means(last_step(rows), "loss") for rows in by_variant(table).values()]
    every = [
        own for _, own in sorted(zip(_levels(table), every, strict=True), key=lambda pair: pair[0])
    ]
    for column, style in (
        ("initial", {"color": BEFORE, "linestyle": "--", "label": "untrained"}),
        ("null", {"color": "0.45", "linestyle": "-.", "label": "each leaf alone"}),
        ("ceiling", {"color": CEILING, "linestyle": "-", "label": "exact, leaf by leaf"}),
    ):
        axes.plot(noise, [own[column].mean() for own in every], lw=1.2, **style)
    own = [mean_interval(each["value"].to_numpy(np.float64)) for each in every]
    bars(axes, noise, own, fmt="o", color=AFTER, ms=4, label="networks, trained")
    axes.set_ylabel("nats per leaf")
    axes.set_title("a  loss")


def _levels(table: pd.DataFrame) -> list[float]:
    return [
        float(str(rows["augment"].iloc[0]).partition(":")[2]) for rows in by_variant(table).values()
    ]
