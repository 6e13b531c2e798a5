"""The figure of augmentations: what two views share of each level, and what the network learned of it."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualnets.experiments.emergence._augmentation import ends
from dualnets.lab.report.style import WIDTH, level_colours
from dualnets.lab.variants import by_variant, variant_stats

BIT = float(np.log(2))  # all that there is to share of a binary latent, in nats
MARKS = {"level kept": "o", "leaves": "^", "subtrees": "s", "": "X"}


def draw(table: pd.DataFrame) -> Figure:
    """Two tables of shades, augmentation by level, and the latents of each level in one plane."""
    found = ends(table)
    names = list(by_variant(table))
    found["learned"] = found["value"] / found["ceiling"].where(found["ceiling"] > 0)
    shared, learned = (
        found.pivot_table(index="variant", columns="level", values=name).loc[names]
        for name in ("shared", "learned")
    )
    before = (found["initial"] / found["ceiling"]).groupby(found["level"]).mean()
    learned.loc["untrained"] = before
    shared.loc["untrained"] = np.nan
    height = max(4.2, 1.6 + 0.24 * len(names))
    figure, axes = plt.subplots(
        1, 4, figsize=(WIDTH, height), width_ratios=(1, 1, 0.62, 1.5), layout="constrained"
    )
    nats = "information on a latent,\nin nats, of 0.69"
    _shades(axes[0], shared, (0.0, BIT), "a  shared by two views", nats)
    axes[0].set_yticks(range(len(learned)), learned.index)
    _shades(axes[1], learned, (0.5, 1.0), "b  learned", "best |correlation|\n/ ceiling")
    axes[1].set_yticks(range(len(learned)), [])
    _spread(axes[2], by_variant(table))
    _plane(axes[3], found)
    figure.suptitle(
        "What two views share of a latent, and what the network learned of it", fontsize=10
    )
    return figure


def _shades(
    axes: Any, values: pd.DataFrame, limits: tuple[float, float], title: str, label: str
) -> None:
    """Means over latents and trees, written into their cells."""
    low, high = limits
    axes.imshow(values.to_numpy(), cmap="viridis", vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        if np.isnan(value):
            continue
        text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
        ink = "white" if value < low + 0.6 * (high - low) else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(values.shape[1]), values.columns)
    axes.set_xlabel(f"level\n{label}")
    axes.grid(visible=False)
    axes.set_title(title)


def _spread(axes: Any, variants: dict[str, pd.DataFrame]) -> None:
    """Spread and rank of the embedding."""
    for at, rows in enumerate(variants.values()):
        now = variant_stats(rows)
        axes.plot(now.spread, np.full(len(now.spread), at), ".", color="0.7", markersize=3)
        axes.plot(np.nanmean(now.spread), at, "o", color="#333333", markersize=5)
        axes.annotate(f"{np.nanmean(now.rank):.1f}", (1.0, at), xycoords=("axes fraction", "data"),
                      xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)  # fmt: skip
    axes.set(yticks=range(len(variants)), ylim=(len(variants) + 0.5, -0.5), xlim=(0, 1.08))
    axes.set_yticklabels([])
    axes.set(xlabel="spread of the embedding\n(numbers: effective rank)", title="c  collapse")


def _plane(axes: Any, found: pd.DataFrame) -> None:
    """A mark per augmentation and level, its bar the middle half of all latents of all trees.

    Lines join the levels kept, in the order of what is kept. Levels are drawn a little apart, or
    all that is shared in full would lie on one spot.
    """
    top = int(found["level"].max())
    colours = level_colours(top)
    for level, rows in found.groupby("level"):
        colour = colours[int(level)]
        by = rows.groupby(["family", "variant"], sort=False)
        aside = 0.015 * (int(level) - (top + 1) / 2)
        x, y = by["shared"].mean() + aside, by["learned"].mean()
        axes.vlines(x, by["learned"].quantile(0.25), by["learned"].quantile(0.75), color=colour, lw=0.8,
                    alpha=0.5)  # fmt: skip
        for family, mark in MARKS.items():
            if family in x.index.get_level_values("family"):
                line = "-" if family == "level kept" else ""
                axes.plot(x[family], y[family], mark + line, markersize=4.5, color=colour, lw=0.9)
    entries = [
        Line2D([], [], color=colours[level], lw=3, label=f"level {level}") for level in colours
    ]
    used = [family for family in MARKS if family in set(found["family"])]
    entries += [
        Line2D([], [], color="0.35", marker=MARKS[family], lw=0, markersize=4.5,
               label=family or "nothing kept")
        for family in used
    ]  # fmt: skip
    axes.set(
        xlabel="nats that two views share of a latent\n(levels a little apart)",
        ylabel="best |correlation| / ceiling",
    )
    axes.legend(handles=entries, fontsize=6.5, ncols=2, loc="lower right", handlelength=1.2)
    axes.set_title("d  one against the other")
