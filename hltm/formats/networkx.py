"""Trees as networkx graphs, both ways; edges hold tables or polarities."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hltm.formats.newick_syntax import shown
from hltm.formats.rooted import directed_from, parents_of
from hltm.model.tables import symmetric_table
from hltm.model.topology import Topology
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import networkx as nx

    Graph = nx.Graph[Any]  # an nx.DiGraph is one, too


def to_networkx(tree: LatentTree, *, arrays: bool = False) -> nx.DiGraph[str]:
    """A directed graph from the root down, its nodes the names in storage order.

    Attributes of a node: `cardinality`, `level`, and for the root `prior`, `(K,)`; of an edge:
    `table`, P(child | parent), `(K_parent, K)`; with S in front for stacked trees. Of the graph:
    `members`, the addresses, and `stacked`.

    Args:
        arrays: float64 arrays for `prior` and `table`, and a tuple for `members`, to compute with. By
            default they are JSON text with every bit, because networkx writes neither arrays nor lists
            to GraphML: so any of its writers (node-link JSON, GML, GraphML) takes the graph as it is.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, signs="positive", seed=0)
        >>> graph = to_networkx(tree)
        >>> list(graph.successors("0")), graph.nodes["0"]["prior"], graph.edges["0", "1"]["table"]
        (['1', '2'], '[0.5, 0.5]', '[[0.9, 0.09999999999999998], [0.09999999999999998, 0.9]]')
        >>> from_networkx(graph)
        LatentTree(7 nodes, 4 leaves, depth 2, 2 states)
    """
    import networkx as nx

    topology = tree.topology
    members = tree.members if arrays else json.dumps(tree.members)
    graph: nx.DiGraph[str] = nx.DiGraph(members=members, stacked=tree.stacked)
    for v, name in enumerate(topology.names):
        cardinality = int(tree.tables.cardinality[v])
        graph.add_node(name, cardinality=cardinality, level=int(topology.level[v]))
        found = tree.table(name).detach()
        table = found.numpy() if arrays else json.dumps(found.tolist())
        if v == 0:
            graph.nodes[name]["prior"] = table
        else:
            graph.add_edge(topology.names[topology.parent[v]], name, table=table)
    return graph


def from_networkx(graph: Graph, root: Any = None) -> LatentTree:
    """The latent tree of a graph whose edges, or whose nodes, hold tables or polarities.

    The edges of a `DiGraph` lead from parent to child. Those of a `Graph` are directed away from
    `root`. The names are the graph's nodes as text: node 2 of the graph is "2", not number 2.

    An edge has the attribute `table`, P(child | parent), `(K_parent, K)`, or `polarity`, ρ of a
    symmetric binary edge; or its child has it. The root has `prior`, `(K,)`; where all edges have
    a polarity it may be left out, and is (1/2, 1/2). Values are arrays, lists, or JSON text of lists,
    as GraphML and GML hold it; S stands in front for stacked trees. The graph may have the
    attributes `members` and `stacked`; without `members`, one tree is expected.

    Args:
        graph: an `nx.Graph` or `nx.DiGraph`.
        root: the node of the graph that is the root; needed for a `Graph`.

    Raises:
        TypeError: not a networkx graph, or a multigraph.
        ValueError: edges that make no tree with that root (see `hltm.formats.rooted`), nodes that
            are the same as text, an attribute that is missing or given twice, a table that is
            invalid (see `hltm.model.tables.make_tables`), a polarity outside [-1, 1], or another number
            of addresses than of members.

    Example:
        >>> import networkx as nx
        >>> graph = nx.Graph()
        >>> graph.add_edge("human", "ape", polarity=0.9)
        >>> graph.add_edge("lemur", "ape", polarity=0.7)
        >>> tree = from_networkx(graph, root="ape")
        >>> tree.topology.names, tree.correlation("human", "lemur")
        (('ape', 'human', 'lemur'), tensor(0.6300, dtype=torch.float64))
    """
    topology = topology_from_networkx(graph, root)
    parents = [None, *(topology.names[p] for p in topology.parent[1:])]
    own = {str(node): held for node, held in graph.nodes(data=True)}
    edges = {frozenset((str(a), str(b))): held for a, b, held in graph.edges(data=True)}
    tables: dict[str, Any] = {}
    symmetric = True
    for name, parent in zip(topology.names[1:], parents[1:], strict=True):
        where = f"the edge from {shown(parent)} to {shown(name)}"
        key, value = _held(edges[frozenset((parent, name))], own[name], name, where)
        symmetric &= key == "polarity"
        value = _parsed(value, f"{where} has {key}")
        tables[name] = _symmetric(value, where) if key == "polarity" else value
    top = topology.names[0]
    tables[top] = _prior(own[top], top, symmetric)
    if "members" not in graph.graph:
        return LatentTree.from_tables(topology, tables)
    members, stacked = _members(graph.graph)
    made = LatentTree.from_tables(topology, tables, members=len(members) if stacked else None)
    return replace(made, members=members)


def topology_from_networkx(graph: Graph, root: Any = None) -> Topology:
    """The shape and names of a graph; arguments and errors of `from_networkx`, but no attributes.

    Example:
        >>> import networkx as nx
        >>> topology_from_networkx(nx.path_graph(3), root=1).names
        ('1', '0', '2')
    """
    return Topology.from_parents(_parents(graph, root))


def _parents(graph: Graph, root: Any) -> dict[str, str | None]:
    """Name -> the parent's name, None for the root."""
    import networkx as nx

    if not isinstance(graph, nx.Graph) or graph.is_multigraph():
        raise TypeError(_not_plain(graph))
    names = [str(node) for node in graph.nodes]
    if len(set(names)) < len(names):
        repeated = next(name for name, times in Counter(names).items() if times > 1)
        raise ValueError(f"names must be distinct as text, got {shown(repeated)} more than once")
    if root is not None and str(root) not in names:
        raise ValueError(f"root {root!r:.40} is not a node of the graph")
    edges = [(str(a), str(b)) for a, b in graph.edges]
    if not graph.is_directed():
        if root is None:
            raise ValueError(
                "the edges of an undirected graph have no direction, so give root=, a node"
            )
        edges = directed_from(str(root), names, edges)
    parents = parents_of(names, edges)
    if root is not None and parents[str(root)] is not None:
        raise ValueError(
            f"root {shown(str(root))} has the parent {shown(parents[str(root)])} in this directed graph; "
            "graph.to_undirected() has edges that can be directed away from any root"
        )
    return parents


def _not_plain(graph: Any) -> str:
    """Why this is not an `nx.Graph` or `nx.DiGraph`."""
    got = f"expected a networkx Graph or DiGraph, got {type(graph).__name__}"
    if not hasattr(graph, "edges"):
        return got
    seen: set[Any] = set()
    for a, b in graph.edges():
        if (a, b) in seen or (b, a) in seen:
            return f"{got} with two edges between {a!r:.40} and {b!r:.40}"
        seen.add((a, b))
    return f"{got}; without parallel edges, nx.Graph(graph) or nx.DiGraph(graph) makes it one"


def _held(
    edge: Mapping[str, Any], node: Mapping[str, Any], name: str, where: str
) -> tuple[str, Any]:
    """The one attribute `table` or `polarity` of an edge or its child, and its value."""
    found = [
        (key, held[key]) for held in (edge, node) for key in ("table", "polarity") if key in held
    ]
    if not found:
        raise ValueError(
            f"{where} has no attribute 'table' or 'polarity', and neither has its child"
        )
    if len(found) > 1:
        keys = " and ".join(repr(key) for key, _ in found)
        raise ValueError(
            f"{where} has the attributes {keys} (of the edge or its child), expected one"
        )
    return found[0]


def _prior(node: Mapping[str, Any], name: str, symmetric: bool) -> Any:
    """The prior of the root; where every edge has a polarity, by default (1/2, 1/2)."""
    for key in ("prior", "table"):
        if key in node:
            return _parsed(node[key], f"root {shown(name)} has {key}")
    if symmetric:
        return [0.5, 0.5]
    raise ValueError(
        f"root {shown(name)} has no attribute 'prior', which may be left out only where every edge has a "
        "polarity"
    )


def _symmetric(polarity: Any, where: str) -> Tensor:
    """The table of a symmetric binary edge, `(2, 2)`, or `(S, 2, 2)` of S polarities."""
    try:
        rho = torch.as_tensor(polarity, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where} has polarity {polarity!r:.60}, expected a number") from error
    bad = rho[~(rho.abs() <= 1)]
    if bad.numel():
        raise ValueError(f"{where} has polarity {float(bad[0])}, expected a number in [-1, 1]")
    return symmetric_table(rho)


def _members(held: Mapping[str, Any]) -> tuple[tuple[int, ...], bool]:
    """The attributes `members` and `stacked` of a graph."""
    members = _parsed(held["members"], "the graph has members")
    if not (isinstance(members, (list, tuple)) and all(isinstance(m, int) for m in members)):
        raise ValueError(f"the graph has members {members!r:.60}, expected a list of integers")
    stacked = held.get("stacked", len(members) > 1)
    if stacked not in (True, False):  # GML has 1 and 0
        raise ValueError(f"the graph has stacked {stacked!r:.60}, expected True or False")
    return tuple(members), bool(stacked)


def _parsed(value: Any, where: str) -> Any:
    """The value, read from its text if it is one."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} {value!r:.60}, expected numbers in JSON") from error
