"""Messages on a tree in plain torch: any device, any tables, differentiable; batched by group of nodes.

A message is a mantissa and a logarithm of its scale, so nothing underflows, however many nodes a
tree has. A *narrow* message has one scale for all states of a node, so that passing it on is a
matrix product. That loses a state whose likelihood is more than 300 orders of magnitude below the
node's best, which matters only where other leaves contradict the best state as strongly: such rows
are `doubtful` and are done again with *wide* messages, which have a scale per state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.moments import marginals
from hltm.model.tables import Tables

MISSING = -1  # a leaf that was not observed
DOUBT = 0.65  # a product below tiny ** DOUBT of what it could be may have lost another state


class Message(NamedTuple):
    """What the leaves below say of each state: log likelihood = log mantissa + log_scale.

    Attributes:
        mantissa: `(S, G, K, B)`, at most 1.
        log_scale: `(S, G, 1, B)` if narrow, `(S, G, K, B)` if wide.
    """

    mantissa: Tensor
    log_scale: Tensor


class Upward(NamedTuple):
    """All messages from the leaves to the root, a list entry for each of `tables.groups`.

    Attributes:
        below: P(leaves below the node | its state).
        sent: P(leaves below the node | its parent's state); nothing for the root.
        doubtful: `(S, B)` bool: rows that need wide messages.
    """

    below: list[Message]
    sent: list[Message]
    doubtful: Tensor


class Feed(NamedTuple):
    """Which nodes of one group are children of which nodes of another."""

    group: int
    child: np.ndarray
    parent: np.ndarray


def feeds(tables: Tables) -> list[list[Feed]]:
    """For every group its feeds into parents' groups, by parent; no two children of one are siblings."""
    group = np.empty(len(tables.topology), dtype=np.int64)
    place = np.empty_like(group)
    for g, nodes in enumerate(tables.groups):
        group[nodes], place[nodes] = g, np.arange(len(nodes))
    found: list[list[Feed]] = [[]]
    for nodes in tables.groups[1:]:
        parent = tables.topology.parent[nodes]
        order = np.argsort(parent, kind="stable")
        first = np.searchsorted(parent[order], parent[order])
        rank = np.empty_like(order)  # among the siblings of this group
        rank[order] = np.arange(len(nodes)) - first
        key = np.stack([rank, group[parent]])
        pairs, label = np.unique(key, axis=1, return_inverse=True)
        members = np.split(np.argsort(label.ravel(), kind="stable"), np.cumsum(
            np.bincount(label.ravel()))[:-1])  # fmt: skip
        found.append([])
        for i, at in enumerate(members):
            at = at[np.argsort(place[parent[at]])]
            found[-1].append(Feed(int(pairs[1, i]), at, place[parent[at]]))
    return found


def upward(
    tables: Tables,
    leaves_SXB: Tensor,
    dtype: torch.dtype = torch.float64,
    *,
    wide: bool = False,
) -> Upward:
    """Messages from the leaves to the root (Pearl 1982; theory, Section 4).

    Args:
        tables: of S trees, or of one shared by all S.
        leaves_SXB: `(S, X, B)` integer states, -1 where a leaf is missing.
        dtype: float32 or float64.
        wide: whether every state has a scale of its own.
    """
    groups, routes = tables.groups, feeds(tables)
    with torch.no_grad():
        prior = marginals(tables)
    observed = leaves_SXB.to(torch.int64)
    members, _, batch = observed.shape
    first_leaf = tables.topology.leaves.start
    doubtful = torch.zeros(members, batch, dtype=torch.bool, device=observed.device)
    joined: list[Message | None] = [None] * len(groups)
    below: list[Message] = []
    sent: list[Message] = []
    for g in range(len(groups) - 1, -1, -1):
        nodes = groups[g]
        states = int(tables.cardinality[nodes[0]])
        message = joined[g]
        if message is None:  # leaves
            leaf = observed[:, torch.as_tensor(nodes - first_leaf, device=observed.device), None]
            match = leaf == torch.arange(states, device=observed.device)[:, None]
            mantissa = (match | (leaf == MISSING)).to(dtype)
            scale = torch.zeros_like(mantissa if wide else mantissa[:, :, :1])
            message = Message(mantissa, scale)
        below.append(message)
        if not wide:  # leaves may contradict the prior, too
            before = torch.stack([prior[v] for v in nodes], 1).to(message.mantissa)
            likelihood = (before[..., None] * message.mantissa.detach()).sum(2)
            doubtful |= (likelihood <= torch.finfo(dtype).tiny ** DOUBT).any(1)
        if g == 0:
            break
        table = tables.of(nodes).to(observed.device, dtype)
        message = _send(table, message, wide)
        sent.append(message)
        for feed in routes[g]:
            if joined[feed.group] is None:
                shape = (members, len(groups[feed.group]), int(tables.rows[nodes[0]]), batch)
                ones = torch.ones(shape, dtype=dtype, device=observed.device)
                joined[feed.group] = Message(
                    ones, torch.zeros_like(ones if wide else ones[:, :, :1])
                )
            product = joined[feed.group]
            assert product is not None
            joined[feed.group], doubt = _join(product, message, feed)
            doubtful |= doubt
    return Upward(below[::-1], [below[-1], *sent[::-1]], doubtful)


def safe_upward(tables: Tables, leaves_SXB: Tensor, dtype: torch.dtype = torch.float64) -> Upward:
    """`upward` with narrow messages, or with wide ones where some row is doubtful."""
    found = upward(tables, leaves_SXB, dtype)
    return upward(tables, leaves_SXB, dtype, wide=True) if found.doubtful.any() else found


def _send(table: Tensor, message: Message, wide: bool) -> Message:
    """`(S, G, K_parent, B)`: the sum over the node's states of P(state | parent) times its message."""
    if not wide:
        return Message(table @ message.mantissa, message.log_scale)
    rows = [_terms(table[:, :, r, :, None], message) for r in range(table.shape[2])]
    return Message(*(torch.stack([row[i].sum(2) for row in rows], dim=2) for i in range(2)))


def _terms(weight: Tensor, message: Message) -> Message:
    """The message times weights `(S, G, K, 1 or B)`, with one scale for all states: `(S, G, 1, B)`."""
    possible = (weight > 0) & (message.mantissa > 0)
    top = message.log_scale.where(possible, -torch.inf).amax(2, keepdim=True)
    top = top.where(top.isfinite(), 0)
    factor = (message.log_scale - top).clamp_max(0).exp()
    return Message(weight * message.mantissa * factor, top)


def _join(before: Message, sent: Message, feed: Feed) -> tuple[Message, Tensor]:
    """Multiply children's messages into their parents' and scale the product to a maximum of 1."""
    wide = before.log_scale.shape[2] == before.mantissa.shape[2]
    sent = pick(sent, feed.child)
    old = pick(before, feed.parent)
    product = old.mantissa * sent.mantissa
    peak = (product if wide else product.amax(2, keepdim=True)).detach()
    if wide:
        doubt = torch.zeros_like(peak[:, 0, 0], dtype=torch.bool)
    else:  # compare with what the product could be if the child agreed with the others
        could = sent.mantissa.amax(2, keepdim=True).detach()
        doubt = (peak <= could * torch.finfo(peak.dtype).tiny ** DOUBT).any(1)[:, 0]
    peak = peak.where(peak > 0, 1)
    joined = product / peak
    scale = old.log_scale + sent.log_scale + peak.log()
    if len(feed.parent) < before.mantissa.shape[1]:
        parent = torch.as_tensor(feed.parent, device=joined.device)
        joined = before.mantissa.index_copy(1, parent, joined)
        scale = before.log_scale.index_copy(1, parent, scale)
    return Message(joined, scale), doubt


def pick(message: Message, at: np.ndarray) -> Message:
    """The messages of some nodes of a group."""
    if np.array_equal(at, np.arange(message.mantissa.shape[1])):
        return message
    index = torch.as_tensor(at, device=message.mantissa.device)
    return Message(message.mantissa[:, index], message.log_scale[:, index])


def places(groups: list[np.ndarray], nodes: np.ndarray) -> np.ndarray:
    """Where each of some nodes lies in groups put one after the other."""
    numbers = np.concatenate(groups)
    rank = np.argsort(numbers)
    return rank[np.searchsorted(numbers, nodes, sorter=rank)]


def weigh(prior: Tensor, message: Message) -> tuple[Tensor, Tensor]:
    """P(state | leaves below) `(S, G, K, B)` and log P(leaves below) `(S, G, B)`.

    Leaves that cannot occur give NaN and -inf, and no gradient.

    Args:
        prior: P(state), `(S, G, K, 1)`, or `(S, G, K, B)` where it differs by row.
        message: what the leaves below say.
    """
    terms = _terms(prior, message)
    total = terms.mantissa.sum(2, keepdim=True)
    never = total <= 0
    total = total.masked_fill(never, 1)  # so that no NaN spoils the gradient of other rows
    belief = (terms.mantissa / total).masked_fill(never, torch.nan)
    evidence = (total.log() + terms.log_scale).masked_fill(never, -torch.inf)
    return belief, evidence[:, :, 0]


def downward(tables: Tables, found: Upward, needed: np.ndarray) -> tuple[list[Tensor], Tensor]:
    """P(node | all leaves) and the evidence.

    Args:
        tables: as given to `upward`.
        found: its result.
        needed: `(V,)` bool: which nodes; with a node its parent.

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


def gather(values: list[Tensor], group: np.ndarray, place: np.ndarray) -> Tensor:
    """`(S, n, ..., B)` entries at the given places of the given groups, which have one shape."""
    device = values[0].device
    chosen = np.unique(group)
    pieces = [
        values[g][:, torch.as_tensor(place[group == g], device=device)] for g in map(int, chosen)
    ]
    if len(pieces) == 1:
        return pieces[0]
    order = places([np.flatnonzero(group == g) for g in chosen], np.arange(len(group)))
    return torch.cat(pieces, 1)[:, torch.as_tensor(order, device=device)]


def _descend(table: Tensor, above: Tensor, below: Message, sent: Message) -> Tensor:
    """P(v | leaves): P(v | parent, leaves below v) averaged over the parent's posterior."""
    if below.log_scale.shape[2] == 1:
        ratio = above / sent.mantissa.where(sent.mantissa > 0, 1)
        return table.transpose(-1, -2) @ ratio * below.mantissa
    found = torch.zeros_like(below.mantissa)
    for r in range(table.shape[2]):  # P(state | parent in state r, leaves below), weighted
        # a state with a larger scale than the sum's is one that this row of the table forbids
        factor = (below.log_scale - sent.log_scale[:, :, r : r + 1]).clamp_max(0).exp()
        total = sent.mantissa[:, :, r : r + 1]
        share = above[:, :, r : r + 1] / total.where(total > 0, 1)
        found = found + table[:, :, r, :, None] * below.mantissa * factor * share
    return found
