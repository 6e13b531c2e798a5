"""Figures of a tree: its shape, the strength of every edge, and a value of every node by colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hltm._names import PLAIN, brief
from hltm.model.moments import edge_correlation, maximal_correlation
from hltm.model.nodes import Node
from hltm.model.topology import Topology
from hltm.tree import LatentTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 24  # characters of a name that is shown; a longer one lacks its middle
NAMED = 64  # with more leaves than this, their names would not be legible
NEGATIVE, POSITIVE, UNSIGNED = "#2166ac", "#d6604d", "#444444"


def tree_figure(
    tree: LatentTree,
    *,
    values: Mapping[Node, float] | Sequence[float] | np.ndarray | None = None,
    label: str = "value",
    limits: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """A figure of one tree: root on top, leaves at the bottom, no edge crosses another.

    The width of an edge is the strength of the correlation of child and parent: in a binary tree, red
    for a positive and blue for a negative one; otherwise grey, for their maximal correlation.

    Args:
        tree: one tree, of up to a few hundred nodes; take a member of stacked trees.
        values: a number per node that sets its colour, `(V,)` or node -> number; nodes with NaN and
            nodes left out stay white.
        label: the name of the values, beside their colour scale.
        limits: the ends of the values' scale; by default their smallest and largest.
        title: a line above.

    Raises:
        ValueError: stacked trees, another number of values than of nodes, or limits out of order.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> bound = tree.ceiling(tree.latents).value
        >>> figure = tree_figure(tree, values=dict(zip(tree.latents, bound)), label="ceiling")
        >>> figure.savefig("/dev/null", format="png")
    """
    if tree.stacked:
        raise ValueError(f"a figure shows one tree, got {len(tree)}: choose one, e.g. trees[0]")
    topology = tree.topology
    shown = _values(topology, values)
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"limits must be (low, high) with low < high, got {limits}")

    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from hltm._figures import Figure

    across = positions(topology)
    widest = max(len(topology.leaves), 6)
    coloured = bool(np.isfinite(shown).any())
    size = (
        float(np.clip(0.34 * widest, 5.5, 22)) + coloured,
        float(np.clip(0.75 * topology.depth, 2.0, 14)) + 1.2,
    )
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.add_subplot()
    room = min(size[0] / widest, (size[1] - 1.2) / topology.depth) * 72  # points between nodes
    _edges(axes, tree, across, room)
    scale = None
    if coloured:
        low, high = limits or (float(np.nanmin(shown)), float(np.nanmax(shown)))
        scale = ScalarMappable(Normalize(low, high if high > low else low + 1), "viridis")
    _nodes(axes, topology, across, shown, scale, room)
    if scale is not None:
        bar = figure.colorbar(scale, ax=axes, fraction=0.03, pad=0.02, aspect=25)
        bar.set_label(label, **PLAIN)
        bar.outline.set_visible(False)
    axes.set_axis_off()
    axes.set_xlim(-0.7, across.max() + 0.7)
    axes.set_ylim(-0.35, topology.depth + 0.35)
    if title:
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", **PLAIN)
    return figure


def positions(topology: Topology) -> np.ndarray:
    """`(V,)` horizontal places: leaves 0, 1, … in depth-first order, a latent midway over its children."""
    across = np.zeros(len(topology))
    waiting, leaf = [0], 0
    while waiting:
        v = waiting.pop()
        children = topology.children[v]
        if len(children) == 0:
            across[v] = leaf
            leaf += 1
        waiting.extend(int(c) for c in children[::-1])
    for v in reversed(topology.latents):
        below = across[topology.children[v]]
        across[v] = (below.min() + below.max()) / 2
    return across


def strengths(tree: LatentTree) -> np.ndarray:
    """`(V,)` the correlation of every node with its parent; their maximal correlation, which has no sign,
    if some node has more than two states.
    """
    if tree.tables.binary:
        return edge_correlation(tree.tables)[0].detach().numpy()
    found = np.ones(len(tree.topology))
    for v in range(1, len(found)):
        ends = np.array([tree.topology.parent[v]]), np.array([v])
        found[v] = float(maximal_correlation(tree.tables, *ends)[0, 0, 0].detach())
    return found


def _values(topology: Topology, values: Any) -> np.ndarray:
    """`(V,)` values, NaN where there is none."""
    shown = np.full(len(topology), np.nan)
    if isinstance(values, Mapping):
        for node, value in values.items():
            shown[topology.node(node)] = float(value)
    elif values is not None:
        if len(values) != len(topology):
            raise ValueError(f"expected {len(topology)} values, one per node, got {len(values)}")
        shown[:] = np.asarray(values, dtype=float)
    return shown


def _edges(axes: Axes, tree: LatentTree, across: np.ndarray, room: float) -> None:
    """Edges as lines; one that skips levels slants down one level and is then vertical, so none cross."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    topology = tree.topology
    strength = strengths(tree)
    lines, colours, widths = [], [], []
    for v in range(1, len(topology)):
        p = int(topology.parent[v])
        turn = topology.level[p] - 1
        path = [(across[p], topology.level[p]), (across[v], turn), (across[v], topology.level[v])]
        lines.append(path)
        sign = (POSITIVE if strength[v] >= 0 else NEGATIVE) if tree.tables.binary else UNSIGNED
        size = float(abs(strength[v]))
        colours.append(_fade(sign, size))
        widths.append(0.4 + min(3.0, room / 6) * size)
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=widths, zorder=1))
    named = {POSITIVE: "positive", NEGATIVE: "negative"}
    if not tree.tables.binary:
        named = {UNSIGNED: "maximal correlation with the parent"}
    handles = [
        Line2D([], [], color=colour, linewidth=3, label=name) for colour, name in named.items()
    ]
    title = "correlation with the parent" if tree.tables.binary else None
    left = across[0] > across.max() / 2  # the root is right of the middle: this corner is free
    axes.legend(
        handles=handles, title=title, loc="upper left" if left else "upper right", frameon=False,
        fontsize=7, title_fontsize=7, alignment="left", handlelength=1.4, borderpad=0,
    )  # fmt: skip


def _fade(colour: str, strength: float) -> tuple[float, ...]:
    """A mixture of pale grey (strength 0) and the colour (strength 1)."""
    from matplotlib.colors import to_rgb

    share = 0.15 + 0.85 * strength
    return tuple(share * c + (1 - share) * 0.85 for c in to_rgb(colour))


def _nodes(
    axes: Axes, topology: Topology, across: np.ndarray, shown: np.ndarray, scale: Any, room: float
) -> None:
    """Latents as discs, leaves as squares; names where there is room."""
    fill = np.ones((len(topology), 4))
    if scale is not None:
        known = np.isfinite(shown)
        fill[known] = scale.to_rgba(shown[known])
    width = float(np.clip(0.62 * room, 2.5, 20))  # points
    for nodes, marker, size in (
        (list(topology.latents), "o", width),
        (list(topology.leaves), "s", 0.55 * width),
    ):
        axes.scatter(
            across[nodes], topology.level[nodes], s=size**2, c=fill[nodes], marker=marker,
            edgecolors="#333333", linewidths=0.6, zorder=3,
        )  # fmt: skip
    names = [brief(name, LONGEST) for name in topology.names]
    longest = max(map(len, names))
    if len(topology.leaves) <= NAMED:
        turned = longest > 3
        for v in topology.leaves:
            axes.annotate(
                names[v], (across[v], 0), (0, -0.5 * width - 1), fontsize=7, ha="center", va="top",
                textcoords="offset points", rotation=90 if turned else 0, **PLAIN,
            )  # fmt: skip
    if width >= 9 and longest <= 3:
        for v in topology.latents:
            dark = fill[v, :3] @ [0.3, 0.59, 0.11] < 0.5
            axes.annotate(
                names[v], (across[v], topology.level[v]), ha="center", va="center", zorder=4,
                fontsize=min(8.0, 0.5 * width), color="white" if dark else "black", **PLAIN,
            )  # fmt: skip
