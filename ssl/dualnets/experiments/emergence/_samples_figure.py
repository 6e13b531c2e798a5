"""The figure of the samples experiment: growth by level over P, method by method; spread and rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dualnets.lab.report.style import WIDTH, house_style, level_colours
from dualnets.lab.stats import Array, mean_interval
from dualnets.lab.variants import variant_stats

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def draw(methods: Mapping[str, Any]) -> Figure:
    """A column per method: share of the ceiling by level; spread and effective rank of the embedding.

    Args:
        methods: name -> `samples.Learned`.
    """
    import matplotlib.pyplot as plt

    with house_style():
        figure, axes = plt.subplots(
            3, len(methods), figsize=(WIDTH, 6.4), height_ratios=(1.0, 0.4, 0.4), sharex="col",
            sharey="row", squeeze=False, layout="constrained",
        )  # fmt: skip
        for column, (name, learned) in enumerate(methods.items()):
            places, cells, labels = _places(learned)
            found = [variant_stats(rows) for rows in cells]
            _levels(axes[0, column], places, cells)
            _band(axes[1, column], places, [f.spread for f in found], "#3a6ea5")
            _band(axes[2, column], places, [f.rank for f in found], "#c1666b")
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
        plt.close(figure)
    return figure


def _places(learned: Any) -> tuple[list[float], list[pd.DataFrame], list[str]]:
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
        _band(axes, places, [f.value / f.ceiling for f in found], colour, label)


def _band(
    axes: Any, places: list[float], values: list[Array], colour: Any, label: str = ""
) -> None:
    """Means over trees with their 95% intervals."""
    means = [mean_interval(each) for each in values]
    axes.fill_between(places, [m.low for m in means], [m.high for m in means], color=colour,
                      alpha=0.15, linewidth=0)  # fmt: skip
    axes.plot(places, [m.value for m in means], "o-", color=colour, markersize=3.5, label=label)
