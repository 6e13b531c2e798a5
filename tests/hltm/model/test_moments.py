"""Closed forms of pairs of nodes, against sums over the enumerated joint."""

from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import irregular_tree

import hltm
from hltm.model.moments import correlation, marginals, pair_joint


def enumerated_pair(tree, a, b, member=0):
    """`(K_a, K_b)` P(a, b) by adding up the joint."""
    states, probability = tree.joint()
    probability = probability[member] if tree.stacked else probability
    found = np.zeros((tree.tables.cardinality[a], tree.tables.cardinality[b]))
    np.add.at(found, (states[:, a], states[:, b]), probability.numpy())
    return found


def enumerated_correlation(tree, a, b):
    pair = enumerated_pair(tree, a, b)
    p, q = pair.sum(1)[1], pair.sum(0)[1]
    variance = p * (1 - p) * q * (1 - q)
    return 0.0 if variance < 1e-14 else (pair[1, 1] - p * q) / np.sqrt(variance)


def enumerated_information(tree, a, b):
    pair = enumerated_pair(tree, a, b)
    product = np.outer(pair.sum(1), pair.sum(0))
    return sum(p * np.log(p / q) for p, q in zip(pair.flat, product.flat, strict=True) if p > 0)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), nodes=st.integers(2, 8), zeros=st.sampled_from([0.0, 0.3]))
def test_correlations_equal_enumeration(seed, nodes, zeros):
    tree = irregular_tree(seed, nodes=nodes, max_states=2, zeros=zeros)
    every = range(nodes)
    expected = [[enumerated_correlation(tree, a, b) for b in every] for a in every]
    np.testing.assert_allclose(tree.correlation(every, every), expected, atol=1e-10)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), nodes=st.integers(2, 6), zeros=st.sampled_from([0.0, 0.3]))
def test_joints_covariances_and_informations_equal_enumeration(seed, nodes, zeros):
    tree = irregular_tree(seed, nodes=nodes, max_states=4, zeros=zeros)
    every = np.arange(nodes)
    joint = pair_joint(tree.tables, every, every)[0]
    covariance = tree.covariance(every, every)
    information = tree.mutual_information(every, every)
    for a in every:
        for b in every:
            pair = enumerated_pair(tree, a, b)
            i, j = pair.shape
            np.testing.assert_allclose(joint[a, b, :i, :j], pair, atol=1e-12)
            expected = pair - np.outer(pair.sum(1), pair.sum(0))
            np.testing.assert_allclose(covariance[a, b, :i, :j], expected, atol=1e-12)
            assert (joint[a, b, i:] == 0).all()
            assert (covariance[a, b, :, j:] == 0).all()
            assert float(information[a, b]) == pytest.approx(
                enumerated_information(tree, a, b), abs=1e-10
            )


@pytest.mark.parametrize("seed", range(3))
def test_maximal_correlations_are_those_of_the_best_functions(seed):
    tree = irregular_tree(seed, nodes=7, max_states=4, zeros=0.3 * (seed % 2))
    every = range(7)
    found = tree.maximal_correlation(every, every)
    for a in every:
        for b in every:
            pair = enumerated_pair(tree, a, b)
            p, q = pair.sum(1), pair.sum(0)
            kept = pair[p > 0][:, q > 0] / np.sqrt(np.outer(p[p > 0], q[q > 0]))
            # the first singular value, 1, is that of constant functions
            values = np.append(np.linalg.svd(kept, compute_uv=False), 0)
            assert float(found[a, b]) == pytest.approx(values[1], abs=1e-9)
    for v in every[1:]:  # along a path it is at most the product of the edges'
        p = int(tree.topology.parent[v])
        assert found[0, v] <= found[0, p] * found[p, v] + 1e-9
    binary = irregular_tree(seed, nodes=7, max_states=2)
    torch.testing.assert_close(
        binary.maximal_correlation(every, every), binary.correlation(every, every).abs(),
        rtol=0, atol=1e-9,
    )  # fmt: skip


def test_lists_of_nodes_make_a_grid_in_their_own_order():
    tree = irregular_tree(3, nodes=9, max_states=3, members=2)
    a, b = [7, 2, 2], [0, 8, 5, 1]
    whole = tree.mutual_information(range(9), range(9))
    torch.testing.assert_close(tree.mutual_information(a, b), whole[:, a][:, :, b])
    torch.testing.assert_close(tree.mutual_information(b, a), whole[:, b][:, :, a])
    covariance = tree.covariance(range(9), range(9))
    part = tree.covariance(a, b)
    torch.testing.assert_close(
        part, covariance[:, a][:, :, b][..., : part.shape[-2], : part.shape[-1]]
    )


def test_a_single_node_drops_its_axis():
    tree = irregular_tree(3, nodes=6, max_states=2)
    assert tree.correlation(0, [1, 2]).shape == (2,)
    assert tree.correlation([1, 2], "0").shape == (2,)
    assert tree.mutual_information(1, 2).shape == ()
    assert tree.covariance(1, [2, 3, 4]).shape == (3, 2, 2)
    assert irregular_tree(3, nodes=6, members=3).covariance(1, 2).shape[0] == 3


def test_members_are_answered_each_for_itself():
    trees = irregular_tree(5, nodes=7, members=3)
    found = trees.mutual_information(range(7), range(7))
    for s in range(3):
        torch.testing.assert_close(found[s], trees[s].mutual_information(range(7), range(7)))
    for prior, node in zip(marginals(trees.tables), range(7), strict=True):
        np.testing.assert_allclose(
            prior[1], enumerated_pair(trees, node, node, 1).sum(1), atol=1e-14
        )


def test_correlations_multiply_along_the_path():
    tree = hltm.symmetric_binary(depth=3, polarity=(0.2, 0.9), seed=4)
    rho = tree.polarity
    assert float(tree.correlation(7, 10)) == pytest.approx(
        float(rho[7] * rho[3] * rho[10] * rho[4]), abs=1e-12
    )


def test_a_node_that_never_varies_correlates_and_informs_nothing():
    topology = hltm.Topology.from_parents([None, 0, 1, 1, 0])
    fixed = np.array([[1.0, 0.0], [1.0, 0.0]])
    noisy = np.array([[0.9, 0.1], [0.2, 0.8]])
    names = dict.fromkeys(range(5), noisy) | {topology.node("1"): fixed}
    tables = [np.array([0.5, 0.5])] + [names[v] for v in range(1, 5)]
    tree = hltm.LatentTree.from_tables(topology, tables)
    every = range(5)
    assert (tree.correlation("1", every) == 0).all()
    assert (tree.mutual_information("1", every) == 0).all()
    assert (tree.covariance("1", every) == 0).all()
    assert float(tree.correlation("2", "3")) == 0  # their parent never varies
    assert float(tree.correlation("0", "4")) != 0


def test_one_root_against_the_leaves_of_a_large_tree_needs_little():
    tree = hltm.symmetric_binary(depth=12, polarity=0.9, signs="positive", seed=0)
    found = tree.correlation(0, tree.leaves)
    torch.testing.assert_close(found, torch.full_like(found, 0.9**12))


def test_correlation_is_for_binary_trees():
    tree = irregular_tree(1, nodes=4, max_states=4)
    with pytest.raises(ValueError, match=r"for binary nodes, but node '\d' has \d states"):
        correlation(tree.tables, np.array([0]), np.array([1]))


def exact_information(pair):
    """The mutual information of a joint of Fractions, to 50 digits."""
    getcontext().prec = 700  # so that 1 - 1e-300 is not 1
    a = [sum(row) for row in pair]
    b = [sum(column) for column in zip(*pair, strict=True)]
    total = Decimal(0)
    for i, row in enumerate(pair):
        for j, p in enumerate(row):
            if p:
                ratio = p / (a[i] * b[j])
                ratio = Decimal(ratio.numerator) / Decimal(ratio.denominator)
                total += Decimal(p.numerator) / Decimal(p.denominator) * ratio.ln()
    return float(total)


@pytest.mark.parametrize("rare", [1e-200, 1e-300, 1e-17, 1e-8])
@pytest.mark.parametrize("noise", [0.0, 1e-12, 0.3, 0.5 - 1e-9])
def test_informations_of_rare_states_are_exact(rare, noise):
    # the products of marginals underflow, and 1 - rare rounds to 1
    table = [[1 - noise, noise], [noise, 1 - noise]]
    tree = hltm.LatentTree.from_parents({"r": None, "a": "r"}, {"r": [rare, 1 - rare], "a": table})
    prior = [Fraction(rare), 1 - Fraction(rare)]
    rows = [[1 - Fraction(row[1]), Fraction(row[1])] for row in tree.table("a").tolist()]
    exact = exact_information([[p * x for x in row] for p, row in zip(prior, rows, strict=True)])
    assert float(tree.mutual_information("r", "a")) == pytest.approx(exact, rel=1e-6)
    entropy = exact_information([[prior[0], Fraction(0)], [Fraction(0), prior[1]]])
    assert float(tree.mutual_information("r", "r")) == pytest.approx(entropy, rel=1e-9)
    assert float(tree.view_information("r", hltm.keep_root())) == pytest.approx(entropy, rel=1e-9)


def test_no_nodes_give_empty_arrays():
    tree = irregular_tree(3, nodes=5, max_states=3)
    assert tree.mutual_information([], [0, 1]).shape == (0, 2)
    assert tree.mutual_information([0, 1], []).shape == (2, 0)
    assert tree.covariance([], 0).shape[0] == 0
