"""The figure of `byol_linear`: what is conserved, modes, and the phase diagram of collapse."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dualnets.experiments.byol._byol_linear import CONSERVED, EDGE, MODE, PHASE, collapsed
from dualnets.experiments.byol.byol_linear import EXACT
from dualnets.lab.report.style import WIDTH

SURVIVES, LOST, DARK = "#21918c", "#b3392f", "#1d1d1f"


def draw(table: pd.DataFrame) -> Figure:
    """Paths on top, one phase diagram per predictor rate below."""
    phase = table[table["quantity"] == PHASE]
    rates = sorted(phase["predictor_rate"].unique())
    paths = (table["quantity"] == CONSERVED).any()
    figure = plt.figure(figsize=(WIDTH, 3.3 * (bool(paths) + bool(rates))), layout="constrained")
    blocks = figure.subfigures(int(paths) + bool(rates), 1, squeeze=False)[:, 0]
    if paths:
        left, right = blocks[0].subplots(1, 2)
        _drift(left, table)
        _modes(right, table)
    if rates:
        panels = blocks[-1].subplots(1, len(rates), sharey=True, squeeze=False)[0]
        for i, (axes, rate) in enumerate(zip(panels, rates, strict=True)):
            _diagram(axes, table, rate)
            letter = "abcdefghij"[2 * int(paths) + i]
            axes.set_title(f"{letter}  predictor rate {rate:g}")
            if i == 0:
                axes.set_ylabel("weight decay")
                handles, words = axes.get_legend_handles_labels()
        blocks[-1].legend(handles, words, loc="outside lower center", ncols=4)
    return figure


def _drift(axes: Axes, table: pd.DataFrame) -> None:
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
    axes.set_title("a  conserved along the equations, nearly along SGD")


def _modes(axes: Axes, table: pd.DataFrame) -> None:
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
        f"b  modes: decay {first['decay']:g}, predictor rate {first['predictor_rate']:g}"
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
    rows = own[own["quantity"] == PHASE].join(edges.set_index(keys)["x"], on=keys)
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
