"""Trees as networkx graphs, both ways: edges from parent to child hold the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hltm.tree import LatentTree

if TYPE_CHECKING:
    import networkx as nx


def to_networkx(tree: LatentTree) -> nx.DiGraph[str]:
    """A directed graph from the root down, its nodes the names in storage order.

    Attributes of a node: `cardinality`, `level`, and for the root `prior`, `(K,)`; of an edge:
    `table`, P(child | parent), `(K_parent, K)`; float64 arrays, with S in front for stacked trees.
    Of the graph: `members`, the addresses, and `stacked`.

    Example:
        >>> import hltm
        >>> graph = to_networkx(hltm.symmetric_binary(depth=2, polarity=0.8, seed=0))
        >>> list(graph.successors("0")), graph.nodes["0"]["prior"].tolist()
        (['1', '2'], [0.5, 0.5])
        >>> from_networkx(graph)
        LatentTree(7 nodes, 4 leaves, depth 2, 2 states)
    """
    import networkx as nx

    topology = tree.topology
    graph: nx.DiGraph[str] = nx.DiGraph(members=tree.members, stacked=tree.stacked)
    for v, name in enumerate(topology.names):
        cardinality = int(tree.tables.cardinality[v])
        graph.add_node(name, cardinality=cardinality, level=int(topology.level[v]))
        table = tree.table(name).detach().numpy()
        if v == 0:
            graph.nodes[name]["prior"] = table
        else:
            graph.add_edge(topology.names[topology.parent[v]], name, table=table)
    return graph


def from_networkx(graph: nx.DiGraph[Any]) -> LatentTree:
    """The latent tree of a directed graph with the attributes that `to_networkx` writes.

    Only `prior` and `table` are read, and `members` and `stacked` where the graph has them; the
    names are the nodes' as text. Without `members`, one tree is expected.

    Raises:
        TypeError: not a directed networkx graph, or one with parallel edges.
        ValueError: a node with several parents, no root or several, a cycle, a table that is missing
            or invalid (see `hltm.model.tables.make_tables`), or another number of addresses than of
            members.
    """
    import networkx as nx

    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise TypeError(
            f"expected a networkx DiGraph with edges from parent to child, got {type(graph).__name__}"
        )
    parents: dict[str, str | None] = {}
    tables: dict[str, Any] = {}
    for node in graph.nodes:
        name, above = str(node), list(graph.predecessors(node))
        if name in parents:
            raise ValueError(f"names must be distinct as text, got {name!r} more than once")
        if len(above) > 1:
            raise ValueError(f"node {name!r} has {len(above)} parents, expected one")
        parents[name] = str(above[0]) if above else None
        held = graph.edges[above[0], node] if above else graph.nodes[node]
        key = "table" if above else "prior"
        if key not in held:
            where = f"the edge to node {name!r}" if above else f"node {name!r}, a root,"
            raise ValueError(f"{where} has no attribute {key!r}")
        tables[name] = held[key]
    if "members" not in graph.graph:
        return LatentTree.from_parents(parents, tables)
    members = tuple(graph.graph["members"])
    stacked = bool(graph.graph.get("stacked", len(members) > 1))
    made = LatentTree.from_parents(parents, tables, members=len(members) if stacked else None)
    return replace(made, members=members)
