"""The fast kernel on a GPU with CUDA, by numba.cuda: the states of the CPU kernel, bit for bit.

This file prepares the memory and launches the kernel, which is in `cuda_tiles`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numba import cuda
from torch import Tensor

from hltm.model.tables import Tables
from hltm.sampling.kernels.cuda_tiles import (
    BITS,
    CASE,
    CELLS,
    HELD,
    LIMIT,
    NEEDED,
    PARENT,
    RANK,
    STATES,
    THRESHOLDS,
    WORDS,
    draw_tiles,
)
from hltm.sampling.kernels.guide import guide_of
from hltm.sampling.kernels.request import BLOCK, DrawRequest
from hltm.sampling.philox import MASK

THREADS = 128  # of a block of threads
TILE = 4  # blocks of samples of a tile; one for trees of more than THREADS nodes
FEWEST = 128  # blocks of threads that are launched, some of them idle: with fewer numba warns
PER_PROCESSOR = 8  # blocks of threads for each multiprocessor, at most
SCRATCH_BYTES = 1 << 28  # of the states of the tiles that are drawn at the same time, at most


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
            np.uint32(request.seed & MASK), np.uint32(request.seed >> 32), int(request.stream),
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
