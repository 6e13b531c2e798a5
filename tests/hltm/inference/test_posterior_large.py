"""Exact answers on large trees: nothing underflows, neither by size nor by contradiction."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from few import few
from irregular_trees import irregular_tree, some_leaves

import hltm
from hltm.inference.beliefs import downward
from hltm.inference.messages import child_links, upward
from hltm.inference.posterior import Posterior, torch_posterior
from hltm.model.tables import Tables


def chain(length, table, leaf=None):
    """A path of so many nodes: the last one is the only leaf."""
    topology = hltm.Topology.from_parents([None, *range(length - 1)])
    tables = [np.array([0.5, 0.5])] + [table] * (length - 2) + [table if leaf is None else leaf]
    return hltm.LatentTree.from_tables(topology, tables)


def star(children, table, prior=(0.5, 0.5)):
    topology = hltm.Topology.from_parents([None] + [0] * children)
    return hltm.LatentTree.from_tables(topology, [np.array(prior)] + [table] * children)


def looped_evidence(tree, row):
    """log P(leaves) by the textbook recursion on logarithms, one node and state after the other."""
    topology = tree.topology
    below = [np.zeros(k) for k in tree.tables.cardinality]
    for v in range(len(topology) - 1, -1, -1):
        if v in topology.leaves and row[v - topology.leaves.start] >= 0:
            below[v][np.arange(len(below[v])) != row[v - topology.leaves.start]] = -np.inf
        table = tree.tables.of(v)[0].numpy()
        with np.errstate(divide="ignore"):
            sent = np.logaddexp.reduce(np.log(table) + below[v], axis=1)
        if v == 0:
            return float(sent[0])
        below[topology.parent[v]] += sent
    raise AssertionError


noisy = np.array([[0.9, 0.1], [0.2, 0.8]])


@cache
def large():
    """A tree of ten thousand nodes, two rows of leaves and their log evidence."""
    tree = irregular_tree(0, nodes=10_000, max_states=3)
    leaves = some_leaves(tree, 2, 1, missing=0.1)
    return tree, leaves, [looped_evidence(tree, row.numpy()) for row in leaves]


@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_ten_thousand_nodes(path):
    tree, leaves, expected = large()
    if path == "kernel":
        post = tree.posterior(leaves)
    else:
        every = np.arange(10_000)
        found = torch_posterior(tree.tables, leaves.T[None], every, torch.float64, own=False)
        post = Posterior(found.marginals[0].permute(2, 0, 1), found.log_evidence[0])
    assert max(expected) < -2000  # far below the smallest float64
    np.testing.assert_allclose(post.log_evidence, expected, rtol=1e-12)
    assert post.marginals.isfinite().all()
    torch.testing.assert_close(post.marginals.sum(-1), torch.ones(2, 10_000, dtype=torch.float64))


def test_ten_thousand_nodes_in_single_precision():
    tree, leaves, _ = large()
    exact = tree.posterior(leaves)
    flat = tree.tables.flat.clone().requires_grad_()
    tables = Tables(tree.topology, tree.tables.cardinality, flat)
    for found in (
        tree.posterior(leaves, dtype=torch.float32),  # the kernel, and torch in single precision
        hltm.LatentTree(tables).posterior(leaves, dtype=torch.float32),
    ):
        assert found.marginals.dtype == torch.float32
        torch.testing.assert_close(found.marginals.double(), exact.marginals, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            found.log_evidence.double(), exact.log_evidence, rtol=1e-5, atol=0
        )
    found.log_evidence.sum().backward()
    assert flat.grad.isfinite().all()


def test_a_star_of_thousands_of_children():
    tree = star(5000, noisy)
    ones = torch.arange(5000) % 2
    leaves = torch.stack([ones, torch.zeros_like(ones), torch.full_like(ones, -1)])
    post = tree.posterior(leaves)
    same = [2500 * math.log(0.9 * 0.1), 2500 * math.log(0.2 * 0.8)]
    assert float(post.log_evidence[0]) == pytest.approx(same[1] + math.log(0.5), rel=1e-12)
    assert float(post.log_evidence[1]) == pytest.approx(
        5000 * math.log(0.9) + math.log(0.5), rel=1e-12
    )
    assert float(post.log_evidence[2]) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(post.marginals[:, 0, 1], [1, 0, 0.5], atol=1e-9)
    best = tree.most_likely(leaves)
    assert best.states[:2, 0].tolist() == [1, 0]
    # nothing seen: every child does what suits its parent, and 0.9 beats 0.8
    assert best.states[2].eq(0).all()


def test_a_chain_five_thousand_deep():
    table = np.array([[0.999, 0.001], [0.002, 0.998]])
    tree = chain(5000, table)
    leaves = torch.tensor([[0], [1], [-1]])
    power = np.linalg.matrix_power(table, 4999)
    post = tree.posterior(leaves, nodes=[0, 4999])
    evidence = 0.5 * power.sum(0)
    np.testing.assert_allclose(post.log_evidence.exp(), [*evidence, 1], rtol=1e-10)
    np.testing.assert_allclose(post.marginals[:2, 0, 1], 0.5 * power[1] / evidence, rtol=1e-10)
    assert (tree.most_likely(leaves[:2]).states == leaves[:2]).all()


def test_gradients_and_samples_of_a_long_chain():
    table = np.array([[0.999, 0.001], [0.002, 0.998]])
    tree = chain(800, table)
    leaves = torch.tensor([[0], [1], [-1]])
    power = np.linalg.matrix_power(table, 799)
    flat = tree.tables.flat.clone().requires_grad_()
    tables = Tables(tree.topology, tree.tables.cardinality, flat)
    hltm.LatentTree(tables).posterior(leaves[:1], nodes=0).log_evidence.sum().backward()
    slope = power[:, 0].sum() / (0.5 * power[:, 0].sum())
    assert float(flat.grad[0, :2].sum()) == pytest.approx(slope, rel=1e-9)
    drawn = tree.posterior_samples(leaves, 1, seed=0)
    assert drawn[0, :2, -1].tolist() == [0, 1]


def contradiction(count, table=noisy):
    """Two copies of the root, each with so many children; leaves that say 0 below one, 1 below the other."""
    copies = np.eye(2)
    parents = [None, 0, 0] + [1] * count + [2] * count
    topology = hltm.Topology.from_parents(parents)
    tables = [np.array([0.5, 0.5]), copies, copies] + [table] * (2 * count)
    tree = hltm.LatentTree.from_tables(topology, tables)
    return tree, torch.tensor([[0] * count + [1] * count])


@pytest.mark.parametrize("count", [50, 500, 1200])
@pytest.mark.parametrize("dtype", few([torch.float64, torch.float32]))
def test_contradictions_are_improbable_and_not_impossible(count, dtype):
    """Below one copy the best state is e^(1.5 count) times as likely, below the other e^(-2 count)."""
    tree, leaves = contradiction(count)
    zero = count * (math.log(0.9) + math.log(0.1)) + math.log(0.5)
    one = count * (math.log(0.2) + math.log(0.8)) + math.log(0.5)
    expected = np.logaddexp(zero, one)
    digits = 1e-12 if dtype == torch.float64 else 1e-6
    post = tree.posterior(leaves, dtype=dtype)
    assert float(post.log_evidence) == pytest.approx(expected, rel=digits)
    np.testing.assert_allclose(
        post.marginals[0, :3, 0], math.exp(zero - expected), atol=100 * digits
    )
    assert tree.most_likely(leaves).states[0, :3].tolist() == [1, 1, 1]
    assert tree.posterior_samples(leaves, 1, seed=0)[0, 0, :3].tolist() == [1, 1, 1]
    # and the gradient: the evidence is linear in the root's prior
    flat = tree.tables.flat.clone().requires_grad_()
    tables = Tables(tree.topology, tree.tables.cardinality, flat)
    hltm.LatentTree(tables).posterior(leaves).log_evidence.sum().backward()
    expected_slope = [math.exp(zero - expected) / 0.5, math.exp(one - expected) / 0.5]
    np.testing.assert_allclose(flat.grad[0, :2], expected_slope, atol=1e-9)


@pytest.mark.parametrize("path", ["kernel", "torch"])
@pytest.mark.parametrize("count", [325, 333, 337, 340])
def test_states_are_kept_whole_where_numbers_lose_their_digits(count, path):
    """Either state is 9^count times as likely as the other below one copy: about 1e-320, denormal."""
    flip = np.array([[0.9, 0.1], [0.1, 0.9]])
    tree, leaves = contradiction(count, flip)
    if path == "kernel":
        found = tree.posterior(leaves)
    else:
        nodes = np.arange(3)
        part = torch_posterior(tree.tables, leaves.T[None], nodes, torch.float64, own=False)
        found = Posterior(part.marginals[0].permute(2, 0, 1), part.log_evidence[0])
    expected = count * (math.log(0.9) + math.log(0.1))
    assert float(found.log_evidence) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(found.marginals[0, :3], 0.5, atol=1e-10)


@pytest.mark.parametrize("given", ["all", "own"])
def test_improbable_rows_beside_probable_and_impossible_ones(given):
    tree, leaves = contradiction(700)
    rows = torch.cat([leaves, torch.zeros_like(leaves), leaves, torch.ones_like(leaves)])
    post = tree.posterior(rows, given=given)
    for b in range(4):
        alone = tree.posterior(rows[b : b + 1], given=given)
        torch.testing.assert_close(post.marginals[b], alone.marginals[0])
        torch.testing.assert_close(post.log_evidence[b], alone.log_evidence[0])
    assert post.marginals.isfinite().all()


def test_leaves_may_contradict_the_prior():
    tree = star(1000, noisy, prior=(1e-300, 1.0))
    found = tree.posterior(torch.zeros(1, 1000, dtype=torch.int64))
    zero, one = 1000 * math.log(0.9) - 300 * math.log(10), 1000 * math.log(0.2)
    assert float(found.log_evidence) == pytest.approx(np.logaddexp(zero, one), rel=1e-12)
    certain = star(1000, noisy, prior=(0.0, 1.0))
    found = certain.posterior(torch.zeros(1, 1000, dtype=torch.int64))
    assert float(found.log_evidence) == pytest.approx(one, rel=1e-12)
    assert found.marginals[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_messages_with_a_scale_per_state_equal_those_with_shared_scales(seed):
    tree = irregular_tree(seed, nodes=20, max_states=5, members=2, zeros=0.2)
    leaves = some_leaves(tree, 9, seed).transpose(1, 2)
    every = np.ones(20, dtype=bool)
    (shared, evidence), (per_state, same_evidence) = (
        downward(tree.tables, upward(tree.tables, leaves, per_state=per_state), every)
        for per_state in (False, True)
    )
    for a, b in zip(shared, per_state, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    torch.testing.assert_close(evidence, same_evidence, atol=1e-11, rtol=0)


def test_siblings_are_multiplied_in_the_logarithm_of_their_number_of_steps() -> None:
    topology = hltm.Topology.from_parents([None] + [0] * 1000)
    tables = hltm.LatentTree.from_tables(
        topology, [[0.5, 0.5]] + [[[0.9, 0.1], [0.1, 0.9]]] * 1000
    ).tables
    ((link,),) = [links for links in child_links(tables) if links]
    assert len(link.rounds) == 10
    left = 1000
    for pairs in link.rounds:
        assert len(pairs.left) + len(pairs.right) == left
        left = len(pairs.left)
        assert (pairs.left[pairs.at] + 1 == pairs.right).all()
    assert left == 1
