"""The figure of `implicit_contrast`: cosine and term along training, and the early cosine against the end."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dualnets.experiments.byol._implicit_contrast import COSINE, TERM, early
from dualnets.experiments.byol.implicit_contrast import EARLY
from dualnets.lab.report.style import WIDTH
from dualnets.lab.stats import mean_interval
from dualnets.lab.variants import SPREAD, by_variant, variant_stats


def draw(table: pd.DataFrame) -> Figure:
    """Cosine, the term's part of it and spread over training; the cosine early against the end."""
    variants = by_variant(table)
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 6.4), layout="constrained")
    colours = dict(zip(variants, sns.color_palette("husl", len(variants)), strict=True))
    panels = (
        (COSINE, "network", "a  BYOL's update and the operator's", "cosine"),
        (
            TERM,
            "network",
            "b  the term's part of the cosine (0 where no line is)",
            "projection of the term, over |update|",
        ),
        (SPREAD, "embedding", "c  what collapses", "spread of the embedding"),
    )
    for (metric, node, title, label), place in zip(panels, axes.flat[:3], strict=True):
        measured = {
            name: rows[(rows["metric"] == metric) & (rows["node"] == node)]
            for name, rows in variants.items()
        }
        for name, rows in measured.items():
            if not (rows["value"] == 0).all():  # lines at 0 would lie on each other
                _line(place, rows, colours[name])
        if metric != SPREAD:
            place.axhline(0, color="0.6", linewidth=0.8)
            place.axvspan(1, EARLY + 1, color="0.93", linewidth=0, zorder=0)
        place.set(xscale="log", xlabel="updates + 1", ylabel=label, title=title)
    _early(axes[1, 1], variants, colours)
    handles, labels = axes[1, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _line(axes: Any, rows: pd.DataFrame, colour: Any) -> None:
    """Mean over trees, with its 95% interval."""
    found = {step: mean_interval(own.to_numpy()) for step, own in rows.groupby("step")["value"]}
    steps = np.array(list(found)) + 1
    mean, low, high = np.array([each[:3] for each in found.values()]).T
    axes.plot(steps, mean, "o-", color=colour, markersize=3)
    axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)


def _early(axes: Any, variants: dict[str, pd.DataFrame], colours: dict[str, Any]) -> None:
    """Every tree of every variant: the cosine early, the spread at the end."""
    for name, rows in variants.items():
        spread = variant_stats(rows).spread
        spread = np.where(np.isfinite(spread), spread, 0.0)
        axes.plot(early(rows, COSINE), spread, ".", color=colours[name], alpha=0.7, label=name)
    axes.set(
        xlabel=f"cosine, mean over the first {EARLY} updates (shaded in a)",
        ylabel="spread at the end",
        title="d  early cosine, final spread",
    )
