"""networkx graphs: both ways, hand-made ones, and graphs that are no tree."""

import json

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tree_strategies import NAMES, assert_same_tree, latent_trees, parent_names

import hltm
from hltm import LatentTree, Topology


@given(latent_trees(names=NAMES), st.booleans())
def test_networkx_and_back(tree, arrays):
    graph = tree.to_networkx(arrays=arrays)
    assert_same_tree(LatentTree.from_networkx(graph), tree)
    assert nx.is_arborescence(graph)
    assert {child: parent for parent, child in graph.edges} == {
        name: parent for name, parent in parent_names(tree.topology).items() if parent is not None
    }
    for name, held in graph.nodes(data=True):
        v = tree.topology.node(name)
        assert held["level"] == tree.topology.level[v]
        assert held["cardinality"] == tree.tables.cardinality[v]


def test_networkx_keeps_addresses():
    tree = hltm.symmetric_binary(depth=2, members=5, seed=0)[3]
    assert_same_tree(LatentTree.from_networkx(tree.to_networkx()), tree)


def test_networkx_graphs_share_no_memory_with_the_tree():
    tree = hltm.balanced(depth=1, seed=0)
    before = tree.tables.flat.clone()
    graph = tree.to_networkx(arrays=True)
    graph.edges["0", "1"]["table"][:] = 0
    graph.nodes["0"]["prior"][:] = 0
    assert tree.tables.flat.equal(before)


def hand_made():
    graph = nx.DiGraph()
    graph.add_edge(1, 2, table=[[0.9, 0.1], [0.3, 0.7]])
    graph.add_edge(0, 1, table=[[1, 0], [0, 1]])
    graph.nodes[0]["prior"] = [0.25, 0.75]
    return graph


def test_a_graph_made_by_hand_is_a_tree():
    tree = LatentTree.from_networkx(hand_made())
    assert tree.topology.names == ("0", "1", "2")
    assert tree.table("2").tolist() == [[0.9, 0.1], [0.3, 0.7]]
    assert not tree.stacked


@given(latent_trees(names=NAMES), st.data())
def test_undirected_edges_lead_away_from_any_root(tree, data):
    """A symmetric tree is the same distribution from whichever node it is seen."""
    count = len(tree.topology)
    rho = data.draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count))
    root = data.draw(st.sampled_from(tree.topology.names))
    graph = nx.Graph()
    for name, above in parent_names(tree.topology).items():
        if above is not None:
            graph.add_edge(name, above, polarity=rho[tree.topology.node(name)])
    found = LatentTree.from_networkx(graph, root=root)
    assert found.topology.names[0] == root
    assert found.table(root).tolist() == [0.5, 0.5]
    for a, b in graph.edges:
        lower, upper = sorted((found.topology.node(a), found.topology.node(b)), reverse=True)
        assert found.topology.parent[lower] == upper
        assert float(found.correlation(a, b)) == pytest.approx(graph.edges[a, b]["polarity"])
    assert Topology.from_networkx(graph, root).names == found.topology.names


def star(key, value, where="edge", **root):
    graph = nx.DiGraph([("a", "b"), ("a", "c")])
    graph.nodes["a"].update(root)
    for child in "bc":
        held = graph.edges["a", child] if where == "edge" else graph.nodes[child]
        held[key] = value
    return graph


@pytest.mark.parametrize("where", ["edge", "node"])
def test_tables_and_polarities_of_edges_or_nodes_in_any_form(where):
    table = [[0.875, 0.125], [0.125, 0.875]]
    expected = LatentTree.from_networkx(star("table", table, where, prior=[0.5, 0.5]))
    assert expected.table("b").tolist() == table
    for value in (np.array(table), json.dumps(table), tuple(map(tuple, table))):
        assert_same_tree(
            LatentTree.from_networkx(star("table", value, where, table="[0.5, 0.5]")), expected
        )
    for value in (0.75, "0.75", np.float32(0.75)):
        assert_same_tree(LatentTree.from_networkx(star("polarity", value, where)), expected)
    prior = LatentTree.from_networkx(star("polarity", 0.75, where, prior=[0.25, 0.75]))
    assert prior.table("a").tolist() == [0.25, 0.75]


def test_polarities_of_members():
    graph = star("polarity", [0.5, -0.25])
    graph.graph["members"] = [3, 1]
    trees = LatentTree.from_networkx(graph)
    assert (trees.members, trees.stacked) == ((3, 1), True)
    assert trees.polarity[:, 1:].tolist() == [[0.5, 0.5], [-0.25, -0.25]]


def test_integer_nodes_are_named_by_their_text():
    graph = nx.Graph([(2, 0), (2, 1)])
    nx.set_edge_attributes(graph, {(2, 0): 0.98, (2, 1): 0.2}, "polarity")
    for root in (2, "2"):
        tree = LatentTree.from_networkx(graph, root=root)
        assert tree.topology.names == ("2", "0", "1")
        assert float(tree.correlation("2", "0")) == pytest.approx(0.98)


def test_topology_of_a_graph_needs_no_attributes():
    assert Topology.from_networkx(nx.path_graph(3), root=1).names == ("1", "0", "2")
    assert Topology.from_networkx(nx.DiGraph([("x", "y")])).names == ("x", "y")
    with pytest.raises(ValueError, match="'1' - '2' closes the circle"):
        Topology.from_networkx(nx.cycle_graph(3), root=0)


def changed_graph(change):
    graph = hand_made()
    change(graph)
    return graph


IDENTITY = [[1, 0], [0, 1]]
# what is wrong -> (graph, root, message)
REFUSED = {
    "no root": (nx.path_graph(3), None, "an undirected graph have no direction, so give root="),
    "another root": (nx.path_graph(3), 7, "root 7 is not a node of the graph"),
    "root below": (nx.DiGraph([(0, 1), (0, 2)]), 1, "root '1' has the parent '0' in this directed"),
    "empty": (nx.DiGraph(), None, r"got 0 node\(s\)"),
    "one node": (nx.empty_graph(1), 0, r"got 1 node\(s\)"),
    "circle": (nx.cycle_graph(4), 0, "the edge '2' - '3' closes the circle '2', '1', '0', '3'"),
    "apart": (nx.Graph([(0, 1), (2, 3), (4, 3)]), 0, "no edges lead from root '0' to '2', '3', '4'"),
    "loop": (nx.Graph([(0, 1), (1, 1)]), 0, "node '1' has an edge to itself"),
    "directed loop": (nx.DiGraph([(0, 0)]), None, "node '0' has an edge to itself"),
    "forest": (nx.DiGraph([(0, 1), (2, 3)]), None, "not one tree but 2 .* roots '0', '2'"),
    "two parents": (nx.DiGraph([(0, 1), (2, 1)]), None, "node '1' has 2 parents: '0', '2'"),
    "both ways": (nx.DiGraph([(0, 1), (1, 0)]), None, "two edges join"),
    "no table": (changed_graph(lambda g: g.add_edge(1, 3)), None,
                 "the edge from '1' to '3' has no attribute 'table' or 'polarity'"),
    "triangle": (changed_graph(lambda g: g.add_edge(0, 2, table=IDENTITY)), None,
                 "closes the circle '0', '1', '2', so node '2' has 2 parents: '1', '0'"),
    "cycle": (changed_graph(lambda g: g.add_edge(2, 0, table=IDENTITY)), None,
              "closes the circle .*, so each of them is its own ancestor"),
    "no prior": (star("table", IDENTITY), None, "root 'a' has no attribute 'prior', which may be left"),
    "both": (changed_graph(lambda g: g.edges[0, 1].update(polarity=1)), None,
             "from '0' to '1' has the attributes 'table' and 'polarity' .*, expected one"),
    "twice": (changed_graph(lambda g: g.nodes[1].update(table=IDENTITY)), None, "'table' and 'table'"),
    "sum": (changed_graph(lambda g: g.edges[0, 1].update(table=[[0.5, 0], [0, 1]])), None,
            r"'1' sums to 0\.5"),
    "same text": (changed_graph(lambda g: g.add_edge(0, "1", table=IDENTITY)), None,
                  "got '1' more than once"),
    "polarity": (star("polarity", 1.5), None, r"has polarity 1\.5, expected a number in \[-1, 1\]"),
    "no number": (star("polarity", {}), None, "has polarity {}, expected a number"),
    "nan": (star("polarity", float("nan")), None, "has polarity nan"),
    "no JSON": (star("table", "high"), None, "has table 'high', expected numbers in JSON"),
    "no array": (star("table", {1: 2}, prior=[0.5, 0.5]), None, "'b' is not an array of numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_graphs_that_are_no_latent_tree_are_refused_in_a_sentence(case):
    graph, root, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        LatentTree.from_networkx(graph, root)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.MultiDiGraph([(0, 1)]), "got MultiDiGraph; without parallel edges, .*DiGraph"),
        (nx.MultiGraph([(0, 1), (1, 2), (1, 0)]), "MultiGraph with two edges between 0 and 1"),
        ([(0, 1)], "expected a networkx Graph or DiGraph, got list"),
    ],
)
def test_multigraphs_and_other_things_are_refused(graph, message):
    for read in (LatentTree.from_networkx, Topology.from_networkx):
        with pytest.raises(TypeError, match=message):
            read(graph)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"members": "Alice"}, "the graph has members 'Alice', expected numbers in JSON"),
        ({"members": [0.5]}, r"members \[0.5\], expected a list of integers"),
        ({"members": [0], "stacked": "no"}, "stacked 'no', expected True or False"),
        ({"members": [0, 1], "stacked": False}, "expected 1 member addresses, got 2"),
    ],
)
def test_attributes_of_the_graph_are_checked(held, message):
    graph = hand_made()
    graph.graph.update(held)
    with pytest.raises(ValueError, match=message):
        LatentTree.from_networkx(graph)


@pytest.mark.parametrize(
    "attributes", [{}, {"polarity": 2}, {"polarity": "a" * 400}, {"table": [], "polarity": 1}]
)
def test_refusals_of_edges_fit_a_screen_whatever_the_names_are(attributes):
    graph = nx.DiGraph([("a" * 400, "b" * 400, attributes)])
    with pytest.raises(ValueError, match=r"the edge from 'a{40}'… to 'b{40}'… has ") as error:
        LatentTree.from_networkx(graph)
    assert len(str(error.value)) < 300
