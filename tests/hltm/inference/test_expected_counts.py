"""Expected counts against rational arithmetic and against the gradient of the evidence."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from few import few
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import irregular_tree, some_leaves
from rational_counts import rational_counts

import hltm
from hltm.inference.expected_counts import Rows, expected_counts
from hltm.inference.posterior import torch_posterior
from hltm.model.tables import Tables


def rows_of(leaves, likelihoods=None, weights=None, members=1):
    """Rows `(B, X)` of evidence that all models share; likelihoods `(K, B)`."""
    count = len(leaves)
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    return Rows(
        np.asarray(leaves, dtype=np.int32).T.copy(), likelihoods or {}, weights,
        np.tile([[0, count]], (members, 1)),
    )  # fmt: skip


def counts_of(tree, rows):
    return expected_counts(tree.tables, rows)


def log_of(fraction):
    """The logarithm of a fraction of any size."""
    return math.log(fraction.numerator) - math.log(fraction.denominator) if fraction else -math.inf


def check_row(tree, leaves, likelihoods=None, tolerance=1e-12):
    found, (log_p,) = counts_of(tree, rows_of([leaves], likelihoods))
    expected, evidence = rational_counts(
        tree, leaves, {v: x[:, 0] for v, x in (likelihoods or {}).items()}
    )
    flat = [float(x) for table in expected for row in table for x in row]
    np.testing.assert_allclose(found[0], flat, atol=tolerance)
    assert log_p[0] == pytest.approx(log_of(evidence), abs=1e-9, rel=1e-12)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6), zeros=st.sampled_from([0.0, 0.3]), soft=st.booleans(),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
)  # fmt: skip
def test_counts_are_those_of_rational_arithmetic(seed, zeros, soft, missing):
    tree = irregular_tree(seed, nodes=8, zeros=zeros)
    random = np.random.default_rng(seed)
    likelihoods = {
        int(v): random.random((int(tree.tables.cardinality[v]), 1))
        * 10.0 ** random.integers(-280, 280)
        for v in random.choice(8, 3 if soft else 0, replace=False)
    }
    for leaves in some_leaves(tree, 2, seed, missing).tolist():
        check_row(tree, leaves, likelihoods)


@pytest.mark.parametrize("order", ["sorted", "reversed", "random"])
@pytest.mark.parametrize("leaves", few([660, 99, 1500]))
def test_leaves_of_a_star_may_contradict_each_other(leaves, order):
    table = [[0.95, 0.05], [0.05, 0.95]]
    topology = hltm.Topology.from_parents([None] + [0] * leaves)
    tree = hltm.LatentTree.from_tables(topology, [[0.5, 0.5], *[table] * leaves])
    states = np.arange(leaves) < leaves // 2
    if order == "reversed":
        states = states[::-1]
    if order == "random":
        states = np.random.default_rng(0).permutation(states)
    check_row(tree, states.astype(int))


@pytest.mark.parametrize("seed", few(range(4)))
def test_tables_with_entries_of_any_size(seed):
    """Entries down to 1e-300 at every node, and evidence that needs them."""
    random = np.random.default_rng(seed)
    parents = [None, *[0] * 3, *[int(random.integers(1, 4)) for _ in range(40)]]
    topology = hltm.Topology.from_parents(parents)
    tables = []
    for v in range(44):
        small = 10.0 ** -random.integers(0, 300, (3,) if v == 0 else (3, 3)).astype(float)
        small[..., random.integers(3)] = 1
        tables.append(small / small.sum(-1, keepdims=True))
    tree = hltm.LatentTree.from_tables(topology, tables)
    for leaves in random.integers(-1, 3, (3, len(tree.leaves))):
        check_row(tree, leaves)


def test_a_state_that_drained_away_comes_back_above():
    """Two subtrees, each sure of its own state of the root by 300 orders of magnitude."""
    half = [[0.95, 0.05], [0.05, 0.95]]
    parents = [None, 0, 0, *[1] * 250, *[2] * 250]
    topology = hltm.Topology.from_parents(parents)
    copy = [[1.0, 0.0], [0.0, 1.0]]
    tree = hltm.LatentTree.from_tables(topology, [[0.3, 0.7], copy, copy, *[half] * 500])
    check_row(tree, [0] * 250 + [1] * 250)
    found, _ = counts_of(tree, rows_of([[0] * 250 + [1] * 250]))
    np.testing.assert_allclose(found[0, :2], [0.3, 0.7], atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_the_tables_times_the_gradient_of_the_evidence(seed):
    trees = irregular_tree(seed, nodes=60, max_states=6, members=2)
    leaves = some_leaves(trees, 200, seed)[0]
    weights = torch.rand(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flat = trees.tables.flat.clone().requires_grad_()
    tables = Tables(trees.topology, trees.tables.cardinality, flat)
    shared = leaves.T.expand(2, -1, -1)
    evidence = torch_posterior(tables, shared, np.array([0]), torch.float64, own=False).log_evidence
    (evidence * weights).sum().backward()
    found, log_p = counts_of(trees, rows_of(leaves, None, weights.numpy(), members=2))
    np.testing.assert_allclose(found, (flat * flat.grad).detach(), atol=1e-9)
    np.testing.assert_allclose(log_p, evidence.detach(), atol=1e-10)
    # the counts of a table are those of its node and of its parent
    for v in range(60):
        start, k, rows = (int(x[v]) for x in (tables.start, tables.cardinality, tables.rows))
        table = found[:, start : start + k * rows].reshape(2, rows, k)
        assert table.sum((1, 2)) == pytest.approx(float(weights.sum()))


def test_sums_do_not_depend_on_threads_or_on_other_models():
    trees = hltm.random_tables(hltm.Topology.balanced(4), members=3, seed=0)
    leaves = trees[0].sample(20_000, seed=1).leaves.int()
    rows = rows_of(leaves, members=3)
    alone, _ = counts_of(trees[1], rows_of(leaves))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(counts_of(trees, rows)[0])
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)
    assert np.array_equal(found[0][1], alone[0])


def test_impossible_rows_count_nothing():
    tree = hltm.LatentTree.from_parents(
        {"a": None, "b": "a", "c": "a"},
        {"a": [0.5, 0.5], "b": [[1.0, 0.0], [0.0, 1.0]], "c": [[1.0, 0.0], [0.0, 1.0]]},
    )
    found, (log_p,) = counts_of(tree, rows_of([[0, 1], [1, 1], [1, 0]]))
    assert log_p.tolist() == [-math.inf, pytest.approx(math.log(0.5)), -math.inf]
    assert found[0, :2].tolist() == [0, 1]
    assert rational_counts(tree, [0, 1])[1] == Fraction(0)


def test_counts_of_a_model_do_not_depend_on_the_rows_of_others():
    tree = irregular_tree(3, nodes=12)
    leaves = some_leaves(tree, 300, 0, 0.2)
    beside = Tables(tree.topology, tree.tables.cardinality, tree.tables.flat.expand(2, -1))
    for count in (5, 131, 199):
        alone, _ = counts_of(tree, rows_of(leaves[:count]))
        rows = rows_of(leaves)._replace(bounds=np.array([[0, count], [0, 300]]))
        assert np.array_equal(alone[0], expected_counts(beside, rows)[0][0])


@pytest.mark.parametrize("states", [3, 40])
def test_leaves_of_few_and_of_many_states_are_counted(states):
    random = np.random.default_rng(0)
    topology = hltm.Topology.from_parents([None, 0, 0])
    table = random.dirichlet(np.ones(states), 3)
    tree = hltm.LatentTree.from_tables(topology, [np.full(3, 1 / 3), table, table])
    check_row(tree, [states - 1, -1])
    check_row(tree, [0, states - 2])
