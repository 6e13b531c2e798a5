"""A heatmap of units by latents: which unit follows which latent, and how far below its ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hltm.probe.layer import Layer
from hltm.tree import LatentTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 80  # rows or columns up to which each has its name
MARKED = "#d6604d"  # the best unit of a latent; it stands out on the blues


def heatmap_figure(
    layer: Layer,
    tree: LatentTree,
    *,
    member: int = 0,
    metric: str | None = None,
    title: str | None = None,
) -> Figure:
    """A figure of units by latents: the strength of every pair, each latent's ceiling and best unit.

    Latents run from the root to the lowest level; units are sorted by the latent that they follow
    best, then by how well, so a layer of specific units shows a staircase; constant units come
    last. The best candidate of a latent has a frame. The panel above shows for each latent its
    ceiling (a black line), its null (a dotted line) and its best candidate (a bar).

    Args:
        layer, tree: from `probe_layers`, and the tree given to it.
        member: the place of a member, counted from 0.
        metric: a metric of the layer; its first by default.
        title: a line above the figure.

    Raises:
        ValueError: a metric or a member that the layer does not have.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> draw = tree.sample(2000, seed=1)
        >>> layer = hltm.probe.probe_layers(draw.leaves.float(), tree, draw=draw, lags=20)["activations"]
        >>> heatmap_figure(layer, tree).savefig("/dev/null", format="png")
    """
    name = next(iter(layer.scores)) if metric is None else metric
    if name not in layer.scores:
        raise ValueError(f"the layer has no metric {name!r}, expected {', '.join(layer.scores)}")
    score = layer.scores[name]
    if not 0 <= member < len(score.strength):
        raise ValueError(f"member must be in 0..{len(score.strength) - 1}, got {member}")

    from matplotlib.figure import Figure

    strength = score.strength[member].numpy()
    dead = layer.dead[member].numpy()
    order = sorted_units(strength, dead)
    bound = np.full(len(layer.nodes), np.nan)
    if name in layer.ceilings:
        bound = layer.ceilings[name].value[member].numpy()
    units, targets = strength.shape
    width, height = np.clip(0.3 * targets, 3.5, 16) + 2.2, np.clip(0.16 * units, 2.2, 13) + 2.4
    figure = Figure(figsize=(float(width), float(height)), dpi=110, layout="constrained")
    above, main = figure.subplots(2, 1, sharex=True, height_ratios=[1.2, max(height - 2.4, 2.2)])
    low, limit = score.kind.strength_range
    if limit is None:
        limit = max(float(np.nanmax([strength.max(), *bound[np.isfinite(bound)]])), low + 1e-9)
    image = main.imshow(
        strength[order], aspect="auto", cmap="Blues", vmin=low, vmax=limit, interpolation="nearest"
    )
    _frames(main, layer, score.unit[member].numpy(), order)
    _axes(main, layer, tree, order, dead)
    _summary(above, score.best[member].numpy(), score.null[member].numpy(), bound, low, limit)
    bar = figure.colorbar(image, ax=[above, main], fraction=0.05, pad=0.02, aspect=30)
    bar.set_label(name.replace("_", " "))
    bar.outline.set_visible(False)
    shown = title or f"layer {layer.label}, {name.replace('_', ' ')}, n = {layer.samples}"
    figure.suptitle(shown, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def sorted_units(strength: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """`(U,)` units by the latent that they follow best, the best first; those that never vary last."""
    return np.lexsort((-strength.max(-1), strength.argmax(-1), dead))


def _frames(axes: Axes, layer: Layer, best: np.ndarray, order: np.ndarray) -> None:
    """A frame around the best candidate of every latent."""
    from matplotlib.patches import Rectangle

    place = np.argsort(order)
    for t, unit in enumerate(best):
        corner = (t - 0.5, place[unit] - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=MARKED, linewidth=1.4))


def _axes(axes: Axes, layer: Layer, tree: LatentTree, order: np.ndarray, dead: np.ndarray) -> None:
    """Names of units and latents where there is room, and lines between levels."""
    targets = len(layer.nodes)
    size = len(order) // targets
    own = layer.candidates == "own block"
    names = [tree.topology.names[v] for v in layer.nodes]
    if len(order) <= NAMED:
        shown = [
            (f"{names[u // size]}:{u % size}" if own else str(u)) + (" dead" if dead[u] else "")
            for u in order
        ]
        axes.set_yticks(range(len(order)), shown, fontsize=7)
    else:
        axes.set_yticks([])
    axes.set_ylabel("latent:unit of its block" if own else "unit", fontsize=9)
    levels = [int(tree.topology.level[v]) for v in layer.nodes]
    if targets <= NAMED:
        turned = 90 if max(map(len, names)) > 2 else 0
        axes.set_xticks(range(targets), names, fontsize=7, rotation=turned)
    else:
        axes.set_xticks([])
    listed = " | ".join(map(str, dict.fromkeys(levels)))
    axes.set_xlabel(f"latent (level {listed})", fontsize=9)
    axes.tick_params(length=2)
    for t in range(1, targets):
        if levels[t] != levels[t - 1]:
            axes.axvline(t - 0.5, color="black", linewidth=0.8)


def _summary(
    axes: Axes, best: np.ndarray, null: np.ndarray, bound: np.ndarray, low: float, top: float
) -> None:
    """Best candidate, null and ceiling of every latent."""
    from matplotlib.patches import Rectangle

    across = np.arange(len(best))
    axes.bar(across, best - low, bottom=low, width=0.7, color="#6baed6", label="best unit")
    ends = across - 0.45, across + 0.45
    if np.isfinite(bound).any():
        axes.hlines(bound, *ends, colors="black", linewidth=1.3, label="ceiling")
    if np.isfinite(null).any():
        axes.hlines(null, *ends, colors="black", linestyles=":", linewidth=1.3, label="null")
    frame = Rectangle((0, 0), 1, 1, fill=False, edgecolor=MARKED, label="which it is")
    handles = [*axes.get_legend_handles_labels()[0], frame]
    axes.set_ylim(low, top * 1.05)
    axes.tick_params(labelbottom=False, length=2, labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        handles=handles, fontsize=7, frameon=False, ncols=2, loc="lower left",
        bbox_to_anchor=(0, 0.98), borderpad=0,
    )  # fmt: skip
