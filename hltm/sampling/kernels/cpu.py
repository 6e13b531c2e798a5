"""The fast kernel on a CPU: tiles of a few thousand samples through the whole tree, by numba.

The states of binary nodes stay packed, one bit per state, until they are written out; those of *wide*
nodes, of more than two states, are one number per state. A tile is small enough for its states to stay
in the cache from parent to child.

Kernels release the interpreter's lock and are split over plain threads, as many as torch uses:
so they follow `torch.set_num_threads`, and run single-threaded inside a DataLoader's workers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.sampling.kernels.generator import LANES
from hltm.sampling.kernels.guide import AT_ONCE, CALLS, Guide, guide_of
from hltm.sampling.kernels.planes import FIELDS, LAST, Pending
from hltm.sampling.kernels.request import BLOCK, DrawRequest
from hltm.sampling.kernels.threads import share
from hltm.sampling.kernels.tiles import Scratch, Wide, draw_tiles

MOST_BLOCKS = 128  # of a tile
PENDING = 512  # blocks that wait until eight of them can be drawn side by side; a multiple of eight
PENDING_DRAWS = 64  # that they are of
TILE_BYTES = 1 << 22  # of the states of a tile, at most
PARALLEL_STATES = 1 << 20  # below this many binary states, 0.3 ms, one thread is as fast as two
LINE = 64  # bytes of a line of the cache, and of the longest vector
KEPT_BYTES = 1 << 25  # of the memory that a thread keeps between draws, at most
_last = threading.local()  # `kept`: the shape of a thread's last scratch memory, and the memory
WIDE_COST = 8  # one state of a wide node takes as long as this many binary states


def draw(tables: Tables, request: DrawRequest) -> list[Tensor]:
    """Draw states; one `(S, V - first, B)` tensor per view, uint8 or uint16."""
    shape = (len(request.members), len(tables.topology) - request.first, request.samples)
    dtype = np.dtype(np.uint8 if tables.state_dtype == torch.uint8 else np.uint16)
    out = np.empty((len(request.views), *shape), dtype=dtype)
    _fill(tables, request, out, np.empty((0, 0, 0, 0), dtype=np.uint64))
    return list(torch.from_numpy(out))


def draw_packed(tables: Tables, request: DrawRequest) -> list[np.ndarray]:
    """Draw states of a binary tree, one bit each; one `(S, V - first, W)` uint64 array per view.

    Bit k of word w is sample 128 * (start // 128) + 64 * w + k; bits of samples that were not asked
    for are undefined.
    """
    shape = (len(request.members), len(tables.topology) - request.first)
    words = 2 * len(_blocks(request))
    packed = np.empty((len(request.views), *shape, words), dtype=np.uint64)
    _fill(tables, request, np.empty((0, 0, 0, 0), dtype=np.uint8), packed)
    return list(packed)


def _blocks(request: DrawRequest) -> range:
    """The numbers of the blocks that hold the samples."""
    return range(request.start // BLOCK, (request.start + request.samples - 1) // BLOCK + 1)


class _Layout(NamedTuple):
    """What depends on the tables alone."""

    binary: bool
    parent: np.ndarray
    cardinality: np.ndarray
    thresholds: np.ndarray
    threshold_start: np.ndarray
    guide: Guide | None
    none_held: np.ndarray


def _layout(tables: Tables) -> _Layout:
    parent, cardinality = tables.topology.parent, tables.cardinality
    held = np.zeros(len(parent), dtype=np.bool_)
    if tables.binary:
        thresholds = tables.thresholds.numpy().view(np.uint64)
        return _Layout(True, parent, cardinality, thresholds, tables.threshold_start, None, held)
    guide = guide_of(tables)
    return _Layout(False, parent, cardinality, guide.thresholds, guide.threshold_start, guide, held)


def _fill(tables: Tables, request: DrawRequest, out: np.ndarray, packed: np.ndarray) -> None:
    """Fill `out` with states or, if it is empty, `packed`."""
    layout = tables.kept("layout", _layout)
    blocks, members, nodes = _blocks(request), len(request.members), len(layout.parent)
    states = members * nodes * len(blocks) * BLOCK * len(request.views)
    effort = states * (1 if layout.binary else WIDE_COST)
    threads = torch.get_num_threads() if effort >= PARALLEL_STATES else 1
    bytes_per_block = nodes * (16 if layout.binary else 16 + BLOCK * out.itemsize)
    # memory is for a multiple of LANES blocks of binary nodes, and as many are drawn side by side
    least = LANES if layout.binary else 1
    most = min(max(TILE_BYTES // bytes_per_block, least), MOST_BLOCKS)
    tiles = max(-(-len(blocks) // most), min(-(-threads // members), len(blocks)))
    size = -(-len(blocks) // tiles)
    tiles = -(-len(blocks) // size)
    block_numbers = np.array(blocks if request.blocks is None else request.blocks, dtype=np.uint64)
    given = np.empty((0, 0, 0), dtype=out.dtype)
    if request.base is not None:
        given = np.ascontiguousarray(request.base.numpy().astype(out.dtype, copy=False))
    arguments = (
        np.uint64(request.seed & 0xFFFFFFFF), np.uint64(request.seed >> 32), np.uint64(request.stream),
        np.array(request.members, dtype=np.uint64), np.array(request.views, dtype=np.uint64),
        block_numbers, request.samples, size, request.start - blocks.start * BLOCK,
        layout.parent, layout.cardinality, layout.thresholds, layout.threshold_start,
        request.redraw_case, request.redraw_limits.view(np.uint64), request.base_needed, given,
        request.base is None or request.base_held,
        layout.none_held if request.held is None else request.held, request.first, out, packed,
    )  # fmt: skip

    def work(shares: Iterator[tuple[int, int]]) -> None:
        scratch, wide = _scratch(nodes, layout.guide, size, out.dtype)
        for low, high in shares:
            draw_tiles(*arguments, scratch, wide, low, high)

    share(work, members * tiles, threads=threads)


def _scratch(
    nodes: int, guide: Guide | None, size: int, dtype: np.dtype
) -> tuple[Scratch, Wide | None]:
    """One thread's own memory for tiles of `size` blocks; for binary trees the last one's is kept."""
    shape, kept = getattr(_last, "kept", (None, None))
    if guide is None and kept is not None and shape == (nodes, size):
        return kept, None
    padded = -(-size // LANES) * LANES
    lanes = size * BLOCK
    calls = LANES if guide is None else AT_ONCE * CALLS
    # twice as many as one node has at most, for its states and its decisions
    entries = PENDING + 2 * padded
    pending = Pending(
        block=np.zeros(entries, dtype=np.uint64),
        node=np.zeros(entries, dtype=np.uint64),
        at=np.empty(entries, dtype=np.uint64),
        draw=np.empty(entries, dtype=np.uint64),
        draws=np.empty(int(FIELDS) * PENDING_DRAWS, dtype=np.uint64),
        equal=_aligned(PENDING_DRAWS * 2 * padded),
    )
    scratch = Scratch(
        numbers=_aligned(padded),
        calls=_aligned(calls),
        words=_aligned(2 * LAST * calls),
        pending=pending,
        bits=_aligned(3, nodes, 2 * padded),
    )
    if guide is None:
        if scratch.bits.nbytes <= KEPT_BYTES:
            # one assignment: an interrupt between two would leave a shape with other memory
            _last.kept = (nodes, size), scratch
        return scratch, None
    wide = Wide(
        *guide[2:],
        states=np.zeros((2, nodes, lanes), dtype=dtype),
        row=np.zeros(lanes, dtype=dtype),
        thresholds=np.zeros(lanes, dtype=np.uint64),
    )
    return scratch, wide


def _aligned(*shape: int) -> np.ndarray:
    """uint64 zeros that begin with a line of the cache: a vector across two lines takes twice as long."""
    size = math.prod(shape)
    found = np.zeros(size + LINE // 8, dtype=np.uint64)
    first = -found.ctypes.data % LINE // 8
    return found[first : first + size].reshape(shape)
