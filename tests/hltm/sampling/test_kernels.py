"""The fast kernel gives the reference's bits on every tree."""

import threading

import numpy as np
import pytest
import torch
from draw_cases import BINARY, MIXED, PARENTS, random_tables
from hypothesis import given, settings
from hypothesis import strategies as st

from hltm.model.tables import ONE, Tables, make_tables
from hltm.model.topology import Topology
from hltm.sampling.kernels import cpu, reference
from hltm.sampling.kernels.request import DrawRequest
from hltm.sampling.philox import Stream


def both(tables, **request):
    """The states of both kernels, asserted equal, as int64."""
    asked = DrawRequest(
        topology=tables.topology,
        **{"seed": 11, "stream": 1, "members": (0,), "start": 0, **request},
    )
    fast, slow = cpu.draw(tables, asked), reference.draw(tables, asked)
    for a, b in zip(fast, slow, strict=True):
        assert a.dtype == b.dtype == tables.state_dtype
        assert a.shape == b.shape
        assert torch.equal(a.long(), b.long())
    return [states.long() for states in fast]


@st.composite
def trees(draw):
    nodes = draw(st.integers(2, 9))
    parents = [-1] + [draw(st.integers(0, v - 1)) for v in range(1, nodes)]
    states = st.sampled_from([2, 2, 3, 4, 7, 40])
    binary = draw(st.booleans())
    cardinality = [2 if binary else draw(states) for _ in range(nodes)]
    return parents, cardinality


@st.composite
def requests(draw, nodes):
    start = draw(st.sampled_from([0, 1, 63, 127, 128, 5000, (1 << 34) - 3000]))
    rates = [draw(st.sampled_from([0.0, 0.0, 0.25, 0.9, 1.0])) for _ in range(nodes)]
    return {
        "seed": draw(st.integers(0, 2**64 - 1)),
        "stream": draw(st.sampled_from(list(Stream))),
        "members": draw(st.sampled_from([(0,), (5, 2), (2**32 - 1,)])),
        "start": start,
        "samples": draw(st.sampled_from([1, 2, 64, 129, 300, 2100])),
        "views": draw(st.sampled_from([(0,), (1, 2), (0, 3), (2**24 - 1,)])),
        "rates": np.array(rates),
        "first": draw(st.integers(0, nodes - 1)),
    }


@settings(max_examples=40)
@given(st.data())
def test_fast_equals_reference_on_every_tree(data):
    parents, cardinality = data.draw(trees())
    request = data.draw(requests(len(parents)))
    members = data.draw(st.sampled_from([1, len(request["members"])]))
    tables = random_tables(
        parents, cardinality, seed=len(parents), members=members, sharp=data.draw(st.booleans())
    )
    both(tables, **request)


@settings(max_examples=15)
@given(st.data())
def test_views_of_given_states_equal_the_reference(data):
    parents, cardinality = data.draw(trees())
    request = {**data.draw(requests(len(parents))), "views": (1, 2)}
    tables = random_tables(parents, cardinality, seed=1)
    shape = (len(request["members"]), len(parents), request["samples"])
    own = np.random.default_rng(0).integers(0, tables.cardinality[:, None], size=shape)
    both(tables, **request, base=torch.from_numpy(own).to(tables.state_dtype))


@pytest.mark.parametrize("cardinality", [BINARY, MIXED])
def test_a_base_that_is_given_equals_one_by_address(cardinality):
    tables = random_tables(PARENTS, cardinality, seed=0)
    request = {"samples": 700, "start": 77, "rates": np.array([0, 0.5, 0, 1, 0.2, 0, 0.7])}
    (base,) = both(tables, samples=700, start=77)
    addressed = both(tables, **request, views=(1, 2))
    given_base = both(tables, **request, views=(1, 2), base=base.to(tables.state_dtype))
    assert all(torch.equal(a, b) for a, b in zip(addressed, given_base, strict=True))


def test_what_many_nodes_leave_undecided_is_finished_for_each(monkeypatch):
    """More blocks and more draws wait than there is room for, and several children share a parent."""
    monkeypatch.setattr(cpu, "PENDING", 8)
    monkeypatch.setattr(cpu, "PENDING_DRAWS", 7)
    monkeypatch.setattr(cpu, "_last", threading.local())
    parents = [-1, *np.repeat(np.arange(5), 6)]
    tables = random_tables(parents, [2] * len(parents), seed=1, members=2)
    rates = np.where(np.arange(len(parents)) % 5 == 0, 0.3, 0.0)
    both(tables, samples=1500, start=90, members=(3, 1), rates=rates, views=(0, 1))


def test_thresholds_of_few_bits_and_of_all():
    """Planes that no threshold needs are not made; a threshold may differ in its last bit alone."""
    ones = [0.5, 0.25, 2**-9, 2**-10, 2**-32, 1 - 2**-32, 0.5 + 2**-32, 0.0, 1.0]
    rows = [[[1 - p, p], [1 - q, q]] for p in ones for q in ones[::2]]
    topology = Topology.from_parents([-1] + [0] * len(rows))
    tables = make_tables(topology, [[0.5, 0.5], *rows])
    rates = np.array([0.0, *np.resize([0.5, 0.0, 2**-9, 1.0], len(rows))])
    both(tables, samples=300, start=1, views=(0, 1), rates=rates)


def test_memory_of_other_draws_changes_nothing():
    """The root has no parent's states to read, whatever an earlier tile or draw left in their place."""
    tables = random_tables([-1, 0, 1, 2, 2], [3, 2, 4, 2, 5], seed=2)
    both(tables, samples=900, members=(0, 1, 2))
    rates = np.array([0.0, 0.5, 0.0, 0.5, 0.0])
    for parents in ([-1, 0, 1, 2, 2], [-1, 0, 0, 0, 0]):  # of one size, so they share memory
        binary = random_tables(parents, [2] * 5, seed=3)
        both(binary, samples=900, rates=rates, views=(1, 2))
        both(binary, samples=900, rates=1 - rates, views=(0, 3))


def test_large_memory_is_not_kept(monkeypatch):
    tables = random_tables([-1, 0, 0], [2] * 3, seed=0)
    monkeypatch.setattr(cpu, "_last", threading.local())
    monkeypatch.setattr(cpu, "KEPT_BYTES", 3 * 3 * 16 * 8 - 1)  # a byte below that of eight blocks
    both(tables, samples=900)
    assert not hasattr(cpu._last, "kept")
    monkeypatch.setattr(cpu, "KEPT_BYTES", 3 * 3 * 16 * 8)
    both(tables, samples=900)
    assert cpu._last.kept[0] == (3, 8)


@pytest.mark.parametrize("parent_states", [2, 3])
def test_probabilities_0_and_1_are_exact(parent_states):
    prior = np.eye(parent_states)[0]
    binary = np.tile([[1.0, 0.0]], (parent_states, 1))
    wide = np.tile([[0.0, 0.0, 1.0, 0.0]], (parent_states, 1))
    topology = Topology.from_parents([-1, 0, 0, 0])
    tables = make_tables(topology, [prior, binary, wide, 1 - binary])
    (states,) = both(tables, samples=1 << 15)
    assert states[0].float().std(-1).tolist() == [0, 0, 0, 0]
    assert states[0, :, 0].tolist() == [0, 0, 2, 1]


@pytest.mark.parametrize("states", [300, 65536])
def test_more_than_256_states_are_uint16(states):
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.full(states, 0.5))
    tables = make_tables(
        Topology.from_parents([-1, 0, 0]),
        [prior, rng.dirichlet([1, 1], size=states), rng.dirichlet([1, 1, 1], size=states)],
    )
    rates = np.array([0, 0.5, 1.0])
    (root, *_) = both(tables, samples=3000, start=9, views=(0, 1), rates=rates)
    assert root[0, 0].max() > 255


def test_a_threshold_is_exact_to_one_in_2_to_the_32():
    """A table whose threshold is a row's own number, or one more, puts the row on either side."""
    start, count = 200, 40
    for row in range(count):
        for states in (2, 3):
            u = reference.uniform_words(
                11, 1, (0,), np.array([0]), 0, start, count, states == 2, torch.device("cpu")
            )[0, 0, row]
            for threshold, expected in ((int(u), 1), (int(u) + 1, 0)):
                low = threshold / ONE  # exact: 32 bits
                prior = [low, 1 - low] if states == 2 else [low, (1 - low), 0.0]
                flat = torch.tensor([[*prior, *([0.5] * 2 * states)]], dtype=torch.float64)
                topology = Topology.from_parents([-1, 0])
                tables = Tables(topology, np.array([states, 2]), flat)
                assert int(tables.thresholds[0, 0]) == threshold
                (found,) = both(tables, start=start, samples=count)
                assert int(found[0, 0, row]) == expected


@pytest.mark.parametrize("states", [3, 8, 300])
def test_the_guide_counts_thresholds_at_their_very_edges(states):
    """Numbers around every threshold and every cell's edges, looked up and counted one by one."""
    from hltm.sampling.kernels.guide import guide_of

    tables = random_tables([-1, 0], [states, 2], seed=states, sharp=states == 8)
    guide = guide_of(tables)
    thresholds = tables.thresholds[0, : states - 1].numpy()
    bits = int(guide.bits[0])
    edges = np.concatenate([thresholds, np.arange(1 << bits) << (32 - bits)])
    numbers = np.unique(np.clip(edges[:, None] + [-1, 0, 1], 0, ONE - 1))
    counted = (thresholds <= numbers[:, None]).sum(1)
    cells = guide.cells[0, numbers >> (32 - bits)].astype(np.int64)
    flagged = cells >> (bits - 1) & 1 == 1
    low = numbers & ((1 << (32 - bits)) - 1)
    looked_up = (cells & ((1 << (bits - 1)) - 1)) + (low > cells >> bits)
    np.testing.assert_array_equal(looked_up[~flagged], counted[~flagged])
    assert flagged.mean() < 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("cardinality", [BINARY, MIXED, [2, 300, 2, 3, 4, 5, 6]])
def test_a_gpu_draws_the_same_bits(cardinality):
    tables = random_tables(PARENTS, cardinality, seed=0, members=3)
    request = {
        "topology": tables.topology,
        "seed": 5,
        "stream": 1,
        "members": (0, 1, 9),
        "start": 77,
        "samples": 5000,
        "views": (0, 1, 2),
        "rates": np.array([0, 0.5, 0, 1, 0.2, 0, 0.7]),
    }
    here = reference.draw(tables, DrawRequest(**request))
    there = reference.draw(tables, DrawRequest(**request, device=torch.device("cuda")))
    for a, b in zip(here, there, strict=True):
        assert b.is_cuda
        assert torch.equal(a.long(), b.cpu().long())
