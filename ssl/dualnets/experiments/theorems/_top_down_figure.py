"""The figure of `top_down`: what interventions do in one setting, gains and growth rates in all."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems._top_down import compare, rates, settings_of
from dualnets.lab.report.intervals import band, bars
from dualnets.lab.report.style import WIDTH
from dualnets.lab.stats import mean_interval

COLOURS = {"full": "#440154", "uncoupled": "#e07b39", "frozen": "#8a8a8a", "constant": "#21918c"}
WORDS = {
    "selectivity": "selectivity |s|",
    "per_norm": "selectivity per norm |s| / ‖w‖",
    "correlation": "|correlation| with the latent",
}


def draw(table: pd.DataFrame) -> Figure:
    """Three measures over time on top, below them two comparisons and growth rates over all settings."""
    cells = list(settings_of(table))
    figure = plt.figure(figsize=(WIDTH, 9.6), layout="constrained")
    grid = figure.add_gridspec(3, 6)
    label, rows = cells[len(cells) // 2]
    shown = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in label.items())
    for i, measure in enumerate(WORDS):
        axes = figure.add_subplot(grid[0, 2 * i : 2 * i + 2])
        _paths(axes, rows, measure)
        axes.set_title(f"{'abc'[i]}  {WORDS[measure]}")
        if i == 0:
            axes.legend(loc="upper left", title=shown or None, title_fontsize=8)
    made = [(setting, compare(part)) for setting, part in cells]
    pairs = made[0][1][["pair", "at"]].drop_duplicates().itertuples(index=False)
    first: Axes | None = None
    for i, (pair, at) in enumerate(pairs):
        axes = figure.add_subplot(grid[1, 3 * i : 3 * i + 3], sharey=first)
        first = first or axes
        _gains(axes, made, pair)
        axes.set_title(f"{'de'[i]}  {pair.replace(' / ', ' against ')}, {at}")
    axes = figure.add_subplot(grid[2, :])
    _rates(axes, [(setting, rates(part)) for setting, part in cells])
    axes.set_title("f  growth rate of the selectivity per norm")
    return figure


def _paths(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    for intervention, colour in COLOURS.items():
        part = rows[rows["intervention"] == intervention]
        by_time = {share: own[measure].to_numpy() for share, own in part.groupby("share")}
        band(
            axes, [*by_time], by_time.values(), color=colour, alpha=0.12, lw=1.8, label=intervention
        )
    if measure == "correlation":
        axes.axhline(rows["ceiling"].mean(), color="#d1495b", lw=1.2)
        axes.annotate("ceiling", (0.02, rows["ceiling"].mean()), va="bottom", fontsize=8,
                      color="#d1495b")  # fmt: skip
    axes.set_xlabel("time, as a share of each tree's whole time")


def _gains(axes: Axes, made: list[Any], pair: str) -> None:
    """Mean log ratio with its interval, setting by setting."""
    styles = {"per_norm": ("#31688e", "o", -0.12), "correlation": ("#440154", "s", 0.12)}
    for measure, (colour, marker, shift) in styles.items():
        bands = [
            mean_interval(
                part[(part["pair"] == pair) & (part["measure"] == measure)]["log_gain"].to_numpy()
            )
            for _, part in made
        ]
        place = np.arange(len(made)) + shift
        bars(axes, place, bands, fmt=marker, color=colour, ms=4, lw=1.2, label=WORDS[measure])
    axes.axhline(0, color="#777777", lw=1)
    _settings(axes, made)
    axes.set_ylabel("log ratio, with / without")
    axes.margins(y=0.25)
    axes.legend(loc="upper right", ncols=2)


def _rates(axes: Axes, made: list[Any]) -> None:
    """Mean growth rate of every intervention with its interval, setting by setting."""
    rows = [part[part["measure"] == "per_norm"] for _, part in made]
    for i, (intervention, colour) in enumerate(COLOURS.items()):
        bands = [
            mean_interval(part[part["intervention"] == intervention]["rate"].to_numpy())
            for part in rows
        ]
        place = np.arange(len(made)) + (i - 1.5) * 0.16
        bars(axes, place, bands, fmt="o", color=colour, ms=4, lw=1.2, label=intervention)
    axes.axhline(0, color="#777777", lw=1)
    _settings(axes, made)
    axes.set_ylabel("d log(|s| / ‖w‖) / dt")
    axes.margins(y=0.15)
    axes.legend(loc="upper left", ncols=4)


def _settings(axes: Axes, made: list[Any]) -> None:
    """Every setting's values below its place."""
    labels = ["\n".join(str(value) for value in setting.values()) for setting, _ in made]
    axes.set_xticks(range(len(made)), labels)
    names = " / ".join(name.removesuffix("_low").replace("_", " ") for name in made[0][0])
    axes.set_xlabel(names or "one setting")
    axes.grid(axis="x", visible=False)
