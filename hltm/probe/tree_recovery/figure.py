"""A figure of a recovered tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hltm.plot import NAMED, positions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG = "#666666", "#d6604d"


def recovered_figure(found: Any, title: str | None = None) -> Figure:
    """The tree of a `Recovered`, root on top; depth is the length from the root.

    Edges whose splits the true tree has are grey, the others red.
    """
    from hltm._figures import Figure

    topology = found.topology
    across, lengths = positions(topology), found.lengths.numpy()
    depth = np.zeros(len(topology))
    for v in range(1, len(topology)):
        depth[v] = depth[topology.parent[v]] + lengths[v]
    width = float(np.clip(0.3 * len(topology.leaves), 5.0, 22))
    figure = Figure(figsize=(width, 4.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for right, colour in ((True, RIGHT), (False, WRONG)):
        for v in range(1, len(topology)):
            if bool(found.right[v]) == right:
                p = topology.parent[v]
                axes.plot(
                    [across[p], across[v], across[v]], [depth[p], depth[p], depth[v]],
                    color=colour, linewidth=1.6, solid_capstyle="round",
                )  # fmt: skip
        axes.plot([], [], color=colour, label="true split" if right else "not a true split")
    if len(topology.leaves) <= NAMED:
        for v in topology.leaves:
            name = topology.names[v].replace("$", r"\$")
            axes.annotate(
                name, (across[v], depth[v]), (0, -3), textcoords="offset points", ha="center",
                va="top", fontsize=7, rotation=90 if len(name) > 3 else 0,
            )  # fmt: skip
    axes.invert_yaxis()
    axes.margins(y=0.12)
    axes.set_xticks([])
    axes.set_ylabel("length from the root")
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="lower left")
    score = f"{found.missing} splits missing, {found.wrong} wrong: {found.normalised:.2f}"
    score += f", null {found.null:.2f}"
    axes.set_title(title or score, loc="left", fontsize=8)
    return figure
