"""The figure of `byol_linear`: what is conserved, modes, alignment, and the phase diagram of collapse."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.byol._byol_linear import CONSERVED, EDGE, MODE, PHASE, collapsed
from dualnets.experiments.byol._byol_linear_alignment import ALIGNMENT
from dualnets.experiments.byol.byol_linear import EXACT
from dualnets.lab.report.style import WIDTH
from dualnets.lab.stats import last_step, mean_interval

SURVIVES, LOST, DARK = "#21918c", "#b3392f", "#1d1d1f"


def draw(table: pd.DataFrame) -> Figure:
    """Paths on top, alignment below, one phase diagram per predictor rate at the bottom; what was run."""
    phase = table[table["quantity"] == PHASE]
    rates = sorted(phase["predictor_rate"].unique())
    aligned = table[table["quantity"] == ALIGNMENT]
    kinds = list(aligned["data"].unique())
    paths = (table["quantity"] == CONSERVED).any()
    count = int(paths) + bool(kinds) + bool(rates)
    figure = plt.figure(figsize=(WIDTH, 3.3 * count), layout="constrained")
    blocks = iter(figure.subfigures(count, 1, squeeze=False)[:, 0])
    letters = iter("abcdefghij")
    if paths:
        left, right = next(blocks).subplots(1, 2)
        _drift(left, table, next(letters))
        _modes(right, table, next(letters))
    if kinds:
        panels = next(blocks).subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            _alignment(axes, aligned[aligned["data"] == kind])
            axes.set_title(f"{next(letters)}  predictor's eigenspaces, {kind} data")
        panels[0].set_ylabel("alignment with inputs' correlation")
        panels[-1].legend(loc="lower right")
    if rates:
        block = next(blocks)
        panels = block.subplots(1, len(rates), sharey=True, squeeze=False)[0]
        for i, (axes, rate) in enumerate(zip(panels, rates, strict=True)):
            _diagram(axes, table, rate)
            axes.set_title(f"{next(letters)}  predictor rate {rate:g}")
            if i == 0:
                axes.set_ylabel("weight decay")
                handles, words = axes.get_legend_handles_labels()
        block.legend(handles, words, loc="outside lower center", ncols=4)
    return figure


def _alignment(axes: Axes, rows: pd.DataFrame) -> None:
    """Means over networks with their 95% intervals, the null dashed, the theorem's end dotted."""
    shades = plt.get_cmap("viridis")(np.linspace(0.1, 0.7, rows["predictor_rate"].nunique()))
    for colour, (rate, own) in zip(shades, rows.groupby("predictor_rate"), strict=True):
        found = {
            time: mean_interval(part["value"].to_numpy()) for time, part in own.groupby("time")
        }
        times = np.array(list(found)) + 1
        mean, low, high = (np.array([getattr(e, of) for e in found.values()])
                           for of in ("value", "low", "high"))  # fmt: skip
        axes.plot(times, mean, color=colour, lw=1.5, label=f"predictor rate {rate:g}")
        axes.fill_between(times, low, high, color=colour, alpha=0.15, lw=0)
        null = own.groupby("time")["null"].mean().to_numpy()
        axes.plot(
            times, null, color=colour, lw=1, ls=(0, (4, 2)), label=f"random bases, rate {rate:g}"
        )
    axes.axhline(1, color="#777777", lw=1, ls=":")
    axes.set(xscale="log", xlabel="time + 1", ylim=(0, 1.03))


def _drift(axes: Axes, table: pd.DataFrame, letter: str) -> None:
    rows = table[(table["quantity"] == CONSERVED) & (table["time"] > 0)]
    styles = {
        "integrated": (DARK, "equations, integrated"),
        "sgd lr / 1": ("#e07b39", "SGD"),
        "sgd lr / 2": ("#31688e", "SGD, half the rate"),
    }
    for source, part in rows.groupby("source"):
        colour, words = styles[str(source)]
        for i, (_, own) in enumerate(part.groupby("cell")):
            line = own.groupby("time")["value"].max()
            axes.plot(line.index, line, color=colour, lw=1.3, label=words if i == 0 else None)
    axes.set_yscale("log")
    axes.axhline(EXACT, color="#777777", lw=1, ls=(0, (4, 2)))
    axes.annotate("bound of the rule", (0.02, 1.6 * EXACT), xycoords=("axes fraction", "data"), ha="left",
                  fontsize=8, color="#777777")  # fmt: skip
    axes.set(xlabel="time", ylabel="relative change of $e^{2ηt} D(t)$")
    axes.legend(loc="center right")
    axes.set_title(f"{letter}  conserved along the equations, nearly along SGD")


def _modes(axes: Axes, table: pd.DataFrame, letter: str) -> None:
    rows = table[table["quantity"] == MODE]
    cells = list(rows.groupby("cell", sort=False))
    rows = cells[-1][1]
    shades = plt.get_cmap("viridis")(np.linspace(0.1, 0.85, rows["mode"].nunique()))
    for colour, (mode, part) in zip(shades, rows.groupby("mode"), strict=True):
        axes.plot(part["time"], part["predicted"], color=colour, lw=1.5,
                  label="mode by mode" if mode == 0 else None)  # fmt: skip
        axes.plot(part["time"], part["value"], "o", ms=3.5, color=colour,
                  label="matrix equations" if mode == 0 else None)  # fmt: skip
    first = rows.iloc[0]
    axes.set(xlabel="time", ylabel="predictor's eigenvalues")
    axes.legend(loc="lower right")
    axes.set_title(
        f"{letter}  modes: decay {first['decay']:g}, predictor rate {first['predictor_rate']:g}"
    )


def _diagram(axes: Axes, table: pd.DataFrame, rate: float) -> None:
    """Every mode of every network with its own edge; modes of one target rate are sorted by their edges."""
    own = table[table["predictor_rate"] == rate]
    keys = ["target_rate", "member", "mode"]
    edges = own[own["quantity"] == EDGE].sort_values([*keys[:1], "value"])
    order = edges.groupby("target_rate").cumcount()
    width = edges.groupby("target_rate")["value"].transform("size")
    aside = 0.8 * ((order + 0.5) / width - 0.5)  # decades
    edges = edges.assign(x=edges["target_rate"] * 10**aside)
    rows = last_step(own[own["quantity"] == PHASE]).join(edges.set_index(keys)["x"], on=keys)
    gone = collapsed(rows)
    for lost, colour, word in ((False, SURVIVES, "mode survives"), (True, LOST, "mode is lost")):
        part = rows[gone == lost]
        axes.scatter(part["x"], part["step_decay"], s=3.5, color=colour, lw=0, zorder=3)
        axes.scatter([], [], s=24, color=colour, lw=0, label=word)
    for i, (_, part) in enumerate(edges.groupby("target_rate")):
        axes.plot(part["x"], part["value"], color=DARK, lw=1.6, zorder=4,
                  label="predicted separatrix" if i == 0 else None)  # fmt: skip
    most = edges["predicted"].iloc[0]
    axes.axhline(most, color="#777777", lw=1, ls=(0, (4, 2)), label="no fixed point above")
    axes.set(xscale="log", yscale="log")
    rates = sorted(edges["target_rate"].unique())
    axes.set_xticks(rates, [f"{value:g}" for value in rates])
    axes.minorticks_off()
    axes.set_xlabel("target rate (starts, by their edges)")
