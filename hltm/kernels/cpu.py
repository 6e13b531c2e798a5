"""The fast kernel for binary trees on a CPU: bit-planes of 128 samples, compiled by numba.

A uniform number is compared with its threshold bit by bit, most significant bit first, for all
lanes of a tile at once. Each plane decides half of the lanes that are left, so a tile of 2048
lanes needs about 12 of the 32 planes, and one call of the generator serves 128 samples.
States stay packed, one bit each, until they are written out as bytes.

Kernels release the interpreter's lock and are split over plain threads, as many as torch uses:
so they follow `torch.set_num_threads`, and run single-threaded inside a DataLoader's workers.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hltm.kernels.order import Order
from hltm.philox import COINS, MULTIPLIER, ROUNDS, WEYL
from hltm.tables import ONE, Tables

BLOCKS = 16  # blocks of 128 samples per tile
PARALLEL_STATES = 1 << 18  # fewer states than this are not worth a second thread

_M0, _M1 = np.uint64(MULTIPLIER[0]), np.uint64(MULTIPLIER[1])
_W0, _W1 = np.uint32(WEYL[0]), np.uint32(WEYL[1])
_FULL = np.uint32(0xFFFFFFFF)
_SHIFT = np.uint64(32)
# eight states as eight bytes of a 64-bit word, for every byte of packed states
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_SPREAD = np.ascontiguousarray(_BITS).view(np.uint64).ravel()


def draw(tables: Tables, order: Order) -> list[Tensor]:
    """Draw states of a binary tree; one `(S, V - first, B)` uint8 tensor per view."""
    members, kept = len(order.members), len(tables.topology) - order.first
    first_block = order.start // 128
    blocks = (order.start + order.count - 1) // 128 - first_block + 1
    padded = blocks * 128  # rows before the first and after the last are drawn and not shown
    offset = order.start - first_block * 128
    out = np.empty((len(order.views), members, kept, padded // 8), dtype=np.uint64)
    base = np.empty((1, 1, 1), dtype=np.uint8)
    if order.base is not None:
        base = np.zeros((members, len(tables.topology), padded), dtype=np.uint8)
        base[..., offset : offset + order.count] = order.base.cpu().numpy()
    tiles = -(-blocks // BLOCKS)
    arguments = (
        np.uint32(order.seed & 0xFFFFFFFF),
        np.uint32(order.seed >> 32),
        np.uint32(order.stream),
        np.uint32(COINS),
        np.array(order.members, dtype=np.uint32),
        np.array(order.views, dtype=np.uint32),
        np.uint32(first_block),
        tables.topology.parent,
        tables.thresholds.numpy(),
        order.reach,
        order.coins,
        order.base_needed,
        order.base is not None,
        base,
        order.first,
        out,
        _SPREAD,
    )
    run_threads(
        lambda low, high: _draw_tiles(*arguments, low, high),
        members * tiles,
        members * len(tables.topology) * padded * len(order.views),
    )
    states = torch.from_numpy(out.view(np.uint8))[..., offset : offset + order.count]
    return list(states)


def run_threads(work: Callable[[int, int], None], tasks: int, size: int) -> None:
    """Split tasks 0..tasks-1 over torch's number of threads; `size` says whether that is worth it."""
    threads = min(torch.get_num_threads(), tasks) if size >= PARALLEL_STATES else 1
    if threads == 1:
        work(0, tasks)
        return
    edges = np.linspace(0, tasks, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


@njit(nogil=True, cache=True)
def _compare(p, t0, t1, key0, key1, c0, block, c2, c3, words, undecided, out):  # type: ignore[no-untyped-def]
    """Set the lanes of `out` where u >= threshold; t0 and t1 are those of parent states 0 and 1."""
    for w in range(4):
        for j in range(BLOCKS):
            undecided[w, j] = _FULL
            out[w, j] = np.uint32(0)
    rest = np.uint64((t0 | t1) & (ONE - 1)) << _SHIFT  # the threshold bits not yet looked at
    plane = 0
    while rest != np.uint64(0):  # where the rest of the threshold is 0, u >= threshold already
        _philox_tile(key0, key1, c0 | np.uint32(plane << 24), block, c2, c3, words)
        bit = np.uint64(31 - plane)
        m0 = _FULL if (np.uint64(t0) >> bit) & np.uint64(1) else np.uint32(0)
        m1 = _FULL if (np.uint64(t1) >> bit) & np.uint64(1) else np.uint32(0)
        left = np.uint32(0)
        for w in range(4):
            for j in range(BLOCKS):
                threshold = (m0 & ~p[w, j]) | (m1 & p[w, j])
                differ = (words[w, j] ^ threshold) & undecided[w, j]
                out[w, j] |= differ & words[w, j]
                undecided[w, j] &= ~differ
                left |= undecided[w, j]
        if left == np.uint32(0):
            break
        rest = rest << np.uint64(1)
        plane += 1
    never0 = np.uint32(0) if t0 == ONE else _FULL  # a threshold of 2^32 is above every u
    never1 = np.uint32(0) if t1 == ONE else _FULL
    for w in range(4):
        for j in range(BLOCKS):
            out[w, j] |= undecided[w, j]
            out[w, j] &= (never0 & ~p[w, j]) | (never1 & p[w, j])


@njit(nogil=True, cache=True)
def _philox_tile(key0, key1, c0, block, c2, c3, words):  # type: ignore[no-untyped-def]
    """Philox for the blocks of one tile, word by word; must equal `hltm.philox.philox`."""
    for j in range(BLOCKS):
        x0, x1, x2, x3 = c0, np.uint32(block + np.uint32(j)), c2, c3
        k0, k1 = key0, key1
        for _ in range(ROUNDS):
            a = _M0 * np.uint64(x0)
            b = _M1 * np.uint64(x2)
            x0, x1, x2, x3 = (
                np.uint32(b >> _SHIFT) ^ x1 ^ k0,
                np.uint32(b),
                np.uint32(a >> _SHIFT) ^ x3 ^ k1,
                np.uint32(a),
            )
            k0 = np.uint32(k0 + _W0)
            k1 = np.uint32(k1 + _W1)
        words[0, j] = x0
        words[1, j] = x1
        words[2, j] = x2
        words[3, j] = x3


@njit(nogil=True, cache=True)
def _draw_tiles(  # type: ignore[no-untyped-def]
    key0, key1, stream, coins_flag, members, views, first_block, parent, thresholds, reach, coins,
    base_needed, base_given, base_states, first, out, spread, low, high,
):  # fmt: skip
    """Draw tasks low..high-1; a task is one tile of one member, all nodes and all views."""
    nodes = parent.shape[0]
    blocks = out.shape[3] // 16
    tiles = (blocks + BLOCKS - 1) // BLOCKS
    zero = np.zeros((4, BLOCKS), np.uint32)
    words = np.empty((4, BLOCKS), np.uint32)
    undecided = np.empty((4, BLOCKS), np.uint32)
    base = np.zeros((nodes, 4, BLOCKS), np.uint32)
    states = np.zeros((nodes, 4, BLOCKS), np.uint32)
    redrawn = np.zeros((nodes, 4, BLOCKS), np.uint32)
    for task in range(low, high):
        s = task // tiles
        tile = (task % tiles) * BLOCKS
        count = min(BLOCKS, blocks - tile)
        block = np.uint32(first_block + np.uint32(tile))
        if base_given:
            _pack(base_states[s], tile, count, base)
        for i in range(len(views)):
            view = views[i]
            # the data themselves are drawn once, before the first view
            if i == 0 and not base_given:
                for v in range(nodes):
                    if base_needed[v]:
                        p = zero if v == 0 else base[parent[v]]
                        t = 2 * v - 1 if v > 0 else 0
                        c2 = np.uint32(v << 8) | stream
                        _compare(p, thresholds[s, t], thresholds[s, t + (v > 0)], key0, key1,
                                 np.uint32(0), block, c2, members[s], words, undecided, base[v])  # fmt: skip
            if view == 0:
                _spread_out(base, first, tile, count, out[i, s], spread)
                continue
            for v in range(nodes):
                if reach[v] == 0:
                    states[v] = base[v]
                    redrawn[v] = zero
                    continue
                p = zero if v == 0 else states[parent[v]]
                t = 2 * v - 1 if v > 0 else 0
                c2 = np.uint32(v << 8) | stream
                _compare(p, thresholds[s, t], thresholds[s, t + (v > 0)], key0, key1,
                         view, block, c2, members[s], words, undecided, states[v])  # fmt: skip
                if reach[v] == 1:
                    _compare(zero, coins[v], coins[v], key0, key1,
                             view, block, c2 | coins_flag, members[s], words, undecided,
                             redrawn[v])  # fmt: skip
                    for w in range(4):
                        for j in range(BLOCKS):
                            if v > 0:
                                redrawn[v, w, j] |= redrawn[parent[v], w, j]
                            kept = base[v, w, j] & ~redrawn[v, w, j]
                            states[v, w, j] = (states[v, w, j] & redrawn[v, w, j]) | kept
            _spread_out(states, first, tile, count, out[i, s], spread)


@njit(nogil=True, cache=True)
def _spread_out(states, first, tile, count, out, spread):  # type: ignore[no-untyped-def]
    """Write packed states as bytes, eight at a time."""
    for v in range(first, states.shape[0]):
        for j in range(count):
            for w in range(4):
                word = states[v, w, j]
                at = (tile + j) * 16 + 4 * w
                out[v - first, at] = spread[word & 0xFF]
                out[v - first, at + 1] = spread[(word >> 8) & 0xFF]
                out[v - first, at + 2] = spread[(word >> 16) & 0xFF]
                out[v - first, at + 3] = spread[word >> 24]


@njit(nogil=True, cache=True)
def _pack(states, tile, count, base):  # type: ignore[no-untyped-def]
    """Pack byte states of one tile into bits."""
    for v in range(states.shape[0]):
        for j in range(count):
            for w in range(4):
                word = np.uint32(0)
                at = (tile + j) * 128 + 32 * w
                for k in range(32):
                    word |= np.uint32(states[v, at + k] & 1) << np.uint32(k)
                base[v, w, j] = word
