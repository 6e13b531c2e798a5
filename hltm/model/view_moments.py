"""Closed forms for a node's states in two views: how much of each latent an augmentation keeps.

In a view every node v is redrawn, given its parent, with its redraw rate or because its parent was
redrawn; the decisions of different nodes and views are independent. Axes: S members, A the nodes
asked for, V all nodes, K states.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hltm.model.moments import information, marginals
from hltm.model.tables import Tables


def view_joint(
    tables: Tables, nodes: np.ndarray, rates: np.ndarray, other_rates: np.ndarray
) -> list[Tensor]:
    """`(S, K_v, K_v)` float64 P(v = i in one view, v = j in the other) of each node.

    With π the prior, T the table of a node v below p, and g_v the probability that neither view
    redraws v or a node above it, the joint J follows from the root down:

        J_root = g_root diag(π_root) + (1 - g_root) π_root π_rootᵀ
        J_v    = g_v diag(π_v) + Tᵀ (J_p - g_p diag(π_p)) T + (g_p - g_v) Tᵀ diag(π_p) T
               = g_v diag(π_v) + Tᵀ (J_p - g_v diag(π_p)) T

    because v has the same state in both views where neither redraws it, and otherwise its states are
    independent draws given the states of p in the two views.

    Args:
        rates, other_rates: `(V,)` the redraw rate of every node in either view.
    """
    parent = tables.topology.parent
    needed = tables.topology.with_ancestors(nodes)
    both_kept = (1 - rates) * (1 - other_rates)  # so far of each node itself; next with those above
    for v in range(1, len(parent)):
        both_kept[v] *= both_kept[parent[v]]
    prior = marginals(tables)
    joint: dict[int, Tensor] = {
        0: both_kept[0] * torch.diag_embed(prior[0])
        + (1 - both_kept[0]) * prior[0][:, :, None] * prior[0][:, None]
    }
    for group in tables.groups[1:]:
        chosen = group[needed[group]]
        if len(chosen) == 0:
            continue
        above = parent[chosen]
        both = torch.as_tensor(both_kept[chosen], device=prior[0].device)[:, None, None]
        joint_above = torch.stack([joint[int(p)] for p in above], dim=1)  # (S, G, K_p, K_p)
        apart = joint_above - both * torch.diag_embed(torch.stack([prior[p] for p in above], 1))
        table = tables.of(chosen)
        own = torch.diag_embed(torch.stack([prior[v] for v in chosen], 1))
        found = both * own + table.transpose(-1, -2) @ apart @ table
        joint.update(zip(chosen.tolist(), found.unbind(1), strict=True))
    return [joint[int(v)] for v in nodes]


def view_correlation(
    tables: Tables, nodes: np.ndarray, rates: np.ndarray, other_rates: np.ndarray
) -> Tensor:
    """`(S, A)` float64 correlation of each node's states in two views, for any number of states.

    It is the largest correlation that any function of the state has with itself in the other view
    (maximal correlation): the second eigenvalue of D^(-1/2) J D^(-1/2), with J the joint and
    D = diag(prior). For a binary node it is the correlation of its states. A node that never varies
    has 0. Two views that shared their redraw decisions would relate as one view and the data do: give
    `other_rates` of 0. Arguments as in `view_joint`.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
        >>> tree.view_correlation([0, 1], hltm.keep_root())  # 1, and 0.8²
        tensor([1.0000, 0.6400], dtype=torch.float64)
        >>> tree.view_correlation(1, hltm.resample_leaves(0.5))  # 1/4 + 3/4 · 0.8²
        tensor(0.7300, dtype=torch.float64)
    """
    if len(nodes) == 0:
        return tables.of(0).new_zeros(tables.count, 0)
    prior, found = marginals(tables), []
    for v, joint in zip(nodes, view_joint(tables, nodes, rates, other_rates), strict=True):
        occurs = prior[v] > 0
        scale = torch.where(occurs, prior[v].where(occurs, 1).rsqrt(), 0)
        deviation = joint - prior[v][:, :, None] * prior[v][:, None]
        scaled = scale[:, :, None] * deviation * scale[:, None]
        # J is a mixture of diagonal and product terms: symmetric, no eigenvalue below 0
        found.append(torch.linalg.eigvalsh((scaled + scaled.transpose(1, 2)) / 2)[:, -1])
    return torch.stack(found, dim=1).clamp(0, 1)


def view_information(
    tables: Tables, nodes: np.ndarray, rates: np.ndarray, other_rates: np.ndarray
) -> Tensor:
    """`(S, A)` float64 mutual information, in nats, of each node's states in two views.

    Arguments as in `view_joint`.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
        >>> tree.view_information([0, 1], hltm.keep_root())  # ln 2, .82 ln 1.64 + .18 ln .36
        tensor([0.6931, 0.2218], dtype=torch.float64)
    """
    if len(nodes) == 0:
        return tables.of(0).new_zeros(tables.count, 0)
    prior, found = marginals(tables), []
    for v, joint in zip(nodes, view_joint(tables, nodes, rates, other_rates), strict=True):
        found.append(information(joint, prior[v][:, :, None], prior[v][:, None]))
    return torch.stack(found, dim=1)
