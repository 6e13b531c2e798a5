"""Fused training: in Triton's interpreter, compiled ahead of time, refused, and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from weakref import WeakSet

import pytest
import torch

import dualnets
import hltm
from dualnets import BYOL, SGD, BatchNorm, Head, InfoNCE, SimCLR, SimSiam
from dualnets.networks.compiled.members import flatten
from dualnets.training import steps
from dualnets.training.fused import launch, pairs, siamese, table

HERE = Path(__file__).parent
HEAD = Head((32, 16), norm=BatchNorm())
TREES = hltm.symmetric_binary(depth=5, members=2, seed=0)
METHODS = {
    "SimCLR": SimCLR(InfoNCE(0.1)),
    "InfoNCE of 4 negatives": SimCLR(InfoNCE(0.1, 4)),
    "BYOL": BYOL(HEAD, HEAD),
    "SimSiam": SimSiam(),
}
needs_triton = pytest.mark.skipif(not launch.has_triton(), reason="Triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")


def run(method, network, *, steps=4, batch=128):
    trees = hltm.symmetric_binary(depth=5, members=len(network.members), seed=0)
    return dualnets.train(
        network, method, trees, augment=hltm.keep_root(), steps=steps, batch=batch,
        optimizer=SGD(0.02), seed=3,
    )  # fmt: skip


def interpreted(*options):
    # the interpreter has to be chosen before Triton is imported
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *options,
    ]
    found = subprocess.run(
        [*command, HERE / "test_fused_interpreted.py"], env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True, text=True, cwd=HERE.parents[2],
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert " passed" in found.stdout


@needs_triton
@pytest.mark.slow
def test_gives_the_eager_numbers_in_the_interpreter():
    interpreted("-k", "several_tiles or every_option")


@needs_triton
@pytest.mark.slow
def test_gives_the_eager_numbers_in_the_interpreter_for_all_methods():
    interpreted("-m", "slow or not slow")


def kernel_and_arguments(method):
    """A kernel and what it would be called with, at the sizes of the benchmark."""
    network, batch, members = dualnets.tree_network(TREES, units=10, seed=1), 128, 2
    leaves = torch.zeros(members, network.inputs, 2 * batch, dtype=torch.uint8)
    frozen_at = torch.zeros(members, dtype=torch.int64)
    if isinstance(method, SimCLR):
        kernel = pairs.pairs.supported_kernel(network, method.criterion)
        flat = flatten(list(network.weights))
        parts = [leaves, leaves, leaves.repeat(1, 1, method.criterion.negatives)]
        found = pairs.arguments(kernel, 0.1, parts, batch, 0, flat, flat[:, 0], frozen_at)
        return pairs._kernel(), found
    optimizer = SGD(0.1, momentum=0.9, weight_decay=4e-4)
    rates = method.groups.get("predictor", dualnets.Group())
    kernel = siamese.FusedKernel(network, method.siamese, optimizer, rates)
    assert siamese._fits(kernel, batch)
    outputs = method.siamese.projector.outputs(10)
    own = table.Table(rows=network.inputs)
    own.add_network(network)
    own.add_head(method.projector, 10, 0)
    target = own.parameters if method.siamese.separate_target else 0
    own.add_head(method.predictor, outputs, 0)
    flat, velocity = (
        torch.zeros(members, count) for count in (own.parameters + target, own.parameters)
    )
    found = siamese.arguments(kernel, [leaves, leaves], batch, 0, flat, velocity)
    assert found["count"] == own.parameters
    batches = torch.zeros(members, 4, dtype=torch.int64)
    others = dict.fromkeys(("losses", "running", "ema_decays", "factors"), torch.zeros(2))
    return siamese._kernel(), found | others | {"frozen_at": frozen_at, "batches": batches}


def compile_for(kernel, arguments, capability):
    """The kernel as machine code of a GPU, which need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget

    words = {
        torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64", torch.uint8: "*u8",
    }  # fmt: skip
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        given = arguments[name]
        tensor = isinstance(given, torch.Tensor)
        signature[name] = words[given.dtype] if tensor else "i32"
        if name.isupper():
            signature[name] = "constexpr"
            constants[name] = given
        elif tensor or given % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=launch.OPTIONS)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("label", METHODS)
def test_is_compiled_for_a_gpu_within_its_limits(label, capability):
    try:
        found = compile_for(*kernel_and_arguments(METHODS[label]), capability)
    except (ImportError, FileNotFoundError, TypeError) as error:  # another version, or no ptxas
        pytest.skip(f"this Triton compiles nothing ahead of time: {error}")
    assert found.metadata.shared <= 16 << 10  # bytes: ten programs fit an A100's or H100's 160 KB
    assert len(found.asm["cubin"]) > 0


@pytest.fixture
def no_device(monkeypatch):
    """On a CPU a kernel that fails stands for one that does not compile on a GPU."""
    calls = []

    def fails():
        calls.append(1)
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(launch, "_failed", set())
    monkeypatch.setattr(launch, "_refused", WeakSet())
    for module, compiled in ((pairs, steps.pairs), (siamese, steps.siamese)):
        found = compiled.supported_kernel
        monkeypatch.setattr(
            compiled, "supported_kernel",
            lambda *given, found=found: found(*given) if given[-1] == "cpu" else None,
        )  # fmt: skip
        monkeypatch.setattr(module, "is_available", lambda own: own not in launch._refused)
        monkeypatch.setattr(module, "_kernel", fails)
    return calls


SMALL = hltm.symmetric_binary(depth=2, members=2, seed=0)


def short(method, units=3, **changes):
    network = dualnets.tree_network(SMALL, units=units, seed=1)
    given = {"steps": 4, "batch": 8, "optimizer": SGD(0.02), "seed": 3}
    return dualnets.train(network, method, SMALL, augment=hltm.keep_root(), **(given | changes))


@pytest.mark.parametrize("method", [SimCLR(), BYOL(HEAD, HEAD)], ids=["pairs", "siamese"])
def test_without_the_kernel_training_is_the_ordinary_one_after_one_warning(
    monkeypatch, no_device, method
):
    with pytest.warns(UserWarning, match="plain torch: no such instruction"):
        found = short(method)
    again = short(method)  # without a warning, which would be an error
    assert len(no_device) == 1
    for module in (pairs, siamese):
        monkeypatch.setattr(module, "is_available", lambda own: False)
    usual = short(method)
    for other in (found, again):
        pairs_of = zip(usual.network.parameters(), other.network.parameters(), strict=True)
        assert all(a.equal(b) for a, b in pairs_of)


def test_a_kernel_that_fails_is_tried_again_with_other_settings(no_device):
    for many, units in enumerate((3, 17), start=1):
        with pytest.warns(UserWarning, match="no such instruction"):
            short(SimCLR(), units)
        assert len(no_device) == many


def test_a_launch_that_fails_after_another_repeats_no_step(monkeypatch, no_device):
    """A kernel may be compiled again for other numbers of steps, so that a later launch can fail."""
    trained = []

    def fused(kernel, memory, state, views, batch, step, *rest, **options):
        if step > 0:
            launch._refused.add(kernel.network)
            raise launch.LaunchError("no memory")
        return state, torch.zeros(2)

    def plain(*given, own=steps.train_steps_eager, **options):
        trained.append(given[3:5])
        return own(*given, **options)

    monkeypatch.setattr(siamese, "train", fused)
    monkeypatch.setattr(steps, "train_steps_eager", plain)
    short(BYOL(HEAD, HEAD, redraw_every=2), steps=5)
    assert trained == [(2, 3)]


def test_only_networks_on_cuda_are_fused():
    network = dualnets.tree_network(TREES, units=3, seed=1)
    assert not launch.is_available(network)
    assert pairs.supported_kernel(network, InfoNCE()) is None


def test_blocks_that_do_not_fit_a_program_are_not_fused():
    def fits(units, **options):
        return table.network_tiles(dualnets.mlp(TREES, units=units, seed=1, **options)).fit

    assert fits(64)
    assert not fits(65)


@needs_triton
@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("label", METHODS)
@pytest.mark.parametrize("batch", [128, 77])
def test_gives_the_eager_numbers_on_a_gpu(monkeypatch, label, batch):
    trees = hltm.symmetric_binary(depth=5, members=5, seed=0)
    network = dualnets.tree_network(
        trees, units=10, seed=1, bias=True, normalize=True, device="cuda"
    )
    calls = []
    for module in (pairs, siamese):
        train = module.train
        monkeypatch.setattr(
            module, "train", lambda *a, train=train, **k: calls.append(1) or train(*a, **k)
        )
    ours = run(METHODS[label], network, steps=5, batch=batch)
    assert calls
    for module in (pairs, siamese):
        monkeypatch.setattr(module, "is_available", lambda *_: False)
    theirs = run(METHODS[label], network, steps=5, batch=batch)
    for a, b in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    for name, tensor in ours.state.items():
        torch.testing.assert_close(tensor, theirs.state[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-4, atol=1e-5)


@needs_triton
@needs_cuda
@pytest.mark.gpu
def test_a_thousand_members_are_as_many_single_ones_on_a_gpu():
    """Programs run in any order on any processor: the numbers of a member do not depend on the others."""
    trees = hltm.symmetric_binary(depth=5, members=1000, seed=0)
    network = dualnets.tree_network(trees, units=10, seed=1, device="cuda")
    whole = run(METHODS["SimCLR"], network, steps=70)
    again = run(METHODS["SimCLR"], network, steps=70)
    assert all(
        a.equal(b)
        for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True)
    )
