"""Graphs that hold a tree as text: GraphML, GML and node-link JSON, as networkx and others write them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hltm.formats.networkx import from_networkx, to_networkx
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
            raise ValueError(f"GraphML cannot hold the name {name!r}: XML has no such character")
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
    import networkx as nx

    label = "label" if re.search(r"\bnode\s*\[[^\]]*\blabel\b", text) else "id"
    return _tree("GML", lambda: nx.parse_gml(text, label=label), root)


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


def _node_link_graph(found: dict[str, Any]) -> nx.Graph[Any]:
    import networkx as nx

    directed, links = found.get("directed", False), found.get("links", found.get("edges"))
    # parallel edges are found, and named, where the graph becomes a tree
    graph: nx.Graph[Any] = (nx.MultiDiGraph if directed else nx.MultiGraph)(**_attributes(found))
    graph.add_nodes_from(
        (node["id"], {key: value for key, value in node.items() if key != "id"})
        for node in found["nodes"]
    )
    for link in links or []:
        ends = [link["source"], link["target"]]
        for end in ends:
            if end not in graph:
                raise ValueError(f"an edge to {end!r}, which is not the id of a node")
        graph.add_edges_from(
            [(*ends, {k: v for k, v in link.items() if k not in ("source", "target", "key")})]
        )
    return graph


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
