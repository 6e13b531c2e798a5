"""Posteriors of nodes given leaves, and the evidence P(leaves): exact, in O(V K^2) per sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._results import by_content
from hltm.inference.messages import (
    Likelihoods,
    Upward,
    downward,
    pick,
    places,
    rows_of,
    safe_upward,
    weigh,
)
from hltm.model.moments import marginals
from hltm.model.tables import Tables

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}  # numbers of messages held at a time in torch


@by_content
class Posterior(NamedTuple):
    """Posteriors of nodes and the log evidence of the leaves.

    Attributes:
        marginals: `(B, V, K)` or `(S, B, V, K)`, P(node = state | leaves); states that a node does
            not have get 0.
        log_evidence: `(B,)` or `(S, B)`, log P(leaves) in nats; for own leaves of several nodes it
            is `(B, V)` or `(S, B, V)`, log P(leaves below the node).
    """

    marginals: Tensor
    log_evidence: Tensor


def posterior(
    tables: Tables,
    leaves_SXB: Tensor,
    nodes: np.ndarray,
    dtype: torch.dtype = torch.float64,
    *,
    own: bool = False,
    likelihoods: Likelihoods | None = None,
) -> Posterior:
    """P(node | leaves), batch-last: marginals `(S, V, K, B)`, log-evidence `(S, B)` or, own, `(S, V, B)`.

    On a CPU a compiled kernel computes in float64 and the result is rounded to `dtype`; elsewhere,
    and where tables require a gradient, `torch_posterior` computes in `dtype`, differentiable in
    `tables.flat`. Leaves that cannot occur have marginals NaN, log-evidence -inf and gradient 0.

    Args:
        tables: of S trees, or of one shared by all S.
        leaves_SXB: `(S, X, B)` integer states, -1 where a leaf is missing.
        nodes: `(V,)` node numbers, in any order, also repeated.
        dtype: float32 or float64.
        own: whether each node is given only the leaves below it, and the likelihoods on and below it.
        likelihoods: of the states of some nodes, `(S or 1, K, B)` float64, at least 0. The evidence is
            then the sum over states of P(states) times all likelihoods.

    Raises:
        ValueError: a dtype other than float32 and float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    distinct, place = np.unique(nodes, return_inverse=True)
    needs_gradient = tables.flat.requires_grad and torch.is_grad_enabled()
    if needs_gradient or leaves_SXB.device.type != "cpu" or likelihoods:
        exact = torch.float64 if likelihoods else dtype  # likelihoods have any magnitude
        parts = [
            torch_posterior(
                tables, leaves_SXB[..., low:high], distinct, exact, own=own,
                likelihoods=rows_of(likelihoods, low, high),
            )
            for low, high in row_chunks(tables, leaves_SXB)
        ]  # fmt: skip
        found = Posterior(
            *(torch.cat(pieces, dim=-1).to(dtype) for pieces in zip(*parts, strict=True))
        )
    else:
        found = _by_kernel(tables, leaves_SXB, distinct, dtype, own=own)
    if np.array_equal(distinct, nodes):
        return found
    order = torch.as_tensor(place.ravel(), device=found.marginals.device)
    evidence = found.log_evidence[:, order] if own else found.log_evidence
    return Posterior(found.marginals[:, order], evidence)


def row_chunks(tables: Tables, leaves_SXB: Tensor) -> list[tuple[int, int]]:
    """Ranges of samples whose messages are computed at a time, to bound memory; at least one range."""
    kind = "cpu" if leaves_SXB.device.type == "cpu" else "cuda"
    size = max(CHUNK[kind] // (len(leaves_SXB) * int(tables.cardinality.sum())), 16)
    batch = leaves_SXB.shape[-1]
    return [(low, min(low + size, batch)) for low in range(0, max(batch, 1), size)]


def _by_kernel(
    tables: Tables, leaves_SXB: Tensor, nodes: np.ndarray, dtype: torch.dtype, *, own: bool
) -> Posterior:
    from hltm.inference import posterior_kernel  # compiles: at the first call, not at import

    prior = torch.cat(marginals(tables), dim=1) if own else tables.flat[:, :0]
    *parts, doubtful = posterior_kernel.posterior(tables, leaves_SXB, nodes, dtype, prior, own=own)
    found = Posterior(*parts)
    # samples that cannot occur, or so improbable that a state may have been lost to underflow
    rows = doubtful.any(0).nonzero()[:, 0]
    for low, high in row_chunks(tables, leaves_SXB[..., rows]) if len(rows) else ():
        part = rows[low:high]
        with torch.no_grad():
            exact = torch_posterior(tables, leaves_SXB[..., part], nodes, torch.float64, own=own)
        for ours, theirs in zip(found, exact, strict=True):
            ours[..., part] = theirs.to(dtype)
    return found


def torch_posterior(
    tables: Tables,
    leaves_SXB: Tensor,
    nodes: np.ndarray,
    dtype: torch.dtype,
    *,
    own: bool,
    likelihoods: Likelihoods | None = None,
) -> Posterior:
    """`posterior` of distinct nodes in plain torch, all samples at once."""
    messages = safe_upward(tables, leaves_SXB, dtype, likelihoods=likelihoods)
    if own:
        return _own_beliefs(tables, messages, nodes)
    needed = tables.topology.with_ancestors(nodes)
    belief, evidence = downward(tables, messages, needed)
    kept = [group[needed[group]] for group in tables.groups]
    return Posterior(_collect(belief, kept, nodes), evidence)


def _own_beliefs(tables: Tables, messages: Upward, nodes: np.ndarray) -> Posterior:
    """Posteriors given own leaves: a node's prior times its message from below, no sweep down."""
    prior = marginals(tables)
    beliefs, evidences, kept = [], [], []
    for group, below in zip(tables.groups, messages.below, strict=True):
        at = np.flatnonzero(np.isin(group, nodes))
        if len(at) == 0:
            continue
        before = torch.stack([prior[v] for v in group[at]], dim=1)[..., None].to(below.mantissa)
        belief, evidence = weigh(before, pick(below, at))
        beliefs.append(belief)
        evidences.append(evidence)
        kept.append(group[at])
    place = torch.as_tensor(places(kept, nodes), device=beliefs[0].device)
    return Posterior(_collect(beliefs, kept, nodes), torch.cat(evidences, dim=1)[:, place])


def _collect(beliefs: list[Tensor], kept: list[np.ndarray], nodes: np.ndarray) -> Tensor:
    """`(S, V, K, B)` of nodes out of their groups' beliefs, padded to the largest number of states."""
    states = max(
        belief.shape[2]
        for belief, group in zip(beliefs, kept, strict=True)
        if np.isin(group, nodes).any()
    )
    padded = [
        torch.nn.functional.pad(belief[:, :, :states], (0, 0, 0, max(states - belief.shape[2], 0)))
        for belief in beliefs
    ]
    place = torch.as_tensor(places(kept, nodes), device=padded[0].device)
    return torch.cat(padded, dim=1)[:, place]
