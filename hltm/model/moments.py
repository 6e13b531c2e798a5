"""Closed forms for one and two nodes: marginals, joints, correlations, covariance, mutual information.

Axes: S members, A and B the nodes asked for on either side, V all nodes, K states.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hltm.model.nodes import NodeNumber
from hltm.model.tables import Tables


def marginals(tables: Tables) -> list[Tensor]:
    """`(S, K_v)` float64 prior probabilities of every node's states."""
    found = [tables.of(0)[:, 0]] * len(tables.topology)
    for nodes in tables.groups[1:]:
        above = torch.stack([found[p] for p in tables.topology.parent[nodes]], dim=1)
        below = torch.einsum("sgp,sgpk->sgk", above, tables.of(nodes))
        for v, prior in zip(nodes, below.unbind(1), strict=True):
            found[v] = prior
    return found


def edge_correlation(tables: Tables) -> Tensor:
    """`(S, V)` correlation of every node of a binary tree with its parent; 1 for the root.

    In a symmetric binary tree these are the polarities. A node that never varies has correlation 0.

    Raises:
        ValueError: some node has more than two states.
    """
    remedy = "mutual_information takes any number of states"
    tables.check_binary("correlation is defined for binary nodes", remedy)
    up = torch.stack(marginals(tables), dim=1)  # (S, V, 2)
    deviation = up.prod(-1).sqrt()
    below = torch.arange(1, len(tables.topology))
    table = tables.of(below.numpy())  # (S, V - 1, 2, 2)
    slope = table[:, :, 1, 1] - table[:, :, 0, 1]
    above = deviation[:, torch.as_tensor(tables.topology.parent[1:])]
    own = deviation[:, 1:]
    edge = torch.where(own > 0, slope * above / own.where(own > 0, 1), torch.zeros_like(own))
    return torch.cat([torch.ones_like(edge[:, :1]), edge], dim=1)


def correlation(tables: Tables, a: np.ndarray, b: np.ndarray) -> Tensor:
    """`(S, A, B)` correlations between nodes of a binary tree, in closed form.

    A binary node's conditional mean is linear in its parent, so correlations multiply along the
    path between two nodes (docs/theory.md, Section 4). A node that never varies has correlation 0
    with every node, itself included.
    """
    if len(a) > len(b):
        return correlation(tables, b, a).transpose(1, 2)
    # Correlations with node v: first up from v to the root, then down into all other branches. Either
    # way one more edge multiplies by its correlation, and the branch point is already known.
    edge = edge_correlation(tables)
    topology = tables.topology
    varies = torch.stack(marginals(tables), dim=1).prod(-1) > 0
    found = edge.new_zeros(len(edge), len(a), len(topology))
    for i, v in enumerate(map(int, a)):
        found[:, i, v] = varies[:, v].to(edge.dtype)
        for u, p in _upwards(tables, v):
            found[:, i, p] = found[:, i, u] * edge[:, u]
    for nodes, off_path in _downwards(tables, a, b):
        fresh = found[:, :, topology.parent[nodes]] * edge[:, None, nodes]
        found[:, :, nodes] = torch.where(off_path, fresh, found[:, :, nodes])
    return found[:, :, b]


def pair_joint(tables: Tables, a: np.ndarray, b: np.ndarray) -> Tensor:
    """`(S, A, B, K, K)` float64 P(a = i, b = j) of nodes, in closed form, padded with zeros.

    Given its parent p, a node u is independent of every node that is not below it. So along the path
    from a node a, where J(a, v) is the joint of a and v as a matrix and T(v | u) a conditional table,

        up:    J(a, p) = J(a, u) T(p | u),   T(p | u) = P(u | p) P(p) / P(u)   (Bayes)
        down:  J(a, u) = J(a, p) T(u | p)
    """
    if len(a) > len(b):
        return pair_joint(tables, b, a).permute(0, 2, 1, 4, 3)
    topology = tables.topology
    prior = marginals(tables)
    sizes = int(tables.cardinality[a].max()), int(tables.cardinality[b].max())
    joint: dict[int, Tensor] = {}  # node -> (S, A, K_a, K_node), for as long as it is needed
    on_path: list[dict[int, Tensor]] = []
    for v in map(int, a):
        path = {v: torch.diag_embed(prior[v])}
        for u, p in _upwards(tables, v):
            # a state of u with prior 0 has joint probability 0: divide it by 1 in place of 0
            share = prior[u].where(prior[u] > 0, 1)[:, :, None]
            upward = tables.of(u).transpose(1, 2) * prior[p][:, None] / share  # T(p | u)
            path[p] = path[u] @ upward
        missing = (0, 0, 0, sizes[0] - len(prior[v][0]))
        on_path.append({u: torch.nn.functional.pad(m, missing) for u, m in path.items()})
    joint[0] = torch.stack([path[0] for path in on_path], dim=1)
    for nodes, off_path in _downwards(tables, a, b):
        above = torch.stack([joint[int(p)] for p in topology.parent[nodes]], dim=2)
        below = above @ tables.of(nodes)[:, None]  # (S, A, G, K_a, K)
        for g, v in enumerate(map(int, nodes)):
            joint[v] = below[:, :, g]
            for i in (~off_path[:, g]).nonzero()[:, 0].tolist():
                joint[v][:, i] = on_path[i][v]
    found = prior[0].new_zeros(len(prior[0]), len(a), len(b), *sizes)
    for i, v in enumerate(map(int, b)):
        found[:, :, i, :, : int(tables.cardinality[v])] = joint[v]
    return found


def covariance(tables: Tables, a: np.ndarray, b: np.ndarray) -> Tensor:
    """`(S, A, B, K, K)` float64 covariances of one-hot states, padded with zeros.

    Entry i, j is P(a = i, b = j) - P(a = i) P(b = j).

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> tree.covariance("1", "2")  # ± 0.8 · 0.8 / 4
        tensor([[ 0.1600, -0.1600],
                [-0.1600,  0.1600]], dtype=torch.float64)
    """
    return pair_joint(tables, a, b) - _product(tables, a, b)


def mutual_information(tables: Tables, a: np.ndarray, b: np.ndarray) -> Tensor:
    """`(S, A, B)` float64 mutual information of nodes in nats; of a node with itself, its entropy.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
        >>> tree.mutual_information(0, [0, 1])  # ln 2, and 0.9 ln 1.8 + 0.1 ln 0.2
        tensor([0.6931, 0.3681], dtype=torch.float64)
    """
    joint = pair_joint(tables, a, b)
    product = _product(tables, a, b)
    ratio = torch.where(joint > 0, joint / product, torch.ones_like(joint))
    return (joint * ratio.log()).sum((-1, -2)).clamp_min(0)


def _product(tables: Tables, a: np.ndarray, b: np.ndarray) -> Tensor:
    """`(S, A, B, K, K)` P(a = i) P(b = j), padded with zeros."""
    prior = marginals(tables)

    def padded(nodes: np.ndarray) -> Tensor:
        states = int(tables.cardinality[nodes].max())
        return torch.stack(
            [torch.nn.functional.pad(prior[v], (0, states - prior[v].shape[1])) for v in nodes], 1
        )

    return torch.einsum("sai,sbj->sabij", padded(a), padded(b))


def _upwards(tables: Tables, node: int) -> Iterator[tuple[int, int]]:
    """The edges (child, parent) from a node up to the root."""
    for p in tables.topology.ancestors(NodeNumber(node)):
        yield node, p
        node = p


def _downwards(tables: Tables, a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The groups of nodes on the paths from the root to the nodes b, parents first, without the root.

    Yields:
        G nodes of a group, and `(A, G)` bool: whether a node is off the path from a to the root.
    """
    topology = tables.topology
    needed = topology.with_ancestors(b)
    path = np.zeros((len(a), len(topology)), dtype=bool)
    for i, v in enumerate(map(int, a)):
        path[i, [v, *topology.ancestors(NodeNumber(v))]] = True
    for group in tables.groups[1:]:
        nodes = group[needed[group]]
        if len(nodes):
            yield nodes, torch.from_numpy(~path[:, nodes])
