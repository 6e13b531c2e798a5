"""Upward-downward messages on a tree: exact posteriors and evidence in O(V K^2) per sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.moments import marginals
from hltm.tables import Tables

MISSING = -1  # a leaf that was not observed


class Posterior(NamedTuple):
    """What the leaves say about every node asked for.

    Attributes:
        marginals: `(B, V, K)` or `(S, B, V, K)`, P(node = state | leaves); states that a node does
            not have get 0.
        log_evidence: `(B,)` or `(S, B)`, log P(leaves) in nats; for own leaves of several nodes it
            is `(B, V)` or `(S, B, V)`, log P(leaves below the node).
    """

    marginals: Tensor
    log_evidence: Tensor


class Messages(NamedTuple):
    """Upward messages: per node, proportional to P(leaves below | node's state), and their scale.

    Attributes:
        below: per node `(S, K, B)`, normalised to a maximum of 1.
        log_scale: per node `(S, B)`: log P(leaves below | state) = log below + log_scale.
    """

    below: list[Tensor]
    log_scale: list[Tensor]


def upward(tables: Tables, leaves_SXB: Tensor, dtype: torch.dtype = torch.float64) -> Messages:
    """Messages from the leaves to the root (Pearl 1982).

    Args:
        tables: of S trees, or of one shared by all S.
        leaves_SXB: `(S, X, B)` states, -1 where a leaf is missing.
        dtype: float32 or float64.
    """
    topology = tables.topology
    members, _, batch = leaves_SXB.shape
    observed = leaves_SXB.to(torch.int64)
    first_leaf = topology.leaves.start
    below: list[Tensor | None] = [None] * len(topology)
    scale: list[Tensor | None] = [None] * len(topology)
    for v in range(len(topology) - 1, -1, -1):
        states = int(tables.cardinality[v])
        if v >= first_leaf:
            leaf = observed[:, v - first_leaf, None]
            match = leaf == torch.arange(states, device=leaf.device)[:, None]
            below[v] = (match | (leaf == MISSING)).to(dtype)
            scale[v] = torch.zeros(members, batch, dtype=dtype, device=leaf.device)
        message, log_message = below[v], scale[v]
        assert message is not None  # children come after their parents
        assert log_message is not None
        if v == 0:
            break
        p = int(topology.parent[v])
        sent = tables.of(v).to(message.device, dtype) @ message  # (S, K_parent, B)
        joined = sent if below[p] is None else below[p] * sent  # type: ignore[operator]
        peak = joined.amax(1, keepdim=True).clamp_min(torch.finfo(dtype).tiny)
        below[p] = joined / peak
        log_scale = log_message + peak[:, 0].log()
        scale[p] = log_scale if scale[p] is None else scale[p] + log_scale  # type: ignore[operator]
    return Messages(below, scale)  # type: ignore[arg-type]


def posterior(
    tables: Tables, leaves_SXB: Tensor, nodes: np.ndarray, dtype: torch.dtype = torch.float64
) -> Posterior:
    """P(node | all leaves), batch-last: marginals `(S, V, K, B)`, log-evidence `(S, B)`."""
    messages = upward(tables, leaves_SXB, dtype)
    topology = tables.topology
    prior = tables.of(0)[:, 0, :, None].to(leaves_SXB.device, dtype)
    joint = prior * messages.below[0]
    evidence = joint.sum(1)
    log_evidence = evidence.log() + messages.log_scale[0]
    found: dict[int, Tensor] = {0: _normalise(joint)}
    wanted = set(map(int, nodes))
    needed = wanted | {u for v in wanted for u in topology.ancestors(v)}
    for v in sorted(needed - {0}):
        table = tables.of(v).to(leaves_SXB.device, dtype)
        above = found[int(topology.parent[v])]
        # P(v | parent, leaves below v), averaged over the parent's posterior
        sent = (table @ messages.below[v]).clamp_min(torch.finfo(dtype).tiny)
        down = table.transpose(-1, -2) @ (above / sent)
        found[v] = _normalise(down * messages.below[v])
    return Posterior(_stack(tables, found, nodes), log_evidence)


def own_posterior(
    tables: Tables, leaves_SXB: Tensor, nodes: np.ndarray, dtype: torch.dtype = torch.float64
) -> Posterior:
    """P(node | the leaves below it), batch-last: marginals `(S, V, K, B)`, log-evidence `(S, V, B)`."""
    messages = upward(tables, leaves_SXB, dtype)
    prior = marginals(tables)
    found, logs = {}, []
    for v in map(int, nodes):
        joint = prior[v][..., None].to(leaves_SXB.device, dtype) * messages.below[v]
        logs.append(joint.sum(1).log() + messages.log_scale[v])
        found[v] = _normalise(joint)
    return Posterior(_stack(tables, found, nodes), torch.stack(logs, dim=1))


def _normalise(joint: Tensor) -> Tensor:
    return joint / joint.sum(1, keepdim=True)


def _stack(tables: Tables, found: dict[int, Tensor], nodes: np.ndarray) -> Tensor:
    """`(S, V, K, B)` of several nodes, padded with zeros to the largest number of states."""
    states = int(tables.cardinality[nodes].max())
    padded = [
        torch.nn.functional.pad(found[v], (0, 0, 0, states - found[v].shape[1]))
        for v in map(int, nodes)
    ]
    return torch.stack(padded, dim=1)
