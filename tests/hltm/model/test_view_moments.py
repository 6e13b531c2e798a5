"""Closed forms of two views against enumeration of the data, every decision and every redraw."""

import itertools

import numpy as np
import pytest
import torch
from draw_cases import random_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_strategies import latent_trees

import hltm

RATES = st.sampled_from([0.0, 0.0, 0.3, 0.7, 1.0])


def fixed(rates):
    return hltm.Augmentation("fixed", lambda topology: np.array(rates))


def kernel(tree, member, rates):
    """`(N, N)` P(states of a view | states of the data), by enumeration of decisions and redraws."""
    parent, sizes = tree.topology.parent, tree.tables.cardinality.tolist()
    tables = [tree.tables.of(v)[member].numpy() for v in range(len(sizes))]
    every = list(itertools.product(*map(range, sizes)))

    def chance(v, states):
        return tables[v][0 if v == 0 else states[parent[v]], states[v]]

    data = np.array([np.prod([chance(v, s) for v in range(len(sizes))]) for s in every])
    found = np.zeros((len(every), len(every)))
    for decisions in itertools.product([0, 1], repeat=len(sizes)):
        weight = np.prod([r if c else 1 - r for c, r in zip(decisions, rates, strict=True)])
        if weight == 0:
            continue
        redrawn = list(decisions)
        for v in range(1, len(sizes)):
            redrawn[v] = redrawn[v] or redrawn[parent[v]]
        fresh = np.array([np.prod([chance(v, s) for v in np.flatnonzero(redrawn)]) for s in every])
        states = np.array(every)
        kept = np.flatnonzero(~np.array(redrawn, dtype=bool))
        same = (states[:, None, kept] == states[None, :, kept]).all(-1)
        found += weight * same * fresh[None]
    return np.array(every), data, found


def pair_table(every, joint, v, states):
    table = np.zeros((states, states))
    np.add.at(table, (every[:, v, None], every[None, :, v]), joint)
    return table


def information(table):
    product = np.outer(table.sum(1), table.sum(0))
    some = table > 0
    return (table[some] * np.log(table[some] / product[some])).sum()


def maximal_correlation(table):
    """The second singular value of the normalised joint."""
    scale = np.sqrt(np.outer(table.sum(1), table.sum(0)))
    return np.linalg.svd(table / scale, compute_uv=False)[1]


@settings(max_examples=25)
@given(latent_trees(max_nodes=5, max_states=3), st.data())
def test_two_views_are_as_enumerated(tree, data):
    count = len(tree.topology)
    a, b = (data.draw(st.lists(RATES, min_size=count, max_size=count)) for _ in range(2))
    nodes = range(count)
    correlation = tree.view_correlation(nodes, fixed(a), other=fixed(b)).reshape(-1, count)
    bits = tree.view_information(nodes, fixed(a), other=fixed(b)).reshape(-1, count)
    same = tree.view_correlation(nodes, fixed(a)).reshape(-1, count)
    for s in range(len(tree.members)):
        every, prior, first = kernel(tree, s, a)
        second = kernel(tree, s, b)[2]
        # the data's marginal is kept
        np.testing.assert_allclose(prior @ first, prior, atol=1e-12)
        joint = np.einsum("i,ij,ik->jk", prior, first, second)
        twice = np.einsum("i,ij,ik->jk", prior, first, first)
        for v in nodes:
            table = pair_table(every, joint, v, int(tree.tables.cardinality[v]))
            assert bits[s, v] == pytest.approx(information(table), abs=1e-10)
            assert correlation[s, v] == pytest.approx(maximal_correlation(table), abs=1e-8)
            table = pair_table(every, twice, v, int(tree.tables.cardinality[v]))
            assert same[s, v] == pytest.approx(maximal_correlation(table), abs=1e-8)


def test_shared_coins_are_a_view_beside_the_data():
    tree = random_tree([-1, 0, 0, 1], [2, 3, 2, 3], seed=2)
    rates = [0.2, 0.5, 1.0, 0.3]
    every, prior, _ = kernel(tree, 0, rates)
    joint = np.zeros((len(every), len(every)))  # both views redraw the same nodes
    for decisions in itertools.product([0.0, 1.0], repeat=4):
        weight = np.prod([r if c else 1 - r for c, r in zip(decisions, rates, strict=True)])
        same = kernel(tree, 0, decisions)[2]
        joint += weight * np.einsum("i,ij,ik->jk", prior, same, same)
    found = tree.view_information(range(4), fixed(rates), other=hltm.keep_level(0))
    for v in range(4):
        table = pair_table(every, joint, v, int(tree.tables.cardinality[v]))
        assert found[v] == pytest.approx(information(table), abs=1e-10)


@pytest.mark.parametrize("cardinality", [2, 4])
def test_two_views_are_as_drawn(cardinality):
    tree = random_tree([-1, 0, 0, 1, 1, 2, 2], [cardinality] * 7, seed=3)
    augmentation = hltm.resample_subtrees(0.4, 1).then(hltm.resample_leaves(0.3))
    draw = tree.sample(200_000, seed=4)
    a, b = tree.views(draw, augmentation)
    found = tree.view_information(range(7), augmentation)
    assert found[0] > found[1] > found[3]
    for v in range(7):
        table = np.zeros((cardinality, cardinality))
        np.add.at(table, (a.node(v).numpy(), b.node(v).numpy()), 1 / 200_000)
        assert found[v] == pytest.approx(information(table), abs=4e-3)
        if cardinality == 2:
            drawn = torch.corrcoef(torch.stack([a.node(v), b.node(v)]).double())[0, 1]
            assert tree.view_correlation(v, augmentation) == pytest.approx(drawn.item(), abs=0.01)


def test_what_is_kept_is_the_same_in_both_views():
    tree = random_tree([-1, 0, 0, 1, 1], [3, 2, 2, 3, 2], seed=3, members=2)
    kept = tree.view_information([0, 1], hltm.keep_level(1))
    torch.testing.assert_close(kept[:, 1], tree.mutual_information(1, 1))
    torch.testing.assert_close(
        tree.view_correlation([0, 1], hltm.keep_level(1)), torch.ones(2, 2, dtype=torch.float64)
    )
    assert tree.view_information(range(5), hltm.keep_nothing()).abs().max() < 1e-12
    # a correlation of rounding errors is not one
    assert tree.view_correlation(range(5), hltm.keep_nothing()).max() < 1e-12


def test_leaves_of_one_parent_relate_as_redrawn_leaves():
    # both are draws of equal tables given a parent that both views keep
    tree = hltm.symmetric_binary(depth=3, polarity=0.8, signs="positive", seed=0)
    a, b = tree.leaves[:2]
    assert tree.view_correlation(a, hltm.keep_level(1)) == pytest.approx(
        tree.correlation(a, b).item()
    )


def test_missing_leaves_change_nothing_and_states_that_never_occur_do_no_harm():
    tree = hltm.LatentTree.from_parents(
        [None, 0, 0], [[0.5, 0.5, 0.0], [[1, 0], [1, 0], [0, 1]], [[0.9, 0.1]] * 3]
    )
    views = hltm.resample_leaves(0.5).then(hltm.drop_leaves(0.5))
    assert tree.view_correlation([0, 1, 2], views).tolist() == pytest.approx([1, 0, 0.25])
    found = tree.view_information([0, 1, 2], views)
    assert found[0] == pytest.approx(np.log(2))
    assert found[1] == 0
    assert found[2] > 0


def test_axes_and_errors():
    trees = random_tree([-1, 0, 0], [2, 2, 2], seed=3, members=2)
    assert trees.view_correlation("1", hltm.keep_root()).shape == (2,)
    assert trees.view_correlation(["1"], hltm.keep_root()).shape == (2, 1)
    assert trees[0].view_information(0, hltm.keep_root()).shape == ()
    with pytest.raises(KeyError, match="unknown node 'q'"):
        trees.view_correlation("q", hltm.keep_root())
    with pytest.raises(ValueError, match=r"level must be in 0..1, got 4"):
        trees.view_information(0, hltm.resample_subtrees(0.1, 4))
