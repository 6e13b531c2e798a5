"""The joint by enumeration, against products written out loop by loop."""

from itertools import product

import numpy as np
import pytest
import torch
from irregular_trees import irregular_tree

import hltm
from hltm.model.enumeration import all_states, joint_number


def looped_joint(tree: hltm.LatentTree, member: int = 0) -> dict[tuple[int, ...], float]:
    """Every joint state by nested loops over plain numbers."""
    tables = [tree.tables.of(v)[member].tolist() for v in range(len(tree.topology))]
    found = {}
    for states in product(*(range(k) for k in tree.tables.cardinality)):
        p = tables[0][0][states[0]]
        for v in range(1, len(states)):
            p *= tables[v][states[tree.topology.parent[v]]][states[v]]
        found[states] = p
    return found


@pytest.mark.parametrize("seed", range(5))
def test_joint_is_the_product_of_tables(seed):
    tree = irregular_tree(seed, nodes=5, max_states=3, members=2, zeros=0.2)
    found = tree.joint()
    for member in range(2):
        expected = looped_joint(tree, member)
        assert [tuple(row) for row in found.states.tolist()] == list(expected)
        np.testing.assert_allclose(found.probability[member], list(expected.values()), atol=1e-15)
        assert float(found.probability[member].sum()) == pytest.approx(1, abs=1e-12)


def test_joint_has_an_axis_of_members_only_where_asked():
    assert irregular_tree(0).joint().probability.ndim == 1
    assert irregular_tree(0, members=1).joint().probability.ndim == 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("given", [(0,), (2, 1), (), (0, 4)])
def test_leaf_distribution_is_a_conditional(seed, given):
    tree = irregular_tree(seed, nodes=5, max_states=3)
    found = tree.leaf_distribution(list(given))
    joint = looped_joint(tree)
    leaves = list(tree.leaves)
    for i, chosen in enumerate(product(*(range(tree.tables.cardinality[v]) for v in given))):
        row = {}
        for states, p in joint.items():
            if tuple(states[v] for v in given) == chosen:
                x = tuple(states[v] for v in leaves)
                row[x] = row.get(x, 0) + p
        patterns = list(product(*(range(tree.tables.cardinality[v]) for v in leaves)))
        expected = np.array([row.get(x, 0) for x in patterns])
        np.testing.assert_allclose(found[i], expected / expected.sum(), atol=1e-14)
        mapping = dict(zip(given, chosen, strict=True))
        np.testing.assert_array_equal(tree.leaf_distribution(mapping), found[i])


def test_a_condition_by_name_and_one_that_cannot_occur():
    topology = hltm.Topology.from_parents([None, 0, 0], ["top", "left", "right"])
    table = np.array([[1.0, 0.0], [0.5, 0.5]])
    tree = hltm.LatentTree.from_tables(topology, [np.array([1.0, 0.0]), table, table])
    assert tree.leaf_distribution({"top": 0}).tolist() == [1, 0, 0, 0]
    assert tree.leaf_distribution({"top": 1}).isnan().all()
    assert tree.leaf_distribution("top")[1].isnan().all()


def test_refusals_name_the_count_and_the_value():
    big = hltm.symmetric_binary(depth=4, seed=0)
    with pytest.raises(
        ValueError, match="31 nodes have 2147483648 joint states, more than the 1048576"
    ):
        big.joint()
    with pytest.raises(ValueError, match="2147483648"):
        big.leaf_distribution({0: 1})
    tree = irregular_tree(0)
    with pytest.raises(ValueError, match=r"node '\d+' has state 9, expected 0\.\."):
        tree.leaf_distribution({0: 9})
    with pytest.raises(ValueError, match="given once each"):
        tree.leaf_distribution([0, 0])
    with pytest.raises(KeyError, match="unknown node 'sky'"):
        tree.leaf_distribution({"sky": 0})


def test_states_are_numbered_as_they_are_listed():
    cardinality = np.array([2, 3, 4])
    states = all_states(cardinality)
    assert len(all_states(np.array([2] * 16))) == 1 << 16
    torch.testing.assert_close(joint_number(states, cardinality), torch.arange(24))
