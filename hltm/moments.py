"""Closed forms: marginals, joints of pairs, correlations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hltm.tables import Tables


def marginals(tables: Tables) -> list[Tensor]:
    """`(S, K_v)` float64 prior probabilities of every node's states."""
    found = [tables.of(0)[:, 0]]
    for v in range(1, len(tables.topology)):
        parent = found[int(tables.topology.parent[v])]
        found.append(torch.einsum("sp,spk->sk", parent, tables.of(v)))
    return found


def edge_correlation(tables: Tables) -> Tensor:
    """`(S, V)` correlation of every node of a binary tree with its parent; 1 for the root.

    In a symmetric binary tree these are the polarities. A node that never varies has correlation 0.

    Raises:
        ValueError: some node has more than two states.
    """
    if not tables.binary:
        v = int(np.flatnonzero(tables.cardinality != 2)[0])
        raise ValueError(
            f"correlation is for binary nodes; node {tables.topology.names[v]!r} "
            f"has {tables.cardinality[v]} states"
        )
    up = [table[:, 1] for table in marginals(tables)]  # P(state 1)
    found = [torch.ones_like(up[0])]
    for v in range(1, len(tables.topology)):
        table, parent = tables.of(v), up[int(tables.topology.parent[v])]
        slope = table[:, 1, 1] - table[:, 0, 1]
        variance = parent * (1 - parent), up[v] * (1 - up[v])
        ratio = torch.where(variance[1] > 0, variance[0] / variance[1], torch.zeros_like(slope))
        found.append(slope * ratio.sqrt())
    return torch.stack(found, dim=1)


def correlation(tables: Tables, a: np.ndarray, b: np.ndarray) -> Tensor:
    """`(S, A, B)` correlations between nodes of a binary tree, in closed form.

    A binary node's conditional mean is linear in its parent, so correlations multiply along the
    path between two nodes (theory, Section 4).

    Args:
        tables: of binary nodes.
        a, b: node numbers.
    """
    edge = edge_correlation(tables)
    parent = tables.topology.parent
    needed = sorted({u for v in [*a, *b] for u in [int(v), *tables.topology.ancestors(int(v))]})
    place = {v: i for i, v in enumerate(needed)}
    found = edge.new_zeros(len(edge), len(needed), len(needed))
    for i, v in enumerate(
        needed
    ):  # parents first: a node not below v is reached through v's parent
        found[:, i, i] = 1
        if v > 0:
            found[:, i, :i] = edge[:, v, None] * found[:, place[int(parent[v])], :i]
            found[:, :i, i] = found[:, i, :i]
    rows, columns = [place[int(v)] for v in a], [place[int(v)] for v in b]
    return found[:, rows][:, :, columns]
