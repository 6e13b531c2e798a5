"""Edges as a rooted tree, held against networkx; the reason that is given is true."""

import re
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hltm.formats.rooted import directed_from, parents_of

NODES = "abcdef"
EDGES = st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)), max_size=7, unique=True)
NAMED = re.compile("'(.)'")


def check_circle(edges, message):
    """The named edge is the first to close a circle of the edges before it, which is named in order."""
    head, _, rest = message.partition(" closes the circle ")
    a, b = NAMED.findall(head)
    circle = NAMED.findall(rest.partition(", so ")[0])
    before = nx.Graph(edges[: edges.index((a, b))])
    assert len(before.edges) == 0 or nx.is_forest(before)
    path = nx.shortest_path(before, a, b)
    assert circle == (path if len(path) <= 5 else [*path[:4], path[-1]])


@given(st.integers(2, 6), EDGES)
@example(3, [("a", "b"), ("c", "b"), ("c", "a")])
@example(3, [("a", "b"), ("b", "c"), ("c", "a")])
def test_directed_edges_are_a_tree_where_networkx_says_so(count, edges):
    nodes = NODES[:count]
    edges = [edge for edge in edges if set(edge) <= set(nodes)]
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(nodes)
    if nx.is_arborescence(graph):
        found = parents_of(nodes, edges)
        assert {(parent, node) for node, parent in found.items() if parent} == set(edges)
        return
    with pytest.raises(ValueError, match=r"not a tree|not one tree") as error:
        parents_of(nodes, edges)
    message = str(error.value)
    if "closes the circle" in message:
        check_circle(edges, message)
        own = message.partition(", so ")[2]
        if "is its own ancestor" not in own:
            node, *parents = NAMED.findall(own)
            assert set(parents) <= {a for a, b in edges if b == node}
            assert len(parents) > 1
    elif "itself" in message:
        (node,) = NAMED.findall(message)
        assert (node, node) in edges
    elif "two edges join" in message:
        a, b = NAMED.findall(message)
        assert {(a, b), (b, a)} <= set(edges)
    elif "parents" in message:
        node, *parents = NAMED.findall(message)
        assert set(parents) <= set(graph.predecessors(node))
    else:
        roots = NAMED.findall(message)
        assert len(roots) > 1
        assert all(graph.in_degree(node) == 0 for node in roots)


@given(st.integers(2, 6), EDGES, st.data())
def test_undirected_edges_lead_away_from_the_root(count, edges, data):
    nodes = list(NODES[:count])
    kept = {frozenset(edge): edge for edge in edges if set(edge) <= set(nodes)}
    edges, root = list(kept.values()), data.draw(st.sampled_from(nodes))
    graph = nx.Graph(edges)
    graph.add_nodes_from(nodes)
    if nx.is_tree(graph):
        assert set(directed_from(root, nodes, edges)) == set(nx.bfs_edges(graph, root))
        return
    with pytest.raises(ValueError, match=r"not a tree|not one tree") as error:
        directed_from(root, nodes, edges)
    message = str(error.value)
    if "closes the circle" in message:
        check_circle(edges, message)
    elif "itself" not in message:
        _, *apart = NAMED.findall(message)
        assert set(apart) <= {node for node in nodes if not nx.has_path(graph, root, node)}


def test_long_circles_and_names_stay_in_one_sentence():
    nodes = [f"{v:04}" + "x" * 500 for v in range(1000)]
    ring = [*pairwise(nodes), (nodes[0], nodes[-1])]
    for check in (parents_of, lambda nodes, edges: directed_from(nodes[0], nodes, edges)):
        with pytest.raises(ValueError, match=r"closes the circle '0000x*…', '0001x*…'") as error:
            check(nodes, ring)
        assert len(str(error.value)) < 300
    with pytest.raises(ValueError, match="999 that no edge joins") as error:
        parents_of(nodes, [(nodes[0], nodes[1])])
    assert len(str(error.value)) < 300


def test_stars_and_paths_of_many_nodes():
    nodes = list(map(str, range(6000)))
    star = [("0", node) for node in nodes[1:]]
    path = list(pairwise(nodes))
    assert parents_of(nodes, star)["5999"] == "0"
    assert parents_of(nodes, path)["5999"] == "5998"
    assert directed_from("5999", nodes, path)[0] == ("1", "0")
