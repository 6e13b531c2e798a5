"""The table of classes and views against coins thrown one by one, closed forms and draws."""

import itertools

import numpy as np
import pytest
import torch

import hltm
from dualnets.theory import enumerate_views

AUGMENTATIONS = [
    hltm.keep_root(),
    hltm.keep_nothing(),
    hltm.keep_level(0),
    hltm.keep_level(1),
    hltm.resample_leaves(0.3),
    hltm.resample_subtrees(0.4, 1),
    hltm.Augmentation("root", lambda topology: np.where(topology.parent < 0, 0.25, 0.5)),
]


def irregular(seed, members=None):
    """Leaves at every depth, in an order that is not the order of a walk; 2 and 3 states."""
    random = np.random.default_rng(seed)
    topology = hltm.Topology.from_parents([None, 0, 0, 1, 1, 0])
    states = [2, 3, 2, 2, 3, 2]
    tables = []
    for v in range(6):
        rows = () if v == 0 else (states[topology.parent[v]],)
        tables.append(
            random.dirichlet(np.ones(states[v]), (*([members] if members else []), *rows))
        )
    return hltm.LatentTree.from_tables(topology, tables, members)


TREES = [hltm.symmetric_binary(depth=2, polarity=(0.6, 1.0), seed=0), irregular(1)]


def pairs_by_coins(tree, augmentation):
    """`(X, X)` p(leaves of a sample, leaves of its view): every set of coins, state and redraw in turn."""
    topology, rates = tree.topology, augmentation.rates(tree)
    states, probability = (found.numpy() for found in tree.joint())
    sizes = tree.tables.cardinality[list(tree.leaves)]
    leaves = np.ravel_multi_index(states[:, list(tree.leaves)].T, sizes)
    found = np.zeros((sizes.prod(), sizes.prod()))
    for coins in itertools.product([False, True], repeat=len(topology)):
        chance = np.prod(np.where(coins, rates, 1 - rates)) * probability[:, None]
        if not chance.any():
            continue
        redrawn = list(coins)
        for v, p in enumerate(topology.parent):
            redrawn[v] = redrawn[v] or (v > 0 and redrawn[p])
            own, table = states[:, v], tree.table(topology.names[v]).numpy()
            drawn = table[own] if v == 0 else table[states[:, p], own]
            chance = chance * (drawn[None] if redrawn[v] else own[:, None] == own[None])
        np.add.at(found, (leaves[:, None], leaves[None]), chance)
    return found


@pytest.mark.parametrize("tree", TREES, ids=["balanced", "irregular"])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_views_equal_coins_thrown_one_by_one(tree, augmentation):
    table = enumerate_views(tree, augmentation)
    assert table.view.sum(-1).sub(1).abs().max() < 1e-14
    assert table.probability.sum() == pytest.approx(1, abs=1e-14)
    expected = pairs_by_coins(tree, augmentation)
    assert np.abs(table.marginal.numpy() - expected.sum(1)).max() < 1e-14
    # the sample itself is the view that keeps everything: its leaves given a class
    states, probability = tree.joint()
    sizes = [int(tree.tables.cardinality[v]) for v in table.nodes]
    place = torch.zeros(len(states), dtype=torch.int64)
    for v, size in zip(table.nodes, sizes, strict=True):
        place = place * size + states[:, v]
    for i, x in enumerate(table.leaves):
        here = (states[:, list(tree.leaves)] == x).all(1)
        weight = torch.zeros(len(table.probability), dtype=torch.float64)
        weight.index_add_(0, place[here], probability[here])
        assert np.abs((weight @ table.view).numpy() - expected[i]).max() < 1e-14


@pytest.mark.parametrize("augmentation", AUGMENTATIONS[:6], ids=str)
def test_leaves_of_two_views_correlate_as_the_closed_form_predicts(augmentation):
    tree = hltm.symmetric_binary(depth=3, polarity=(0.6, 1.0), seed=2)
    table = enumerate_views(tree, augmentation)
    signs = 2 * table.leaves.double() - 1
    shared = table.covariance(table.over_views(signs)).diagonal()
    assert (shared - tree.view_correlation(tree.leaves, augmentation)).abs().max() < 1e-13
    pairs = table.positive_pairs()
    assert (signs.T @ pairs @ signs).diagonal().sub(shared).abs().max() < 1e-13


def test_members_are_trees_of_their_own():
    trees = irregular(3, members=3)
    table = enumerate_views(trees, hltm.resample_subtrees(0.3, 1))
    values = torch.randn(3, len(table.leaves), 4, 2, generator=torch.Generator().manual_seed(0))
    over = table.over_views(values)
    assert over.shape == (3, len(table.classes), 4, 2)
    for m in range(3):
        one = enumerate_views(trees[m], hltm.resample_subtrees(0.3, 1))
        assert one.view.equal(table.view[m])
        assert (one.over_views(values[m]) - over[m]).abs().max() < 1e-15
        assert (one.mean(over[m]) - table.mean(over)[m]).abs().max() < 1e-15
        flat = over.flatten(2)
        assert (one.covariance(flat[m]) - table.covariance(flat)[m]).abs().max() < 1e-15
        assert (one.positive_pairs() - table.positive_pairs()[m]).abs().max() < 1e-15
        assert (one.marginal - table.marginal[m]).abs().max() < 1e-15


def test_what_cannot_be_enumerated_is_refused():
    tree = hltm.symmetric_binary(depth=4, polarity=0.9, seed=0)
    assert enumerate_views(tree, hltm.keep_root()).view.shape == (2, 1 << 16)
    with pytest.raises(ValueError, match=r"16777216 classes of samples \(24 nodes"):
        enumerate_views(tree, hltm.resample_leaves(0.1))
    with pytest.raises(ValueError, match="makes leaves missing"):
        enumerate_views(tree, hltm.drop_leaves(0.1))
    small = enumerate_views(TREES[0], hltm.keep_root())
    with pytest.raises(ValueError, match=r"shape \(3, 2\), expected \(16, ...\)"):
        small.over_views(torch.zeros(3, 2))
    large = enumerate_views(tree, hltm.keep_root())
    with pytest.raises(ValueError, match="4294967296 entries"):
        large.positive_pairs()
