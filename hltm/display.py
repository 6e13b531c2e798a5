"""What notebooks show of a tree: a small picture as SVG, and a table of its first nodes."""

from __future__ import annotations

from html import escape

import numpy as np

from hltm._results import table_html
from hltm.plot import NEGATIVE, POSITIVE, positions, strengths
from hltm.tree import LatentTree

ROWS = 8  # nodes in the table
PICTURED = 64  # leaves of a tree that is still legible as a picture
ACROSS, DOWN = 26, 44  # pixels between neighbouring leaves, and between levels


def tree_html(tree: LatentTree) -> str:
    """The tree's text, a picture if it is small, and a table of its first nodes, as HTML.

    Example:
        >>> import hltm
        >>> html = tree_html(hltm.symmetric_binary(depth=2, seed=0))
        >>> html.count("<circle"), html.count("<rect"), html.count("<tr>")
        (3, 4, 8)
    """
    small = len(tree.leaves) <= PICTURED and len(tree.topology) <= 4 * PICTURED
    return f"<div>{escape(repr(tree))}<br>{_picture(tree) if small else ''}{_table(tree)}</div>"


def _table(tree: LatentTree) -> str:
    topology = tree.topology
    lines: list[tuple[str, ...]] = [("number", "name", "parent", "level", "states")]
    for v in range(min(ROWS, len(topology))):
        above = topology.names[topology.parent[v]] if v else ""
        numbers = (topology.level[v], tree.tables.cardinality[v])
        lines.append((str(v), topology.names[v], above, *map(str, numbers)))
    if len(topology) > ROWS:
        lines.append(("…",) * 5)
    return table_html(lines)


def _picture(tree: LatentTree) -> str:
    """Latents as discs, leaves as squares; the width of an edge is the strength of its correlation.

    Edges without a sign have the colour of the text, which is legible on a dark page, too.
    Of stacked trees only the shape is drawn. Every node's name shows when the pointer rests on it.
    """
    topology = tree.topology
    x = ACROSS * (positions(topology) + 0.7)
    y = DOWN * (topology.depth - topology.level + 0.4)
    strength = np.ones(len(topology)) if tree.stacked else strengths(tree)
    signed = tree.tables.binary and not tree.stacked
    parts = []
    for v in range(1, len(topology)):
        p = topology.parent[v]
        colour = (POSITIVE if strength[v] >= 0 else NEGATIVE) if signed else "currentColor"
        size = float(np.nan_to_num(abs(strength[v])))
        # an edge that skips levels slants down one level and is then vertical, so none cross
        bend = f"{x[v]:.1f},{y[p] + DOWN:.1f}"
        parts.append(
            f'<polyline points="{x[p]:.1f},{y[p]:.1f} {bend} {x[v]:.1f},{y[v]:.1f}" fill="none" '
            f'stroke="{colour}" stroke-width="{0.5 + 3 * size:.2f}" stroke-opacity="{0.2 + 0.8 * size:.2f}"/>'
        )
    for v, name in enumerate(topology.names):
        style = f'fill="white" stroke="#333"><title>{escape(name)}</title>'
        if v in topology.leaves:
            parts.append(
                f'<rect x="{x[v] - 5:.1f}" y="{y[v] - 5:.1f}" width="10" height="10" {style}</rect>'
            )
        else:
            parts.append(f'<circle cx="{x[v]:.1f}" cy="{y[v]:.1f}" r="8" {style}</circle>')
    wide, high = f"{x.max() + 0.7 * ACROSS:.0f}", f"{DOWN * (topology.depth + 0.8):.0f}"
    extent = f'width="{wide}" height="{high}" viewBox="0 0 {wide} {high}"'
    narrow = 'style="max-width:100%;height:auto"'  # a phone shows the whole tree
    return f'<svg xmlns="http://www.w3.org/2000/svg" {extent} {narrow}>{"".join(parts)}</svg><br>'
