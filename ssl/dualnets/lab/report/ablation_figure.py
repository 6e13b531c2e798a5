"""The figure of an ablation: a row per variant, with how far the gap to the ceiling closed, whether the
embedding collapsed, alignment level by level, and the root over training.

A variant is identified by its row, not by its colour: a dozen
hues cannot be distinguished, least of all with a colour vision deficiency.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from dualnets.lab.report.style import AFTER, BEFORE, WIDTH, level_colours
from dualnets.lab.variants import ALIGNMENT, RATIO, SCORES, VariantStats, by_variant, variant_stats

ROW = 0.42  # inches
COLUMNS = ["member", "step", "level", "node", "metric", "value", "initial", "ceiling"]
CUT = (-1.0, 1.2)  # gaps closed beyond these lie on the edge, as arrows
BAND = "#f6f6f6"
DOTS: Any = {"color": AFTER, "markersize": 7, "alpha": 0.4, "markeredgewidth": 0}
MEAN: Any = {"color": AFTER, "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8}


def draw(table: pd.DataFrame) -> Figure:
    """Draw four panels; every variant is a row of each, in the order of their first cells."""
    # tables are slow because of the settings, which are dozens of columns
    variants = {name: rows[COLUMNS] for name, rows in by_variant(table).items()}
    height = 1.5 + ROW * max(len(variants), 3)
    figure, axes = plt.subplots(
        1, 4, figsize=(WIDTH, height), width_ratios=(1.1, 0.8, 1, 1), layout="constrained"
    )
    gaps(axes[0], variants)
    spreads(axes[1], variants)
    _levels(figure, axes[2], variants)
    curves(axes[3], variants)
    for panel in axes[2:]:
        panel.set_yticklabels([])
    return figure


def gaps(
    axes: Any,
    variants: dict[str, pd.DataFrame],
    label: str = "gap closed, levels ≥ 2",
    of: str = "trees",
) -> None:
    """Gap closed per variant with its 95% interval, every member a dot; names the rows."""
    layout_rows(axes, variants)
    least, beyond = 0.0, False
    names = []
    for at, (name, rows) in enumerate(variants.items()):
        found = variant_stats(rows)
        names.append(_named(name, found))
        room = found.ceiling - found.initial
        dots = (found.value - found.initial) / np.where(room > 0, room, np.nan)
        for marker, kept in (
            (".", (dots >= CUT[0]) & (dots <= CUT[1])), ("<", dots < CUT[0]), (">", dots > CUT[1])
        ):  # fmt: skip
            axes.plot(np.clip(dots[kept], *CUT), np.full(kept.sum(), at), marker, **DOTS)
        gap = found.gap
        beyond |= bool(((dots < CUT[0]) | (dots > CUT[1])).any())
        least = np.nanmin([least, gap.low, *dots])
        if np.isfinite(gap.value):
            ends = np.clip([gap.low, gap.high], *CUT)
            axes.plot(ends, [at, at], color=AFTER, linewidth=2.5, solid_capstyle="butt")
            middle = "o" if CUT[0] <= gap.value <= CUT[1] else "<" if gap.value < 0 else ">"
            axes.plot(np.clip(gap.value, *CUT), at, middle, **MEAN)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.set(xlim=(max(least, CUT[0]) - 0.1, CUT[1] + 0.1))
    axes.set_yticklabels(names)
    arrows = "; arrows: beyond" if beyond else ""
    axes.set(xlabel=f"{label}\n(dots: {of}{arrows})", title="a  what emerges")


def spreads(axes: Any, variants: dict[str, pd.DataFrame]) -> None:
    """Spread of the embedding, 0 being collapse, and its mean effective rank."""
    layout_rows(axes, variants)
    for at, rows in enumerate(variants.values()):
        found = variant_stats(rows)
        axes.plot(found.spread, np.full(len(found.spread), at), ".", **DOTS)
        axes.plot(finite_mean(found.spread), at, "o", **MEAN)
        rank = finite_mean(found.rank)
        _beside(axes, at, f"{rank:.1f}" if np.isfinite(rank) else "-")
    axes.annotate("rank", (1.0, 1.0), xycoords="axes fraction", xytext=(4, 4),
                  textcoords="offset points", fontsize=8, color="0.35")  # fmt: skip
    axes.set(xlim=(-0.05, 1.1), xticks=(0, 0.5, 1))
    axes.set_yticklabels([])
    axes.set(
        xlabel="spread of the embedding\n(0: collapsed, 1: everywhere)", title="b  what collapses"
    )


def _levels(figure: Any, axes: Any, variants: dict[str, pd.DataFrame]) -> None:
    """Alignment over ceiling before and after training, a line for each level, the root on top."""
    layout_rows(axes, variants)
    deepest = 1
    for at, rows in enumerate(variants.values()):
        shares = _shares(rows)
        deepest = max(deepest, *shares)
        ends_of_row(axes, at, shares, level_colours(max(shares)))
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set(xlabel=f"{_score(variants)} / ceiling\n(hollow: before training)", title="c  by level")
    shades = level_colours(deepest)
    keys = [
        Line2D([], [], color=shades[level], marker="o", markersize=3.8,
               label=f"{level}, the root" if level == deepest else f"{level}")
        for level in range(deepest, 0, -1)
    ]  # fmt: skip
    figure.legend(handles=keys, loc="outside lower right", ncols=len(keys), title_fontsize=8,
                  title="c  levels, from the top of a row down")  # fmt: skip


def ends_of_row(
    axes: Any, at: int, ends: Mapping[Any, tuple[float, float]], colours: Mapping[Any, Any]
) -> None:
    """Lines from before (hollow) to after training within a row, the last key on top."""
    heights = np.linspace(0.33, -0.33, len(ends)) if len(ends) > 1 else np.zeros(1)
    for (key, (before, after)), height in zip(ends.items(), heights, strict=True):
        style: dict[str, Any] = {"color": colours[key], "markersize": 3.8}
        axes.plot([before, after], [at + height] * 2, linewidth=1.3, color=style["color"])
        axes.plot(before, at + height, "o", markerfacecolor="white", **style)
        axes.plot(after, at + height, "o", **style)


def curves(
    axes: Any, variants: dict[str, pd.DataFrame], what: str = "root", *, untrained: bool = False
) -> None:
    """The root's score over training, all rows on one scale; in grey the first variant again.

    Args:
        axes, variants: where to draw, and what.
        what: whose score it is.
        untrained: whether the grey line is the score before training instead.
    """
    layout_rows(axes, variants)
    found = []
    for rows in variants.values():
        root = rows[rows["metric"].isin(SCORES) & (rows["level"] == rows["level"].max())]
        found.append(root.groupby("step")["value"].mean())
    low, high = min(c.min() for c in found), max(c.max() for c in found)

    def heights(curve: Any, at: int) -> Any:
        return at + 0.4 - 0.8 * (curve.to_numpy() - low) / max(high - low, 1e-9)

    for at, curve in enumerate(found):
        line = heights(curve, at)
        axes.fill_between(curve.index + 1, at + 0.4, line, color=AFTER, alpha=0.15, linewidth=0)
        beside = curve * 0 + curve.iloc[0] if untrained else found[0]
        if at or untrained:
            axes.plot(beside.index + 1, heights(beside, at), color=BEFORE, linewidth=1)
        axes.plot(curve.index + 1, line, color=AFTER, linewidth=1.4)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())  # of short trainings they run into each other
    grey = "\ngrey: as in the first row" if len(found) > 1 else ""
    grey = "\ngrey: untrained" if untrained else grey
    axes.set(
        xlabel=f"updates + 1\n({what}, a row: {_short(low)} to {_short(high)}){grey}",
        title="d  over training",
    )


def layout_rows(axes: Any, variants: dict[str, pd.DataFrame]) -> None:
    """Lay out a row per variant, the first on top, every other one shaded."""
    for at in range(1, len(variants), 2):
        axes.axhspan(at - 0.5, at + 0.5, color=BAND, linewidth=0, zorder=0)
    axes.set(yticks=range(len(variants)), ylim=(len(variants) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _named(name: str, found: VariantStats) -> str:
    """The name of a row, and how many of its trees have no finite numbers."""
    lines = textwrap.wrap(name, 26, break_long_words=False)
    if lost := found.diverged:
        lines.append(f"{lost} of {len(found.value)} not finite")
    return "\n".join(lines)


def _beside(axes: Any, at: int, text: str) -> None:
    axes.annotate(text, (1.0, at), xycoords=("axes fraction", "data"), xytext=(4, 0),
                  textcoords="offset points", va="center", fontsize=8, color="0.35")  # fmt: skip


def _shares(rows: pd.DataFrame) -> dict[int, tuple[float, float]]:
    """Level -> alignment over ceiling before and after, the mean over trees with finite numbers."""
    last = rows[(rows["step"] == rows["step"].max()) & rows["metric"].isin(ALIGNMENT)]
    trees = last.groupby(["level", "member"])[["initial", "value", "ceiling"]].mean()
    shares = trees[["initial", "value"]].div(trees["ceiling"], axis=0).groupby("level").mean()
    return {int(level): (before, after) for level, before, after in shares.itertuples()}


def finite_mean(values: np.ndarray) -> float:
    """The mean of the finite values, NaN if there are none."""
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _score(variants: dict[str, pd.DataFrame]) -> str:
    ratio = any((rows["metric"] == RATIO).any() for rows in variants.values())
    return "best correlation ratio" if ratio else "best |correlation|"


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")
