"""Batches of activations and the rows that they were computed on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.posterior import posterior
from hltm.probe.sources.containers import Label as Label
from hltm.probe.sources.open_source import BatchAxis, open_source
from hltm.probe.sources.rows import Rowed
from hltm.sampling.draw import Draw
from hltm.tree import LatentTree

ROWS = 4096  # of a batch
KEPT = 1 << 25  # posterior probabilities that are kept at most


class ActivationBatch(NamedTuple):
    """Activations of all layers, and the rows that they were computed on.

    Attributes:
        shown: layer -> `(S, U, B)` where all latents share the layer, `(S, V, U, B)` where each
            latent of a level has its own block of units.
        rectified: the same as the next layer reads them; None for a source without `rectify`.
        draw: the rows, with the states of all nodes.
        other: other, independent rows, for the null; None without lags.
    """

    shown: dict[Label, Tensor]
    rectified: dict[Label, Tensor] | None
    draw: Draw
    other: Draw | None


def batches(
    source: Any,
    tree: LatentTree,
    draw: Rowed | None,
    samples: int | None,
    seed: int | None,
    lags: int,
    batch_axis: BatchAxis | None = None,
    size: Callable[[], int] = lambda: ROWS,
    *,
    by_position: bool = False,
) -> Iterator[ActivationBatch]:
    """Rows in order, in batches long enough to be shifted by all lags.

    Args:
        size: gives the number of rows that the next batch should have.
        by_position: whether layers are `(S, X, U, B)` vectors at positions, as in `Source`.

    Raises:
        ValueError: errors of `open_source`, fewer rows than twice the lags, or a layer whose units
            change from batch to batch.
    """
    opened = open_source(
        source, tree, draw=draw, samples=samples, seed=seed, batch_axis=batch_axis,
        by_position=by_position,
    )  # fmt: skip
    total, least = opened.rows.total, max(2 * lags, 2)
    if total < least:
        raise ValueError(f"{lags} lags need at least {least} rows, got {total}")
    widths: dict[Label, torch.Size] = {}
    for rows in row_ranges(total, least, size):
        now = opened.rows.draw(rows)
        other = opened.rows.draw(rows, other=True) if lags else None
        shown, rectified = opened.read_both(rows, now.states_SVB[:, tree.leaves.start :])
        for label, values in shown.items():
            own = values.shape[:-1]
            if widths.setdefault(label, own) != own:
                before, now_has = tuple(widths[label][1:]), tuple(own[1:])
                raise ValueError(
                    f"layer {label!r:.60} changed from {before} to {now_has} units between batches of rows"
                )
        yield ActivationBatch(shown, rectified, now, other)


def row_ranges(total: int, least: int, size: Callable[[], int] = lambda: ROWS) -> Iterator[range]:
    """Consecutive rows 0 .. total - 1 in batches, none of them shorter than `least`.

    Args:
        size: gives the number of rows that the next batch should have.

    Example:
        >>> list(row_ranges(10_000, least=400))
        [range(0, 4096), range(4096, 8192), range(8192, 10000)]
        >>> list(row_ranges(8_200, least=400))
        [range(0, 4096), range(4096, 8200)]
    """
    start = 0
    while start < total:
        stop = min(start + max(size(), least), total)
        if total - stop < least:
            stop = total  # the last rows would make a batch that is too short
        yield range(start, stop)
        start = stop


def one_layer(labels: Collection[Label], layer: Label | None) -> Label:
    """The layer that was chosen, or the only one there is.

    Raises:
        ValueError: a layer that is not there, or several without a choice.
    """
    if layer is None and len(labels) > 1:
        raise ValueError(f"the source has layers {list(labels)!r:.200}: choose one with layer=")
    if layer is not None and layer not in labels:
        raise ValueError(f"the source has layers {list(labels)!r:.200}, got layer={layer!r:.60}")
    return next(iter(labels)) if layer is None else layer


def block_nodes(label: Label, tree: LatentTree) -> list[int]:
    """The latents of the level that a layer's label is the number of; none for any other label."""
    level = isinstance(label, int) and 0 < label <= tree.topology.depth
    return list(tree.level(int(label))) if level else []


class Posteriors:
    """Exact posteriors of batches of rows.

    Args:
        tree: of the latents.
        keep: whether to keep them, up to 256 MB, for another pass over the same rows.
    """

    def __init__(self, tree: LatentTree, *, keep: bool = False) -> None:
        self.tree, self.room = tree, KEPT if keep else 0
        self.kept: list[tuple[bool, Tensor, Tensor]] = []  # own leaves or all, leaves, posteriors

    def of(self, draw: Draw, *, own: bool) -> Tensor:
        """`(S, L, K, B)` float64 P(latent | its own leaves, or all leaves) of all latents."""
        leaves = draw.states_SVB[:, self.tree.leaves.start :]
        for kind, rows, found in self.kept:
            if kind == own and rows.device == leaves.device and torch.equal(rows, leaves):
                return found
        found = self._computed(leaves, own)
        if found.numel() <= self.room:
            self.room -= found.numel()
            self.kept.append((own, leaves, found))
        return found

    def _computed(self, leaves: Tensor, own: bool) -> Tensor:
        tables, nodes = self.tree.tables, np.arange(self.tree.leaves.start)
        found = []
        for s in range(len(leaves)):
            one = tables.take([s if tables.count > 1 else 0])
            rows = leaves[s : s + 1].long()
            found.append(posterior(one, rows, nodes, own=own).marginals)
        return torch.cat(found)
