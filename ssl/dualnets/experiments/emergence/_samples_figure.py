"""The figure of the experiment on samples: invariance by level over P, and the samples needed over m."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dualnets.experiments.emergence._samples_needed import KINDS, Learned, learned, published
from dualnets.experiments.emergence.samples import CLASS, LEAF
from dualnets.lab.report.intervals import band
from dualnets.lab.report.style import WIDTH, level_colours
from dualnets.lab.time_to_threshold import median_time

MARKED: dict[str, Any] = {"marker": "o", "markersize": 3.5}
STYLES = {CLASS: "-", LEAF: "--"}
PUBLISHED = {CLASS: "class (○): $n_c m^L$", LEAF: "leaf (◇): $v m^{2l-1}/(1-m/v)$"}


def draw(table: pd.DataFrame) -> Figure:
    """A panel per kind of training with the fewest rules, and one of the samples needed over m."""
    found = sorted(learned(table), key=lambda own: (KINDS.index(own.kind), own.rules))
    fewest = {own.kind: own for own in reversed(found)}
    shown = [fewest[kind] for kind in KINDS if kind in fewest]
    figure, axes = plt.subplots(
        1, len(shown) + 1, figsize=(WIDTH, 3.4), width_ratios=[1] * len(shown) + [1.3],
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for own, panel, letter in zip(shown, axes[0], "abcd", strict=False):
        _curves(panel, own)
        panel.set_title(f"{letter}  {own.kind}, m = {own.rules}")
        if panel is not axes[0, 0]:
            panel.sharey(axes[0, 0])
            panel.tick_params(labelleft=False)
    axes[0, 0].set_ylabel("invariance to synonyms")
    _needed(axes[0, -1], [own for own in found if own.kind in STYLES and own.complete])
    axes[0, -1].set_title(f"{'abcde'[len(shown)]}  samples needed")
    first, last = (panel.get_legend_handles_labels() for panel in (axes[0, 0], axes[0, -1]))
    entries = [one + other for one, other in zip(first, last, strict=True)]
    figure.legend(*entries, loc="outside lower center", ncols=6, fontsize=7)
    return figure


def _curves(axes: Any, own: Learned) -> None:
    """A line per level with its 95% band over the sizes of the set; fresh samples stand last."""
    far = 8.0 * max(own.samples, default=1)
    for level, colour in _colours(own.levels).items():
        before = {"label": "before training"} if level == own.levels[-1] else {}
        axes.axhline(own.initial[level].mean(), color=colour, linestyle=":", linewidth=1, **before)
        if own.samples:
            values = list(own.fixed[level].T)
            band(axes, own.samples, values, color=colour, label=f"level {level}", **MARKED)
        if own.fresh:
            mark = {"label": "fresh samples"} if level == own.levels[-1] else {}
            axes.plot(far, own.fresh[level].mean(), "s", color=colour, markersize=4, **mark)
    axes.set(xscale="log", xlabel="samples P", ylim=(-0.05, 1.05))


def _needed(axes: Any, found: list[Learned]) -> None:
    """The samples needed with their 95% intervals, and the published powers of m; arrows where censored."""
    for own in found:
        for level, colour in _colours(own.levels).items():
            needed = median_time(own.needed(level))
            at = own.rules * (1 + 0.03 * level * (1 if own.kind == LEAF else -1))
            top, most = min(needed.high, 2.0 * own.samples[-1]), own.samples[-1]
            mark = {CLASS: "o", LEAF: "D"}[own.kind] if np.isfinite(needed.value) else "^"
            axes.plot([at, at], [max(needed.low, own.samples[0]), top], color=colour, lw=1)
            axes.plot(at, min(needed.value, most), mark, color=colour, markersize=4)
    for kind, style in STYLES.items():
        same = [each for each in found if each.kind == kind]
        for level in same[0].levels[: 1 if kind == CLASS else None] if same else []:
            colour = "0.5" if kind == CLASS else _colours(same[0].levels)[level]
            label = PUBLISHED[kind] if level == same[0].levels[0] else None
            numbers = [published(each, level) for each in same]
            axes.plot(
                [each.rules for each in same], numbers, style, color=colour, lw=1, label=label
            )
    axes.set(xscale="log", yscale="log", xlabel="rules per symbol m")
    if found:
        rules = sorted({own.rules for own in found})
        axes.set_xticks(rules, [str(m) for m in rules])
        axes.minorticks_off()


def _colours(levels: list[int]) -> dict[int, Any]:
    return {
        level: colour for level, colour in level_colours(max(levels) + 1).items() if level in levels
    }
