"""Ensembles in parts: taken and joined again, sized by what they keep, refused where they do not fit."""

import pytest
import torch

import dualnets
import hltm
from dualnets import ensemble
from dualnets.ensemble import bytes_per_member, join, join_progress, members_at_once, take
from dualnets.methods.protocol import Setup
from dualnets.span import Recipe, run_span_eager
from dualnets.training_data import FreshData

TREES = hltm.symmetric_binary(depth=3, members=5, seed=0)
METHOD = dualnets.SimCLR(
    dualnets.NTXent(0.5), dualnets.Head((6, 3), norm=dualnets.BatchNorm(affine=True))
)


def network(trees=TREES, units=4):
    return dualnets.tree_network(trees, units=units, seed=1, bias=True)


def recipe(trees=TREES, batch=16, optimizer=None, method=METHOD):
    data = FreshData(trees, trees.members, hltm.keep_root(), batch, 5, True, torch.device("cpu"))
    setup = Setup(trees, 5, 10, batch)
    return Recipe(method, optimizer or dualnets.Adam(), data, setup)


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
    after = run_span_eager(whole, settings, settings.begin(whole), 0, 3)
    found = []
    for low, high in ((0, 2), (2, 5)):
        part = take(network(), low, high)
        own = settings._replace(data=settings.data.of_members(low, high))
        found.append(run_span_eager(part, own, own.begin(part), 0, 3))
    joined = join_progress(found)
    for ours, theirs in ((joined.state, after.state), (joined.memory, after.memory)):
        assert set(ours) == set(theirs)
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name].detach(), rtol=0, atol=1e-6)
    assert joined.frozen_at.equal(after.frozen_at)


def test_a_members_bytes_grow_with_all_that_it_keeps():
    least = bytes_per_member(network(), recipe())
    assert bytes_per_member(network(), recipe(batch=64)) > 2 * least
    assert bytes_per_member(network(units=16), recipe()) > 1.5 * least
    plain = bytes_per_member(network(), recipe(optimizer=dualnets.SGD(0.1)))
    weights = sum(p[0].numel() for p in network().parameters())
    assert least - plain >= 2 * 4 * weights  # Adam remembers two numbers of each
    # one member takes the same wherever it is
    more = hltm.symmetric_binary(depth=3, members=50, seed=0)
    assert bytes_per_member(network(more), recipe(more)) == least


def test_the_estimate_is_what_a_step_takes():
    """Peak of live tensors in one step, counted by torch's profiler, against the estimate."""
    wide, settings = network(units=64), recipe(batch=256)
    alone = take(wide, 0, 1)
    own = settings._replace(data=settings.data.of_members(0, 1))
    progress = own.begin(alone)
    with torch.profiler.profile(profile_memory=True) as profile:
        run_span_eager(alone, own, progress, 0, 1)
    events = profile.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    estimate = bytes_per_member(wide, settings)
    assert 0.5 * estimate < peak < 1.1 * estimate


def test_how_many_fit_is_fixed_by_the_settings(monkeypatch):
    settings = recipe(batch=1 << 15, method=dualnets.SimCLR())  # large enough for a trial
    each = bytes_per_member(network(), settings)
    for memory, expected in ((each // 2, 1), (3 * each, 3), (100 * each, 5)):
        monkeypatch.setattr(ensemble, "MEMORY", memory)
        assert members_at_once(network(), settings, None) == expected
    assert members_at_once(network(), settings, 2) == 2
    assert members_at_once(network(), settings, 99) == 5
    monkeypatch.setattr(ensemble, "_memory", lambda device: 2 * each)
    monkeypatch.setattr(ensemble, "MEMORY", 3 * each)
    with pytest.raises(MemoryError, match=r"3 members at once take about .* lower members_at_once"):
        members_at_once(network(), settings, None)
    with pytest.raises(ValueError, match="members_at_once must be at least 1, got 0"):
        members_at_once(network(), settings, 0)
