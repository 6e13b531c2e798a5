"""A heatmap of units by latents: which unit follows which latent, and how far below its ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hltm._names import PLAIN, brief
from hltm.probe.layer import Layer
from hltm.tree import LatentTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 64  # units, and latents, up to which each has its name; a page has room for no more
BAND = 200  # lines of the picture for all other units
MARKED = "#d6604d"  # the best unit of a latent; it stands out on the blues
NAME = 24  # characters of a name that is shown; a longer one lacks its middle
ROW, COLUMN = 0.115, 0.3  # inches of a named unit and of a latent, where there is room


class _Shown(NamedTuple):
    """Which units of a layer have a line and a name each, and which share the band below."""

    named: np.ndarray
    rest: np.ndarray
    bands: np.ndarray  # the band of each of the rest


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

    Of more than 64 units, 64 have a name: the best candidates of the latents, then in turns the next
    best above their null. The others follow in the same order in a band without names, where a line
    is the mean of neighbours if there are more than 200. The figure is at most a page high.

    Args:
        layer, tree: from `probe_layers`, and the tree given to it.
        member: the place of a member, counted from 0.
        metric: a metric of the layer; its first by default.
        title: a line above the figure.

    Raises:
        TypeError: anything but a `Layer`.
        ValueError: a metric or a member that the layer does not have, or another tree.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> draw = tree.sample(2000, seed=1)
        >>> layer = hltm.probe.probe_layers(draw.leaves.float(), tree, draw=draw, lags=20)["activations"]
        >>> heatmap_figure(layer, tree).savefig("/dev/null", format="png")
    """
    if not isinstance(layer, Layer):
        raise TypeError(
            f"expected a Layer, one of those that probe_layers returns, got {type(layer).__name__}"
        )
    if layer.nodes and [tree.topology.names[v] for v in layer.nodes] != layer.names:
        raise ValueError("the layer was measured on another tree: its latents have other names")
    name = next(iter(layer.scores)) if metric is None else metric
    if name not in layer.scores:
        raise ValueError(f"the layer has no metric {name!r}, expected {', '.join(layer.scores)}")
    score = layer.scores[name]
    if not 0 <= member < len(score.strength):
        raise ValueError(f"member must be in 0..{len(score.strength) - 1}, got {member}")

    from hltm._figures import Figure

    strength = _of_pairs(layer, score.strength[member].numpy())
    alone = len(strength) == len(layer.allowed)  # otherwise one number for all units together
    dead = layer.dead[member].numpy() if alone else np.zeros(1, dtype=bool)
    below = score.units_below_null[member].numpy() if alone else dead
    candidates = layer.allowed.numpy() if alone else np.ones_like(strength, dtype=bool)
    best = score.unit[member].numpy()
    bound = np.full(len(layer.names), np.nan)
    if name in layer.ceilings:
        bound = layer.ceilings[name].value[member].numpy()
    low, limit = _limits(score.kind.strength_range, strength, bound)
    shown = chosen_units(np.where(candidates, strength, -np.inf), best, dead | below, dead)

    # inches: the summary, the named units, the band, and what titles and names of latents take
    latents = len(layer.names)
    width = float(np.clip(COLUMN * latents, 3.5, 9.5)) + 2.0
    heights = [1.2, max(ROW * len(shown.named), 1.2), 1.4][: 2 + (len(shown.rest) > 0)]
    figure = Figure(figsize=(width, sum(heights) + 1.3), dpi=110, layout="constrained")
    above, main, *band = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    colours: dict[str, Any] = {
        "aspect": "auto", "cmap": "Blues", "vmin": low, "vmax": limit, "interpolation": "nearest",
    }  # fmt: skip
    image = main.imshow(strength[shown.named], **colours)
    _frames(main, best, shown.named, np.arange(len(shown.named)))
    _names_of_units(main, layer, shown.named, dead)
    if band:
        _band(band[0], strength, shown, dead, colours)
        _frames(band[0], best, shown.rest, shown.bands)
    _names_of_latents(figure.axes[-1], layer)
    for axes in (main, *band):
        _lines_between_levels(axes, layer)
    _summary(above, score.best[member].numpy(), score.null[member].numpy(), bound, low, limit)
    bar = figure.colorbar(image, ax=figure.axes[:], fraction=0.03, pad=0.02, aspect=45)
    bar.set_label(brief(name.replace("_", " ")), **PLAIN)
    bar.outline.set_visible(False)
    line = title or f"layer {layer.label}, {name.replace('_', ' ')}, n = {layer.samples}"
    figure.suptitle(
        brief(line, int(11 * width)), x=0.01, ha="left", fontsize=10, fontweight="bold", **PLAIN
    )
    return figure


def _limits(
    known: tuple[float, float | None], strength: np.ndarray, bound: np.ndarray
) -> tuple[float, float]:
    """The ends of the scale: those of the metric, or what is shown where it has none."""
    low = min(known[0], float(np.nanmin(strength)))  # a user's function may be negative
    if known[1] is not None:
        return low, known[1]
    return low, max(float(np.nanmax(strength)), *bound[np.isfinite(bound)].tolist(), low + 1e-9)


def _of_pairs(layer: Layer, strength: np.ndarray) -> np.ndarray:
    """`(U, T)`, or `(1, T)` of all units together; blocks `(V, U, T)` along the diagonal."""
    if strength.ndim == 2:
        return strength
    if strength.shape[-2] == 1 != len(layer.allowed) // layer.blocks:
        return strength.reshape(1, -1)
    full = np.full(layer.allowed.shape, np.nan)
    full[layer.allowed.numpy()] = strength.ravel()
    return full


def sorted_units(strength: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """`(U,)` units by the latent that they follow best, the best first; those that never vary last."""
    return np.lexsort((-strength.max(-1), strength.argmax(-1), dead))


def chosen_units(
    strength: np.ndarray, best: np.ndarray, below: np.ndarray, dead: np.ndarray
) -> _Shown:
    """The units that have names, and the bands of the others, all in the order of `sorted_units`.

    Args:
        strength: `(U, T)`, minus infinity where a unit is no candidate.
        best: `(T,)` the best candidate of each latent.
        below: `(U,)` whether a unit is at or below its null.
        dead: `(U,)` whether it never varies.
    """
    order = sorted_units(strength, dead)
    units = len(order)
    if units <= NAMED:
        return _Shown(order, order[:0], order[:0])
    # a unit's turn: its place among those that follow the same latent best; 0 for best candidates
    turn = np.zeros(units, dtype=int)
    follows = strength.argmax(-1)
    for t in range(strength.shape[1]):
        own = order[follows[order] == t]
        turn[own] = np.arange(1, len(own) + 1)
    turn[best] = 0
    turn[below] += units  # only where nothing else is left
    first = np.lexsort((-strength.max(-1), turn))[:NAMED]
    named = np.isin(order, first)
    rest = order[~named]
    return _Shown(order[named], rest, np.arange(len(rest)) * min(len(rest), BAND) // len(rest))


def _frames(axes: Axes, best: np.ndarray, units: np.ndarray, lines: np.ndarray) -> None:
    """A frame around the best candidate of every latent, where it is among these units."""
    from matplotlib.patches import Rectangle

    place = dict(zip(units.tolist(), lines.tolist(), strict=True))
    for t, unit in enumerate(best.tolist()):
        if unit in place:
            corner = (t - 0.5, place[unit] - 0.5)
            frame = Rectangle(corner, 1, 1, fill=False, edgecolor=MARKED, linewidth=1.2)
            frame.set_clip_on(False)  # at the edge of the panel half of its line would be lost
            axes.add_patch(frame)


def _names_of_units(axes: Axes, layer: Layer, units: np.ndarray, dead: np.ndarray) -> None:
    """A name for each line."""
    own = layer.blocks > 1
    size = len(layer.allowed) // layer.blocks
    blocks = [brief(name, NAME) for name in layer.names[:: len(layer.names) // layer.blocks]]
    shown = [
        (f"{blocks[u // size]}:{u % size}" if own else str(u)) + (" dead" if dead[u] else "")
        for u in units
    ]
    if len(dead) < len(layer.allowed):
        shown = ["all"]
    axes.set_yticks(range(len(units)), shown, fontsize=7, **PLAIN)
    axes.set_ylabel("latent:unit of its block" if own else "unit", fontsize=9)
    axes.tick_params(length=2)


def _band(
    axes: Axes, strength: np.ndarray, shown: _Shown, dead: np.ndarray, colours: dict[str, Any]
) -> None:
    """All other units: the mean strength of neighbours where there are more than lines."""
    counts = np.bincount(shown.bands)
    sums = np.zeros((len(counts), strength.shape[1]))
    np.add.at(sums, shown.bands, np.nan_to_num(strength[shown.rest]))
    axes.imshow(sums / counts[:, None], **colours)
    axes.set_yticks([])
    never = int(dead[shown.rest].sum())
    text = f"{len(shown.rest):,} other units" + (f",\n{never:,} of them dead" if never else "")
    axes.set_ylabel(text, fontsize=8)


def _names_of_latents(axes: Axes, layer: Layer) -> None:
    """Names below the last panel: all of them where there is room, otherwise at equal distances."""
    names = [brief(name, NAME) for name in layer.names]
    step = -(-len(names) // NAMED)
    turned = 90 if len(names) > 32 or max(map(len, names)) > 2 else 0
    axes.set_xticks(range(0, len(names), step), names[::step], fontsize=7, rotation=turned, **PLAIN)
    levels = dict.fromkeys(layer.levels)
    axes.set_xlabel(f"latent (level {' | '.join(map(str, levels))})", fontsize=9)
    axes.tick_params(length=2)


def _lines_between_levels(axes: Axes, layer: Layer) -> None:
    levels = layer.levels
    for t in range(1, len(levels)):
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
    frame = Rectangle((0, 0), 1, 1, fill=False, edgecolor=MARKED, label="best unit's cell")
    handles = [*axes.get_legend_handles_labels()[0], frame]
    axes.set_ylim(low, top * 1.05)
    axes.tick_params(labelbottom=False, length=2, labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        handles=handles, fontsize=7, frameon=False, ncols=4 if len(best) > 10 else 2,
        loc="lower left", bbox_to_anchor=(0, 0.98), borderpad=0,
    )  # fmt: skip
