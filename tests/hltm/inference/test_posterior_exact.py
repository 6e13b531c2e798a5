"""Posteriors against exact arithmetic, where states fall far behind and later leaves contradict that."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from exact_posterior import exact_joint, exact_posterior
from few import few
from hypothesis import given, settings
from hypothesis import strategies as st

import hltm
from hltm.inference import messages
from hltm.inference.most_probable import torch_most_likely, torch_samples
from hltm.inference.posterior import posterior, torch_posterior
from hltm.inference.scaling import log_of, store_logs
from hltm.model.tables import Tables

WAYS = ["kernel", "torch"]
DTYPES = [torch.float64, torch.float32]
# to store what it computed in single precision, the kernel is compiled again: `test_posterior` does so
each_dtype = pytest.mark.parametrize("dtype", few(DTYPES))


def star(leaves, table, prior=(0.5, 0.5)):
    topology = hltm.Topology.from_parents([None] + [0] * leaves)
    return hltm.LatentTree.from_tables(topology, [np.array(prior)] + [np.array(table)] * leaves)


def noisy(noise):
    return [[1 - noise, noise], [noise, 1 - noise]]


def extreme_table(random, rows, states, lowest=-300, zeros=0.1):
    """Entries from 10^lowest to 1, and some zeros."""
    table = 10.0 ** random.uniform(lowest, 0, (rows, states))
    table[random.random((rows, states)) < zeros] = 0
    table[np.arange(rows), random.integers(states, size=rows)] = 1
    return table / table.sum(1, keepdims=True)


def extreme_tree(seed, nodes, max_states=4, lowest=-300):
    """An irregular tree of which all tables are extreme; no members."""
    random = np.random.default_rng(seed)
    topology = hltm.Topology.from_parents(
        [None] + [int(random.integers(v)) for v in range(1, nodes)]
    )
    states = random.integers(2, max_states + 1, nodes)
    tables = [extreme_table(random, 1, states[0], lowest)[0]]
    for v in range(1, nodes):
        tables.append(extreme_table(random, states[topology.parent[v]], states[v], lowest))
    return hltm.LatentTree.from_tables(topology, tables), random


def random_leaves(tree, random, rows, missing=0.2):
    """Any states at all, so that many rows are improbable and some impossible."""
    states = tree.tables.cardinality[list(tree.leaves)]
    leaves = random.integers(0, states, (rows, len(states)))
    return np.where(random.random(leaves.shape) < missing, -1, leaves)


def answer(tree, leaves, nodes, way, dtype=torch.float64, own=False):
    """(marginals `(B, V, K)`, log evidence `(B,)` or `(B, V)`) as float64 arrays."""
    leaves_SXB = torch.as_tensor(leaves).T[None]
    nodes = np.array(nodes)
    if way == "kernel":
        found = posterior(tree.tables, leaves_SXB, nodes, dtype, own=own)
    else:
        found = torch_posterior(tree.tables, leaves_SXB, nodes, dtype, own=own)
    assert found.marginals.dtype == found.log_evidence.dtype == dtype
    marginals, evidence = (part[0].movedim(-1, 0).double().numpy() for part in found)
    return marginals, evidence


def check(tree, leaves, nodes, way, dtype=torch.float64, own=False):
    marginals, evidence = answer(tree, leaves, nodes, way, dtype, own)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for b, row in enumerate(np.asarray(leaves)):
        for i, v in enumerate(nodes):
            belief, log_evidence = exact_posterior(tree, row, v, own=own)
            np.testing.assert_allclose(marginals[b, i, : len(belief)], belief, atol=tolerance)
            got = evidence[b, i] if own else evidence[b]
            np.testing.assert_allclose(got, log_evidence, rtol=tolerance * 1e-2, atol=tolerance)


def in_three_orders(row, seed=0):
    row = np.asarray(row)
    return np.stack([row, row[::-1], np.random.default_rng(seed).permutation(row)])


STARS = [(60, 1e-12, 30), (220, 1e-3, 110), (660, 0.05, 330), (2000, 0.3, 900), (1500, 0.4, 751)]


@cache
def contradictory_stars():
    """Trees, leaves in three orders, and the exact posterior and log evidence of the root."""
    found = []
    for count, noise, ones in STARS:
        tree = star(count, noisy(noise))
        leaves = in_three_orders([0] * (count - ones) + [1] * ones)
        found.append((tree, leaves, *exact_posterior(tree, leaves[0])))
    return found


@pytest.mark.parametrize("own", [False, True])
@each_dtype
@pytest.mark.parametrize("way", WAYS)
def test_stars_whose_later_leaves_contradict_the_first(way, dtype, own):
    for tree, leaves, belief, log_evidence in contradictory_stars():
        marginals, evidence = answer(tree, leaves, [0], way, dtype, own)
        digits = 1e-9 if dtype == torch.float64 else 1e-3
        for b in range(3):
            # relative digits, of states that are not below the smallest number of the dtype too
            np.testing.assert_allclose(marginals[b, 0], belief, rtol=digits, atol=1e-37)
            np.testing.assert_allclose(evidence[b].item(), log_evidence, rtol=digits * 1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_rows_without_contradiction_beside_one_with(way):
    tree = star(330, noisy(0.01))
    half = [1] * 165 + [0] * 165
    leaves = np.array([[1] * 330, half, [-1] * 330, [0] * 330, half[::-1]])
    leaves[0, 5] = leaves[1, 3] = leaves[4, 200] = -1
    check(tree, leaves, [0, 4, 201], way)
    check(tree, leaves, [0, 4, 201], way, own=True)


def test_marking_no_sample_as_doubtful_would_be_noticed(monkeypatch):
    monkeypatch.setattr(messages, "SMALL", dict.fromkeys(DTYPES, 0.0))
    monkeypatch.setattr(messages.math, "log2", lambda _: -300.0)
    tree = star(660, noisy(0.05))
    leaves = in_three_orders([1] * 330 + [0] * 330)[:2]
    marginals, _ = answer(tree, leaves, [0], "torch")
    assert np.abs(marginals[:, 0] - 0.5).max() > 0.4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", few(range(2)))
def test_stars_with_extreme_tables(seed, way):
    random = np.random.default_rng(seed)
    count = 150
    tables = [np.full(3, 1 / 3)] + [extreme_table(random, 3, 3, zeros=0) for _ in range(count)]
    tree = hltm.LatentTree.from_tables(hltm.Topology.from_parents([None] + [0] * count), tables)
    leaves = random_leaves(tree, random, 2)
    # the leaves sorted by which state of the root they speak for
    flat = np.stack([t[:, leaves[0, i]] for i, t in enumerate(tables[1:])])
    order = np.argsort(flat.argmax(1), kind="stable")
    for at in (order, order[::-1]):
        sorted_tree = hltm.LatentTree.from_tables(
            tree.topology, [tables[0]] + [tables[1 + i] for i in at]
        )
        check(sorted_tree, leaves[:, at], [0, 7], way)


@each_dtype
@pytest.mark.parametrize("way", WAYS)
def test_a_state_that_vanishes_beside_its_sibling_may_be_the_only_one_left(way, dtype):
    tree = hltm.LatentTree.from_parents(
        {"r": None, "a": "r", "b": "r"},
        {
            "r": [1.0, 1e-120],
            "a": [[1.0, 1e-220], [1.0, 1e-260]],
            "b": [[1e-110, 1.0], [1.0, 0.0]],
        },
    )
    leaves = np.array([[1, 0], [0, 1], [1, 1], [-1, 0], [1, -1], [-1, -1]])
    for own in (False, True):
        check(tree, leaves, [0, 1, 2], way, dtype, own)
    marginals, _ = answer(tree, leaves[:1], [0], way)
    np.testing.assert_allclose(marginals[0, 0], [1, 1e-50], rtol=1e-12)


@each_dtype
@settings(max_examples=7)
@given(
    seed=st.integers(0, 10**6), nodes=st.integers(2, 14),
    lowest=st.sampled_from([-300, -160, -40]),
)  # fmt: skip
def test_irregular_trees_with_extreme_tables(dtype, seed, nodes, lowest):
    tree, random = extreme_tree(seed, nodes, lowest=lowest)
    leaves = random_leaves(tree, random, 4)
    for way in WAYS:
        for own in (False, True):
            check(tree, leaves, range(nodes), way, dtype, own)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_posteriors_are_exact_down_to_the_smallest_normal_number(way, own):
    pair = hltm.LatentTree.from_parents(
        [None, 0], [[1e-300, 1], [[1e-36, 1], [1e-29, 1]]]
    )  # the likelihoods are far below 1, though not so far that they are scaled
    marginals, _ = answer(pair, [[0]], [0], way, own=own)
    assert marginals[0, 0, 0] == pytest.approx(1e-307, rel=1e-12, abs=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lowest", few([-300, -30]))
def test_chains_with_extreme_tables(way, lowest):
    """The probability of a state may be 1e-3000; its leaves are certain of it all the same."""
    random = np.random.default_rng(3)
    count = 30
    topology = hltm.Topology.from_parents([None, *range(count - 1)])
    tables = [np.array([1.0, 0.0])]
    for v in range(1, count):
        low = 10.0**lowest
        tables.append(
            np.array([[1.0, low], [0.0, 1.0]]) if v % 2 else extreme_table(random, 2, 2, lowest)
        )
    tree = hltm.LatentTree.from_tables(topology, tables)
    for own in (False, True):
        check(tree, [[0], [1], [-1]], range(count), way, own=own)


def leaning(tree):
    flat = tree.tables.flat.clone().requires_grad_()
    return Tables(tree.topology, tree.tables.cardinality, flat), flat


def exact_slopes(tree, row):
    """d log P(leaves) / d entry for all entries: the evidence is linear in every table."""
    joint, bits = exact_joint(tree, row)
    slopes = []
    for v in range(len(tree.topology)):
        shape = tree.tables.of(v)[0].shape
        for place in range(shape.numel()):
            unit = np.zeros(shape)
            unit.flat[place] = 1
            part, fewer = exact_joint(tree, row, replaced=(v, unit))
            slopes.append((sum(part) << bits - fewer) / sum(joint))
    return np.array(slopes)


@each_dtype
def test_gradients_where_a_state_vanishes_and_returns(dtype):
    tree = star(40, noisy(1e-20))
    row = [1] * 20 + [0] * 20
    tables, flat = leaning(tree)
    leaves = torch.tensor([row, [0] * 40]).T[None]
    found = posterior(tables, leaves, np.array([0]), dtype)
    found.log_evidence[0, 0].backward()
    slopes = exact_slopes(tree, row)
    np.testing.assert_allclose(flat.grad[0], slopes, rtol=1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_extreme_trees(seed):
    tree, random = extreme_tree(seed, 6, 3, lowest=-130)
    leaves = random_leaves(tree, random, 3)
    for row in leaves:
        if exact_posterior(tree, row)[1] == -math.inf:
            continue
        tables, flat = leaning(tree)
        found = posterior(tables, torch.as_tensor(row)[None, :, None], np.array([0]))
        found.log_evidence.sum().backward()
        np.testing.assert_allclose(flat.grad[0], exact_slopes(tree, row), rtol=1e-9, atol=1e-150)


def test_samples_of_a_contradictory_star_take_both_states():
    tree = star(660, noisy(0.05))
    row = torch.tensor([[1] * 330 + [0] * 330])
    drawn = tree.posterior_samples(row.expand(50, -1), 40, seed=0)[..., 0].double()
    assert abs(float(drawn.mean()) - 0.5) < 4 * 0.5 / 2000**0.5
    slow = torch_samples(
        tree.tables, row.T[None].expand(1, -1, 50), range(40), seed=0, members=(0,), start=0,
        likelihoods={},
    )  # fmt: skip
    assert slow[0, :, 0].double().equal(drawn)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("first", ["missing", "contradictory"])
def test_without_shifts_the_bits_are_the_same(first, own):
    """Blocks that need shifts are computed again; a likelihood of 1 makes all be computed with them."""
    tree = star(400, noisy(0.05))
    rows = torch.full((300, 400), -1)
    rows[200 if first == "missing" else 0 :][:60] = torch.tensor([[1] * 200 + [0] * 200])
    deep, drawn = hltm.balanced(depth=8, seed=0), hltm.balanced(depth=8, seed=0).sample(20, seed=0)
    for model, leaves in ((tree, rows), (deep, drawn.leaves)):
        leaves_SXB, nodes = leaves.T[None], np.arange(len(model.topology))
        ones = {1: torch.ones(1, 2, len(leaves), dtype=torch.float64)}
        fast = posterior(model.tables, leaves_SXB, nodes, own=own)
        slow = posterior(model.tables, leaves_SXB, nodes, own=own, likelihoods=ones)
        assert fast.marginals[0, 0].equal(slow.marginals[0, 0])
        keep = nodes != 1  # with a likelihood it is no leaf that is merely observed
        assert fast.marginals[:, keep].equal(slow.marginals[:, keep])
        if not own:
            assert fast.log_evidence.equal(slow.log_evidence)


@settings(max_examples=5)
@given(
    seed=st.integers(0, 10**6), nodes=st.integers(2, 30), lowest=st.sampled_from([-300, -60, -2])
)
def test_compiled_joint_states_equal_torch(seed, nodes, lowest):
    tree, random = extreme_tree(seed, nodes, lowest=lowest)
    leaves = torch.as_tensor(random_leaves(tree, random, 9))
    likelihoods = {
        int(v): torch.as_tensor(
            10.0 ** random.uniform(lowest, 300, (1, tree.tables.cardinality[v], 9))
        )
        for v in random.integers(nodes, size=2)
    }
    leaves_SXB = leaves.T[None]
    for given_likelihoods in ({}, likelihoods):
        fast = hltm.inference.most_probable.most_likely(tree.tables, leaves_SXB, given_likelihoods)
        slow = torch_most_likely(tree.tables, leaves_SXB, given_likelihoods)
        assert fast.states.equal(slow.states)
        torch.testing.assert_close(fast.log_probability, slow.log_probability)
        address = {"seed": seed, "members": (5,), "start": 3, "likelihoods": given_likelihoods}
        fast = hltm.inference.most_probable.posterior_samples(
            tree.tables, leaves_SXB, 2, first=4, **address
        )
        assert fast.equal(torch_samples(tree.tables, leaves_SXB, range(4, 6), **address))
        every = np.arange(nodes)
        for own in (False, True):
            options = {"own": own, "likelihoods": given_likelihoods}
            a = posterior(tree.tables, leaves_SXB, every, **options)
            b = torch_posterior(tree.tables, leaves_SXB, every, torch.float64, **options)
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11, equal_nan=True)


def test_joint_states_of_a_very_deep_tree():
    tree = hltm.caterpillar(depth=4000, seed=0)
    leaves = tree.sample(4, seed=0).leaves
    drawn = tree.posterior_samples(leaves, 3, seed=0)
    assert (drawn[..., list(tree.leaves)] == leaves).all()
    best = tree.most_likely(leaves)
    post = tree.posterior(leaves, nodes=[0, 2000])
    assert (best.log_probability < post.log_evidence).all()
    assert tree.posterior_samples(leaves[:2], 1, seed=0, first=2)[0].equal(drawn[2, :2])


@pytest.mark.parametrize("own", [False, True])
def test_an_observed_leaf_is_exactly_in_its_state_where_it_can_be(own):
    topology = hltm.Topology.from_parents([None, 0, 0, 0])
    tree = hltm.LatentTree.from_tables(
        topology, [[0.5, 0.5], noisy(0.3), [[1, 0], [1, 0]], [[0.2, 0.3, 0.5], [0.1, 0.9, 0]]]
    )
    leaves = torch.tensor([[1, 0, 2], [0, -1, 1], [1, 1, 0]], dtype=torch.int64)  # the last never
    found = tree.posterior(leaves, nodes=[1, 2, 3], given="own" if own else "all").marginals
    assert found[0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert found[1, 1].tolist() == [1, 0, 0]  # missing, and always in state 0
    assert found[2].isnan().any(-1).tolist() == [not own, True, not own]


def test_logarithms_of_several_numbers_are_exact():
    random = np.random.default_rng(0)
    value = np.concatenate([random.random(3000), 1 + random.random(3000) * 1e-3])
    value = np.concatenate([value, 10.0 ** random.uniform(-300, 0, 3000), [0, np.nan, 1]])
    exponent = random.integers(-5000, 5000, len(value)) * (np.arange(len(value)) % 2)
    expected = [log_of(*pair) for pair in zip(value, exponent, strict=True)]
    found = np.empty(len(value))
    store_logs(value, exponent, found)
    np.testing.assert_allclose(found, expected, rtol=4e-16, atol=0)
