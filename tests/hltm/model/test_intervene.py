"""Interventions against enumeration and against the truncated product of tables."""

import numpy as np
import pytest
import torch
from draw_cases import BINARY, MIXED, PARENTS, random_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import irregular_tree

import hltm


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), many=st.booleans())
def test_the_joint_is_the_truncated_product(seed, many):
    random = np.random.default_rng(seed)
    tree = irregular_tree(seed, nodes=6, max_states=3)
    nodes = random.choice(6, 2 if many else 1, replace=False)
    set_to = {int(v): int(random.integers(tree.tables.cardinality[v])) for v in nodes}
    states, found = tree.intervene(set_to).joint()
    expected = np.ones(len(states))
    for v in range(6):
        rows = tree.tables.of(v)[0].numpy()
        above = 0 if v == 0 else states[:, tree.topology.parent[v]].numpy()
        expected *= (
            states[:, v].numpy() == set_to[v] if v in set_to else rows[above, states[:, v].numpy()]
        )
    np.testing.assert_allclose(found, expected, atol=1e-15)


def test_other_tables_names_and_members_are_kept():
    trees = random_tree(PARENTS, MIXED, seed=0, members=4)[1:3]
    made = trees.intervene({"2": 3, 0: 1})
    assert (made.members, made.stacked, made.topology) == ((1, 2), True, trees.topology)
    for v in range(7):
        assert made.table(v).equal(trees.table(v)) == (v not in (0, 2))
    assert made.table(2).tolist() == [[[0, 0, 0, 1]] * 3] * 2
    assert made.table(0).tolist() == [[0, 1, 0]] * 2
    assert made[0].tables.flat.equal(trees[0].intervene({"2": 3, "0": 1}).tables.flat)
    assert trees.intervene({}).tables is trees.tables


def test_one_set_of_tables_stays_one():
    tree = hltm.symmetric_binary(depth=2, polarity=0.5, seed=0)
    shared = hltm.LatentTree.of_members(tree.tables, 1000)
    assert shared.intervene({1: 0}).tables.flat.stride(0) == 0
    per_tree = shared.intervene({1: torch.arange(1000) % 2})
    assert per_tree.table(1)[:, 0].argmax(-1).tolist() == [0, 1] * 500


def test_distributions_and_whole_tables():
    trees = random_tree(PARENTS, MIXED, seed=0, members=2)
    row, per_tree = torch.tensor([0.25, 0.75]), torch.tensor([[0.25, 0.75], [1, 0]])
    assert trees.intervene({1: row}).table(1).equal(row.double().expand(2, 3, 2))
    assert trees.intervene({1: per_tree}).table(1).equal(per_tree[:, None].double().expand(2, 3, 2))
    table = torch.tensor([[0.1, 0.9], [0.5, 0.5], [1, 0]], dtype=torch.float64)
    assert trees.intervene({1: table}).table(1).equal(table.expand(2, 3, 2))
    whole = torch.stack([table, table.flip(1)])
    assert trees.intervene({1: whole}).table(1).equal(whole)
    assert trees[0].intervene({1: table.numpy()}).table(1).equal(table)
    assert trees[0].intervene({1: [0.25, 0.75]}).table(1).equal(row.double().expand(3, 2))
    assert trees.intervene({0: [0.5, 0.5, 0.0]}).table(0).tolist() == [[0.5, 0.5, 0]] * 2
    # a sum within 1e-6 of 1 is rounding, and rows that sum to 1 keep every bit
    thirds = trees[0].intervene({0: torch.full((3,), 1 / 3, dtype=torch.float32)}).table(0)
    assert abs(float(thirds.sum()) - 1) < 1e-15


def test_states_of_any_integer_type():
    tree = random_tree(PARENTS, BINARY, seed=0)
    expected = tree.intervene({1: 1})
    for state in (True, np.int8(1), np.uint64(1), torch.tensor(1), np.array(1), torch.tensor(True)):
        assert tree.intervene({np.int64(1): state}) == expected


def test_a_table_for_as_many_trees_as_parent_states_needs_its_axes():
    trees = random_tree([-1, 0, 0], [3, 2, 2], seed=0, members=3)
    given = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"give \(3, 1, 2\) or \(1, 3, 2\)"):
        trees.intervene({1: given})
    assert trees.intervene({1: given[:, None]}).table(1)[:, 2].equal(given)
    assert trees.intervene({1: given[None]}).table(1)[2].equal(given)


@pytest.mark.parametrize("members", [None, 3])
def test_tables_that_keep_rows_once_go_on_doing_so(members):
    trees = hltm.random_hierarchy(v=4, m=3, s=2, L=2, classes=3, seed=0, members=members)
    plain = hltm.LatentTree.from_tables(
        trees.topology, [trees.table(v) for v in range(len(trees.topology))], members
    )
    one_each = torch.arange(3) if members else 2
    prior = np.full(trees.tables.cardinality[0], 1 / trees.tables.cardinality[0])
    for setting in ({1: 2}, {0: prior, 1: trees.table(1).flip(-2)}, {3: one_each}):
        made = trees.intervene(setting)
        assert type(made.tables) is type(trees.tables)
        assert made.tables.flat.equal(plain.intervene(setting).tables.flat)
        assert made.sample(500, seed=1) == plain.intervene(setting).sample(500, seed=1)
    draw = trees.sample(500, seed=1)
    assert trees.counterfactual(draw, {1: 2}) == plain.intervene({1: 2}).sample(500, seed=1)
    assert "flat" not in vars(trees.intervene({1: 2}).tables)


def test_evidence_stays_differentiable():
    tree = random_tree(PARENTS, MIXED, seed=0)
    flat = tree.tables.flat.clone().requires_grad_()
    tables = type(tree.tables)(tree.topology, tree.tables.cardinality, flat)
    made = hltm.LatentTree(tables).intervene({1: 0})
    made.posterior(torch.tensor([[0, 1, 0, 2]])).log_evidence.sum().backward()
    at = tables.start
    assert (flat.grad[0, at[1] : at[2]] == 0).all()  # the replaced table has no influence
    assert (flat.grad[0, at[2] :] != 0).any()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": 1}, KeyError, "unknown node 'x'"),
        ({9: 1}, IndexError, r"node must be in 0..6, got 9"),
        ({"1": 1, 1: 0}, ValueError, "node '1' is given twice, as '1' and as 1"),
        ({1: 2}, ValueError, r"node '1' has state 2, expected 0..1"),
        ({1: -1}, ValueError, r"node '1' has state -1, expected 0..1"),
        ({1: [0, 1]}, ValueError, r"integers of shape \(2,\), expected one integer; prob"),
        ({1: 1.0}, ValueError, "set to the float 1, expected an integer state or a distribution"),
        (
            {1: [0.5, 0.2, 0.3]},
            ValueError,
            r"shape \(3,\), expected a distribution \(2,\) or a tab",
        ),
        (
            {1: [0.5, 0.6]},
            ValueError,
            "node '1' is set to probabilities that sum to 1.1, expected 1",
        ),
        ({1: [1.5, -0.5]}, ValueError, r"the probability 1.5, expected numbers in \[0, 1\]"),
        ({1: [float("nan"), 1]}, ValueError, r"the probability nan, expected numbers in"),
        ({1: 1j}, ValueError, "set to complex numbers, expected states or probabilities"),
        ({1: [["a"] * 999]}, ValueError, r"node '1' is set to .{1,60}, expected numbers"),
        ({1: "wet"}, ValueError, "node '1' is set to 'wet', expected numbers"),
        ({1: None}, ValueError, "node '1' is set to None, expected numbers"),
        ([1], TypeError, "expected a mapping from nodes to values, got list"),
    ],
)
def test_what_cannot_be_set_is_named(given, error, message):
    with pytest.raises(error, match=message):
        random_tree(PARENTS, MIXED, seed=0).intervene(given)
