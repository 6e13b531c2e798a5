"""Filtered trees: their distribution is the definition's, by enumeration; nothing else changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import irregular_tree

import hltm
from hltm.model.enumeration import joint_number
from hltm.model.repeated_rows import RepeatedRows


def marginal(tree, nodes, member=0):
    """`(N,)` P(states of some nodes), numbered as `joint_number` does, by adding up the joint."""
    states, probability = tree.joint()
    probability = probability[member] if tree.stacked else probability
    cardinality = tree.tables.cardinality[nodes]
    number = joint_number(states[:, nodes], cardinality).numpy()
    return np.bincount(number, weights=probability.numpy(), minlength=cardinality.prod())


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6), nodes=st.integers(2, 7), zeros=st.sampled_from([0.0, 0.4]),
    members=st.sampled_from([None, 2]), data=st.data(),
)  # fmt: skip
def test_the_filtered_distribution_is_its_definition(seed, nodes, zeros, members, data):
    tree = irregular_tree(seed, nodes=nodes, max_states=3, zeros=zeros, members=members)
    topology = tree.topology
    level = data.draw(st.integers(0, topology.depth))
    cut = [
        v for v in range(nodes)
        if topology.level[v] <= level and (v == 0 or topology.level[topology.parent[v]] > level)
    ]  # fmt: skip
    groups = [topology.descendants(topology.names[v]) for v in cut]
    found = tree.filtered(level)
    for member in range(members or 1):
        expected = np.ones(1)
        for group in groups:
            expected = np.kron(expected, marginal(tree, group, member))
        order = np.concatenate(groups)
        np.testing.assert_allclose(marginal(found, order, member), expected, atol=1e-13)
        for v in range(nodes):  # also of the nodes above the level
            np.testing.assert_allclose(
                marginal(found, [v], member), marginal(tree, [v], member), atol=1e-13
            )


def test_the_depth_is_the_tree_itself_and_level_0_makes_leaves_independent():
    trees = hltm.symmetric_binary(depth=3, polarity=(0.6, 0.9), members=2, seed=0)
    assert trees.filtered(3) == trees
    information = trees.filtered(0).mutual_information(trees.leaves, trees.leaves)
    assert information[:, ~torch.eye(8, dtype=torch.bool)].abs().max() < 1e-12
    assert information.diagonal(dim1=1, dim2=2).min() > 0.01
    cousins = trees.mutual_information(trees.leaves[0], trees.leaves[1:])
    found = trees.filtered(2).mutual_information(trees.leaves[0], trees.leaves[1:])
    torch.testing.assert_close(found[:, :3], cousins[:, :3], atol=1e-12, rtol=0)
    assert cousins[:, 3:].min() > 1e-3
    assert found[:, 3:].abs().max() < 1e-12


def test_a_leaf_that_hangs_from_above_the_level_is_independent():
    parents = {"root": None, "low": "root", "a": "low", "b": "low", "high": "root"}
    table = [[0.9, 0.1], [0.2, 0.8]]
    tree = hltm.LatentTree.from_parents(
        parents, {"root": [0.3, 0.7], **dict.fromkeys(list(parents)[1:], table)}
    )
    found = tree.filtered(1)
    assert float(tree.correlation("a", "high").abs()) > 0.1
    assert float(found.correlation("a", "high").abs()) < 1e-12
    torch.testing.assert_close(found.correlation("a", "b"), tree.correlation("a", "b"))


def test_shared_tables_stay_shared_and_repeated_rows_stay_repeated():
    one = irregular_tree(3, nodes=6)
    shared = hltm.LatentTree.of_members(one.tables, 4)
    assert shared.filtered(1).tables.shared
    assert shared.filtered(1)[2].tables == one.filtered(1).tables
    tables = irregular_tree(3, nodes=6, members=2).tables
    distinct = [tables.of(v).flatten(0, 1) for v in range(6)]
    rank = [torch.arange(len(d)).view(2, -1) for d in distinct]
    repeated = RepeatedRows(tables.topology, tables.cardinality, distinct, rank)
    found = hltm.LatentTree(repeated, (0, 1), stacked=True).filtered(1).tables
    assert isinstance(found, RepeatedRows)
    expected = hltm.LatentTree(tables, (0, 1), stacked=True).filtered(1).tables.flat
    torch.testing.assert_close(found.flat, expected, atol=1e-15, rtol=0)


def test_the_gradient_is_that_of_differences():
    topology = hltm.Topology.from_parents([None, 0, 0, 1, 1])
    leaves = [[0, 1, 1], [2, 0, -1]]
    random = torch.Generator().manual_seed(0)
    shapes = [(2,), (2, 3), (2, 3), (3, 2), (3, 2)]
    logits = [
        torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]

    def evidence(*logits):
        tree = hltm.LatentTree.from_tables(topology, [part.softmax(-1) for part in logits])
        return tree.filtered(1).posterior(leaves).log_evidence

    assert torch.autograd.gradcheck(evidence, logits)


@pytest.mark.parametrize("level", [-1, 3])
def test_levels_that_the_tree_does_not_have_are_refused(level):
    with pytest.raises(ValueError, match=rf"level must be in 0..2, got {level}"):
        hltm.symmetric_binary(depth=2, seed=0).filtered(level)
