"""The kernel for CUDA gives the reference's bits: in numba's simulator here, on a GPU where there is one."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from draw_cases import BINARY, MIXED, PARENTS, random_tables

import hltm
from hltm.sampling.kernels import on_device, reference
from hltm.sampling.kernels.request import DrawRequest

SIMULATED = Path(__file__).with_name("simulated_cuda.py")
MANY = [2, 300, 2, 3, 4, 5, 6]
FAKE = torch.device("cuda")


@pytest.mark.slow
def test_the_simulated_kernel_equals_the_reference():
    """In a process of its own: numba decides when it is imported whether it simulates."""
    chosen = {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    found = subprocess.run(
        [sys.executable, "-W", "error", SIMULATED], env=os.environ | chosen, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert found.stdout == "equal\n", found.stderr


@pytest.mark.slow
def test_the_kernel_compiles_to_integer_instructions(monkeypatch):
    """Its types are inferred and translated wherever the compiler of the CUDA toolkit is installed."""
    from numba import types

    cuda = pytest.importorskip("numba.cuda")
    try:
        from hltm.sampling.kernels import cuda_tiles as kernel

        cuda.cudadrv.nvvm.NVVM()
    except Exception:
        pytest.skip("no compiler for CUDA")
    # for which numba would ask a GPU
    capability = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: capability)
    i8, u4, u2 = types.int64, types.uint32, types.uint16

    def array(kind, axes):
        return types.Array(kind, axes, "C")

    signature = (
        u4, u4, i8, array(i8, 1), array(i8, 1), array(i8, 1), i8, i8, array(i8, 2), array(i8, 1),
        array(i8, 1), array(i8, 2), array(u4, 2), array(u4, 2), array(types.int32, 3), types.boolean,
        types.boolean, i8, i8, array(u4, 4), array(u4, 4), array(u2, 4),
    )  # fmt: skip
    code, _ = cuda.compile_ptx(kernel.draw_tiles.py_func, signature, cc=(9, 0))
    assert "mul.wide.u32" in code
    assert ".f32" not in code
    assert ".f64" not in code


def request(tables, device, **changes):
    given = {
        "seed": 5, "stream": 1, "members": (0, 1, 9), "start": 77, "samples": 5000,
        "views": (0, 1, 2), "rates": np.array([0, 0.5, 0, 1, 0.2, 0, 0.7]),
    }  # fmt: skip
    return DrawRequest(topology=tables.topology, device=device, **(given | changes))


@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
def test_the_cpu_draws_for_a_device_without_a_kernel(device, monkeypatch):
    """`meta` stands in for one, since nothing can be copied to what is not there."""
    tables = random_tables(PARENTS, BINARY, seed=0)
    where = torch.device(device)
    assert not on_device.draws_itself(tables, where)
    if device == "meta":
        for states in on_device.draw(tables, request(tables, where)):
            assert states.device == where
            assert states.shape == (3, 7, 5000)


@pytest.mark.parametrize(
    ("cardinality", "threads", "kernel", "itself"),
    [
        (BINARY, 1, None, False), (BINARY, 2, None, False), (MIXED, 1, None, True),
        (MIXED, 2, None, False), (BINARY, 2, object(), True), (MIXED, 2, object(), True),
    ],
)  # fmt: skip
def test_which_kernel_draws_for_cuda(cardinality, threads, kernel, itself, monkeypatch):
    monkeypatch.setattr(on_device, "_usable_cuda_kernel", lambda: kernel)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert on_device.draws_itself(random_tables(PARENTS, cardinality, seed=0), FAKE) == itself


def test_a_kernel_that_fails_is_replaced_once_with_one_warning(monkeypatch):
    """The CPU stands in for a GPU, as the device of the request; the kernel is said to be usable."""

    def draw(tables, asked):
        raise OSError("libnvvm is of another version\nand so on")

    tables, there = random_tables(PARENTS, BINARY, seed=0), torch.device("cpu")
    monkeypatch.setattr(on_device, "_failed", set())
    monkeypatch.setattr(on_device, "_usable_cuda_kernel", lambda: SimpleNamespace(draw=draw))
    monkeypatch.setattr(
        on_device, "draws_itself", lambda tables, device: on_device._cuda_kernel() is not None
    )
    expected = reference.draw(tables, request(tables, there))
    with pytest.warns(RuntimeWarning, match=r"OSError: libnvvm is of another version\)") as noted:
        found = on_device.draw(tables, request(tables, there))
    assert len(noted) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = on_device.draw(tables, request(tables, there))
    for a, b, c in zip(found, again, expected, strict=True):
        assert a.equal(b)
        assert a.equal(c)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("cardinality", [BINARY, MIXED, MANY])
@pytest.mark.parametrize("start", [0, 77, (1 << 34) - 5000])
def test_a_gpus_own_kernel_draws_the_same_bits(cardinality, start):
    from hltm.sampling.kernels import cuda

    if not cuda.usable():
        pytest.skip("numba cannot compile for this GPU")
    for members in (1, 3):
        tables = random_tables(PARENTS, cardinality, seed=0, members=members)
        here = request(tables, torch.device("cpu"), start=start)
        there = cuda.draw(tables, request(tables, FAKE, start=start))
        for a, b in zip(reference.draw(tables, here), there, strict=True):
            assert b.is_cuda
            assert b.dtype == a.dtype
            assert torch.equal(a.long(), b.cpu().long())


@pytest.mark.gpu
@needs_cuda
def test_a_gpus_kernel_is_chosen_and_runs_on_torchs_stream():
    tree = hltm.symmetric_binary(depth=9, members=4, seed=0)
    expected = tree.sample(30_000, seed=1).states
    with torch.cuda.stream(torch.cuda.Stream()):
        found = tree.sample(30_000, seed=1, device="cuda").states
        total = found.sum(dtype=torch.int64)  # on the same stream, behind the kernel
    assert int(total) == int(expected.sum(dtype=torch.int64))
    assert torch.equal(found.cpu(), expected)
    assert not on_device._failed
