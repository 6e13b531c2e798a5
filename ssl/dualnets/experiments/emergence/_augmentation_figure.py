"""The figure of augmentations: each level's share of what survives, and what its latents gained."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.emergence._augmentation import growths, within_level
from dualnets.lab.report.style import WIDTH, level_colours
from dualnets.lab.stats import mean_interval
from dualnets.lab.variants import by_variant

MOST = 0.3  # gain at which colours end


def draw(table: pd.DataFrame) -> Figure:
    """Two tables of shades, augmentation by level; correlations within levels; all latents in one plane."""
    found = growths(table)
    names = list(by_variant(table))
    share, gain = (
        found.pivot_table(index="variant", columns="level", values=name).loc[names]
        for name in ("share", "gain")
    )
    height = max(4.2, 1.6 + 0.24 * len(names))
    figure, axes = plt.subplots(
        1, 4, figsize=(WIDTH, height), width_ratios=(1, 1, 0.8, 1.4), layout="constrained"
    )
    _shades(axes[0], share, "viridis", (0.0, 1.0), "a  share", "share of what\nsurvives")
    axes[0].set_yticks(range(len(names)), names)
    _shades(axes[1], gain, "RdBu", (-MOST, MOST), "b  gain", "gain of the best\n|correlation|")
    axes[1].set_yticks(range(len(names)), [])
    _within(axes[2], within_level(found), names)
    _plane(axes[3], found)
    figure.legend(
        *axes[3].get_legend_handles_labels(), loc="outside lower right", ncols=5, fontsize=7
    )
    figure.suptitle(
        "A latent's share of what survives the average over augmentations, and what it gained",
        fontsize=10,
    )
    return figure


def _shades(
    axes: Any,
    values: pd.DataFrame,
    colours: str,
    limits: tuple[float, float],
    title: str,
    label: str,
) -> None:
    """Means over latents and trees, written into their cells."""
    low, high = limits
    image = axes.imshow(values.to_numpy(), cmap=colours, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        text = f"{value:.2f}".replace("0.", ".") if abs(value) < 0.995 else f"{value:.0f}"
        red, green, blue, _ = image.cmap(image.norm(value))
        ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(values.shape[1]), values.columns)
    axes.set_xlabel(f"level\n{label}")
    axes.grid(visible=False)
    axes.set_title(title)


def _within(axes: Any, each: pd.DataFrame, names: list[str]) -> None:
    """The rank correlation of share and growth within levels, with its 95% interval over trees."""
    for at, name in enumerate(names):
        if name in each:
            mean = mean_interval(each[name].to_numpy())
            axes.plot([mean.low, mean.high], [at, at], color="#3a6ea5", lw=1.2)
            axes.plot(mean.value, at, "o", color="#3a6ea5", markersize=4)
    axes.axvline(0, color="0.6", lw=0.8)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(-0.6, 1), title="c  within a level")
    axes.set_yticks(range(len(names)), [])
    axes.set_xlabel("rank correlation of\nshare and growth")


def _plane(axes: Any, found: pd.DataFrame) -> None:
    """A mark per augmentation and level, its bar the middle half of all latents of all trees."""
    for level, colour in level_colours(int(found["level"].max())).items():
        by = found[found["level"] == level].groupby("variant", sort=False)
        x, y = by["share"].mean(), by["gain"]
        axes.vlines(x, y.quantile(0.25), y.quantile(0.75), color=colour, lw=0.8, alpha=0.5)
        axes.plot(x, y.mean(), "o", markersize=4, color=colour, label=f"level {level}")
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set(xlabel="share of what survives", ylabel="gain of the best |correlation|")
    axes.set_title("d  one against the other")
