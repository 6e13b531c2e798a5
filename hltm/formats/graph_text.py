"""Graphs that hold a tree as text: GraphML, GML and node-link JSON, as networkx and others write them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hltm.formats.networkx import from_networkx, to_networkx
from hltm.formats.newick_syntax import shown
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import networkx as nx

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_graphml(tree: LatentTree) -> str:
    """The graph of `to_networkx` as GraphML.

    Raises:
        ValueError: a name with a character that XML cannot hold.
    """
    import networkx as nx

    for name in tree.topology.names:
        if NOT_XML.search(name):
            raise ValueError(
                f"GraphML cannot hold the name {shown(name)}: XML has no such character"
            )
    return "\n".join(nx.generate_graphml(to_networkx(tree)))


def to_gml(tree: LatentTree) -> str:
    """The graph of `to_networkx` as GML."""
    import networkx as nx

    return "\n".join(nx.generate_gml(to_networkx(tree))) + "\n"


def from_graphml(text: str, *, root: Any = None) -> LatentTree:
    """The tree of a GraphML text; see `hltm.formats.networkx.from_networkx`.

    Raises:
        ValueError: text that is not GraphML with one graph, or whose graph is no such tree.
    """
    import networkx as nx

    if "<graphml" not in text:
        found = re.search(r"<([A-Za-z][\w:.-]*)", text)
        raise ValueError(f"XML of the kind {found[1] if found else 'unknown'!r}, expected GraphML")
    graphs = len(re.findall(r"<graph[\s>]", text))
    if graphs > 1:
        raise ValueError(f"the GraphML holds {graphs} graphs, expected one")
    return _tree("GraphML", lambda: nx.parse_graphml(text), root)


def from_gml(text: str, *, root: Any = None) -> LatentTree:
    """The tree of a GML text, whose nodes have the names of their labels, or else of their ids.

    Raises:
        ValueError: text that is not GML, or whose graph is no such tree.
    """
    return _tree("GML", lambda: _gml_graph(text), root)


def from_node_link(text: str, *, root: Any = None) -> LatentTree:
    """The tree of a graph in JSON as `networkx.node_link_data` writes it, its edges `links` or `edges`.

    Raises:
        ValueError: text that is not such JSON, or whose graph is no such tree.

    Example:
        >>> import hltm, networkx
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
        >>> from_node_link(json.dumps(networkx.node_link_data(tree.to_networkx())))
        LatentTree(7 nodes, 4 leaves, depth 2, 2 states)
    """
    return _tree("node-link JSON", lambda: _node_link_graph(json.loads(text)), root)


def _gml_graph(text: str) -> nx.Graph[Any]:
    """The graph, its nodes renamed to their labels, wherever in a node they stand."""
    import networkx as nx

    graph: nx.Graph[Any] = nx.parse_gml(text, label="id")
    labels = dict(graph.nodes(data="label"))
    if all(label is None for label in labels.values()):
        return graph
    # networkx makes a list of the label "[]", whose text is the label again
    names = {node: str(label) for node, label in labels.items() if label is not None}
    if len(names) < len(labels):
        raise ValueError("some nodes have a label, and others have none")
    if len(set(names.values())) < len(names):
        repeated = next(name for name, times in Counter(names.values()).items() if times > 1)
        raise ValueError(f"two nodes have the label {repeated!r}")
    return nx.relabel_nodes(graph, names)


def _node_link_graph(found: dict[str, Any]) -> nx.Graph[Any]:
    import networkx as nx

    directed, links = found.get("directed", False), found.get("links", found.get("edges"))
    # parallel edges are found, and named, where the graph becomes a tree
    graph: nx.Graph[Any] = (nx.MultiDiGraph if directed else nx.MultiGraph)(**_attributes(found))
    for node in found["nodes"]:
        name = _node(node, "id")
        if name in graph:
            raise ValueError(f"two nodes have the id {name!r}")
        graph.add_nodes_from([(name, {key: value for key, value in node.items() if key != "id"})])
    for link in links or []:
        ends = [_node(link, "source"), _node(link, "target")]
        for end in ends:
            if end not in graph:
                raise ValueError(f"an edge to {end!r}, which is not the id of a node")
        graph.add_edges_from(
            [(*ends, {k: v for k, v in link.items() if k not in ("source", "target", "key")})]
        )
    return graph


def _node(held: dict[str, Any], key: str) -> Any:
    """A node of the graph, by its key in a node or a link; JSON has a list for a tuple."""
    if key not in held:
        raise ValueError(f"{json.dumps(held):.80} has no {key!r}")
    return tuple(held[key]) if isinstance(held[key], list) else held[key]


def _attributes(found: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a graph, which are a mapping, or a list of pairs in older files."""
    return {str(key): value for key, value in dict(found.get("graph", {})).items()}


def _tree(kind: str, parse: Callable[[], nx.Graph[Any]], root: Any) -> LatentTree:
    """The tree of the graph that is parsed; one without parallel edges is no multigraph."""
    import networkx as nx

    try:
        graph = parse()
    except Exception as error:  # the parsers raise what their own parsers raise
        raise ValueError(f"not {kind}: {error!s:.200}") from error
    if graph.is_multigraph():
        plain = nx.DiGraph(graph) if graph.is_directed() else nx.Graph(graph)
        graph = plain if plain.number_of_edges() == graph.number_of_edges() else graph
    try:
        return from_networkx(graph, root)
    except TypeError as error:  # a multigraph
        raise ValueError(str(error)) from error
