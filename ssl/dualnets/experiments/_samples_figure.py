"""The figure of the samples experiment: growth by level over P, method by method; spread and rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dualnets.ablation import fared
from dualnets.evidence import mean_interval
from dualnets.figures import WIDTH, house_style, level_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(methods: Mapping[str, Any]) -> Figure:
    """A column per method: share of the ceiling by level, above; spread and rank of the embedding, below.

    Args:
        methods: name -> `samples.Learned`.
    """
    import matplotlib.pyplot as plt

    with house_style():
        figure, axes = plt.subplots(
            2, len(methods), figsize=(WIDTH, 5.6), height_ratios=(1.0, 0.6), sharex="col",
            sharey="row", squeeze=False, layout="constrained",
        )  # fmt: skip
        for column, (name, learned) in enumerate(methods.items()):
            _levels(axes[0, column], learned)
            _collapse(axes[1, column], learned)
            axes[0, column].set_title(f"{'abcdefgh'[column % 8]}  {name}")
        axes[0, 0].set_ylabel("best |correlation| / ceiling")
        axes[1, 0].set_ylabel("spread; rank / units")
        axes[0, 0].legend(ncols=2, fontsize=7, title="level of the latents", title_fontsize=7)
        axes[1, 0].legend(fontsize=7)
        plt.close(figure)
    return figure


def _places(learned: Any) -> tuple[list[float], list[Any], list[str]]:
    """Where cells stand on the axis, the cells, and their labels; fresh data stand last."""
    places = [float(size) for size in learned.samples]
    cells, labels = [*learned.fixed], [f"{size}" for size in learned.samples]
    if learned.fresh is not None:
        places.append(places[-1] * 8 if places else 1.0)
        cells.append(learned.fresh)
        labels.append("fresh")
    return places, cells, labels


def _levels(axes: Any, learned: Any) -> None:
    """A line per level with its 95% band; dashed where it stood before training."""
    places, cells, _ = _places(learned)
    top = int(cells[0]["level"].max())
    for level, colour in level_colours(top).items():
        found = [fared(rows, [level]) for rows in cells]
        shares = [mean_interval(f.value / f.ceiling) for f in found]
        before = float((found[0].initial / found[0].ceiling).mean())
        axes.axhline(before, color=colour, linestyle=":", linewidth=0.9)
        axes.fill_between(places, [s.low for s in shares], [s.high for s in shares], color=colour,
                          alpha=0.15, linewidth=0)  # fmt: skip
        axes.plot(places, [s.value for s in shares], "o-", color=colour, markersize=3.5,
                  label=f"{level}" if level < top else f"{level}, the root")  # fmt: skip


def _collapse(axes: Any, learned: Any) -> None:
    """Spread and rank over units."""
    places, cells, labels = _places(learned)
    found = [fared(rows) for rows in cells]
    units = float(cells[0]["units"].iloc[0]) if "units" in cells[0] else 1.0
    for values, label, colour in (
        ([f.spread for f in found], "spread", "0.25"),
        ([f.rank / units for f in found], "effective rank / units", "#c1666b"),
    ):
        means = [mean_interval(v) for v in values]
        axes.plot(places, [m.value for m in means], "o-", color=colour, markersize=3, label=label)
        axes.fill_between(places, [m.low for m in means], [m.high for m in means], color=colour,
                          alpha=0.15, linewidth=0)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(places, labels, rotation=45 if len(places) > 6 else 0)
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.set_xlabel("samples P")
