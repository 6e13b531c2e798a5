"""Posteriors from messages, in torch: the root's, then from parent to child; and prior probabilities.

The formulas are those of `hltm.inference.messages`, and like there no state is lost. A posterior below
the smallest float is rounded to 0. That changes no other by more than the smallest float, because a
parent's posterior enters its child's times P(child | parent, leaves), which is at most 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hltm.inference.messages import (
    Message,
    Upward,
    gather,
    group_places,
    has_small,
    pick,
    send,
    split,
    terms_of,
)
from hltm.model.moments import state_marginals
from hltm.model.tables import Tables


def weigh(prior: Tensor, message: Message) -> tuple[Tensor, Tensor]:
    """P(state | leaves below) `(S, G, K, B)` and log P(leaves below) `(S, G, B)`.

    Leaves that cannot occur give NaN and -inf, and a gradient of 0.

    Args:
        prior: P(state), `(S, G, K, 1)`, or `(S, G, K, B)` where it differs by sample.
        message: λ, the likelihood of the leaves below.
    """
    terms = terms_of(prior, message)
    total = terms.mantissa.sum(2, keepdim=True)
    never = total <= 0
    total = total.masked_fill(never, 1)  # so that no NaN enters the gradient of other samples
    belief = (terms.mantissa / total).masked_fill(never, torch.nan)
    evidence = (total.log() + terms.exponent * math.log(2)).masked_fill(never, -torch.inf)
    return belief, evidence[:, :, 0]


def priors(tables: Tables) -> tuple[Tensor, Tensor]:
    """`(S, sum of K)` float64 probabilities of all nodes' states, node after node, and exponents of two.

    The exponents are 0 unless some table or probability has a number between 0 and 1e-100.
    """
    plain = state_marginals(tables)
    # else the terms of a probability are 0 or at least the square of that, so that none underflowed
    if not (has_small(plain, torch.float64) or has_small(tables.flat, torch.float64)):
        return plain, torch.zeros_like(plain)
    group, place = group_places(tables)
    found = [split(tables.of(0)[:, :, :, None])]
    for nodes in tables.groups[1:]:
        parent = tables.topology.parent[nodes]
        above = Message(
            *(gather([m[i] for m in found], group[parent], place[parent]) for i in range(2))
        )
        table = tables.of(nodes).transpose(2, 3)
        mantissa, exponent = send(table, above)
        mantissa, more = split(mantissa)
        found.append(Message(mantissa, exponent + more))
    start = np.cumsum(tables.cardinality) - tables.cardinality
    kept = [
        start[nodes][:, None] + np.arange(tables.cardinality[nodes[0]]) for nodes in tables.groups
    ]
    order = torch.as_tensor(np.argsort(np.concatenate([part.ravel() for part in kept])))
    mantissa, exponent = (
        torch.cat([m[i].flatten(1) for m in found], 1)[:, order] for i in range(2)
    )
    return mantissa, exponent


def downward(tables: Tables, found: Upward, needed: np.ndarray) -> tuple[list[Tensor], Tensor]:
    """P(node | all leaves) of some nodes, and the evidence P(leaves).

    Args:
        tables: as given to `upward`.
        found: its result.
        needed: `(V,)` bool: which nodes; the parent of a needed node must be needed too.

    Returns:
        for each group `(S, G_needed, K, B)`, and `(S, B)` log P(leaves).
    """
    device, dtype = found.doubtful.device, found.below[0].mantissa.dtype
    root, evidence = weigh(tables.of(0)[:, :, :, None].to(device, dtype), found.below[0])
    belief: list[Tensor] = [root]
    place = np.zeros(len(tables.topology), dtype=np.int64)
    group = np.zeros_like(place)
    for g, nodes in enumerate(tables.groups[1:], start=1):
        at = np.flatnonzero(needed[nodes])
        below = found.below[g]
        if len(at) == 0:
            belief.append(below.mantissa[:, :0])
            continue
        chosen = nodes[at]
        group[chosen], place[chosen] = g, np.arange(len(at))
        parent = tables.topology.parent[chosen]
        above = gather(belief, group[parent], place[parent])
        below, sent = pick(below, at), pick(found.sent[g], at)
        belief.append(_descend(tables.of(chosen).to(device, dtype), above, below, sent))
    return belief, evidence[:, 0]


def _descend(table: Tensor, above: Tensor, below: Message, sent: Message) -> Tensor:
    """P(v | leaves) from the parent's posterior `above`, λ_v `below` and σ_v `sent`."""
    if below.exponent.shape[2] == 1:
        ratio = above / sent.mantissa.where(sent.mantissa > 0, 1)
        return table.transpose(-1, -2) @ ratio * below.mantissa
    found = torch.zeros_like(below.mantissa)
    for r in range(table.shape[2]):  # P(state | parent = r, leaves below) P(parent = r | leaves)
        terms = terms_of(table[:, :, r, :, None], below).mantissa
        total = terms.sum(2, keepdim=True)
        found = found + terms * (above[:, :, r : r + 1] / total.where(total > 0, 1))
    return found
