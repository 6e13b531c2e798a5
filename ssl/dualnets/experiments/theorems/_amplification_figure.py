"""The figure of `amplification`: growth by eigenvalue, units before and after, forecasts."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems._amplification_rules import amplified, winners
from dualnets.experiments.theorems.amplification import DIRECTION, UNIT
from dualnets.lab.report.intervals import bars
from dualnets.lab.report.style import WIDTH, level_colours
from dualnets.lab.stats import mean_interval


def draw(table: pd.DataFrame) -> Figure:
    """Directions on top (plain outputs), units below (the widest network of each kind of outputs)."""
    colours = level_colours(int(table["level"].max()))
    kinds = [table[table["normalize"] == normalize] for normalize in (False, True)]
    kinds = [rows[rows["units"] == rows["units"].max()] for rows in kinds if len(rows)]
    plain = kinds[0] if not kinds[0]["normalize"].iloc[0] else None
    figure = plt.figure(figsize=(WIDTH, 7.0 if plain is not None else 3.5), layout="constrained")
    blocks = figure.subfigures(1 + (plain is not None), 1, squeeze=False)[:, 0]
    titles = []
    if plain is not None:
        left, right = blocks[0].subplots(1, 2)
        _growth(left, plain, colours)
        _ranks(right, amplified(plain), colours)
        titles += [(left, "growth of a direction against 2 x eigenvalue"),
                   (right, "rank correlation of growth and eigenvalue, trees")]  # fmt: skip
    left, right = blocks[-1].subplots(1, 2)
    _units(left, kinds[-1], colours)
    _hits(right, [winners(rows) for rows in kinds])
    output = "normalised" if kinds[-1]["normalize"].iloc[0] else "plain"
    titles += [(left, f"units before and after, {output} outputs"), (right, "who wins?")]
    for letter, (axes, title) in zip("abcd", titles, strict=False):
        axes.set_title(f"{letter}  {title}")
    return figure


def _by_level(
    axes: Axes, rows: pd.DataFrame, x: str, colours: dict[int, object], **style: Any
) -> None:
    """The values of rows against another column, in the colours of their levels."""
    for level, own in rows.groupby("level"):
        axes.scatter(own[x], own["value"], lw=0, color=colours[int(level)], label=f"level {level}",
                     **style)  # fmt: skip


def _growth(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    """Every direction over every interval between snapshots, on logarithmic axes."""
    part = rows[(rows["kind"] == DIRECTION) & np.isfinite(rows["value"]) & (rows["value"] > 0)]
    _by_level(axes, part, "forecast", colours, s=5, alpha=0.35)
    if len(part):
        ends = np.array([part["forecast"].quantile(0.02), part["forecast"].max()])
        axes.plot(ends, ends, color="#1d1d1f", lw=1, label="β = 1")
        axes.plot(ends, ends / 2, color="#1d1d1f", lw=1, ls=(0, (4, 2)), label="β = 1/2")
        axes.set_xlim(ends[0] / 2, ends[1] * 2)
    axes.set(xscale="log", yscale="log", xlabel="2 x eigenvalue at the interval's start",
             ylabel="growth rate over the interval, where > 0")  # fmt: skip
    axes.legend(loc="upper left", markerscale=2.5)


def _ranks(axes: Axes, made: pd.DataFrame, colours: dict[int, object]) -> None:
    """Every tree's rank correlation, and their mean with its interval."""
    rng = np.random.default_rng(0)
    for level, own in made.groupby("level"):
        place = int(level) + rng.uniform(-0.12, 0.12, len(own))
        axes.scatter(place, own["rank"], s=10, lw=0, color=colours[int(level)], alpha=0.7)
        mean = mean_interval(own["rank"].to_numpy())
        bars(axes, [int(level) + 0.25], [mean], fmt="o", ms=5, color="#1d1d1f", lw=1.3)
    axes.axhline(0, color="#777777", lw=1, ls=(0, (4, 2)))
    axes.set(xticks=sorted(made["level"].unique()), ylim=(-1.05, 1.05), xlabel="level",
             ylabel="rank correlation, mean over intervals")  # fmt: skip
    axes.grid(axis="x", visible=False)


def _units(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    """Every unit's |correlation| with its latent after training against that before."""
    rows = rows[(rows["kind"] == UNIT) & (rows["step"] == rows["step"].max())]
    _by_level(axes, rows, "initial", colours, s=6, alpha=0.4)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="a unit's |correlation| with its latent before",
             ylabel="after training")  # fmt: skip
    axes.legend(loc="lower right", markerscale=2.5)


def _hits(axes: Axes, kinds: list[pd.DataFrame]) -> None:
    """Share of latents whose winner was the best unit before training, or was forecast, and chance."""
    styles = {
        "first_stays": ("the best unit before", "#21918c"),
        "forecast_hits": ("the forecast", "#440154"),
    }
    levels = [(won, level) for won in kinds for level in sorted(won["level"].unique())]
    for i, (name, (word, colour)) in enumerate(styles.items()):
        means = [
            mean_interval(won[won["level"] == level][name].to_numpy()) for won, level in levels
        ]
        place = np.arange(len(levels)) + (i - 0.5) * 0.3
        axes.bar(place, [mean.value for mean in means], width=0.28, color=colour, label=word)
        bars(axes, place, means, fmt="none", color="#1d1d1f", lw=1)
    for at, (won, _) in enumerate(levels):
        units = int(won["units"].iloc[0])
        label = f"chance, 1 in {units}" if at == 0 else ""
        axes.plot([at - 0.45, at + 0.45], [1 / units] * 2, color="#d1495b", lw=1.3, label=label)
    words = {False: "plain", True: "norm."}
    axes.set_xticks(
        range(len(levels)),
        [f"{level}\n{words[bool(won['normalize'].iloc[0])]}" for won, level in levels],
    )
    axes.set(
        ylim=(0, 1), xlabel="level and outputs", ylabel="share of latents whose winner it names"
    )
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")
