"""The figure of augmentations: what they let through, what the network took, one against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualnets.comparison import by_variant, fared
from dualnets.figures import WIDTH, house_style, level_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(table: pd.DataFrame) -> Figure:
    """Two tables of shades, augmentation by level, and the latents of each level in one plane."""
    import matplotlib.pyplot as plt

    from dualnets.experiments.augmentation import ends, following

    found = ends(table)
    names = list(by_variant(table))
    found["took"] = found["value"] / found["ceiling"].where(found["ceiling"] > 0)
    shared, took = (
        found.pivot_table(index="variant", columns="level", values=name).loc[names]
        for name in ("shared", "took")
    )
    before = (found["initial"] / found["ceiling"]).groupby(found["level"]).mean()
    took.loc["untrained"] = before
    shared.loc["untrained"] = np.nan
    with house_style():
        height = max(4.2, 1.6 + 0.24 * len(names))
        figure, axes = plt.subplots(
            1, 4, figsize=(WIDTH, height), width_ratios=(1, 1, 0.62, 1.5), layout="constrained"
        )
        _shades(axes[0], shared, 0.0, "a  what two views share", "correlation of a latent's states")
        axes[0].set_yticks(range(len(took)), took.index)
        _shades(axes[1], took, 0.5, "b  what the network took", "best |correlation| / ceiling")
        axes[1].set_yticks(range(len(took)), [])
        _spread(axes[2], by_variant(table))
        _plane(axes[3], found, following(found))
        plt.close(figure)
    return figure


def _shades(axes: Any, values: pd.DataFrame, low: float, title: str, label: str) -> None:
    """Means over latents and trees, written into their fields."""
    axes.imshow(values.to_numpy(), cmap="viridis", vmin=low, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        if np.isnan(value):
            continue
        text = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"
        ink = "white" if value < low + 0.6 * (1 - low) else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(values.shape[1]), values.columns)
    axes.set_xlabel(f"level\n{label}")
    axes.grid(visible=False)
    axes.set_title(title)


def _spread(axes: Any, variants: dict[str, pd.DataFrame]) -> None:
    """Spread and rank of the embedding: whether what was taken is all there is."""
    for at, rows in enumerate(variants.values()):
        now = fared(rows)
        axes.plot(now.spread, np.full(len(now.spread), at), ".", color="0.7", markersize=3)
        axes.plot(np.nanmean(now.spread), at, "o", color="#333333", markersize=5)
        axes.annotate(f"{np.nanmean(now.rank):.1f}", (1.0, at), xycoords=("axes fraction", "data"),
                      xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)  # fmt: skip
    axes.set(yticks=range(len(variants)), ylim=(len(variants) + 0.5, -0.5), xlim=(0, 1.08))
    axes.set_yticklabels([])
    axes.set_xlabel("spread of the embedding\n(beside it: effective rank)")
    axes.set_title("c  collapse")


def _plane(axes: Any, found: pd.DataFrame, followed: pd.DataFrame) -> None:
    """A dot per augmentation and level, its bar the middle half of all latents of all trees."""
    colours = level_colours(int(found["level"].max()))
    follows = followed.groupby("level")["follows"].mean()
    for level, rows in found.groupby("level"):
        x, y = (rows.groupby("variant")[name] for name in ("shared", "took"))
        order = x.mean().sort_values().index
        low, high = (y.quantile(q).loc[order] for q in (0.25, 0.75))
        axes.vlines(x.mean().loc[order], low, high, color=colours[int(level)], lw=0.8, alpha=0.6)
        axes.plot(
            x.mean().loc[order], y.mean().loc[order], "o", markersize=4.5, color=colours[int(level)],
            label=f"level {level}: {follows[level]:+.2f}",
        )  # fmt: skip
    axes.set_xlabel("correlation of a latent's states in two views")
    axes.set_ylabel("best |correlation| / ceiling")
    axes.legend(title="rank correlation", title_fontsize=7, fontsize=7, loc="lower center")
    axes.set_title("d  one against the other")
