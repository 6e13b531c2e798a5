"""The figure of `lucky`: chances by width, level and depth, best selectivity, what one lucky unit does."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.theorems import _lucky_rules as rules
from dualnets.experiments.theorems.lucky import BORN, GRAFT, SIBLINGS
from dualnets.lab.report.intervals import band, bars
from dualnets.lab.report.style import AFTER, BEFORE, CEILING, WIDTH, level_colours, plain_log
from dualnets.lab.stats import Estimate, mean_interval

GREY = "#777777"
TWINS = {"lucky": AFTER, "unlucky": BEFORE}
OUTPUTS = {False: {"color": "#0072b2", "fmt": "o"}, True: {"color": "#cc79a7", "fmt": "s"}}


def draw(table: pd.DataFrame) -> Figure:
    """Luck before training on top, below it what one lucky unit does, per polarity."""
    groups = list(table.groupby("polarity_low"))
    figure = plt.figure(figsize=(WIDTH, 6.9 * len(groups)), layout="constrained")
    blocks = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    for block, (low, rows) in zip(blocks, groups, strict=True):
        if len(groups) > 1:
            block.suptitle(f"polarity >= {low:g}")
        upper, lower = block.subfigures(2, 1)
        born = rows[rows["test"] == BORN]
        if len(born):
            _born(upper, born, letters)
        _trained(lower, rows, letters)
    return figure


def _born(figure: Any, rows: pd.DataFrame, letters: Any) -> None:
    by_width, by_depth, best = figure.subplots(1, 3)
    deepest = rows[rows["depth"] == rows["depth"].max()]
    colours = level_colours(int(deepest["level"].max()))
    _chances(by_width, deepest, colours)
    _roots(by_depth, rows)
    _selectivity(best, deepest, colours)
    by_width.set_title(f"{next(letters)}  chance of luck, depth {deepest['depth'].iloc[0]}")
    by_depth.set_title(f"{next(letters)}  the root's, by depth")
    best.set_title(f"{next(letters)}  best |s| before training")
    _legend(figure, "outside lower center", by_width, by_depth)


def _trained(figure: Any, rows: pd.DataFrame, letters: Any) -> None:
    curves, ratios, ranks = figure.subplots(1, 3)
    graft = list(rules.trained(rows, GRAFT))
    if graft:
        plain = [cell for cell in graft if not cell[0]] or graft
        _, _, units, part = plain[len(plain) // 2]
        _copies(curves, part)
        curves.set_title(f"{next(letters)}  one unit exchanged, {units} units")
        made = {n: [(u, rules.times(p).ratio()) for m, _, u, p in graft if m == n] for n in OUTPUTS}
        _by_outputs(ratios, made)
        ratios.axhline(1, color=GREY, lw=1, ls=(0, (4, 2)))
        plain_log(ratios, base=2)
        ratios.set_ylabel("updates to the goal, unlucky / lucky")
        ratios.set_title(f"{next(letters)}  is the lucky copy sooner?")
    siblings = list(rules.trained(rows, SIBLINGS))
    if siblings:
        found = {
            n: [(u, mean_interval(rules.rank_correlations(p))) for m, _, u, p in siblings if m == n]
            for n in OUTPUTS
        }
        _by_outputs(ranks, found)
        ranks.axhline(0, color=GREY, lw=1, ls=(0, (4, 2)))
        ranks.set_ylabel("rank correlation of luck and speed")
        ranks.set_title(f"{next(letters)}  networks of one tree")
    _legend(figure, "outside lower left", curves)
    _legend(figure, "outside lower right", ranks, ratios)


def _legend(figure: Any, place: str, *panels: Axes) -> None:
    """What panels have in their keys, each once, below them, where it covers nothing."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, word in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(word, handle)
    if found:
        figure.legend([*found.values()], [*found], loc=place, ncols=len(found), handlelength=1.4)


def _copies(axes: Axes, rows: pd.DataFrame) -> None:
    """The mean alignment of both copies along training, and the ceiling."""
    for twin, colour in TWINS.items():
        curves = rows[rows["twin"] == twin].pivot(index="member", columns="step", values="value")
        band(axes, curves.columns + 1, curves.to_numpy().T, color=colour, lw=1.8,
             label=f"with the {twin} unit")  # fmt: skip
    axes.axhline(rows["ceiling"].mean(), color=CEILING, lw=1.2, label="ceiling")
    axes.set_xscale("log")
    axes.set(xlabel="updates + 1", ylabel="root's |correlation|, outputs as they are")
    if rows["normalize"].iloc[0]:
        axes.set_ylabel("root's |correlation|, outputs of length 1")


def _by_outputs(axes: Axes, found: dict[bool, list[tuple[int, Estimate]]]) -> None:
    """Estimates by width; an infinite one or 0, of copies that never reach the goal, is an arrow."""
    sizes = sorted({units for each in found.values() for units, _ in each})
    for shift, (normalize, each) in zip((-0.1, 0.1), found.items(), strict=True):
        label = f"outputs {rules.OUTPUTS[normalize]}"
        for units, estimate in each:
            at = sizes.index(units) + shift
            ends = [end for end in estimate[:3] if np.isfinite(end) and end != 0]
            if not ends:
                if estimate.n and not np.isnan(estimate.value):
                    mark, edge = ("v", 0.04) if estimate.value == 0 else ("^", 0.96)
                    style: dict[str, Any] = {
                        "color": OUTPUTS[normalize]["color"],
                        "ms": 7,
                        "label": label,
                    }
                    axes.plot([at], [edge], mark, transform=axes.get_xaxis_transform(), **style)
                    label = ""
                continue
            value, low, high = (
                end if np.isfinite(end) else max(ends) * 1.3 for end in estimate[:3]
            )
            low = low if low != 0 else min(ends)
            bars(axes, [at], [Estimate(value, low, high, estimate.n)], ms=5, lw=1.3, **OUTPUTS[normalize],
                 label=label)  # fmt: skip
            label = ""
            if np.isinf(estimate.high):
                axes.plot([at], [high], "^", ms=6, color=OUTPUTS[normalize]["color"])
    axes.set_xticks(range(len(sizes)), [str(units) for units in sizes])
    axes.set_xlim(-0.5, len(sizes) - 0.5)
    axes.set_xlabel("units per latent")
    axes.grid(axis="x", visible=False)


def _shades(rows: pd.DataFrame) -> dict[int, Any]:
    """A colour per width."""
    sizes = sorted(rows["units"].unique())
    return dict(zip(sizes, plt.get_cmap("plasma")(np.linspace(0.05, 0.8, len(sizes))), strict=True))


def _counted(
    axes: Axes, groups: Any, colour: Any, *, line: str = "", points: str = "", aside: float = 0.0
) -> None:
    """The predicted share of latents with a lucky unit as a line, the counted one with its 95% range."""
    counted, predicted = groups["lucky"].mean(), groups["predicted"].mean()
    # the standard error of a share whose chances are known
    error = groups["predicted"].apply(lambda p: (p * (1 - p)).sum() ** 0.5 / len(p))
    axes.plot(predicted.index, predicted, color=colour, lw=1.5, label=line)
    axes.errorbar(counted.index + aside, counted, yerr=1.96 * error, fmt="o", ms=4.5, lw=1,
                  color=colour, label=points)  # fmt: skip
    axes.set_ylim(-0.03, 1.03)


def _by_width(axes: Axes, rows: pd.DataFrame) -> None:
    axes.set_xscale("log")
    sizes = sorted(rows["units"].unique())
    axes.set_xticks(sizes, [str(u) for u in sizes])
    axes.minorticks_off()
    axes.set_xlabel("units per latent")


def _chances(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    for level, part in rows.groupby("level"):
        _counted(axes, part.groupby("units"), colours[int(level)], line=f"level {level}")
    _by_width(axes, rows)
    axes.set_ylabel("latents with a lucky unit")
    axes.plot([], [], color=GREY, lw=1.5, label="predicted")
    axes.plot([], [], "o", color=GREY, ms=4.5, label="counted, 95% range")


def _roots(axes: Axes, rows: pd.DataFrame) -> None:
    """Roots of trees of several depths, one colour per width."""
    shades = _shades(rows)
    for i, (units, part) in enumerate(rows[rows["level"] == rows["depth"]].groupby("units")):
        aside = (i - (len(shades) - 1) / 2) * 0.06
        label = f"b: {units} units"
        _counted(axes, part.groupby("depth"), shades[int(units)], points=label, aside=aside)
    depths = sorted(rows["depth"].unique())
    axes.set(xticks=depths, xlim=(depths[0] - 0.4, depths[-1] + 0.4), xlabel="depth of the tree",
             ylabel="roots with a lucky unit")  # fmt: skip


def _selectivity(axes: Axes, rows: pd.DataFrame, colours: dict[int, object]) -> None:
    for level, part in rows.groupby("level"):
        found = part.groupby("units")[["luck", "luck_predicted"]].mean()
        colour = colours[int(level)]
        axes.plot(found.index, found["luck_predicted"], color=colour, lw=1.5)
        axes.plot(found.index, found["luck"], "o", ms=4.5, color=colour)
    plain_log(axes)
    _by_width(axes, rows)
    axes.set_ylabel("best |selectivity|, mean over latents")
