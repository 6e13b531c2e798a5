"""networkx graphs: both ways, hand-made ones, and graphs that are no tree."""

import subprocess
import sys

import networkx as nx
import pytest
from hypothesis import given
from tree_strategies import NAMES, assert_same_tree, latent_trees, parent_names

import hltm
from hltm import LatentTree


@given(latent_trees(names=NAMES))
def test_networkx_and_back(tree):
    graph = tree.to_networkx()
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
    graph = tree.to_networkx()
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


def test_bad_graphs_get_one_error():
    with pytest.raises(TypeError, match=r"expected a networkx DiGraph .* got Graph"):
        LatentTree.from_networkx(nx.path_graph(3))
    with pytest.raises(TypeError, match="got MultiDiGraph"):
        LatentTree.from_networkx(nx.MultiDiGraph([(0, 1)]))
    cases = {
        "no attribute 'table'": lambda g: g.add_edge(1, 3),
        "node '9', a root, has no attribute 'prior'": lambda g: g.add_node(9),
        "node '2' has 2 parents": lambda g: g.add_edge(0, 2, table=[[1, 0], [0, 1]]),
        "found 0: none": lambda g: g.add_edge(2, 0, table=[[1, 0], [0, 1]]),
        r"'1' sums to 0\.5": lambda g: g.edges[0, 1].update(table=[[0.5, 0], [0, 1]]),
        "got '1' more than once": lambda g: g.add_edge(0, "1", table=[[1, 0], [0, 1]]),
    }
    for message, spoil in cases.items():
        graph = hand_made()
        spoil(graph)
        with pytest.raises(ValueError, match=message):
            LatentTree.from_networkx(graph)


def test_importing_hltm_does_not_import_networkx():
    code = "import sys, hltm; sys.exit('networkx' in sys.modules or 'pgmpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
