"""Ensembles in parts: taken and joined again, sized by what they keep, refused where they do not fit."""

import pytest
import torch

import dualnets
import hltm
from dualnets.methods.protocol import TrainContext
from dualnets.training import ensemble, memory
from dualnets.training.data import FixedData, FreshData
from dualnets.training.ensemble import join, join_states, members_at_once, take
from dualnets.training.steps import TrainConfig, train_steps_eager

TREES = hltm.symmetric_binary(depth=3, members=5, seed=0)
METHOD = dualnets.SimCLR(
    dualnets.NTXent(0.5), dualnets.Head((6, 3), norm=dualnets.BatchNorm(affine=True))
)


def network(trees=TREES, units=4):
    return dualnets.tree_network(trees, units=units, seed=1, bias=True)


def recipe(trees=TREES, batch=16, optimizer=None, method=METHOD):
    data = FreshData(trees, trees.members, hltm.keep_root(), batch, 5, True, torch.device("cpu"))
    setup = TrainContext(trees, 5, 10, batch)
    return TrainConfig(method, optimizer or dualnets.Adam(), data, setup)


def bytes_each(*given):
    return memory.footprint(*given).each


def test_what_is_taken_apart_joins_to_the_same():
    whole = network()
    parts = [take(whole, low, high) for low, high in ((0, 2), (2, 3), (3, 5))]
    assert [part.members for part in parts] == [(0, 1), (2,), (3, 4)]
    again = join(parts, whole)
    leaves = TREES.sample(6, seed=2).leaves
    assert again(leaves).equal(whole(leaves))
    assert parts[1](leaves[2:3]).equal(whole(leaves)[2:3])
    with torch.no_grad():  # copies, not views
        parts[0].weights[0].zero_()
    assert again(leaves).equal(whole(leaves))


def test_progress_of_parts_joins_in_order():
    whole = network()
    settings = recipe()
    after = train_steps_eager(whole, settings, settings.begin(whole), 0, 3)
    found = []
    for low, high in ((0, 2), (2, 5)):
        part = take(network(), low, high)
        own = settings._replace(data=settings.data.of_members(low, high))
        found.append(train_steps_eager(part, own, own.begin(part), 0, 3))
    joined = join_states(found)
    for ours, theirs in ((joined.state, after.state), (joined.memory, after.memory)):
        assert set(ours) == set(theirs)
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name].detach(), rtol=0, atol=1e-6)
    assert joined.frozen_at.equal(after.frozen_at)


def test_a_members_bytes_grow_with_all_that_it_keeps():
    least = bytes_each(network(), recipe())
    assert bytes_each(network(), recipe(batch=64)) > 2 * least
    assert bytes_each(network(units=16), recipe()) > 1.5 * least
    plain = bytes_each(network(), recipe(optimizer=dualnets.SGD(0.1)))
    weights = sum(p[0].numel() for p in network().parameters())
    assert least - plain >= 2 * 4 * weights  # Adam remembers two numbers of each
    # one member takes the same wherever it is
    more = hltm.symmetric_binary(depth=3, members=50, seed=0)
    assert bytes_each(network(more), recipe(more)) == least


def test_the_estimate_is_what_a_step_takes():
    """Peak of live tensors in one step, counted by torch's profiler, against the estimate."""
    wide, settings = network(units=64), recipe(batch=256)
    alone = take(wide, 0, 1)
    own = settings._replace(data=settings.data.of_members(0, 1))
    progress = own.begin(alone)
    with torch.profiler.profile(profile_memory=True) as profile:
        train_steps_eager(alone, own, progress, 0, 1)
    events = profile.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    estimate = bytes_each(wide, settings)
    assert 0.5 * estimate < peak < 1.1 * estimate


def test_how_many_fit_is_fixed_by_the_settings(monkeypatch):
    settings = recipe(batch=1 << 15, method=dualnets.SimCLR())  # large enough for a trial
    each = bytes_each(network(), settings)
    for room, expected in ((each // 2, 1), (3 * each, 3), (100 * each, 5)):
        monkeypatch.setattr(ensemble, "MEMORY", room)
        assert members_at_once(network(), settings, None) == expected
    assert members_at_once(network(), settings, 2) == 2
    assert members_at_once(network(), settings, 99) == 5
    monkeypatch.setattr(ensemble, "memory_of", lambda device: 2 * each)
    monkeypatch.setattr(ensemble, "MEMORY", 3 * each)
    with pytest.raises(MemoryError, match=r"3 members at once take about .* lower members_at_once"):
        members_at_once(network(), settings, None)
    with pytest.raises(ValueError, match="members_at_once must be at least 1, got 0"):
        members_at_once(network(), settings, 0)


def rows(method, trees=TREES, batch=16, samples=None):
    given = (trees, trees.members, hltm.keep_root(), batch, 5, True, torch.device("cpu"))
    data = FreshData(*given) if samples is None else FixedData(*given, samples=samples)
    return TrainConfig(method, dualnets.Adam(), data, TrainContext(trees, 5, 10, batch, samples))


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


@pytest.mark.parametrize("name", ALL)
def test_shapes_alone_tell_what_numbers_tell(name, monkeypatch):
    method, samples = ALL[name]
    norm = dualnets.BatchNorm(affine=True)
    for net in (
        network(),
        dualnets.tree_network(TREES, units=4, seed=1, norm=norm),
        dualnets.TorchEnsemble(TREES, module, activations={1: "0"}, seed=0),
    ):
        settings = rows(method, samples=samples)
        monkeypatch.setattr(memory, "SMALL", 1 << 40)
        tried = memory.footprint(net, settings)
        monkeypatch.setattr(memory, "SMALL", -1)
        assert memory.footprint(net, settings) == tried
        one = take(net, 0, 1).train()
        assert memory.at_most(one, memory.recipe_of(settings, 0, 1)) > 2 * tried.each


def test_an_encoding_that_shapes_cannot_run_is_tried_with_numbers(monkeypatch):
    def through_numpy(states):
        return torch.from_numpy(2.0 * states.numpy())

    net = dualnets.TorchEnsemble(
        TREES, module, activations={1: "0"}, seed=0, encode=through_numpy
    )  # fmt: skip
    tried = memory.footprint(net, rows(METHOD))
    monkeypatch.setattr(memory, "SMALL", -1)
    assert memory.footprint(net, rows(METHOD)) == tried


def test_small_runs_with_a_large_loss_are_split_too():
    trees = hltm.symmetric_binary(depth=3, members=63, seed=0)
    settings = rows(dualnets.SimCLR(dualnets.NTXent(0.1)), trees, batch=2048)
    net = dualnets.tree_network(trees, units=4, seed=1)
    each = bytes_each(net, settings)
    assert each > 4 * (2 * 2048) ** 2  # a matrix of all pairs
    count = members_at_once(net, settings, None)
    assert count == ensemble.MEMORY // each < 63
    assert members_at_once(net, rows(METHOD, trees), None) == 63


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
    monkeypatch.setattr(ensemble, "memory_of", lambda device: 1 << 34)
    monkeypatch.setattr(FreshData, "draw", lambda *_: pytest.fail("rows were drawn"))
    monkeypatch.setattr(FixedData, "draw", lambda *_: pytest.fail("rows were drawn"))
    with pytest.raises(MemoryError, match=message):
        dualnets.trajectory(
            network(), method, TREES, augment=hltm.resample_leaves(0.1), steps=3, batch=batch, seed=2,
            samples=samples, optimizer=dualnets.SGD(0.1),
        )  # fmt: skip


def test_taking_members_copies_no_others(monkeypatch):
    """A part of an ensemble is made without a copy of the whole."""
    whole = network()
    sizes = []
    original = torch.Tensor.__deepcopy__

    def spy(self, memo):
        sizes.append(self.numel())
        return original(self, memo)

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", spy)
    assert take(whole, 1, 3).members == (1, 2)
    assert sizes == []
