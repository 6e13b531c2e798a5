"""The figure of a sweep: the root between its start and its ceiling, gap closed, levels, training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualnets.comparison import ALIGNMENT, by_variant, fared, of_root
from dualnets.figures import WIDTH, house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, AFTER, CEILING = "#9a9a9a", "#440154", "#d1495b"


def draw(
    table: pd.DataFrame,
    *,
    axis: str,
    label: str,
    line: str | None = None,
    line_label: str = "",
    threshold: float | None = None,
    score: str = "best |correlation|",
) -> Figure:
    """Four panels over the values of one setting.

    Args:
        table: of a run.
        axis, label: the setting that is swept, and its name on the figure.
        line, line_label: a second setting, a line for each of its values.
        threshold: where on the axis branching * polarity² is 1.
        score: what a latent is scored by, in words.
    """
    import matplotlib.pyplot as plt

    cells = [
        (rows[axis].iloc[0], None if line is None else rows[line].iloc[0], rows)
        for rows in by_variant(table).values()
    ]
    cells.sort(key=lambda cell: (cell[1] is not None and cell[1], cell[0]))
    lines = list(dict.fromkeys(cell[1] for cell in cells))
    with house_style():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 6.6), layout="constrained")
        colours = dict(zip(lines, _shades(len(lines)), strict=True))
        for value in lines:
            own = [(x, rows) for x, other, rows in cells if other == value]
            said = "" if value is None else f"{value} {line_label}"
            _root(axes[0, 0], own, colours[value], said, alone=line is None,
                  first=value == lines[0])  # fmt: skip
            _gap(axes[0, 1], own, colours[value], said)
        _levels(axes[1, 0], [(x, rows) for x, other, rows in cells if other == lines[-1]], label,
                "" if line is None else f", {lines[-1]} {line_label}", score)  # fmt: skip
        _collapse(axes[1, 1], cells, colours)
        for at in (axes[0, 0], axes[0, 1], axes[1, 1]):
            _sweep(at, sorted({cell[0] for cell in cells}), label, threshold)
        axes[0, 0].set(ylabel=f"root, {score}", ylim=(0, 1.02))
        axes[0, 0].set_title("a  the root and its ceiling")
        axes[0, 0].legend(fontsize=7)
        axes[0, 1].axhline(0, color="0.6", lw=0.8)
        axes[0, 1].axhline(1, color=CEILING, lw=0.8)
        low, high = axes[0, 1].get_ylim()
        axes[0, 1].set(ylabel="gap closed (95% intervals)", ylim=(max(low, -0.6), min(high, 1.3)))
        axes[0, 1].set_title("b  how far the gap closes")
        axes[0, 1].legend(fontsize=7)
        plt.close(figure)
    return figure


def _shades(count: int) -> list[Any]:
    import seaborn as sns

    return [AFTER] if count == 1 else sns.color_palette("viridis_r", count + 1)[1:]


def _sweep(axes: Any, values: list[Any], label: str, threshold: float | None) -> None:
    """The swept axis, and where the threshold lies on it."""
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xlabel(label)
    if threshold is not None:
        axes.axvline(threshold, color="0.4", lw=1, ls=(0, (4, 2)))
        axes.annotate("Kesten-Stigum", (threshold, 0.02), xycoords=("data", "axes fraction"),
                      rotation=90, fontsize=7, color="0.4", ha="right", va="bottom")  # fmt: skip


def _root(
    axes: Any,
    cells: list[tuple[Any, pd.DataFrame]],
    colour: Any,
    said: str,
    *,
    alone: bool,
    first: bool,
) -> None:
    """Means before and after, and of the ceilings; every tree a dot where there is one line."""
    xs = [x for x, _ in cells]
    found = [of_root(rows) for _, rows in cells]
    if alone:
        for x, now in zip(xs, found, strict=True):
            axes.plot(np.full(len(now.value), x), now.value, ".", color=colour, alpha=0.25, ms=4)
    before = BEFORE if alone else colour
    axes.plot(xs, [f.ceiling.mean() for f in found], color=CEILING, lw=1.4,
              label="ceiling" if first else None)  # fmt: skip
    axes.plot(
        xs, [f.initial.mean() for f in found], ":", color=before, label="before" if alone else None
    )
    axes.plot(xs, [f.value.mean() for f in found], "o-", color=colour, ms=4, label=said or "after")


def _gap(axes: Any, cells: list[tuple[Any, pd.DataFrame]], colour: Any, said: str) -> None:
    """Gap closed at the root, and of all latents of levels >= 2 (pale)."""
    xs = [x for x, _ in cells]
    for levels, style, what in ((True, "o-", "root"), (False, "s:", "levels ≥ 2")):
        gaps = [(of_root(rows) if levels else fared(rows)).gap for _, rows in cells]
        if said and not levels:
            continue
        axes.errorbar(
            xs, [g.value for g in gaps],
            [[g.value - g.low for g in gaps], [g.high - g.value for g in gaps]],
            fmt=style, color=colour, ms=4, lw=1.2, alpha=1 if levels else 0.5,
            label=said or what,
        )  # fmt: skip


def _levels(
    axes: Any, cells: list[tuple[Any, pd.DataFrame]], label: str, rest: str, score: str
) -> None:
    """Alignment over ceiling by level."""
    import seaborn as sns

    shades = sns.color_palette("crest", len(cells))
    for (x, rows), colour in zip(cells, shades, strict=True):
        levels = sorted(rows.loc[rows["metric"].isin(ALIGNMENT), "level"].unique())
        found = [fared(rows, [level]) for level in levels]
        share = [f.value.mean() / f.ceiling.mean() for f in found]
        start = [f.initial.mean() / f.ceiling.mean() for f in found]
        axes.plot(levels, share, "o-", color=colour, ms=3.5, label=f"{x:g}")
        axes.plot(levels, start, ":", color=colour, lw=1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="level of the latents (dotted: before)", ylabel=f"{score} / ceiling")
    axes.set_title("c  by level" + rest)
    axes.legend(title=label, fontsize=7, title_fontsize=7, ncols=2)


def _collapse(
    axes: Any, cells: list[tuple[Any, Any, pd.DataFrame]], colours: dict[Any, Any]
) -> None:
    """Spread of the embedding; its effective rank beside each dot."""
    for i, (value, colour) in enumerate(colours.items()):
        own = [(x, fared(rows)) for x, other, rows in cells if other == value]
        axes.plot([x for x, _ in own], [f.spread.mean() for _, f in own], "o-", color=colour, ms=4)
        for x, found in own:
            axes.annotate(
                f"{found.rank.mean():.1f}", (x, found.spread.mean()), fontsize=7, ha="center",
                xytext=(0, 5 if i % 2 == 0 else -11), textcoords="offset points",
                color="0.3" if len(colours) == 1 else colour,
            )  # fmt: skip
    axes.set(ylim=(0, 1.12), ylabel="spread (number: effective rank)")
    axes.set_title("d  collapse of the embedding")
