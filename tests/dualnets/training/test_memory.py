"""Memory: sizes known from shapes, members that fit together, and what no machine holds."""

import pytest
import torch
from few import few

import dualnets
import hltm
from dualnets.methods.protocol import TrainContext
from dualnets.training import ensemble, memory
from dualnets.training.data import FixedData, FreshData
from dualnets.training.ensemble import members_at_once
from dualnets.training.memory import take
from dualnets.training.steps import TrainConfig, train_steps_eager

TREES = hltm.symmetric_binary(depth=3, members=5, seed=0)
METHOD = dualnets.SimCLR(
    dualnets.NTXent(0.5), dualnets.Head((6, 3), norm=dualnets.BatchNorm(affine=True))
)


def network(trees=TREES, units=4):
    return dualnets.tree_network(trees, units=units, seed=1, bias=True)


def config(trees=TREES, batch=16, optimizer=None, method=METHOD, samples=None):
    given = (trees, trees.members, hltm.keep_root(), batch, 5, True, torch.device("cpu"))
    data = FreshData(*given) if samples is None else FixedData(*given, samples=samples)
    context = TrainContext(trees, 5, 10, batch, samples)
    return TrainConfig(method, optimizer or dualnets.Adam(), data, context)


def bytes_each(*given):
    return memory.footprint(*given).each


def test_a_members_bytes_grow_with_all_that_it_keeps():
    least = bytes_each(network(), config())
    assert bytes_each(network(), config(batch=64)) > 2 * least
    assert bytes_each(network(units=16), config()) > 1.5 * least
    plain = bytes_each(network(), config(optimizer=dualnets.SGD(0.1)))
    weights = sum(p[0].numel() for p in network().parameters())
    assert least - plain >= 2 * 4 * weights  # Adam remembers two numbers of each
    # one member takes the same wherever it is
    more = hltm.symmetric_binary(depth=3, members=50, seed=0)
    assert bytes_each(network(more), config(more)) == least


def test_the_estimate_is_what_a_step_takes():
    """Peak of live tensors in one step, counted by torch's profiler, against the estimate."""
    wide, settings = network(units=64), config(batch=256)
    alone = take(wide, 0, 1)
    own = settings.of_members(0, 1)
    before = own.init(alone)
    with torch.profiler.profile(profile_memory=True) as profile:
        train_steps_eager(alone, own, before, 0, 1)
    events = profile.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    estimate = bytes_each(wide, settings)
    assert 0.5 * estimate < peak < 1.1 * estimate


def test_how_many_fit_is_fixed_by_the_settings(monkeypatch):
    settings = config(batch=1 << 15, method=dualnets.SimCLR())  # large enough to be measured
    each = bytes_each(network(), settings)
    for room, expected in ((each // 2, 1), (3 * each, 3), (100 * each, 5)):
        monkeypatch.setattr(ensemble, "MEMORY", room)
        assert members_at_once(network(), settings, None) == expected
    assert members_at_once(network(), settings, 2) == 2
    assert members_at_once(network(), settings, 99) == 5
    monkeypatch.setattr(memory, "memory_of", lambda device: 2 * each)
    monkeypatch.setattr(ensemble, "MEMORY", 3 * each)
    with pytest.raises(MemoryError, match=r"3 members at once take about .* lower members_at_once"):
        members_at_once(network(), settings, None)
    with pytest.raises(ValueError, match="members_at_once must be at least 1, got 0"):
        members_at_once(network(), settings, 0)


ALL = {
    "simclr": (METHOD, None),
    "negatives": (dualnets.SimCLR(dualnets.InfoNCE(negatives=5)), None),
    "byol": (dualnets.BYOL(), None),
    "byol-random": (dualnets.BYOL(target="random"), None),
    "byol-direct": (dualnets.BYOL(predictor=dualnets.DirectPredictor()), None),
    "moco": (dualnets.MoCo(), None),
    "swav": (dualnets.SwAV(prototypes=8, queue=32), None),
    "pirl": (dualnets.PIRL(negatives=20), 100),
    "simsiam": (dualnets.SimSiam(), None),
    "vicreg": (dualnets.VICReg(), None),
    "barlow-twins": (dualnets.BarlowTwins(), None),
    "supervised": (dualnets.Supervised("latents"), 50),
    "teacher-student": (
        dualnets.TeacherStudent(dualnets.tree_network(TREES, units=4, seed=3)),
        None,
    ),
}


def module() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(8, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 4)
    )


@pytest.mark.parametrize("name", few(ALL, ["negatives", "byol", "swav", "pirl"]))
def test_shapes_alone_give_the_same_footprint_as_numbers(name, monkeypatch):
    method, samples = ALL[name]
    norm = dualnets.BatchNorm(affine=True)
    for net in (
        network(),
        dualnets.tree_network(TREES, units=4, seed=1, norm=norm),
        dualnets.TorchEnsemble(TREES, module, activations={1: "0"}, seed=0),
    ):
        settings = config(method=method, samples=samples)
        monkeypatch.setattr(memory, "SMALL", 1 << 40)
        measured = memory.footprint(net, settings)
        monkeypatch.setattr(memory, "SMALL", -1)
        assert memory.footprint(net, settings) == measured
        one = take(net, 0, 1).train()
        assert memory.upper_bound(one, settings.of_members(0, 1)) > 2 * measured.each


def test_an_encoding_that_shapes_cannot_run_is_measured_with_numbers(monkeypatch):
    def through_numpy(states):
        return torch.from_numpy(2.0 * states.numpy())

    net = dualnets.TorchEnsemble(
        TREES, module, activations={1: "0"}, seed=0, encode=through_numpy
    )  # fmt: skip
    measured = memory.footprint(net, config())
    monkeypatch.setattr(memory, "SMALL", -1)
    assert memory.footprint(net, config()) == measured


def test_small_runs_with_a_large_loss_are_split_too():
    trees = hltm.symmetric_binary(depth=3, members=63, seed=0)
    settings = config(trees, 2048, method=dualnets.SimCLR(dualnets.NTXent(0.1)))
    net = dualnets.tree_network(trees, units=4, seed=1)
    each = bytes_each(net, settings)
    assert each > 4 * (2 * 2048) ** 2  # a matrix of all pairs
    count = members_at_once(net, settings, None)
    assert count == ensemble.MEMORY // each < 63
    assert members_at_once(net, config(trees), None) == 63


HUGE = {
    "queue": (
        dualnets.MoCo(queue=1 << 36), 16, None,
        r"the method's queue \(68719476736x4 per member\), .* GiB: lower queue",
    ),
    "a queue that one member cannot hold": (
        dualnets.MoCo(queue=1 << 33), 16, None, "the method's queue .*: lower queue",
    ),
    "beyond counting": (dualnets.MoCo(queue=1 << 62), 16, None, "more than there can be; lower queue, 4611"),
    "swav's queue": (
        dualnets.SwAV(prototypes=4, queue=1 << 36), 16, None, r"the method's queue\.0 .*: lower queue"
    ),
    "bank": (dualnets.PIRL(negatives=4), 16, 1 << 40, "the largest part is .*: lower samples"),
    "data": (dualnets.SimCLR(), 16, 1 << 42, "the fixed data set, .* GiB: lower samples"),
    "negatives": (
        dualnets.SimCLR(dualnets.InfoNCE(negatives=1 << 10)), 1 << 17, None,
        "what a step keeps for its backward pass, .* lower batch, negatives or units",
    ),
    "a head": (
        dualnets.SimCLR(projector=dualnets.Head((1 << 17, 1 << 17))), 16, None,
        r"the method's projector\.1\.weight .*: lower projector",
    ),
    "batch": (dualnets.SimCLR(dualnets.NTXent()), 1 << 22, None, "lower batch or units"),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_what_no_machine_holds_is_refused_before_anything_is_allocated(name, monkeypatch):
    method, batch, samples, message = HUGE[name]
    monkeypatch.setattr(memory, "memory_of", lambda device: 1 << 34)
    monkeypatch.setattr(FreshData, "draw", lambda *_: pytest.fail("rows were drawn"))
    monkeypatch.setattr(FixedData, "draw", lambda *_: pytest.fail("rows were drawn"))
    with pytest.raises(MemoryError, match=message):
        dualnets.trajectory(
            network(), method, TREES, augment=hltm.resample_leaves(0.1), steps=3, batch=batch, seed=2,
            samples=samples, optimizer=dualnets.SGD(0.1),
        )  # fmt: skip
