"""The figure of the experiment on samples: alignment by level over P, method by method; spread and rank."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.emergence._samples import Learned, by_method
from dualnets.lab.report.intervals import band
from dualnets.lab.report.style import WIDTH, level_colours
from dualnets.lab.variants import variant_stats

MARKED: dict[str, Any] = {"marker": "o", "markersize": 3.5}


def draw(table: pd.DataFrame) -> Figure:
    """A column per method: share of the ceiling by level; spread and effective rank of the embedding."""
    methods = by_method(table)
    figure, axes = plt.subplots(
        3, len(methods), figsize=(WIDTH, 6.4), height_ratios=(1.0, 0.4, 0.4), sharex="col",
        sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    for column, (name, learned) in enumerate(methods.items()):
        places, cells, labels = _places(learned)
        found = [variant_stats(rows) for rows in cells]
        _levels(axes[0, column], places, cells)
        band(axes[1, column], places, [f.spread for f in found], color="#3a6ea5", **MARKED)
        band(axes[2, column], places, [f.rank for f in found], color="#c1666b", **MARKED)
        axes[0, column].set_title(f"{'abcdefgh'[column % 8]}  {name}")
        axes[2, column].set_xscale("log")
        axes[2, column].set_xticks(places, labels, rotation=45 if len(places) > 6 else 0)
        axes[2, column].minorticks_off()
        axes[2, column].set_xlabel("samples P")
    axes[0, 0].set_ylabel("best |correlation| / ceiling")
    axes[1, 0].set(ylabel="spread", ylim=(-0.03, 1.05))
    axes[2, 0].set_ylabel("effective rank")
    axes[0, -1].legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), title="level\n(dotted: before\ntraining)"
    )
    return figure


def _places(learned: Learned) -> tuple[list[float], list[pd.DataFrame], list[str]]:
    """Where cells stand on the axis, the cells, and their labels; fresh data stand last."""
    places = [float(size) for size in learned.samples]
    cells, labels = [*learned.fixed], [f"{size}" for size in learned.samples]
    if learned.fresh is not None:
        places.append(places[-1] * 8 if places else 1.0)
        cells.append(learned.fresh)
        labels.append("fresh")
    return places, cells, labels


def _levels(axes: Any, places: list[float], cells: list[pd.DataFrame]) -> None:
    """A line per level with its 95% band; dotted where it stood before training."""
    top = int(cells[0]["level"].max())
    for level, colour in level_colours(top).items():
        found = [variant_stats(rows, [level]) for rows in cells]
        before = float((found[0].initial / found[0].ceiling).mean())
        axes.axhline(before, color=colour, linestyle=":", linewidth=1)
        label = f"{level}" if level < top else f"{level}, the root"
        shares = [f.value / f.ceiling for f in found]
        band(axes, places, shares, color=colour, label=label, **MARKED)
