"""Tables: checked at the border with one error, kept to the last bit, packed in any order."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from tree_strategies import assert_same_tree, latent_trees, parent_names

import hltm
from hltm import LatentTree, Topology
from hltm.model.tables import make_tables

CHAIN = Topology.from_parents({"a": None, "b": "a", "c": "b"})
GOOD = {"a": [0.5, 0.5], "b": [[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]], "c": [[1, 0], [0, 1], [0.5, 0.5]]}

BAD = {
    "row sum": ("b", [[0.9, 0.1, 0.0], [0.2, 0.3, 0.4]], r"row .* 'b' sums to 0\.9, expected 1"),
    "prior sum": ("a", [0.5, 0.6], r"row .* 'a' sums to 1\.1"),
    "negative": ("c", [[1.1, -0.1], [0, 1], [0, 1]], r"'c' holds 1\.1"),
    "negative alone": ("c", [[0.5, 0.5], [-0.25, 1], [0, 1]], r"'c' holds -0\.25"),
    "nan": ("b", [[0.9, 0.1, 0.0], [float("nan"), 0.5, 0.5]], r"'b' holds nan"),
    "infinite": ("c", [[1, 0], [0, 1], [float("inf"), 0]], r"'c' holds inf"),
    "too few rows": ("c", [[1, 0], [0, 1]], r"'c' has shape \(2, 2\), expected 3 row"),
    "too many rows": ("b", [[1, 0, 0]] * 3, r"'b' has shape \(3, 3\), expected 2 row"),
    "no rows": ("b", [0.5, 0.5], r"'b' has shape \(2,\), expected 2 row"),
    "scalar": ("b", 0.5, r"'b' has shape \(\)"),
    "scalar prior": ("a", 1.0, r"root 'a' has shape \(\), expected \(K,\)"),
    "table as prior": ("a", [[[0.5, 0.5]]], r"root 'a' has shape \(1, 1, 2\)"),
    "one state": ("c", [[1], [1], [1]], r"node 'c' has 1 state"),
    "one root state": ("a", [1.0], r"node 'a' has 1 state"),
    "no states": ("c", np.zeros((3, 0)), r"node 'c' has 0 state"),
    "too many states": ("c", np.zeros((3, 65537)), r"node 'c' has 65537 state\(s\), expected 2..65536"),
    "ragged": ("b", [[0.5, 0.5, 0.0], [1.0]], "its rows have 1 and 3 entries"),
    "text": ("b", "uniform", r"'b' is not an array of numbers"),
    "nothing": ("b", None, r"'b' is not an array of numbers"),
    "four axes": ("b", np.ones((1, 1, 2, 3)) / 3, r"'b' has shape \(1, 1, 2, 3\)"),
    "no members": ("b", np.ones((0, 2, 3)), r"'b' is for 0 trees"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("by_name", [True, False])
def test_a_bad_table_gets_one_error_that_names_the_node(case, by_name):
    node, table, message = BAD[case]
    given = GOOD | {node: table}
    with pytest.raises(ValueError, match=message):
        make_tables(CHAIN, given if by_name else list(given.values()))


def test_tables_that_do_not_belong_are_refused():
    with pytest.raises(ValueError, match="given for 'd', which is not the name of a node"):
        make_tables(CHAIN, GOOD | {"d": [0.5, 0.5]})
    with pytest.raises(ValueError, match="node 'b' has no table"):
        make_tables(CHAIN, {name: GOOD[name] for name in "ac"})
    with pytest.raises(ValueError, match="expected 3 tables, one per node, got 2"):
        make_tables(CHAIN, list(GOOD.values())[:2])
    with pytest.raises(ValueError, match="expected 3 tables, one per node, got 2"):
        LatentTree.from_parents({"a": None, "b": "a", "c": "b"}, list(GOOD.values())[:2])


def test_the_error_counts_members_that_disagree():
    stacked = {"a": np.full((3, 2), 0.5), "b": np.full((2, 2, 2), 0.5), "c": [[0.5, 0.5]] * 2}
    with pytest.raises(ValueError, match="'b' is for 2 trees, expected 1 or 3"):
        make_tables(CHAIN, stacked)


def test_a_bad_row_of_one_member_is_found():
    tables = np.full((4, 2, 2), 0.5)
    tables[2, 1] = [0.5, 0.25]
    given = {"a": [0.5, 0.5], "b": tables, "c": [[0.5, 0.5]] * 2}
    with pytest.raises(ValueError, match=r"'b' sums to 0\.75"):
        make_tables(CHAIN, given)


def test_rows_that_miss_one_slightly_are_normalised_and_others_kept():
    off, exact = [0.3 + 4e-7, 0.7], [1 / 3, 2 / 3]
    tree = LatentTree.from_parents({"a": None, "b": "a"}, {"a": exact, "b": [off, exact]})
    assert tree.table("a").tolist() == exact
    assert tree.table("b")[1].tolist() == exact
    assert float(tree.table("b")[0].sum()) == pytest.approx(1, abs=1e-15)
    assert tree.table("b")[0].tolist() == pytest.approx([off[0] / sum(off), 0.7 / sum(off)])


@given(latent_trees(max_nodes=10, max_states=9))
def test_making_tables_again_changes_no_bit(tree):
    given = [tree.table(name) for name in tree.topology.names]
    again = LatentTree.from_tables(tree.topology, given, len(tree) if tree.stacked else None)
    assert_same_tree(again, tree)


@given(latent_trees(stacked=False))
def test_tables_land_at_their_nodes_in_any_order(tree):
    names = tree.topology.names
    shuffled = sorted(names, reverse=True)
    parents = {n: parent_names(tree.topology)[n] for n in shuffled}
    tables = {n: tree.table(n) for n in sorted(names)}
    for made in (
        LatentTree.from_parents(parents, tables),
        LatentTree.from_parents(parents, [tables[n] for n in shuffled]),
        LatentTree.from_parents(list(parents.values()), [tables[n] for n in shuffled], shuffled),
    ):
        assert all(made.table(n).equal(tree.table(n)) for n in names)


def test_tables_without_names_go_by_place():
    tree = LatentTree.from_parents([2, 2, None], [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [0.25, 0.75]])
    assert tree.topology.names == ("2", "0", "1")
    assert tree.table("1").tolist() == [[0, 1], [1, 0]]
    assert tree.table("2").tolist() == [0.25, 0.75]


def test_a_table_without_members_is_shared():
    tables = {"a": [0.5, 0.5], "b": np.array([np.eye(2), 1 - np.eye(2)]), "c": [[0.9, 0.1]] * 2}
    trees = LatentTree.from_parents({"a": None, "b": "a", "c": "b"}, tables, members=2)
    assert trees.table("c").tolist() == [[[0.9, 0.1]] * 2] * 2
    assert trees[1].table("b").tolist() == [[0, 1], [1, 0]]
    assert trees.table("a").shape == (2, 2)


def test_the_gradient_sees_that_rows_sum_to_one():
    prior = torch.tensor([0.25, 0.75], dtype=torch.float64, requires_grad=True)
    tree = LatentTree.from_parents({"a": None, "b": "a"}, {"a": prior, "b": [[1, 0], [0, 1]]})
    (gradient,) = torch.autograd.grad(tree.table("a")[0], prior)
    # of p0 / (p0 + p1) at sum 1: (1 - p0, -p0)
    assert gradient.tolist() == pytest.approx([0.75, -0.25])


@given(latent_trees(max_nodes=10, max_states=3))
def test_groups_are_runs_of_one_level_and_shape_parents_first(tree):
    tables, level = tree.tables, tree.topology.level
    groups = tables.groups
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(tree.topology)))
    keys = [
        {(int(level[v]), int(tables.rows[v]), int(tables.cardinality[v])) for v in group}
        for group in groups
    ]
    assert all(len(key) == 1 for key in keys)
    assert len(set.union(*keys)) == len(groups)
    levels = [int(level[group[0]]) for group in groups]
    assert levels == sorted(levels, reverse=True)
    for group in groups:
        assert tables.of(group).shape[1:] == (
            len(group),
            tables.rows[group[0]],
            tables.cardinality[group[0]],
        )
        for i, v in enumerate(group):
            assert tables.of(group)[:, i].equal(tables.of(int(v)))


def test_thresholds_never_draw_probability_zero_and_always_one():
    tree = LatentTree.from_parents(
        {"a": None, "b": "a"}, {"a": [0.0, 1.0], "b": [[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]}
    )
    assert tree.tables.thresholds.tolist() == [[0, 1 << 31, 1 << 32, 0, 1 << 30]]


@pytest.mark.parametrize(
    ("cardinality", "dtype"),
    [(2, torch.uint8), ((2, 2, 256), torch.uint8), ((2, 257, 2), torch.uint16)],
)
def test_states_are_as_wide_as_they_must_be(cardinality, dtype):
    tree = hltm.random_tables(CHAIN, cardinality=cardinality, seed=0)
    assert tree.tables.state_dtype == dtype
    draw = tree.sample(3, seed=0)
    assert draw.states_SVB.dtype == dtype
    # torch can neither reduce nor compare uint16
    assert draw.states.dtype == (torch.uint8 if dtype == torch.uint8 else torch.int32)


def test_ten_thousand_tables_are_packed_quickly():
    rng = np.random.default_rng(0)
    parents = [-1] + [int(rng.integers(v)) for v in range(1, 10_000)]
    topology = Topology.from_parents(parents)
    states = rng.integers(2, 6, size=10_000)
    rows = np.where(topology.parent < 0, 1, states[topology.parent])
    tables = [np.full((rows[v], states[v]), 1 / states[v]) for v in range(10_000)]
    tables[0] = tables[0][0]
    before = time.process_time()
    made = make_tables(topology, tables)
    assert made.flat.shape == (1, int((rows * states).sum()))
    assert time.process_time() - before < 3


def test_several_members_are_chosen_by_their_places():
    trees = hltm.symmetric_binary(depth=2, members=4, seed=0)
    some = trees[[3, 1]]
    assert some.members == (3, 1)
    assert some.tables.flat.equal(trees.tables.flat[[3, 1]])
    with pytest.raises(IndexError, match=r"no member in \[\] of 4"):
        trees[[]]
    with pytest.raises(
        TypeError, match=r"trees of tables, got 2; trees\[2:4\] are members 2 and 3"
    ):
        trees.of_members(2, 4)
