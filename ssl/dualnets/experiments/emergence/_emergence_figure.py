"""The figure of `emergence`: alignment over training, gap closed, the root's distribution, one tree."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec

from dualnets.experiments.emergence._emergence import by_level, diverged, groups
from dualnets.lab.ratios import gap_closed
from dualnets.lab.report.intervals import band, bars
from dualnets.lab.report.style import AFTER, BEFORE, CEILING, WIDTH, level_colours
from dualnets.lab.stats import last_step
from dualnets.lab.variants import PRE
from hltm.model.topology import Topology
from hltm.plot import positions

DENSE = "mlp"
NOTE: dict[str, Any] = {"fontsize": 7, "color": "#555555"}
DASHED: dict[str, Any] = {"color": "#777777", "lw": 1, "ls": (0, (4, 2))}
ACROSS = ("axes fraction", "data")


def draw(table: pd.DataFrame) -> Figure:
    """Alignment over training, gap closed, the root, one tree: two rows per group of settings."""
    parts = list(groups(table))
    figure = plt.figure(figsize=(WIDTH, 6.6 * len(parts)), layout="constrained")
    blocks = figure.subfigures(len(parts), 1, squeeze=False)[:, 0]
    for block, (setting, main, control) in zip(blocks, parts, strict=True):
        if setting:
            text = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in setting.items())
            block.suptitle(text, fontsize=11, fontweight="bold", x=0.01, ha="left")
        _block(block, main, control)
    return figure


def _block(block: Any, main: pd.DataFrame, control: pd.DataFrame) -> None:
    grid = block.add_gridspec(2, 1, height_ratios=[1.12, 1])
    colours = level_colours(int(main["level"].max()))
    panels = []
    for network, title in (("tree", "tree network"), (DENSE, "dense network")):
        rows = main[main["network"] == network]
        if len(rows):
            units = rows["units"].max()
            panels.append((rows[rows["units"] == units], f"{title}, {units} units"))
    tree_control = control[control["network"] == "tree"] if len(control) else control
    idle = tree_control if len(tree_control) else control
    if len(idle):
        rows = idle[idle["units"] == idle["units"].max()]
        panels.append((rows, "control: views share nothing"))
    top = GridSpecFromSubplotSpec(1, len(panels), grid[0])
    first: Axes | None = None
    for i, (rows, title) in enumerate(panels):
        axes = block.add_subplot(top[i], sharey=first)
        _over_training(axes, by_level(rows, step=None), colours, f"{'abc'[i]}  {title}")
        if first is None:
            first = axes
            axes.set_ylabel("best |correlation| with a latent")
            axes.legend(loc="lower right", ncols=2, columnspacing=1.0, handlelength=1.4)
        else:
            axes.tick_params(labelleft=False)
    below = GridSpecFromSubplotSpec(1, 3, grid[1], width_ratios=[1, 1, 1.25])
    letters = "abcdefg"[len(panels) :]
    last = by_level(main)
    _gap_by_units(block.add_subplot(below[0]), last, colours, letters[0])
    by_units = block.add_subplot(below[1])
    _root_by_units(by_units, last, letters[1])
    # below the panels, where no value can be
    handles, words = by_units.get_legend_handles_labels()
    block.legend(handles, words, loc="outside lower center", ncols=4, handletextpad=0.4)
    tree = main[main["network"] == "tree"]
    shown = tree if len(tree) else main
    shown = shown[shown["units"] == shown["units"].max()]
    _one_tree(block, below[2], shown, letters[2])


def _over_training(axes: Axes, rows: pd.DataFrame, colours: dict[int, Any], title: str) -> None:
    """Best |correlation| by level against steps, with ceilings and null, of trees that did not diverge."""
    steps = np.array(sorted(rows["step"].unique()), dtype=float)
    lost, trees = diverged(rows[rows["step"] == steps[-1]])
    if lost:
        title += f"\n{lost} of {trees} trees diverged"
        finite = np.isfinite(rows["value"]).groupby([rows["cell"], rows["member"]]).transform("all")
        rows = rows[finite] if finite.any() else rows
    for level, part in rows.groupby("level"):
        label = f"level {level}" + (" (root)" if level == rows["level"].max() else "")
        over = [at["value"].to_numpy() for _, at in part.groupby("step")]
        band(axes, steps, over, color=colours[level], alpha=0.18, lw=1.8, label=label)
        ceiling = part["ceiling"].mean()
        axes.plot(
            [1.005, 1.04], [ceiling, ceiling], color=colours[level], lw=2.2,
            transform=axes.get_yaxis_transform(), clip_on=False,
        )  # fmt: skip
    above: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "va": "bottom"}
    axes.annotate("ceilings", (1.04, 0.985), **above, **NOTE)
    null = rows["null"].mean()
    axes.axhline(null, **DASHED)
    axes.annotate("null", (0.01, null), xycoords=ACROSS, va="bottom", **NOTE)
    over_updates(axes, steps[-1])
    axes.set(ylim=(0, 1.0), xlabel="updates", title=title)


def over_updates(axes: Axes, last: float) -> None:
    """A horizontal axis of updates from 0 to the last, logarithmic from 1."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    powers = 10 ** np.arange(0, np.floor(np.log10(max(last, 1))) + 1)
    axes.set_xticks([0, *powers], ["0", *(f"{int(p):,}".replace(",", " ") for p in powers)])
    axes.minorticks_off()
    axes.set_xlim(0, max(last, 1))


def _gap_by_units(axes: Axes, last: pd.DataFrame, colours: dict[int, Any], letter: str) -> None:
    """Gap closed against units, levels from 2 up."""
    kinds = _kinds(last)
    upper = sorted(level for level in last["level"].unique() if level >= 2)
    by_kind = last.groupby(["network", "units", "level"])
    for i, level in enumerate(upper):
        shift = (i - (len(upper) - 1) / 2) * 0.13
        parts = [by_kind.get_group((*kind, level)) for kind in kinds]
        found = [
            gap_closed(*(part[c].to_numpy() for c in ("initial", "value", "ceiling")))
            for part in parts
        ]
        place = np.arange(len(kinds)) + shift
        style = {"color": colours[level], "label": f"level {level}"}
        bars(axes, place, found, fmt="o", ms=4.5, lw=1.2, **style)
    axes.axhline(0, color="#777777", lw=1)
    axes.axhline(1, color="#777777", lw=1, ls=(0, (1, 2)))
    axes.annotate("ceiling", (0.99, 1), xycoords=ACROSS, ha="right", va="bottom", **NOTE)
    axes.annotate("untrained", (0.99, 0), xycoords=ACROSS, ha="right", va="top", **NOTE)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1.5), max(min(high, 1.5), 1.15))
    axes.set_xticks(range(len(kinds)), _kind_labels(kinds))
    axes.set(xlabel="units", ylabel="gap closed")
    axes.grid(axis="x", visible=False)
    axes.set_title(f"{letter}  gap closed, by width")


def _root_by_units(axes: Axes, last: pd.DataFrame, letter: str) -> None:
    """The root's alignment tree by tree, before and after."""
    root = last[last["level"] == last["level"].max()]
    kinds = _kinds(root)
    by_kind = root.groupby(["network", "units"])
    tree_by_tree(axes, [by_kind.get_group(kind) for kind in kinds], _kind_labels(kinds))
    axes.set(xlabel="units", ylabel="best |correlation| with the root")
    axes.set_title(f"{letter}  the root, tree by tree")


def tree_by_tree(axes: Axes, parts: list[pd.DataFrame], names: list[str]) -> None:
    """Values of trees before and after training, a place per part, with mean ceilings and nulls."""
    rng = np.random.default_rng(0)
    for i, part in enumerate(parts):
        jitter = rng.uniform(-0.08, 0.08, len(part))
        left, right = i - 0.2 + jitter, i + 0.2 + jitter
        axes.plot(
            [left, right], [part["initial"], part["value"]], color="#cccccc", lw=0.6, zorder=1
        )
        for x, name, colour, label in (
            (left, "initial", BEFORE, "before"),
            (right, "value", AFTER, "after"),
        ):
            axes.scatter(x, part[name], s=12, color=colour, lw=0, zorder=2,
                         label=label if i == 0 else None)  # fmt: skip
        for name, style in (("ceiling", {"color": CEILING, "lw": 1.4}), ("null", DASHED)):
            axes.plot([i - 0.38, i + 0.38], [part[name].mean()] * 2, **style,
                      label=f"mean {name}" if i == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(parts)), names)
    axes.set(xlim=(-0.5, len(parts) - 0.5), ylim=(0, 1.02))
    axes.grid(axis="x", visible=False)


def _one_tree(block: Any, place: Any, rows: pd.DataFrame, letter: str) -> None:
    """The tree of median gain, its latents coloured by alignment over ceiling, before and after."""
    scored = rows[rows["metric"] == PRE]
    ends = last_step(scored)
    gain = (ends["value"] - ends["initial"]).groupby(ends["member"]).mean().sort_values()
    finite = gain.dropna() if gain.notna().any() else gain
    member = int(finite.index[len(finite) // 2])
    one = scored[scored["member"] == member]
    first = one.iloc[0]
    topology = Topology.balanced(int(first["depth"]), int(first["branching"]))
    across = positions(topology)
    grid = GridSpecFromSubplotSpec(2, 2, place, width_ratios=[1, 0.035], hspace=0.12, wspace=0.04)
    scale = ScalarMappable(Normalize(0.4, 1), "viridis")
    for i, (step, when) in enumerate(((0, "before"), (int(first["steps"]), "after"))):
        axes = block.add_subplot(grid[i, 0])
        at = one[one["step"] == step]
        ratio = dict(zip(at["node"], at["value"] / at["ceiling"], strict=True))
        for v in range(1, len(topology)):
            p = topology.parent[v]
            axes.plot(
                [across[p], across[v]], [topology.level[p], topology.level[v]],
                color="#cccccc", lw=0.7, zorder=1,
            )  # fmt: skip
        leaves = list(topology.leaves)
        axes.scatter(across[leaves], topology.level[leaves], s=4, color="#999999", zorder=2, lw=0)
        latents = list(topology.latents)
        shades = scale.to_rgba(np.array([min(ratio[topology.names[v]], 1.0) for v in latents]))
        axes.scatter(
            across[latents], topology.level[latents], s=62 if len(latents) < 64 else 20, c=shades,
            edgecolors="#333333", linewidths=0.5, zorder=3, clip_on=False,
        )  # fmt: skip
        axes.margins(0.05, 0.12)  # the circles of the root and of the leaves are whole
        axes.set_axis_off()
        axes.text(0.0, 0.93, when, transform=axes.transAxes, fontsize=9, va="top")
        if i == 0:
            axes.set_title(f"{letter}  the tree of median gain: alignment / ceiling")
    bar = block.colorbar(scale, cax=block.add_subplot(grid[:, 1]), extend="min")
    bar.outline.set_visible(False)


def _kinds(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """Network and units of the cells, dense networks last."""
    kinds = rows.groupby(["network", "units"]).groups
    return sorted(kinds, key=lambda kind: (kind[0] == DENSE, kind[1]))


def _kind_labels(kinds: list[tuple[str, int]]) -> list[str]:
    return [f"{units}\n{'dense' if network == DENSE else network}" for network, units in kinds]
