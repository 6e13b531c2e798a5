"""Batches of activations with the latents of the same rows, from arrays or from a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.posterior import posterior
from hltm.sampling.draw import Draw, check_draw
from hltm.sampling.philox import Stream
from hltm.sampling.sample import sample
from hltm.tree import LatentTree

ROWS = 4096  # of a batch; the first batch also sets the edges of histograms
Label = int | str


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
    draw: Draw | None,
    samples: int | None,
    seed: int | None,
    lags: int,
) -> Iterator[ActivationBatch]:
    """Rows in order, in batches long enough to be shifted by all lags.

    Raises:
        ValueError: arrays without a draw, a network with neither draw nor samples and seed, a draw
            of another tree or without its latents, activations of another shape, or fewer rows
            than twice the lags.
    """
    if draw is not None:
        _check_draw(draw, tree)
    arrays = None if hasattr(source, "activations") else _arrays(source, tree, draw)
    if draw is None:
        if arrays is not None:
            raise ValueError("activations as arrays need the draw that they were computed on")
        if samples is None or seed is None:
            raise ValueError("a network needs rows to be probed on: give draw, or samples and seed")
        members = tuple(getattr(source, "members", tree.members))
        stacked = bool(getattr(source, "stacked", tree.stacked))
        device = getattr(source, "device", torch.device("cpu"))
        total = samples
    else:
        members, stacked, device = draw.members, draw.stacked, draw.states_SVB.device
        total, seed = draw.states_SVB.shape[-1], draw.seed
    axis = 1 if stacked else 0  # of rows
    if arrays is not None:
        _check_rows(arrays, axis, total)
    least = max(2 * lags, 2)
    if total < least:
        raise ValueError(f"{lags} lags need at least {least} rows, got {total}")
    first = tree.leaves.start
    for rows in row_ranges(total, least):
        states_of = partial(
            sample, tree.tables, members, len(rows), seed=seed, start=rows.start, device=device
        )
        if draw is None:
            states = states_of(stream=Stream.EVALUATION).states_SVB
        else:
            states = draw.states_SVB[..., rows.start : rows.stop]
        other = states_of(stream=Stream.NULL).states_SVB if lags else states
        leaves = states[:, first:]
        if arrays is not None:
            shown = {k: values.narrow(axis, rows.start, len(rows)) for k, values in arrays.items()}
        else:
            with torch.no_grad():
                shown = source.activations(leaves.transpose(1, 2) if stacked else leaves[0].T)
        yield ActivationBatch(
            {
                label: batch_last(label, values, tree, len(members), stacked, len(rows))
                for label, values in shown.items()
            },
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
        tables = tree.tables.take([s if len(tree.tables.flat) > 1 else 0])
        found.append(posterior(tables, leaves[s : s + 1].long(), nodes, own=own).marginals)
    return torch.cat(found)


def batch_last(
    label: Label, values: Tensor, tree: LatentTree, members: int, stacked: bool, rows: int
) -> Tensor:
    """Activations as `(S, U, B)`, or as `(S, V, U, B)` where each latent of a level has its own block.

    Raises:
        ValueError: another shape, or blocks for a layer that is not a level.
    """
    values = values.detach()
    full = values if stacked else values[None]
    lead = (members, rows)
    if full.ndim == 3 and tuple(full.shape[:2]) == lead:
        return full.transpose(1, 2)
    level = isinstance(label, int) and 0 < label <= tree.topology.depth
    nodes = len(tree.level(int(label))) if level else None
    if full.ndim == 4 and tuple(full.shape[:2]) == lead and full.shape[2] == nodes:
        return full.permute(0, 2, 3, 1)
    front = f"{members}, " if stacked else ""
    blocks = f" or ({front}{rows}, {nodes}, U)" if level else ""
    hint = "" if level else "; for blocks of a level give {level: array}"
    raise ValueError(
        f"activations of layer {label!r} have shape {tuple(values.shape)}, "
        f"expected ({front}{rows}, U){blocks}{hint}"
    )


def _arrays(source: Any, tree: LatentTree, draw: Draw | None) -> dict[Label, Tensor]:
    """Layer -> tensor, from one array or a mapping.

    One array of blocks is the level that has as many nodes, where only one level has.
    """
    if isinstance(source, Mapping):
        if not source:
            raise ValueError("the mapping of activations is empty: expected at least one layer")
        return {label: torch.as_tensor(values) for label, values in source.items()}
    values = torch.as_tensor(source)
    stacked = tree.stacked if draw is None else draw.stacked
    if values.ndim == (4 if stacked else 3):
        depth = tree.topology.depth
        fits = [lev for lev in range(1, depth + 1) if len(tree.level(lev)) == values.shape[-2]]
        if len(fits) == 1:
            return {fits[0]: values}
    return {"activations": values}


def _check_rows(arrays: dict[Label, Tensor], axis: int, total: int) -> None:
    """Raise unless all arrays have `total` rows on an axis."""
    for label, values in arrays.items():
        if values.ndim <= axis or values.shape[axis] != total:
            raise ValueError(
                f"activations of layer {label!r} have shape {tuple(values.shape)}, expected "
                f"{total} rows on axis {axis}, as the draw has"
            )


def _check_draw(draw: Draw, tree: LatentTree) -> None:
    """Raise unless a draw is of the tree, or of any members that share it, with all of its latents."""
    check_draw(tree.tables, tree.members if tree.stacked else draw.members, draw)
    if draw.first:
        raise ValueError(
            f"the draw keeps nodes from {draw.first} on, but a probe needs its latents as well"
        )
