"""Run by `test_cuda_kernel.py` with NUMBA_ENABLE_CUDASIM=1, without a GPU: cases compared one by one.

Memory that a kernel must not read before it writes is filled with ones.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "builders"))
from draw_cases import BINARY, MIXED, PARENTS, random_tables

from hltm.model.tables import make_tables
from hltm.sampling.kernels import cuda, reference
from hltm.sampling.kernels.request import DrawRequest

RATES = np.array([0, 0.5, 0, 1, 0.2, 0, 0.7])
HELD = np.array([0, 1, 0, 0, 0, 0, 1], dtype=bool)
LAST = (1 << 34) - 300  # of all addresses


ROOT = np.array([0.5, 0.5, 0, 1, 0.2, 0, 0.7])  # what is above a held node is redrawn as well


def main():
    cuda.THREADS, cuda.PER_PROCESSOR, cuda.TILE = 3, 2, 2  # several tiles for a block of threads
    torch.empty = poisoned
    compare(BINARY, members=(0, 9), views=(0, 2), start=77)
    compare(BINARY, trees=2, members=(0, 9), views=(3,), first=3, samples=128, start=256)
    compare(BINARY, sharp=True, members=(2**32 - 1,), views=(0, 2**24 - 1), start=LAST)
    compare(BINARY, views=(1,), samples=70, given=True, held=HELD, rates=ROOT)
    compare(MIXED, trees=2, members=(4, 5), views=(0, 1), start=100, samples=40)
    compare(MIXED, sharp=True, views=(1,), start=120, samples=30)
    many = [2, 300, 2, 3, 4, 5, 6]
    compare(many, views=(1,), samples=70, given=True)
    compare(many, views=(1,), start=90, samples=70, given=True, held=HELD, rates=ROOT)
    compare(many, views=(1,), samples=70, given=True, held=HELD, base_held=True)
    compare(many, views=(1,), samples=256, blocks=np.array([900, 4]), first=4)
    print("equal")


def poisoned(*shape, **kinds):
    """`torch.empty`, filled where the kernel keeps states and marks."""
    signed = kinds["dtype"] in (torch.int16, torch.int32)
    return torch.full(shape[0] if len(shape) == 1 else shape, -1 if signed else 0, **kinds)


def compare(cardinality, *, trees=1, sharp=False, given=False, **request):
    """Raise where the simulated kernel and the reference differ."""
    tables = random_tables(PARENTS, cardinality, seed=1, members=trees, sharp=sharp)
    if sharp:  # so that also the first of two states has probability 1: a threshold of 2^32
        each = [tables.of(v).flip(-1) for v in range(len(PARENTS))]
        tables = make_tables(tables.topology, [each[0][:, 0], *each[1:]])
    asked = {
        "seed": 5 << 33 | 7, "stream": 1, "members": (0,), "start": 0, "samples": 150, "rates": RATES,
    }  # fmt: skip
    asked |= request
    if given:
        shape = (len(asked["members"]), len(PARENTS), asked["samples"])
        own = np.random.default_rng(0).integers(0, tables.cardinality[:, None], size=shape)
        asked["base"] = torch.from_numpy(own).to(tables.state_dtype)
    whole = DrawRequest(topology=tables.topology, **asked)
    found, expected = cuda.draw(tables, whole), reference.draw(tables, whole)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.long(), b.long()), (cardinality, request)


if __name__ == "__main__":
    main()
