"""Batches of activations with the latents of the same rows, from arrays or from a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.posterior import posterior
from hltm.probe.containers import Label as Label
from hltm.probe.rows import Rowed
from hltm.probe.sources import BatchAxis, open_source
from hltm.tree import LatentTree

ROWS = 4096  # of a batch; the first batch also sets the edges of histograms


class ActivationBatch(NamedTuple):
    """Activations of all layers and states of the same rows.

    Attributes:
        shown: layer -> `(S, U, B)` where all latents share the layer, `(S, V, U, B)` where each
            latent of a level has its own block of units.
        leaves: `(S, X, B)` states of the leaves.
        latents: `(S, L, B)` int32 states of all latents.
        other: the same for other, independent rows, for the null.
    """

    shown: dict[Label, Tensor]
    leaves: Tensor
    latents: Tensor
    other: Tensor


def batches(
    source: Any,
    tree: LatentTree,
    draw: Rowed | None,
    samples: int | None,
    seed: int | None,
    lags: int,
    batch_axis: BatchAxis | None = None,
) -> Iterator[ActivationBatch]:
    """Rows in order, in batches long enough to be shifted by all lags.

    Raises:
        ValueError: errors of `open_source`, or fewer rows than twice the lags.
    """
    opened = open_source(source, tree, draw=draw, samples=samples, seed=seed, batch_axis=batch_axis)
    total, least, first = opened.rows.total, max(2 * lags, 2), tree.leaves.start
    if total < least:
        raise ValueError(f"{lags} lags need at least {least} rows, got {total}")
    for rows in row_ranges(total, least):
        states = opened.rows.states(rows)
        other = opened.rows.other(rows) if lags else states
        leaves = states[:, first:]
        yield ActivationBatch(
            opened.read(rows, leaves),
            leaves,
            states[:, :first].to(torch.int32),
            other[:, :first].to(torch.int32),
        )


def row_ranges(total: int, least: int) -> Iterator[range]:
    """Consecutive rows 0 .. total - 1 in batches, none of them shorter than `least`.

    Example:
        >>> list(row_ranges(10_000, least=400))
        [range(0, 4096), range(4096, 8192), range(8192, 10000)]
        >>> list(row_ranges(8_200, least=400))
        [range(0, 4096), range(4096, 8200)]
    """
    start = 0
    while start < total:
        stop = min(start + max(ROWS, least), total)
        if total - stop < least:
            stop = total  # the last rows would make a batch that is too short
        yield range(start, stop)
        start = stop


def posteriors(tree: LatentTree, leaves: Tensor, *, own: bool) -> Tensor:
    """`(S, L, K, B)` float64 P(latent | its own leaves, or all leaves) of all latents."""
    nodes = np.arange(tree.leaves.start)
    found = []
    for s in range(len(leaves)):
        tables = tree.tables.take([s if tree.tables.count > 1 else 0])
        found.append(posterior(tables, leaves[s : s + 1].long(), nodes, own=own).marginals)
    return torch.cat(found)
