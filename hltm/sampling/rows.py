"""Draws of any samples in any order, such as a shuffled batch of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.sampling.kernels.request import BLOCK, DrawRequest
from hltm.sampling.philox import MAX_ROWS, Stream, check_seed
from hltm.sampling.sample import draw_states

CHUNK = 1024  # blocks drawn at a time, to bound memory


def draw_rows(
    tables: Tables,
    members: Sequence[int],
    rows: np.ndarray,
    *,
    seed: int,
    views: Sequence[int] = (0,),
    rates: np.ndarray | None = None,
    stream: Stream = Stream.DATA,
    first: int = 0,
) -> list[Tensor]:
    """States of any samples, on the CPU; the same as in any other draw of them.

    Consecutive samples are drawn as such; for others, the whole blocks of 128 samples in which they
    lie are drawn, because the samples of a block share the generator's calls.

    Args:
        rows: `(B,)` int64 numbers of samples, in any order, also repeated.
        views: the numbers of the views; view 0 is the data themselves.
        rates: `(V,)` the redraw rate of every node in the other views.
        first: the lowest node to keep.

    Returns:
        `(S, V - first, B)` uint8 or uint16 states, one tensor per view.

    Raises:
        ValueError: samples outside 0..2^34-1.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> (states,) = draw_rows(tree.tables, (0,), np.array([700, 3, 3]), seed=1)
        >>> states[0].T.equal(tree.sample(701, seed=1).states[[700, 3, 3]])
        True
    """
    if rows.ndim != 1:
        raise ValueError(f"expected a list of samples, got shape {rows.shape}")
    if len(rows) and (rows.min() < 0 or rows.max() >= MAX_ROWS):
        raise ValueError(f"rows must lie in 0..2^34-1, got {rows.min()}..{rows.max()}")

    def request(start: int, samples: int, blocks: np.ndarray | None = None) -> DrawRequest:
        return DrawRequest(
            tables.topology, check_seed(seed), stream, tuple(members), start, samples,
            views=tuple(views), rates=rates, first=first, blocks=blocks,
        )  # fmt: skip

    if (np.diff(rows) == 1).all():
        return draw_states(tables, request(int(rows[0]) if len(rows) else 0, len(rows)))
    blocks, place = np.unique(rows // BLOCK, return_inverse=True)
    parts: list[list[np.ndarray]] = []
    order: list[np.ndarray] = []
    for low in range(0, len(blocks), CHUNK):
        part = blocks[low : low + CHUNK]
        drawn = draw_states(tables, request(0, BLOCK * len(part), part))
        here = np.flatnonzero((place >= low) & (place < low + CHUNK))
        columns = BLOCK * (place[here] - low) + rows[here] % BLOCK
        parts.append([states.numpy().take(columns, axis=2) for states in drawn])
        order.append(here)
    if len(parts) == 1:
        return [torch.from_numpy(states) for states in parts[0]]
    back = np.concatenate(order).argsort()
    joined = (np.concatenate(pieces, axis=2) for pieces in zip(*parts, strict=True))
    return [torch.from_numpy(states.take(back, axis=2)) for states in joined]
