"""Posteriors of nodes given leaves, and the evidence P(leaves): exact, in O(V K^2) per sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._results import by_content
from hltm.inference.beliefs import downward, priors, weigh
from hltm.inference.messages import (
    Likelihoods,
    Message,
    Upward,
    has_small,
    pick,
    places,
    rows_of,
    safe_upward,
)
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
    and where tables or likelihoods require a gradient, `torch_posterior` computes in `dtype`,
    differentiable in both. Leaves that cannot occur have marginals NaN, log-evidence -inf and gradient 0.

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
    if len(nodes) == 0:
        root, evidence = posterior(
            tables, leaves_SXB, np.array([0]), dtype, own=own, likelihoods=likelihoods
        )
        return Posterior(root[:, :0], evidence[:, :0] if own else evidence)
    in_order = bool((nodes[1:] > nodes[:-1]).all())
    distinct, place = (nodes, nodes) if in_order else np.unique(nodes, return_inverse=True)
    given = {} if likelihoods is None else likelihoods
    needs_gradient = torch.is_grad_enabled() and any(
        part.requires_grad for part in (tables.flat, *given.values())
    )
    if needs_gradient or leaves_SXB.device.type != "cpu":
        exact = torch.float64 if given else dtype  # likelihoods have any magnitude
        parts = [
            torch_posterior(
                tables, leaves_SXB[..., low:high], distinct, exact, own=own,
                likelihoods=rows_of(given, low, high),
            )
            for low, high in row_chunks(tables, leaves_SXB)
        ]  # fmt: skip
        found = Posterior(
            *(torch.cat(pieces, dim=-1).to(dtype) for pieces in zip(*parts, strict=True))
        )
    else:
        from hltm.inference import posterior_kernel  # compiles: at the first call, not at import

        prior = priors(tables) if own else None
        found = Posterior(
            *posterior_kernel.posterior(tables, leaves_SXB, distinct, dtype, prior, given)
        )
    if in_order:
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
    prior = priors(tables) if own else None
    working = dtype
    if prior is not None and has_small(prior[0], dtype):
        working = torch.float64  # probabilities that are too small for `upward` in float32
    per_state = prior is not None and bool(prior[1].any())
    needed = tables.topology.with_ancestors(nodes)
    kept = [group[needed[group]] for group in tables.groups]
    found, order = [], []
    for rows, messages in safe_upward(
        tables, leaves_SXB, working, likelihoods=likelihoods, per_state=per_state
    ):
        if prior is not None:
            part = _own_beliefs(tables, messages, nodes, prior)
        else:
            belief, evidence = downward(tables, messages, needed)
            part = Posterior(_collect(belief, kept, nodes), evidence)
        part = Posterior(*(values.to(dtype) for values in part))
        if rows is None:
            return part
        found.append(part)
        order.append(rows)
    back = torch.cat(order).argsort()
    return Posterior(*(torch.cat(parts, dim=-1)[..., back] for parts in zip(*found, strict=True)))


def _own_beliefs(
    tables: Tables, messages: Upward, nodes: np.ndarray, prior: tuple[Tensor, Tensor]
) -> Posterior:
    """Posteriors given own leaves: a node's prior times its message from below, no sweep down."""
    start = np.cumsum(tables.cardinality) - tables.cardinality
    beliefs, evidences, kept = [], [], []
    for group, below in zip(tables.groups, messages.below, strict=True):
        at = np.flatnonzero(np.isin(group, nodes))
        if len(at) == 0:
            continue
        states = start[group[at]][:, None] + np.arange(tables.cardinality[group[0]])
        before, raised = (
            part[:, torch.as_tensor(states), None].to(below.mantissa) for part in prior
        )
        chosen = pick(below, at)
        belief, evidence = weigh(before, Message(chosen.mantissa, chosen.exponent + raised))
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
    padded = []
    for belief in beliefs:  # torch.nn.functional.pad refuses batches without rows, before torch 2.7
        members, count, own, samples = belief.shape
        missing = belief.new_zeros(members, count, max(states - own, 0), samples)
        padded.append(torch.cat([belief[:, :, :states], missing], dim=2))
    place = torch.as_tensor(places(kept, nodes), device=padded[0].device)
    return torch.cat(padded, dim=1)[:, place]
