"""Graphs of a step, in a simulator: operations are noted while it is recorded, and done again at a launch.

A real graph differs in speed alone. The simulator refuses what cannot be recorded on a GPU: numbers that
are read from the device and constants that are copied to it.
"""

import gc
from contextlib import contextmanager, nullcontext

import pytest
import torch
from test_recorded_steps import METHODS, setting
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dualnets
from dualnets.networks.compiled import head_pass, network_pass
from dualnets.training import eager, steps
from dualnets.training.eager import train_steps_eager
from dualnets.training.recorded import graphs

aten = torch.ops.aten
REFUSED = (aten._local_scalar_dense.default, aten.lift_fresh.default, aten.nonzero.default)


class Tape(TorchDispatchMode):
    """Operations with the tensors that they read and made."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in REFUSED:
            raise RuntimeError(f"{func} cannot be recorded")
        made = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, made))
        return made


class SimulatedGraph:
    def pool(self):
        return (0, 1)

    def replay(self):
        for func, args, kwargs, made in self.tape.operations:
            again = func(*args, **kwargs)
            given = {own.untyped_storage().data_ptr() for own in tensors((args, kwargs))}
            for old, new in zip(tensors(made), tensors(again), strict=True):
                if (
                    old.untyped_storage().data_ptr() not in given
                ):  # neither a view nor changed in place
                    old.copy_(new)


def tensors(tree):
    return [own for own in tree_leaves(tree) if isinstance(own, torch.Tensor)]


class Stream:
    def wait_stream(self, other):
        pass


@contextmanager
def record(graph, *, pool, stream, capture_error_mode):
    assert capture_error_mode == "thread_local"
    with Tape() as tape:
        yield
    graph.tape = tape


@pytest.fixture
def simulated(monkeypatch):
    simulation = {
        "Stream": Stream, "current_stream": Stream, "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(), "CUDAGraph": SimulatedGraph, "graph": record,
    }  # fmt: skip
    for name, own in simulation.items():
        monkeypatch.setattr(torch.cuda, name, own)
    for module in (
        network_pass,
        head_pass,
    ):  # what is compiled for the CPU is left out, as on a GPU
        monkeypatch.setattr(module, "are_plain", lambda parameters: False)
    monkeypatch.setattr(eager.compiled, "is_compiled", lambda *given: False)


def made(network, config, before):
    (batch,) = config.data.batches(config.method.needs, 0, 1)
    return graphs.Graph(network, config, before, batch)


SCHEDULE = dualnets.Schedule("cosine", warm_up=2)
# AdamW divides by the size of a gradient, which is rounding where a BatchNorm follows a bias
OPTIMIZERS = {
    "sgd": dualnets.SGD((0.02, 0.05), momentum=0.9, clip=1.0, schedule=SCHEDULE),
    "diverges": dualnets.SGD((0.02, 1e38), schedule=SCHEDULE),
    "adamw": dualnets.AdamW(0.01, schedule=SCHEDULE),
    "lars": dualnets.LARS(0.1, schedule=SCHEDULE),
}
QUICK = ("simclr-head", "byol", "byol-redrawn", "moco", "swav", "supervised")
CASES = [
    pytest.param(name, "sgd", marks=() if name in QUICK else pytest.mark.slow) for name in METHODS
]
CASES += [("byol", "diverges"), ("simclr", "adamw"), ("simclr", "lars")]


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_a_graph_has_the_numbers_of_eager_steps(name, optimizer, simulated):
    """Schedules and states change from step to step."""
    optimizer = OPTIMIZERS[optimizer]
    ours = setting(METHODS[name], optimizer=optimizer)
    graph = made(*ours)
    found = train_steps_eager(*ours, 0, 4, advance=graph)
    theirs = setting(METHODS[name], optimizer=optimizer)
    expected = train_steps_eager(*theirs, 0, 4)
    network, config, _ = ours
    assert graph.fits(network, config, found)
    assert found.frozen_at.equal(expected.frozen_at)
    pairs = [*zip(network.parameters(), theirs[0].parameters(), strict=True)]
    pairs += [(own, expected.state[name]) for name, own in found.state.items()]
    pairs += [(own, expected.memory[name]) for name, own in found.memory.items()]
    for a, b in [*pairs, (found.losses, expected.losses)]:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, equal_nan=True)


def test_a_recording_that_fails_changes_nothing_and_says_so_once(simulated, monkeypatch):
    network, config, before = setting(METHODS["simclr"])
    before = before._replace(frozen_at=Cuda(before.frozen_at))
    kept = [own.detach().clone() for own in (*network.parameters(), *before.memory.values())]

    @contextmanager
    def fails(graph, **options):
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    monkeypatch.setattr(steps, "WORTH_A_GRAPH", 2)
    with pytest.warns(UserWarning, match="one by one: operation not permitted"):
        assert steps._recorded(network, config, before, 0) is None
    assert steps._recorded(network, config, before, 1) is None
    now = [*network.parameters(), *before.memory.values()]
    assert all(a.equal(b) for a, b in zip(now, kept, strict=True))


class Cuda(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True

    def __new__(cls, own):
        return own.as_subclass(cls)


def test_a_graph_belongs_to_one_training_and_to_tensors_where_they_lie(simulated):
    network, config, before = setting(METHODS["simclr"], optimizer=dualnets.SGD(0.1))
    graph = made(network, config, before)
    assert graph.fits(network, config, before)
    for other in (
        config._replace(method=dualnets.SimCLR()),
        config._replace(optimizer=dualnets.SGD(0.2)),
        config._replace(context=config.context._replace(batch=16)),
    ):
        assert not graph.fits(network, other, before)
    network.weights[0].data = network.weights[0].data.clone()  # as when a network is moved
    assert not graph.fits(network, config, before)


def test_graphs_of_a_device_share_memory_as_long_as_one_is_alive(simulated, monkeypatch):
    gc.freeze()  # what was there before, of which there is much, is not looked through
    pools = []
    monkeypatch.setattr(graphs, "_alive", graphs.WeakSet())
    monkeypatch.setattr(
        torch.cuda, "graph", lambda graph, **own: pools.append(own["pool"]) or record(graph, **own)
    )
    given = setting(METHODS["simclr"])
    first = made(*given)
    second = made(*given)
    assert first.stream is second.stream
    del first, second
    gc.collect()
    gc.unfreeze()
    made(*given)
    assert pools == [None, (0, 1), None]
