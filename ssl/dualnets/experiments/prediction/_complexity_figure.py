"""The figure of the experiment on complexity: shares learned over the size of the set, and samples over m."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dualnets.experiments.prediction._complexity import Learned, learned
from dualnets.experiments.prediction.complexity import LABEL, OBJECTIVES
from dualnets.lab.report.intervals import band
from dualnets.lab.report.style import WIDTH, level_colours
from dualnets.lab.time_to_threshold import median_time

MARKS = dict(zip(OBJECTIVES, "oDs^v", strict=True))


def draw(table: pd.DataFrame) -> Figure:
    """A panel per objective with each level's share over P, at the fewest rules; two of samples over m."""
    found = sorted(
        learned(table), key=lambda own: (list(OBJECTIVES).index(own.objective), own.rules)
    )
    hierarchical = [own for own in found if own.rules > 1] or found
    fewest = {own.objective: own for own in reversed(hierarchical)}
    control = [own for own in found if own.rules == 1]
    shown = [fewest[name] for name in OBJECTIVES if name in fewest] + control
    colours = level_colours(max(own.depth for own in found))
    figure = plt.figure(figsize=(WIDTH, 6.6), layout="constrained")
    columns = max(3, -(-(len(shown) + 1) // 2))
    grid = figure.add_gridspec(2, columns)
    first = None
    for at, own in enumerate(shown):
        axes = figure.add_subplot(grid[divmod(at, columns)], sharey=first)
        _shares(axes, own, colours)
        axes.set_title(f"{'abcdefghijk'[at]}  {own.name}")
        if at % columns:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("share learned (95% bands)")
        first = first or axes
    axes = figure.add_subplot(grid[len(shown) // columns, len(shown) % columns :])
    _needed(axes, found, colours)
    axes.set_title(f"{'abcdefghijk'[len(shown)]}  samples needed")
    figure.legend(handles=_keys(found, colours), loc="outside lower center", ncols=6)
    return figure


def _shares(axes: Any, own: Learned, colours: dict[int, Any]) -> None:
    """A line per level with its 95% band; half of a level, and all of it."""
    for level, best in own.best.items():
        band(axes, own.samples, list(best.T), color=colours[level], marker="o", markersize=3.5)
    axes.axhline(0.5, color="0.3", lw=0.8, ls=":")
    axes.axhline(1, color="0.6", lw=0.8)
    axes.set(xscale="log", xlabel="samples P", ylim=(-1.0, 1.1))


def _needed(axes: Any, found: list[Learned], colours: dict[int, Any]) -> None:
    """Samples needed with their 95% intervals; triangles where more than the largest set; published lines."""
    for place, objective in enumerate(OBJECTIVES):
        cells = [own for own in found if own.objective == objective and len(own.samples) > 1]
        for own in cells:
            for level in own.best:
                time = median_time(own.needed(level))
                most = own.samples[-1]
                at = own.rules * (1 + 0.03 * (place - 2) + 0.008 * level)
                ends = [max(time.low, own.samples[0]), min(time.high, 2.0 * most)]
                if np.isfinite(time.low):
                    axes.plot([at, at], ends, color=colours[level], lw=1)
                known = bool(np.isfinite(time.value))
                style = {
                    "mfc": colours[level] if known else "none",
                    "mec": colours[level],
                    "ms": 4.5,
                }
                axes.plot(at, min(time.value, 2.0 * most), MARKS[objective], **style)
    for objective, dashes in ((LABEL, "-"), (list(OBJECTIVES)[1], "--")):
        same = [own for own in found if own.objective == objective and own.rules > 1]
        for level in same[0].best if same else []:
            numbers = [own.published(level) for own in same]
            axes.plot([own.rules for own in same], numbers, dashes, color=colours[level], lw=1)
    rules = sorted({own.rules for own in found})
    axes.set(xscale="log", yscale="log", xlabel="rules per symbol m")
    axes.set_xticks(rules, [str(m) for m in rules])
    axes.minorticks_off()


def _keys(found: list[Learned], colours: dict[int, Any]) -> list[Any]:
    """The key of all panels."""
    levels = sorted({level for own in found for level in own.best})
    keys = [Line2D([], [], color=colours[level], label=f"level {level}") for level in levels]
    names = [name for name in OBJECTIVES if any(own.objective == name for own in found)]
    keys += [
        Line2D([], [], color="0.3", ls="", marker=MARKS[name], ms=4.5, label=name) for name in names
    ]
    plain: dict[str, Any] = {"color": "0.3", "lw": 1}
    return [
        *keys,
        Line2D(
            [],
            [],
            color="0.3",
            marker="o",
            mfc="none",
            ls="",
            ms=4.5,
            label="more than the largest",
        ),
        Line2D([], [], ls=":", label="half", **plain),
        Line2D([], [], ls="-", label="published, label", **plain),
        Line2D([], [], ls="--", label="published, leaves", **plain),
    ]
