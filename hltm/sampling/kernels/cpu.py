"""The fast kernel on a CPU: tiles of a few thousand samples through the whole tree, by numba.

Binary nodes stay packed, one bit a state, until they are written out; others are one number a
state. A tile is small enough for its states to stay in the cache from parent to child.

Kernels release the interpreter's lock and are split over plain threads, as many as torch uses:
so they follow `torch.set_num_threads`, and run single-threaded inside a DataLoader's workers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.sampling.kernels.generator import LANES
from hltm.sampling.kernels.guide import guide_of
from hltm.sampling.kernels.request import BLOCK, DrawRequest
from hltm.sampling.kernels.threads import share
from hltm.sampling.kernels.tiles import Scratch, Wide, draw_tiles

MOST_BLOCKS = 128  # of a tile
TILE_BYTES = 1 << 22  # of states that a tile keeps, at most
PARALLEL_STATES = 1 << 20  # fewer binary states than this, 0.3 ms, are not worth a second thread
WIDE_COST = 8  # a state of a node of more than two takes as long as so many binary ones


def draw(tables: Tables, order: DrawRequest) -> list[Tensor]:
    """Draw states; one `(S, V - first, B)` tensor per view, uint8 or uint16."""
    shape = (len(order.members), len(tables.topology) - order.first, order.count)
    dtype = np.dtype(np.uint8 if tables.state_dtype == torch.uint8 else np.uint16)
    out = np.empty((len(order.views), *shape), dtype=dtype)
    _fill(tables, order, out, np.empty((0, 0, 0, 0), dtype=np.uint64))
    return list(torch.from_numpy(out))


def draw_packed(tables: Tables, order: DrawRequest) -> list[np.ndarray]:
    """Draw states of a binary tree, one bit each; one `(S, V - first, W)` uint64 array per view.

    Bit k of word w is row 128 * (start // 128) + 64 * w + k; bits of other rows mean nothing.
    """
    shape = (len(order.members), len(tables.topology) - order.first)
    words = 2 * len(_blocks(order))
    packed = np.empty((len(order.views), *shape, words), dtype=np.uint64)
    _fill(tables, order, np.empty((0, 0, 0, 0), dtype=np.uint8), packed)
    return list(packed)


def _blocks(order: DrawRequest) -> range:
    """The numbers of the blocks that hold the rows."""
    return range(order.start // BLOCK, (order.start + order.count - 1) // BLOCK + 1)


def _fill(tables: Tables, order: DrawRequest, out: np.ndarray, packed: np.ndarray) -> None:
    """Fill `out` with states or, if it is empty, `packed`."""
    blocks, members, nodes = _blocks(order), len(order.members), len(tables.topology)
    states = members * nodes * len(blocks) * BLOCK * len(order.views)
    effort = states * (1 if tables.binary else WIDE_COST)
    threads = torch.get_num_threads() if effort >= PARALLEL_STATES else 1
    bytes_per_block = nodes * (16 if tables.binary else 16 + BLOCK * out.itemsize)
    most = int(np.clip(TILE_BYTES // bytes_per_block, 1, MOST_BLOCKS))
    tiles = max(-(-len(blocks) // most), min(-(-threads // members), len(blocks)))
    size = -(-len(blocks) // tiles)
    tiles = -(-len(blocks) // size)
    block_numbers = np.array(blocks if order.blocks is None else order.blocks, dtype=np.uint64)
    given = np.empty((0, 0, 0), dtype=out.dtype)
    if order.base is not None:
        given = np.ascontiguousarray(order.base.numpy().astype(out.dtype, copy=False))
    arguments = (
        np.uint64(order.seed & 0xFFFFFFFF),
        np.uint64(order.seed >> 32),
        np.uint64(order.stream),
        np.array(order.members, dtype=np.uint64),
        np.array(order.views, dtype=np.uint64),
        block_numbers,
        order.count,
        size,
        order.start - blocks.start * BLOCK,
        tables.topology.parent,
        tables.cardinality,
        tables.thresholds.numpy().view(np.uint64),
        tables.threshold_start,
        order.reach,
        order.coins.view(np.uint64),
        order.base_needed,
        given,
        order.first,
        out,
        packed,
    )

    def work(shares: Iterator[tuple[int, int]]) -> None:
        scratch, wide = _scratch(tables, size, out.dtype)
        for low, high in shares:
            draw_tiles(*arguments, scratch, wide, low, high)

    share(work, members * tiles, threads=threads)


def _scratch(tables: Tables, size: int, dtype: np.dtype) -> tuple[Scratch, Wide | None]:
    """What one thread needs for tiles of `size` blocks."""
    nodes = len(tables.topology)
    padded = -(-size // LANES) * LANES
    lanes, words = size * BLOCK, padded * 2
    calls = padded if tables.binary else lanes // 4
    scratch = Scratch(
        numbers=np.zeros(calls, dtype=np.uint64),
        words=np.empty(2 * calls, dtype=np.uint64),
        undecided=np.empty(words, dtype=np.uint64),
        undecided_words=np.empty(padded, dtype=np.uint64),
        lane_bits=np.zeros(words, dtype=np.uint64),
        zeros=np.zeros(words, dtype=np.uint64),
        bits=np.empty((2, nodes, words), dtype=np.uint64),
        redrawn=np.zeros((nodes, words), dtype=np.uint64),
    )
    if tables.binary:
        return scratch, None
    wide = Wide(
        *guide_of(tables),
        states=np.zeros((2, nodes, lanes), dtype=dtype),
        row=np.zeros(lanes, dtype=dtype),
        thresholds=np.zeros(lanes, dtype=np.uint64),
    )
    return scratch, wide
