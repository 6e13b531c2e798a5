"""The figure of `top_down`: what interventions do in one setting, gains and growth rates in all."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems._top_down import compare, rate_pairs, rates, settings_of
from dualnets.experiments.theorems.top_down import COUPLED
from dualnets.lab.ratios import ratio_interval
from dualnets.lab.report.intervals import band, bars
from dualnets.lab.report.style import WIDTH
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import mean_interval

COLOURS = {"full": "#440154", "uncoupled": "#e07b39", "frozen": "#8a8a8a", "constant": "#21918c"}
WORDS = {
    "selectivity": "selectivity |s|",
    "per_norm": "selectivity per norm |s| / ‖w‖",
    "correlation": "|correlation| with the latent",
}
GAINS = {
    "per_norm": {"color": "#31688e", "fmt": "o"},
    "correlation": {"color": "#440154", "fmt": "s"},
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
    settings = [setting for setting, _ in cells]
    made = [compare(part) for _, part in cells]
    pairs = made[0][["pair", "at"]].drop_duplicates().itertuples(index=False)
    gains: Axes | None = None
    for i, (pair, at) in enumerate(pairs):
        gains = axes = figure.add_subplot(grid[1, 3 * i : 3 * i + 3], sharey=gains)
        for (measure, style), shift in zip(GAINS.items(), (-0.12, 0.12), strict=True):
            own = [
                f[(f["pair"] == pair) & (f["measure"] == measure)]["log_gain"].to_numpy()
                for f in made
            ]
            _intervals(axes, own, shift, label=WORDS[measure], **style)
        _by_setting(axes, settings, 0.25)
        axes.set_ylabel("log ratio, with / without")
        axes.set_title(f"{'de'[i]}  {pair.replace(' / ', ' against ')}, {at}")
        axes.legend(loc="upper right", ncols=2)
    axes = figure.add_subplot(grid[2, :3])
    grown = [rates(part) for _, part in cells]
    for i, (intervention, colour) in enumerate(COLOURS.items()):
        own = [rate_pairs(part, intervention)[0] for part in grown]
        _intervals(axes, own, (i - 1.5) * 0.16, fmt="o", color=colour, label=intervention)
    _by_setting(axes, settings, 0.15, judged=False)
    axes.set_ylabel("d log(|s| / ‖w‖) / dt")
    axes.set_title("f  growth rate of the selectivity per norm")
    axes.legend(loc="upper left", ncols=4)
    axes = figure.add_subplot(grid[2, 3:])
    found = [ratio_interval(*rate_pairs(part, COUPLED)) for part in grown]
    bars(axes, range(len(found)), found, fmt="o", ms=4, lw=1.2, color=COLOURS["full"])
    _by_setting(axes, settings, 0.15, null=1)
    axes.set_ylabel("rate full / rate uncoupled")
    axes.set_title("g  ratio of these rates, with and without coupling")
    return figure


def _paths(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    for intervention, colour in COLOURS.items():
        part = rows[rows["intervention"] == intervention]
        by_time = {share: own[measure].to_numpy() for share, own in part.groupby("share")}
        band(axes, [*by_time], by_time.values(), color=colour, alpha=0.12, lw=1.8,
             label=intervention)  # fmt: skip
    if measure == "correlation":
        axes.axhline(rows["ceiling"].mean(), color="#d1495b", lw=1.2)
        axes.annotate("ceiling", (0.02, rows["ceiling"].mean()), va="bottom", fontsize=8,
                      color="#d1495b")  # fmt: skip
    axes.set_xlabel("time, as a share of each tree's whole time")


def _intervals(axes: Axes, values: list[Any], shift: float, **style: Any) -> None:
    """The mean of each setting's values with its interval, beside the setting's place."""
    means = [mean_interval(each) for each in values]
    bars(axes, np.arange(len(values)) + shift, means, ms=4, lw=1.2, **style)


def _by_setting(
    axes: Axes, settings: list[dict[str, Any]], margin: float, null: float = 0, judged: bool = True
) -> None:
    """Every setting's values below its place; a line at the null, and a dashed one that claims are about."""
    axes.axhline(null, color="#777777", lw=1)
    if judged:
        axes.axhline(null + NEGLIGIBLE, color="#777777", lw=1, ls=(0, (4, 2)))
    labels = ["\n".join(str(value) for value in setting.values()) for setting in settings]
    axes.set_xticks(range(len(settings)), labels)
    names = " / ".join(name.removesuffix("_low").replace("_", " ") for name in settings[0])
    axes.set_xlabel(names or "one setting")
    axes.grid(axis="x", visible=False)
    axes.margins(y=margin)
