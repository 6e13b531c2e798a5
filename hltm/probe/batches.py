"""Batches of activations with the latents of the same rows, from arrays or from a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
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

ROWS = 4096  # of a batch
Label = int | str


class ActivationBatch(NamedTuple):
    """Activations of all layers, and the rows that they were computed on.

    Attributes:
        shown: layer -> `(S, U, B)` where all latents share the layer, `(S, V, U, B)` where each
            latent of a level has its own block of units.
        rectified: the same as the next layer reads them; None for a source without `rectify`.
        draw: the rows.
        other: other, independent rows, for the null; None without lags.
    """

    shown: dict[Label, Tensor]
    rectified: dict[Label, Tensor] | None
    draw: Draw
    other: Draw | None


def batches(
    source: Any,
    tree: LatentTree,
    draw: Draw | None,
    samples: int | None,
    seed: int | None,
    lags: int,
    *,
    batch_axis: int | None = None,
    size: Callable[[], int] = lambda: ROWS,
) -> Iterator[ActivationBatch]:
    """Rows in order, in batches long enough to be shifted by all lags.

    Args:
        size: gives the number of rows wanted of the next batch.

    Raises:
        ValueError: arrays without a draw, a network with neither draw nor samples and seed, a draw
            of another tree or without its latents, activations of another shape, or fewer rows
            than twice the lags.
    """
    if draw is not None:
        _check_draw(draw, tree)
    arrays = None if hasattr(source, "activations") else _arrays(source, tree, draw, batch_axis)
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
    for rows in row_ranges(total, least, size):
        drawn = partial(
            sample, tree.tables, members, len(rows), seed=seed, start=rows.start, stacked=stacked,
            device=device,
        )  # fmt: skip
        now = drawn(stream=Stream.EVALUATION) if draw is None else _rows_of(draw, rows)
        other = drawn(stream=Stream.NULL) if lags else None
        rectified: dict[Label, Tensor] | None = None
        if arrays is not None:
            shown = {k: values.narrow(axis, rows.start, len(rows)) for k, values in arrays.items()}
        else:
            with torch.no_grad():
                shown = source.activations(now.leaves)
                if hasattr(source, "rectify"):
                    rectified = source.rectify(shown)
        last = partial(batch_last, tree=tree, members=len(members), stacked=stacked, rows=len(rows))
        behind = rectified and {label: last(label, values) for label, values in rectified.items()}
        yield ActivationBatch(
            {label: last(label, values) for label, values in shown.items()}, behind, now, other
        )


def _rows_of(draw: Draw, rows: range) -> Draw:
    """Some rows of a draw, counted from its first."""
    missing = draw.missing_SXB
    return replace(
        draw,
        states_SVB=draw.states_SVB[..., rows.start : rows.stop],
        start=draw.start + rows.start,
        missing_SXB=None if missing is None else missing[..., rows.start : rows.stop],
    )


def row_ranges(total: int, least: int, size: Callable[[], int] = lambda: ROWS) -> Iterator[range]:
    """Consecutive rows 0 .. total - 1 in batches, none of them shorter than `least`.

    Args:
        size: gives the number of rows wanted of the next batch.

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


def posteriors(tree: LatentTree, draw: Draw, *, own: bool) -> Tensor:
    """`(S, L, K, B)` float64 P(latent | its own leaves, or all leaves) of all latents."""
    nodes = np.arange(tree.leaves.start)
    shown = draw.leaves if draw.stacked else draw.leaves[None]
    leaves = shown.transpose(1, 2)
    found = []
    for s in range(len(leaves)):
        tables = tree.tables.take([s if tree.tables.count > 1 else 0])
        found.append(posterior(tables, leaves[s : s + 1].long(), nodes, own=own).marginals)
    return torch.cat(found)


def block_nodes(label: Label, tree: LatentTree) -> list[int]:
    """The latents of the level that a layer's label is the number of; none for any other label."""
    level = isinstance(label, int) and 0 < label <= tree.topology.depth
    return list(tree.level(int(label))) if level else []


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
    level = block_nodes(label, tree)
    nodes = len(level)
    if full.ndim == 4 and tuple(full.shape[:2]) == lead and full.shape[2] == nodes > 0:
        return full.permute(0, 2, 3, 1)
    front = f"{members}, " if stacked else ""
    blocks = f" or ({front}{rows}, {nodes}, U)" if level else ""
    hint = "" if level else "; for blocks of a level give {level: array}"
    raise ValueError(
        f"activations of layer {label!r} have shape {tuple(values.shape)}, "
        f"expected ({front}{rows}, U){blocks}{hint}"
    )


def _arrays(
    source: Any, tree: LatentTree, draw: Draw | None, batch_axis: int | None
) -> dict[Label, Tensor]:
    """Layer -> tensor, from one array or a mapping.

    One array of blocks is the level that has as many nodes, where only one level has.
    """
    stacked = tree.stacked if draw is None else draw.stacked
    if isinstance(source, Mapping):
        if not source:
            raise ValueError("the mapping of activations is empty: expected at least one layer")
        return {label: torch.as_tensor(values) for label, values in source.items()}
    values = torch.as_tensor(source)
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
