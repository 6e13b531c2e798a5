"""The shape of a tree: any order of parents in, parents first and levels as slices out."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree_strategies import parent_lists, parent_names

from hltm import Topology


def slow_level(parents, v):
    below = [slow_level(parents, c) for c, p in enumerate(parents) if p == v]
    return 1 + max(below) if below else 0


@given(parent_lists())
def test_nodes_are_stored_by_decreasing_level_and_then_by_parent(parents):
    topology = Topology.from_parents(parents)
    count = len(parents)
    assert topology.parent[0] == -1
    assert all(topology.parent[v] < v for v in range(1, count))
    assert (np.diff(topology.level) <= 0).all()
    for level in range(topology.depth + 1):
        above = topology.parent[list(topology.at_level(level))]
        assert (np.diff(above) >= 0).all()
        assert (topology.level[list(topology.at_level(level))] == level).all()
    assert sum(len(topology.at_level(level)) for level in range(topology.depth + 1)) == count


@given(parent_lists())
def test_names_follow_their_nodes(parents):
    topology = Topology.from_parents(parents)
    expected = {str(v): None if p < 0 else str(p) for v, p in enumerate(parents)}
    assert parent_names(topology) == expected
    for v in range(len(parents)):
        assert topology.level[topology.node(str(v))] == slow_level(parents, v)


@given(parent_lists())
def test_storage_order_is_kept_when_a_tree_is_built_again(parents):
    once = Topology.from_parents(parents)
    again = Topology.from_parents(once.parent, once.names)
    assert again.names == once.names
    assert again.parent.tolist() == once.parent.tolist()
    assert again.level.tolist() == once.level.tolist()


@given(parent_lists(), st.data())
def test_siblings_keep_the_users_order(parents, data):
    topology = Topology.from_parents(parents)
    v = data.draw(st.sampled_from(range(len(parents))))
    children = [int(topology.names[c]) for c in topology.children[topology.node(str(v))]]
    given = [c for c, p in enumerate(parents) if p == v]
    assert sorted(children) == given
    for level in range(topology.depth):
        same = [c for c in children if topology.level[topology.node(str(c))] == level]
        assert same == sorted(same)


@given(parent_lists())
def test_ways_to_write_parents_agree(parents):
    plain = Topology.from_parents(parents)
    nones = [None if p < 0 else p for p in parents]
    by_name = [None if p < 0 else str(p) for p in parents]
    mapping = {str(v): p for v, p in enumerate(by_name)}
    numbers = dict(enumerate(nones))
    for other in (nones, by_name, mapping, numbers, np.array(parents)):
        assert parent_names(Topology.from_parents(other)) == parent_names(plain)
        assert Topology.from_parents(other).names == plain.names


@given(parent_lists(), st.data())
def test_subtrees_hold_a_node_and_all_below_it(parents, data):
    topology = Topology.from_parents(parents)
    nodes = [*topology.latents, *topology.leaves]
    v = data.draw(st.sampled_from(nodes))
    expected = [u for u in nodes if u == v or v in topology.ancestors(u)]
    assert topology.descendants(v).tolist() == expected
    assert topology.descendants(topology.names[v]).tolist() == expected
    assert topology.ancestors(topology.names[v]) == topology.ancestors(v)
    below, numbers = topology.subtree(v)
    assert numbers.tolist() == expected
    above = parent_names(topology) | {topology.names[v]: None}
    assert parent_names(below) == {topology.names[u]: above[topology.names[u]] for u in expected}
    assert below.level.tolist() == topology.level[expected].tolist()


@pytest.mark.parametrize(("depth", "branching"), [(1, 1), (3, 1), (1, 5), (4, 2), (3, 3)])
def test_balanced_trees_are_what_their_parents_say(depth, branching):
    topology = Topology.balanced(depth, branching)
    again = Topology.from_parents(topology.parent)
    assert again.parent.tolist() == topology.parent.tolist()
    assert again.level.tolist() == topology.level.tolist()
    assert again.names == topology.names
    assert len(topology.leaves) == branching**depth
    assert topology.depth == depth


BAD = {
    "empty": ([], None, ValueError, r"got 0 node"),
    "single": ([None], None, ValueError, r"at least one leaf, got 1"),
    "no root": ([1, 0], None, ValueError, r"exactly one root, found 0"),
    "two roots": ([None, None, 0], "abc", ValueError, r"found 2: 'a', 'b'"),
    "cycle": ([None, 2, 3, 1, 0], "abcde", ValueError, r"node 'b' is its own ancestor"),
    "own parent": ([None, 1], "ab", ValueError, r"node 'b' is its own ancestor"),
    "parent too large": ([None, 7], "ab", ValueError, r"node 'b' has parent 7, expected .*0..1"),
    "parent too small": ([None, -2], "ab", ValueError, r"node 'b' has parent -2"),
    "unknown name": ([None, "x"], "ab", ValueError, r"node 'b' has parent 'x'"),
    "unknown in mapping": ({"a": None, "b": "x"}, None, ValueError, r"'b' has parent 'x'"),
    "fraction": ([None, 0.5], "ab", TypeError, r"node 'b' has parent 0.5"),
    "truth": ([None, False], "ab", TypeError, r"node 'b' has parent False"),
    "few names": ([None, 0], "a", ValueError, r"expected 2 names, .*got 1"),
    "same names": ([None, 0, 0], "aba", ValueError, r"got 'a' more than once"),
    "names twice": ({"a": None, "b": "a"}, "ab", TypeError, r"holds the names already"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_shape_gets_one_error_that_names_the_node(case):
    parents, names, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        Topology.from_parents(parents, None if names is None else list(names))


def test_nodes_are_found_by_name_and_number():
    topology = Topology.from_parents({"a": None, "b": "a", "7": "a"})
    assert topology.node("7") == 2
    assert topology.nodes(["b", 0]).tolist() == [1, 0]
    assert topology.nodes(np.int64(1)).tolist() == [1]
    with pytest.raises(KeyError, match="unknown node 'c'; the tree has 'a', 'b', '7'"):
        topology.node("c")
    rain = Topology.from_parents({"rain": None, "wind": "rain"})
    with pytest.raises(KeyError, match=r"unknown node 'Rain' \(did you mean 'rain'\?\)"):
        rain.node("Rain")
    with pytest.raises(IndexError, match=r"0\.\.2, got 3"):
        topology.node(3)
    with pytest.raises(IndexError, match="got -1"):
        topology.node(-1)
    with pytest.raises(TypeError):
        topology.node(1.5)
    with pytest.raises(ValueError, match=r"level must be in 0\.\.1, got 2"):
        topology.at_level(2)


@pytest.mark.parametrize(
    ("depth", "branching", "message"),
    [(0, 2, "depth .* got 0"), (2, 0, "branching .* got 0"), (30, 2, "more than 16777216")],
)
def test_bad_balanced_trees_are_refused(depth, branching, message):
    with pytest.raises(ValueError, match=message):
        Topology.balanced(depth, branching)


@pytest.mark.parametrize("shape", ["random", "chain"])
def test_large_trees_are_built_quickly(shape):
    rng = np.random.default_rng(0)
    parents = [-1] + [
        int(rng.integers(v)) if shape == "random" else v - 1 for v in range(1, 10_000)
    ]
    before = time.process_time()
    topology = Topology.from_parents(parents)
    assert topology.descendants(0).size == 10_000
    assert time.process_time() - before < 2  # a loop over all pairs would take minutes
