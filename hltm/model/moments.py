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
    return list(state_marginals(tables).split(tables.cardinality.tolist(), 1))


def state_marginals(tables: Tables) -> Tensor:
    """`(S, sum of K_v)` float64 prior probabilities of all nodes' states, node after node."""
    start = np.cumsum(tables.cardinality) - tables.cardinality
    found = tables.flat.new_zeros(tables.count, int(tables.cardinality.sum()))
    found[:, : tables.cardinality[0]] = tables.of(0)[:, 0]
    for nodes in tables.groups[1:]:
        table = tables.of(nodes)
        rows, states = (np.arange(size) for size in table.shape[-2:])
        above = found[:, torch.as_tensor(start[tables.topology.parent[nodes]][:, None] + rows)]
        below = torch.einsum("sgp,sgpk->sgk", above, table)
        found[:, torch.as_tensor(start[nodes][:, None] + states)] = below
    return found


def edge_correlation(tables: Tables) -> Tensor:
    """`(S, V)` correlation of every node of a binary tree with its parent; 1 for the root.

    In a symmetric binary tree these are the polarities. A node that never varies has correlation 0.

    Raises:
        ValueError: some node has more than two states.
    """
    remedy = "maximal_correlation, covariance and mutual_information take any number of states"
    tables.check_binary("correlation is defined for binary nodes", remedy)
    up = state_marginals(tables).unflatten(1, (-1, 2))  # (S, V, 2)
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
    varies = state_marginals(tables).unflatten(1, (-1, 2)).prod(-1) > 0
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
    sizes = tuple(int(tables.cardinality[nodes].max(initial=0)) for nodes in (a, b))
    if len(a) == 0:
        return tables.flat.new_zeros(tables.count, 0, len(b), *sizes)
    joint: dict[int, Tensor] = {}  # node -> (S, A, K_a, K_node), for as long as it is needed
    on_path: list[dict[int, Tensor]] = []
    for v in map(int, a):
        path = {v: torch.diag_embed(prior[v])}
        for u, p in _upwards(tables, v):
            # a state of u with prior 0 has joint probability 0: divide it by 1 in place of 0
            share = prior[u].where(prior[u] > 0, 1)[:, :, None]
            # T(p | u) = P(u | p) times a quotient that may be huge where that is tiny, never infinite
            quotient = (prior[p][:, None] / share).clamp_max(torch.finfo(share.dtype).max)
            path[p] = path[u] @ (tables.of(u).transpose(1, 2) * quotient)
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
    above, below = _padded_marginals(tables, a), _padded_marginals(tables, b)
    return pair_joint(tables, a, b) - torch.einsum("sai,sbj->sabij", above, below)


def mutual_information(tables: Tables, a: np.ndarray, b: np.ndarray) -> Tensor:
    """`(S, A, B)` float64 mutual information of nodes in nats; of a node with itself, its entropy.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
        >>> tree.mutual_information(0, [0, 1])  # ln 2, and 0.9 ln 1.8 + 0.1 ln 0.2
        tensor([0.6931, 0.3681], dtype=torch.float64)
    """
    above, below = _padded_marginals(tables, a), _padded_marginals(tables, b)
    return information(
        pair_joint(tables, a, b), above[:, :, None, :, None], below[:, None, :, None]
    )


def maximal_correlation(tables: Tables, a: np.ndarray, b: np.ndarray) -> Tensor:
    """`(S, A, B)` float64 maximal correlations between nodes with any numbers of states, at least 0.

    The highest correlation of a function of one node's state with a function of the other's, the
    largest singular value of D_a^(-1/2) (J - p_a p_bᵀ) D_b^(-1/2), with J the joint, p the priors and
    D = diag(p) (docs/theory.md, Equation 4.16). Of binary nodes it is the magnitude of their
    correlation; of a node with itself 1, and of one that never varies 0.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)  # of random signs
        >>> tree.maximal_correlation(0, [0, 1])
        tensor([1.0000, 0.8000], dtype=torch.float64)
    """
    above, below = (
        torch.where(prior > 0, prior.where(prior > 0, 1).rsqrt(), 0)
        for prior in (_padded_marginals(tables, a), _padded_marginals(tables, b))
    )
    scaled = above[:, :, None, :, None] * covariance(tables, a, b) * below[:, None, :, None]
    if scaled.numel() == 0:
        return scaled.new_zeros(scaled.shape[:3])
    return torch.linalg.svdvals(scaled)[..., 0].clamp(0, 1)


def information(joint: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mutual information in nats, the sum over states i, j of p log(p / (a b)), p being the joint.

    The terms of the sum have both signs and cancel where the states are nearly independent, or nearly
    certain. Since p and a b have the same sum, 1, the terms q φ(p / q) with q = a b and
    φ(r) = r log r - r + 1 add up to the same, and none is negative. Where q underflows,
    log q is log a + log b.

    Args:
        joint: `(..., K, K)` P(i, j).
        a, b: P(i) and P(j), `(..., K, 1)` and `(..., 1, K)`, padded with zeros like `joint`.
    """
    product = a * b
    occurs = (joint > 0) & (a > 0) & (b > 0)
    logs = [x.where(occurs, 1).log() for x in (joint, a.expand_as(joint), b.expand_as(joint))]
    far = joint * (logs[0] - logs[1] - logs[2]) - joint + product
    excess = (joint - product) / product.where(product > 0, 1)  # r - 1, exact where r is near 1
    near = product * ((1 + excess) * excess.clamp_min(-0.5).log1p() - excess)
    close = (excess.abs() < 0.5) & (product > 0)
    terms = torch.where(close, near, far.where(occurs, product))
    return terms.clamp_min(0).sum((-1, -2))


def _padded_marginals(tables: Tables, nodes: np.ndarray) -> Tensor:
    """`(S, A, K)` prior probabilities of nodes, padded with zeros to the largest number of states."""
    prior = marginals(tables)
    states = int(tables.cardinality[nodes].max(initial=0))
    padded = [torch.nn.functional.pad(prior[v], (0, states - prior[v].shape[1])) for v in nodes]
    return torch.stack(padded, 1) if padded else prior[0].new_zeros(len(prior[0]), 0, 0)


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
