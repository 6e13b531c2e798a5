"""Nodes by name and by number: what could mean two nodes is refused, what a tree gives never is."""

import copy
import json
import pickle

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tree_strategies import latent_trees, parent_lists

import hltm
from hltm.model.nodes import NodeNumber, NodeRange

NOISE = {0: [[0.99, 0.01], [0.01, 0.99]], 1: [[0.6, 0.4], [0.4, 0.6]], 2: [0.5, 0.5]}


def star() -> hltm.LatentTree:
    """Root '2', number 0, with the leaves '0' and '1', numbers 1 and 2."""
    return hltm.LatentTree.from_parents([2, 2, None], [NOISE[v] for v in range(3)])


def test_a_graph_s_own_integers_are_refused_and_their_text_answers():
    graph = nx.DiGraph()
    graph.add_node(2, prior=NOISE[2])
    graph.add_edge(2, 0, table=NOISE[0])
    graph.add_edge(2, 1, table=NOISE[1])
    tree = hltm.LatentTree.from_networkx(graph)
    assert tree == star()
    assert float(tree.correlation("2", "0")) == pytest.approx(0.98, abs=1e-12)
    assert float(tree.correlation("2", "1")) == pytest.approx(0.2, abs=1e-12)
    for a, b in ((2, 0), ("2", 0), (2, "0"), ("2", [0, 1]), (np.int64(2), "0")):
        with pytest.raises(
            ValueError, match=r"node \d is ambiguous: the node of number .* as text"
        ):
            tree.correlation(a, b)


def test_every_method_that_takes_nodes_refuses_an_ambiguous_number():
    tree = star()
    draw = tree.sample(20, seed=0)
    keep = hltm.keep_nodes(0)
    takes = [
        tree.table, draw.node, tree.topology.node, tree.topology.nodes, tree.topology.ancestors,
        tree.topology.descendants, tree.topology.subtree,
        lambda v: tree.correlation(v, "2"),
        lambda v: tree.covariance("2", [v]),
        lambda v: tree.mutual_information(v, v),
        lambda v: tree.view_correlation(v, hltm.keep_root()),
        lambda v: tree.view_information([v], hltm.keep_root()),
        lambda v: tree.posterior(draw.leaves, nodes=[v]),
        lambda v: tree.ceiling(v),
        lambda v: tree.redraw(draw, v),
        lambda v: tree.leaf_distribution(v),
        lambda v: tree.leaf_distribution({v: 0}),
        lambda v: hltm.keep_nodes(v).rates(tree),
        lambda v: hltm.ViewDataset(tree, None, samples=5, seed=0, targets=[v]),
        lambda v: hltm.probe.measure(draw.leaves.float(), tree, draw=draw, nodes=[v], lags=0),
        lambda v: hltm.plot.tree_figure(tree, values={v: 1.0}),
    ]  # fmt: skip
    for take in takes:
        with pytest.raises(
            ValueError, match="node 0 is ambiguous: the node of number 0 is named '2'"
        ):
            take(0)
        take("2")
        take(tree.root)
    with pytest.raises(ValueError, match="ambiguous"):
        tree.views(draw, keep)
    # a range holds numbers, wherever it is taken
    assert tree.posterior(draw.leaves, nodes=range(3)).marginals.shape == (20, 3, 2)
    assert hltm.keep_nodes(range(3)).rates(tree).tolist() == [0, 0, 0]
    table = hltm.probe.measure(draw.leaves.float(), tree, draw=draw, nodes=range(1), lags=0)
    assert "2" in set(table.node)


@given(latent_trees(max_nodes=10))
def test_what_a_tree_gives_is_never_refused(tree):
    topology = tree.topology
    levels = [v for level in range(topology.depth + 1) for v in tree.level(level)]
    given_by_tree = [
        [tree.root], tree.leaves, tree.latents, list(tree.leaves), [*tree.latents], levels,
        tuple(reversed(tree.leaves)), tree.leaves[::-1], tree.latents[1:], topology.leaves,
        topology.at_level(0), [topology.node(name) for name in topology.names], range(len(topology)),
        (v for v in tree.leaves), copy.deepcopy(tree.leaves), pickle.loads(pickle.dumps(list(tree.leaves))),
    ]  # fmt: skip
    for nodes in given_by_tree:
        listed = nodes if isinstance(nodes, (range, NodeRange)) else list(nodes)
        assert topology.nodes(listed).tolist() == list(listed)
        names = [topology.names[v] for v in listed]
        assert topology.nodes(names).tolist() == list(listed)
    for v, name in enumerate(topology.names):
        assert tree.table(name).equal(tree.table(NodeNumber(v)))


@given(parent_lists(), st.integers(0, 30))
def test_exactly_the_numbers_that_name_another_node_are_refused(parents, shift):
    """Against the rule spelled out, for names that overlap the numbers in part, wholly or not at all."""
    names = [str(v + shift) for v in range(len(parents))]
    topology = hltm.Topology.from_parents(parents, names)
    for v in range(len(parents)):
        other = str(v) in topology.names and topology.names[v] != str(v)
        if other:
            with pytest.raises(ValueError, match=f"node {v} is ambiguous"):
                topology.node(v)
        else:
            assert topology.node(v) == v
        assert topology.node(NodeNumber(v)) == v


@given(parent_lists())
def test_default_names_in_storage_order_are_never_ambiguous(parents):
    topology = hltm.Topology.from_parents(parents)
    again = hltm.Topology.from_parents(topology.parent)  # its places are in storage order
    assert again.nodes(list(range(len(parents)))).tolist() == list(range(len(parents)))
    for tree in (
        hltm.balanced(depth=2, branching=3, seed=0), hltm.caterpillar(depth=4, seed=0),
        hltm.random_tree(nodes=20, seed=3),
    ):  # fmt: skip
        numbers = list(range(len(tree.topology)))
        assert tree.topology.nodes(numbers).tolist() == numbers


def test_numbers_outside_the_tree_and_other_kinds_are_named():
    shifted = hltm.Topology.from_parents({10: None, 11: 10, 12: 10})
    with pytest.raises(IndexError, match=r"0\.\.2, got 11; the node named '11' is given as text"):
        shifted.node(11)
    with pytest.raises(IndexError, match=r"node must be in 0\.\.2, got 3$"):
        shifted.node(3)
    for bad in (-1, NodeNumber(-1), NodeNumber(3), range(2, 4), range(-1, 2), NodeRange(1, 5)):
        with pytest.raises(IndexError):
            shifted.nodes(bad)
    for bad in (True, None, 1.0, [1], np.float64(1)):
        with pytest.raises(TypeError, match="a node is given by name or by number, got"):
            shifted.node(bad)
    for bad in (None, 1.0):
        with pytest.raises(TypeError, match="by name or by number, one or several, got"):
            shifted.nodes(bad)
    assert shifted.nodes(range(0)).tolist() == [] == shifted.nodes([]).tolist()


def test_one_node_in_no_list_may_be_of_any_integer_type():
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    expected = tree.correlation(0, 3)
    for one in (
        np.int64(3),
        np.uint8(3),
        np.array(3),
        torch.tensor(3),
        "3",
        np.str_("3"),
        tree.leaves[0],
    ):
        assert tree.correlation(0, one).equal(expected)
    for several in ([3], (3,), np.array([3]), torch.tensor([3]), {3}, np.array(["3"]), range(3, 4)):
        assert tree.correlation(0, several).equal(expected[None])


def test_places_are_ambiguous_where_names_are_integers():
    with pytest.raises(ValueError, match=r"node '2' has parent 2, which is ambiguous: .* as text"):
        hltm.Topology.from_parents([2, None, 1], names=[2, 1, 0])
    text = hltm.Topology.from_parents(["1", None, "1"], names=[2, 1, 0])
    assert text.names == ("1", "2", "0")
    assert hltm.Topology.from_parents([1, None, 1], names=[2, 1, 0]) == text  # 1 is both: no doubt
    # names as text cannot be meant by an integer
    places = hltm.Topology.from_parents([2, 2, None], names=["2", "1", "0"])
    assert places.names == ("0", "2", "1")


def test_a_range_of_nodes_is_a_range():
    nodes, plain = NodeRange(3, 9), range(3, 9)
    assert nodes == plain
    assert plain == nodes
    assert hash(nodes) == hash(plain)
    assert repr(nodes) == repr(plain)
    assert nodes != NodeRange(3, 8)
    assert nodes != [3, 4, 5, 6, 7, 8]
    assert list(nodes) == list(plain)
    assert nodes[-1] == 8
    assert nodes[::-2] == plain[::-2]
    assert 4 in nodes
    assert 9 not in nodes
    assert nodes.index(5) == 2
    assert nodes.count(5) == 1
    assert (nodes.start, nodes.stop, nodes.step, len(nodes)) == (3, 9, 1, 6)
    assert all(type(v) is NodeNumber for v in (*nodes, nodes[0], *reversed(nodes[1:])))
    assert np.asarray(nodes).tolist() == list(plain)
    assert np.asarray(nodes).dtype == np.int64
    assert np.arange(10)[nodes].tolist() == list(plain)
    assert torch.arange(10)[list(nodes)].tolist() == list(plain)
    assert json.dumps([nodes[0], {"v": nodes[1]}]) == '[3, {"v": 4}]'
    assert f"{nodes[0]} {nodes[0]!r}" == "3 3"
    assert type(nodes[0] + 1) is int
