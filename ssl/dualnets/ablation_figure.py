"""The figure of an ablation: gap closed and spread per variant, alignment by level and over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualnets.comparison import ALIGNMENT, by_variant, fared
from dualnets.figures import WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 10  # variants drawn as lines; the others are in the other panels


def draw(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Four panels, the variants in the order of their first cells.

    Args:
        table: of an ablation's run.
        title: above the figure.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    from dualnets.figures import house_style

    variants = by_variant(table)
    names = list(variants)
    with house_style():
        height = max(5.2, 2.6 + 0.34 * len(names))
        figure, axes = plt.subplots(
            2, 2, figsize=(WIDTH, height), height_ratios=(1.0, 0.8), layout="constrained"
        )
        colours = dict(zip(names, sns.color_palette("husl", len(names)), strict=True))
        gaps(axes[0, 0], variants, colours)
        spreads(axes[0, 1], variants, colours)
        _levels(axes[1, 0], variants, colours)
        _training(axes[1, 1], variants, colours)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        plt.close(figure)
    return figure


def gaps(axes: Any, variants: dict[str, pd.DataFrame], colours: dict[str, Any]) -> None:
    """Gap closed per variant, with every tree as a dot."""
    for at, (name, rows) in enumerate(variants.items()):
        found = fared(rows)
        room = found.ceiling - found.initial
        dots = (found.value - found.initial) / np.where(room > 0, room, np.nan)
        axes.plot(
            np.clip(dots, -1, 1.2), np.full(len(dots), at), ".", color=colours[name], alpha=0.35
        )
        gap = found.gap
        if np.isfinite(gap.value):
            low, high = (np.clip(end, -1, 1.2) for end in (gap.low, gap.high))
            axes.plot([low, high], [at, at], color=colours[name], linewidth=2.5)
            axes.plot(np.clip(gap.value, -1, 1.2), at, "o", color=colours[name], markersize=6)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set(yticks=range(len(variants)), ylim=(len(variants) - 0.5, -0.5), xlim=(-1.05, 1.25))
    axes.set_yticklabels(list(variants))
    axes.set_xlabel("gap closed, latents of levels ≥ 2 (dots: trees, cut at -1)")
    axes.set_title("a  what emerges")


def spreads(axes: Any, variants: dict[str, pd.DataFrame], colours: dict[str, Any]) -> None:
    """Spread of the embedding; 0 is collapse."""
    for at, (name, rows) in enumerate(variants.items()):
        found = fared(rows)
        axes.plot(found.spread, np.full(len(found.spread), at), ".", color=colours[name], alpha=0.4)
        axes.plot(np.nanmean(found.spread) if np.isfinite(found.spread).any() else np.nan, at, "o",
                  color=colours[name], markersize=6)  # fmt: skip
        rank = found.rank[np.isfinite(found.rank)]
        text = f"rank {rank.mean():.1f}" if len(rank) else "not finite"
        axes.annotate(text, (1.0, at), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8, color="0.35")  # fmt: skip
    axes.set(yticks=range(len(variants)), ylim=(len(variants) - 0.5, -0.5), xlim=(-0.03, 1.1))
    axes.set_yticklabels([])
    axes.set_xlabel("spread of the embedding (0: collapsed, 1: everywhere)")
    axes.set_title("b  what collapses")


def _levels(axes: Any, variants: dict[str, pd.DataFrame], colours: dict[str, Any]) -> None:
    """Alignment over ceiling, by level, at the end; grey before training."""
    started = False
    for name, rows in list(variants.items())[:MOST_LINES]:
        levels = sorted(rows.loc[rows["metric"].isin(ALIGNMENT), "level"].unique())
        found = [fared(rows, [level]) for level in levels]
        if not started:
            share = [(f.initial / f.ceiling).mean() for f in found]
            axes.plot(levels, share, "--", color="0.5", label="before training")
            started = True
        share = [(f.value / f.ceiling).mean() for f in found]
        axes.plot(levels, share, "o-", color=colours[name], markersize=3.5, label=name)
        axes.set_xticks(levels)
    axes.set_xlabel("level of the latents")
    axes.set_ylabel("best |correlation| / ceiling")
    axes.set_title("c  by level")
    axes.legend(fontsize=7, ncols=1 + (len(variants) > 5))


def _training(axes: Any, variants: dict[str, pd.DataFrame], colours: dict[str, Any]) -> None:
    """The root over training."""
    for name, rows in list(variants.items())[:MOST_LINES]:
        root = rows[(rows["metric"].isin(ALIGNMENT)) & (rows["level"] == rows["level"].max())]
        mean = root.groupby("step")["value"].mean()
        axes.plot(mean.index + 1, mean.to_numpy(), color=colours[name])
    axes.set_xscale("log")
    axes.set_xlabel("updates + 1")
    axes.set_ylabel("root, best |correlation|")
    axes.set_title("d  over training")
