"""The fast kernel on a GPU with CUDA, by numba.cuda: the states of the CPU kernel, bit for bit.

A block of threads draws a tile, a few blocks of 128 samples of one member, through the whole tree and
all views. The nodes of a group, whose parents all lie in earlier groups, are shared among its threads:

    a binary node  a thread takes 128 samples, and makes planes until each of them is decided
    a wide node    a thread takes the four samples of one call of the generator, see `guide`

Only what a view redraws is drawn: a thread stops at the plane that decides the last redrawn sample.
All arithmetic is of integers; words of 32 bits are cast back to 32 bits after every operation, because
numba computes in 64 (and numba's simulator, in which the tests run this file, with numpy's scalars).
"""

# mypy: disable-error-code="attr-defined"
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from hltm.model.tables import Tables
from hltm.sampling.kernels.guide import guide_of
from hltm.sampling.kernels.request import BLOCK, NEVER, SOMETIMES, DrawRequest
from hltm.sampling.philox import DECISIONS, MULTIPLIER, ROUNDS, WEYL, WORD_PLANE

THREADS = 128  # of a block of threads
TILE = 4  # blocks of samples of a tile; one for trees of more than THREADS nodes
FEWEST = 128  # blocks of threads that are launched, some of them idle: with fewer numba warns
PER_PROCESSOR = 8  # blocks of threads for each multiprocessor, at most
SCRATCH_BYTES = 1 << 28  # of the states of the tiles that are drawn at the same time, at most

WORDS = BLOCK // 32  # of 32 bits, for the samples of a block
CALLS = BLOCK // 4  # of the generator, for the samples of a block at a wide node
DATA, VIEW, REDRAWN = 0, 1, 2  # the parts of `bits` and of `wide`
# the columns of `plan`, which has a row for every node
PARENT, STATES, THRESHOLDS, CASE, LIMIT, NEEDED, HELD, RANK, CELLS, BITS = range(10)

_M0, _M1 = np.uint64(MULTIPLIER[0]), np.uint64(MULTIPLIER[1])
_W0, _W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
_WORD, _HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)
_ALL = 0xFFFFFFFF


@cuda.jit(device=True)
def _philox(c0, c1, c2, c3, key0, key1):  # type: ignore[no-untyped-def]
    """Four words of Philox 4x32-10 from a counter and a key of uint32 words."""
    for _ in range(ROUNDS):
        a = _M0 * np.uint64(c0)
        b = _M1 * np.uint64(c2)
        c0 = np.uint32(np.uint32(b >> _HIGH) ^ c1 ^ key0)
        c2 = np.uint32(np.uint32(a >> _HIGH) ^ c3 ^ key1)
        c1 = np.uint32(b & _WORD)
        c3 = np.uint32(a & _WORD)
        key0 = np.uint32((np.uint64(key0) + _W0) & _WORD)
        key1 = np.uint32((np.uint64(key1) + _W1) & _WORD)
    return c0, c1, c2, c3


@cuda.jit(device=True)
def _bits_of(lanes, thresholds, at, wide, now, parent, first, bit):  # type: ignore[no-untyped-def]
    """One bit of the thresholds of some of 32 samples: thresholds[at + state of the parent]."""
    found = np.uint32(0)
    while lanes != 0:
        k = cuda.ffs(lanes) - 1
        threshold = thresholds[at + np.int64(wide[now, parent, first + k])]
        found = np.uint32(found | np.uint32(((threshold >> bit) & 1) << k))
        lanes = np.uint32(lanes & np.uint32(lanes - np.uint32(1)))
    return found


@cuda.jit(device=True)
def _decide(  # type: ignore[no-untyped-def]
    left, found, above, t0, t1, by_lane, thresholds, at, wide, now, parent, first, key0, key1, view,
    c1, c2, c3,
):  # fmt: skip
    """Set the bits of `found` where u >= its threshold, for the samples of a block that `left` marks.

    The comparison goes bit by bit, as in `planes`: t0 or t1 is the threshold of a sample by its bit of
    `above`, or, if `by_lane`, thresholds[at + state of the parent] is. `left` ends with the samples
    whose u equals its threshold in all bits that were compared.
    """
    some = np.uint32(0)
    for w in range(WORDS):
        found[w] = np.uint32(0)
        some = np.uint32(some | left[w])
    rest = np.int64(_ALL) if by_lane else (t0 | t1) & _ALL
    plane = 0
    # where the remaining bits of a threshold are all 0, an undecided u is >= it whatever its bits
    while rest != 0 and some != 0:
        c0 = np.uint32(np.int64(plane) << 24 | view)
        words = _philox(c0, c1, c2, c3, key0, key1)
        bit = 31 - plane
        same = np.uint32(_ALL * ((t0 >> bit) & 1))
        differ = np.uint32(same ^ np.uint32(_ALL * ((t1 >> bit) & 1)))
        some = np.uint32(0)
        for w in range(WORDS):
            if by_lane:
                same = _bits_of(left[w], thresholds, at, wide, now, parent, first + 32 * w, bit)
            wanted = np.uint32(same ^ np.uint32(differ & above[w]))
            decided = np.uint32(np.uint32(words[w] ^ wanted) & left[w])
            found[w] = np.uint32(found[w] | np.uint32(decided & words[w]))
            left[w] = np.uint32(left[w] ^ decided)
            some = np.uint32(some | left[w])
        rest = (rest << 1) & _ALL
        plane += 1
    # a threshold of 2^32, whose bit 32 was not compared, is above every u
    same = np.uint32(_ALL * ((t0 >> 32) & 1))
    differ = np.uint32(same ^ np.uint32(_ALL * ((t1 >> 32) & 1)))
    for w in range(WORDS):
        found[w] = np.uint32(found[w] | left[w])
        if by_lane:
            same = _bits_of(found[w], thresholds, at, wide, now, parent, first + 32 * w, 32)
        never = np.uint32(same ^ np.uint32(differ & above[w]))
        found[w] = np.uint32(found[w] & np.uint32(never ^ np.uint32(_ALL)))


@cuda.jit(device=True)
def _draw_decisions(  # type: ignore[no-untyped-def]
    plan, v, j, thresholds, key0, key1, view, block, c2, c3, bits, wide
):
    """Mark in which of the samples of block j a node's own decision is to be drawn again."""
    left = cuda.local.array(WORDS, np.uint32)
    found = cuda.local.array(WORDS, np.uint32)
    above = cuda.local.array(WORDS, np.uint32)
    for w in range(WORDS):
        left[w] = np.uint32(_ALL)
        above[w] = np.uint32(0)
    limit = plan[v, LIMIT]
    _decide(
        left, found, above, limit, limit, False, thresholds, 0, wide, VIEW, 0, 0, key0, key1, view,
        block, c2, c3,
    )  # fmt: skip
    for w in range(WORDS):
        bits[REDRAWN, v, WORDS * j + w] = found[w]


@cuda.jit(device=True)
def _draw_binary(  # type: ignore[no-untyped-def]
    plan, v, j, now, redrawn, thresholds, key0, key1, view, block, c2, c3, bits, wide
):
    """States of a binary node for the samples of block j; where not redrawn, those of the data."""
    left = cuda.local.array(WORDS, np.uint32)
    found = cuda.local.array(WORDS, np.uint32)
    above = cuda.local.array(WORDS, np.uint32)
    marks = cuda.local.array(WORDS, np.uint32)
    parent = plan[v, PARENT]
    at = plan[v, THRESHOLDS]
    t0 = thresholds[at]
    t1 = t0
    by_lane = parent >= 0 and plan[parent, STATES] > 2
    if parent >= 0 and not by_lane:
        t1 = thresholds[at + 1]
    for w in range(WORDS):
        i = WORDS * j + w
        above[w] = np.uint32(0)
        if parent >= 0 and not by_lane:
            above[w] = bits[now, parent, i]
        marks[w] = np.uint32(_ALL)
        if redrawn:
            marks[w] = _mark(plan, bits, v, i)
        left[w] = marks[w]
    _decide(
        left, found, above, t0, t1, by_lane, thresholds, at, wide, now, parent, BLOCK * j, key0, key1,
        view, block, c2, c3,
    )  # fmt: skip
    for w in range(WORDS):
        i = WORDS * j + w
        kept = np.uint32(0)
        if redrawn:
            kept = np.uint32(bits[DATA, v, i] & np.uint32(marks[w] ^ np.uint32(_ALL)))
        bits[now, v, i] = np.uint32(found[w] | kept)


@cuda.jit(device=True)
def _mark(plan, bits, v, i):  # type: ignore[no-untyped-def]
    """In which of 32 samples a node is redrawn: by its own decision, or with its parent."""
    found = bits[REDRAWN, v, i]
    parent = plan[v, PARENT]
    if parent >= 0 and plan[parent, CASE] == SOMETIMES:
        found = np.uint32(found | bits[REDRAWN, parent, i])
        bits[REDRAWN, v, i] = found  # any thread that comes again finds the same
    return found


@cuda.jit(device=True)
def _draw_wide(  # type: ignore[no-untyped-def]
    plan, v, j, call, now, redrawn, thresholds, rank, cells, key0, key1, view, block, c2, c3, bits,
    wide,
):  # fmt: skip
    """States of a node of more than two states for the four samples of one call of the generator."""
    parent = plan[v, PARENT]
    marks = np.uint32(15)
    first = BLOCK * j + 4 * call
    if redrawn:
        word = _mark(plan, bits, v, first >> 5)
        marks = np.uint32(np.uint32(word >> np.uint32(first & 31)) & np.uint32(15))
    u0, u1, u2, u3 = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    if marks != 0:
        c0 = np.uint32(np.int64(WORD_PLANE) << 24 | view)
        c1 = np.uint32((np.int64(block) * CALLS + call) & _ALL)
        u0, u1, u2, u3 = _philox(c0, c1, c2, c3, key0, key1)
    width = plan[v, BITS]
    shift = 32 - width
    steps = plan[v, STATES] - 1
    for k in range(4):
        lane = first + k
        if (marks >> k) & 1 == 0:
            wide[now, v, lane] = wide[DATA, v, lane]
            continue
        u = np.int64(u0 if k == 0 else u1 if k == 1 else u2 if k == 2 else u3)
        row = np.int64(0)
        if parent >= 0:
            row = _state(plan, parent, lane, bits[now], wide[now])
        r = np.int64(rank[plan[v, RANK] + row])
        cell = np.int64(cells[plan[v, CELLS] + (r << width) + (u >> shift)])
        state = cell & ((1 << (width - 1)) - 1)
        if (u & ((1 << shift) - 1)) > (cell >> width):
            state += 1
        if (cell >> (width - 1)) & 1:  # several thresholds lie in this cell
            start = plan[v, THRESHOLDS] + r * steps
            low, high = start, start + steps
            while low < high:
                middle = (low + high) >> 1
                if thresholds[middle] <= u:
                    low = middle + 1
                else:
                    high = middle
            state = low - start
        wide[now, v, lane] = state


@cuda.jit(device=True)
def _state(plan, v, lane, bits, wide):  # type: ignore[no-untyped-def]
    """The state of a node in one sample of a tile."""
    if plan[v, STATES] == 2:
        return np.int64(bits[v, lane >> 5] >> np.uint32(lane & 31)) & 1
    return np.int64(wide[v, lane])


@cuda.jit(device=True)
def _read(plan, v, i, given, start, bits, wide):  # type: ignore[no-untyped-def]
    """Take the given states of a node in the 32 samples of word i of a tile that begins at `start`."""
    word = np.uint32(0)
    for k in range(32):
        at = start + 32 * i + k
        state = np.int64(0)  # of samples that were not asked for
        if at >= 0 and at < given.shape[1]:
            state = np.int64(given[v, at])
        if plan[v, STATES] == 2:
            word = np.uint32(word | np.uint32((state & 1) << k))
        else:
            wide[DATA, v, 32 * i + k] = state
    if plan[v, STATES] == 2:
        bits[DATA, v, i] = word


@cuda.jit(device=True)
def _written(plan, v, i, per, bits, wide):  # type: ignore[no-untyped-def]
    """The states of a node in `per` consecutive samples, two or four, as one word of the result."""
    first = per * i
    word = np.int64(0)
    for k in range(per):
        word |= _state(plan, v, first + k, bits, wide) << (k * (32 // per))
    return np.uint32(word)


@cuda.jit
def draw_tiles(  # type: ignore[no-untyped-def]
    key0, key1, stream, members, views, numbers, tile_blocks, offset, plan, order, groups, thresholds,
    rank, cells, given, has_base, draw_base, first, per, out, bits_of_tiles, wide_of_tiles,
):  # fmt: skip
    """Draw all tiles; every block of threads takes one after the other, with scratch of its own.

    Args:
        key0, key1, stream: uint32, uint32 and int64.
        members, views, numbers: int64; `numbers` are those of the blocks of samples.
        tile_blocks, offset: blocks of a tile; the place of the first sample asked for in the first block.
        plan: `(V, 10)` int64, what is known of every node.
        order, groups: int64; group g has the nodes order[groups[g]] .. order[groups[g + 1] - 1].
        thresholds, rank, cells: as in `Guide`: int64, uint32, uint32.
        given: `(S, V, B)` int32 states to start from, if `has_base`; `draw_base` draws what is not held.
        first, per: the lowest node to write; how many states make a word of the result.
        out: `(P, S, V - first, W)` uint32, whole blocks of samples.
        bits_of_tiles, wide_of_tiles: `(G, 3, V, 4 T)` uint32 and `(G, 2, V, 128 T)` uint16.
    """
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    worker, workers = cuda.blockIdx.x, bits_of_tiles.shape[0]
    if worker >= workers:
        return
    bits, wide = bits_of_tiles[worker], wide_of_tiles[worker]
    nodes = plan.shape[0]
    blocks = numbers.shape[0]
    tiles = (blocks + tile_blocks - 1) // tile_blocks
    for task in range(worker, members.shape[0] * tiles, workers):
        s = task // tiles
        tile = task % tiles * tile_blocks
        count = blocks - tile if blocks - tile < tile_blocks else tile_blocks
        of = s if thresholds.shape[0] > 1 else 0  # one set of tables may serve all members
        c3 = np.uint32(members[s])
        if has_base:
            for item in range(thread, nodes * WORDS * count, threads):
                _read(
                    plan, item // (WORDS * count), item % (WORDS * count), given[s],
                    BLOCK * tile - offset, bits, wide,
                )  # fmt: skip
        cuda.syncthreads()
        for step in range(-1, views.shape[0]):  # step -1 draws the data themselves
            view = np.int64(0) if step < 0 else views[step]
            now = VIEW if view > 0 else DATA
            if view > 0:
                # 1. a node's own decisions, for all nodes at once
                for item in range(thread, nodes * count, threads):
                    v, j = item // count, item % count
                    if plan[v, CASE] == SOMETIMES:
                        c2 = np.uint32(np.int64(v) << 8 | stream | DECISIONS)
                        block = np.uint32(numbers[tile + j])
                        _draw_decisions(
                            plan, v, j, thresholds[of], key0, key1, view, block, c2, c3, bits, wide
                        )
                cuda.syncthreads()
            if view > 0 or (step < 0 and draw_base):
                # 2. states, group by group
                for g in range(groups.shape[0] - 1):
                    low = groups[g]
                    parts = count if plan[order[low], STATES] == 2 else CALLS * count
                    for item in range(thread, (groups[g + 1] - low) * parts, threads):
                        v = order[low + item // parts]
                        if step < 0 and (plan[v, HELD] == 1 or plan[v, NEEDED] == 0):
                            continue
                        redrawn = step >= 0 and plan[v, CASE] == SOMETIMES
                        kept = step >= 0 and (plan[v, CASE] == NEVER or plan[v, HELD] == 1)
                        part = item % parts
                        j = part if parts == count else part // CALLS
                        c2 = np.uint32(np.int64(v) << 8 | stream)
                        block = np.uint32(numbers[tile + j])
                        if parts == count:
                            if kept:
                                for i in range(WORDS * j, WORDS * j + WORDS):
                                    bits[now, v, i] = bits[DATA, v, i]
                                    if redrawn:  # a held node's mark is for the nodes below
                                        _mark(plan, bits, v, i)
                            else:
                                _draw_binary(
                                    plan, v, j, now, redrawn, thresholds[of], key0, key1, view, block,
                                    c2, c3, bits, wide,
                                )  # fmt: skip
                        elif kept:
                            lane = BLOCK * j + 4 * (part % CALLS)
                            for k in range(lane, lane + 4):
                                wide[now, v, k] = wide[DATA, v, k]
                            if redrawn:
                                _mark(plan, bits, v, lane >> 5)
                        else:
                            _draw_wide(
                                plan, v, j, part % CALLS, now, redrawn, thresholds[of], rank[of],
                                cells[of], key0, key1, view, block, c2, c3, bits, wide,
                            )  # fmt: skip
                    cuda.syncthreads()
            if step >= 0:
                # 3. the result, consecutive words by consecutive threads
                words = BLOCK * count // per
                for item in range(thread, (nodes - first) * words, threads):
                    v, i = item // words, item % words
                    place = BLOCK * tile // per + i
                    out[step, s, v, place] = _written(plan, v + first, i, per, bits[now], wide[now])
                cuda.syncthreads()


def draw(tables: Tables, request: DrawRequest) -> list[Tensor]:
    """Draw states on `request.device`; one `(S, V - first, B)` tensor per view, uint8 or uint16.

    The work is put on torch's current stream. In numba's simulator the device is the CPU.
    """
    device, dtype, nodes = request.device, tables.state_dtype, len(tables.topology)
    first_block, offset = divmod(request.start, BLOCK)
    numbers = request.blocks
    if numbers is None:
        numbers = np.arange(first_block, (request.start + request.samples - 1) // BLOCK + 1)
    # 1. memory for the result, whole blocks of samples, and for the tiles drawn at the same time
    per = 4 // dtype.itemsize
    tile_blocks = min(TILE if nodes <= THREADS else 1, len(numbers))
    lanes = 0 if tables.binary else BLOCK * tile_blocks
    tile_bytes = nodes * (3 * 4 * WORDS * tile_blocks + 2 * 2 * lanes)
    tasks = len(request.members) * -(-len(numbers) // tile_blocks)
    at_once = min(tasks, max(SCRATCH_BYTES // tile_bytes, 1), PER_PROCESSOR * _processors(device))
    words: dict[str, Any] = {"dtype": torch.int32, "device": device}
    shape = (len(request.views), len(request.members), nodes - request.first)
    out = torch.empty((*shape, len(numbers) * BLOCK // per), **words)
    bits = torch.empty((at_once, 3, nodes, WORDS * tile_blocks), **words)
    wide_shape = (at_once, 2, nodes if lanes else 1, max(lanes, 1))
    wide = torch.empty(wide_shape, dtype=torch.int16, device=device)
    # 2. what the kernel reads
    given = torch.zeros((1, 1, 1), **words)
    if request.base is not None:
        given = request.base.to(**words).contiguous()
    thresholds, rank, cells, order, groups = _constants(tables, device)
    numbered = [np.asarray(each, np.int64) for each in (request.members, request.views, numbers)]
    joined = torch.from_numpy(np.concatenate(numbered)).to(device)
    members, views, blocks = joined.split([len(each) for each in numbered])
    # 3. the launch
    with _current(device) as stream:
        draw_tiles[max(at_once, FEWEST) if stream else at_once, THREADS, stream](
            np.uint32(request.seed & _ALL), np.uint32(request.seed >> 32), int(request.stream),
            _array(members), _array(views), _array(blocks), tile_blocks, offset,
            _array(torch.from_numpy(_plan(tables, request)).to(device)), _array(order),
            _array(groups), _array(thresholds), _array(rank, np.uint32), _array(cells, np.uint32),
            _array(given), request.base is not None, request.base is None or request.base_held,
            request.first, per, _array(out, np.uint32), _array(bits, np.uint32),
            _array(wide, np.uint16),
        )  # fmt: skip
    shown = out.view(dtype)[..., offset : offset + request.samples]
    return [view.contiguous() for view in shown]


def usable() -> bool:
    """Whether numba finds a GPU, its driver and the compiler of the CUDA toolkit."""
    try:
        return bool(cuda.is_available())
    except Exception:  # of many kinds: a driver too old, a toolkit of another version
        return False


def _plan(tables: Tables, request: DrawRequest) -> np.ndarray:
    """`(V, 10)` int64, what the kernel knows of every node."""
    nodes = len(tables.topology)
    guide = None if tables.binary else guide_of(tables)
    none = np.zeros(nodes, dtype=np.int64)
    columns = {
        PARENT: tables.topology.parent,
        STATES: tables.cardinality,
        THRESHOLDS: tables.threshold_start if guide is None else guide.threshold_start,
        CASE: request.redraw_case,
        LIMIT: request.redraw_limits,
        NEEDED: request.base_needed,
        HELD: none if request.held is None else request.held,
        RANK: none if guide is None else guide.rank_start,
        CELLS: none if guide is None else guide.start,
        BITS: none if guide is None else guide.bits,
    }
    return np.stack([columns[at].astype(np.int64) for at in range(len(columns))], axis=1)


def _constants(tables: Tables, device: torch.device) -> tuple[Tensor, ...]:
    """Thresholds, ranks, cells, the order of the nodes and their groups, on the device; kept there."""
    return tables.kept(f"constants on {device}", lambda own: _make_constants(own, device))


def _make_constants(tables: Tables, device: torch.device) -> tuple[Tensor, ...]:
    groups = np.cumsum([0, *map(len, tables.groups)])
    none = np.zeros((tables.count, 1), dtype=np.uint32)
    arrays = [tables.thresholds.numpy(), none, none]
    if not tables.binary:
        guide = guide_of(tables)
        arrays = [guide.thresholds.view(np.int64), guide.rank, guide.cells]
    # torch has few operations for uint32; the kernel reads the same bits
    arrays = [each.view(np.int32) if each.dtype == np.uint32 else each for each in arrays]
    arrays += [np.concatenate(tables.groups), groups]
    return tuple(torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in arrays)


def _processors(device: torch.device) -> int:
    """How many multiprocessors the GPU has."""
    if device.type == "cpu":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _array(tensor: Tensor, dtype: type | None = None) -> Any:
    """A tensor as an array of numba that shares its memory, perhaps read as another dtype."""
    found = cuda.as_cuda_array(tensor, sync=False) if tensor.is_cuda else tensor.numpy()
    return found if dtype is None else found.view(dtype)


@contextmanager
def _current(device: torch.device) -> Iterator[Any]:
    """Within, numba works on the device too, on torch's current stream; None in the simulator."""
    if device.type == "cpu":
        yield None
        return
    with torch.cuda.device(device), cuda.gpus[torch.cuda.current_device()]:
        yield cuda.external_stream(torch.cuda.current_stream().cuda_stream)
