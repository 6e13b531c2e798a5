"""Messages between the nodes of a tree in torch: any device, any tables, differentiable.

Belief propagation (Pearl 1982; docs/theory.md, Section 4). Write T_v = P(v | parent). With λ_v(z) =
P(leaves below v | v = z), which is 1 at the observed state of a leaf and 0 at others (1 everywhere if
the leaf is missing), one sweep up and one down give every posterior:

    up:    σ_v(z_p) = sum over z of T_v(z | z_p) λ_v(z)              what v sends to its parent p
           λ_p = product over children v of σ_v                      where children meet
    root:  P(root | leaves) ∝ prior · λ_root, and its sum is P(leaves)
    down:  P(v | leaves) = λ_v(z) · sum over z_p of T_v(z | z_p) P(z_p | leaves) / σ_v(z_p)

Nodes of one level and one shape of table (`tables.groups`) are handled together. Axes: S members, G
nodes of a group, R rows of a table (states of the parent), K states, B samples, X leaves.

A message is a mantissa and the logarithm of its scale, so nothing underflows, however many nodes a
tree has. With a *shared* scale, one number for all states of a node, sending a message is a matrix
product. But a state whose likelihood is more than about 300 orders of magnitude below the node's best
is lost, which matters only where other leaves contradict the best state as strongly. Such samples are
marked `doubtful` and are computed again with a scale *per state*, which is slower and loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.moments import marginals
from hltm.model.tables import Tables

MISSING = -1  # a leaf that was not observed
Likelihoods = Mapping[int, Tensor]  # node -> (S or 1, K, B) float64 of its states, at least 0
# A product is doubtful below tiny ** DOUBT times its bound, tiny being the smallest normal float: a
# state that was lost from it may then matter.
DOUBT = 0.65


class Message(NamedTuple):
    """Likelihoods per state of G nodes: log likelihood = log mantissa + log_scale.

    Attributes:
        mantissa: `(S, G, K, B)`, at most 1.
        log_scale: `(S, G, 1, B)` if shared by the states, `(S, G, K, B)` if per state.
    """

    mantissa: Tensor
    log_scale: Tensor


class Upward(NamedTuple):
    """All messages from the leaves to the root, one per group of `tables.groups`.

    Attributes:
        below: λ of each node: P(leaves below the node | its state).
        sent: σ of each node: P(leaves below the node | its parent's state); unused for the root.
        doubtful: `(S, B)` bool: samples that need a scale per state.
    """

    below: list[Message]
    sent: list[Message]
    doubtful: Tensor


class ChildLinks(NamedTuple):
    """Which nodes of one group are children of which nodes of another, at most one child per parent.

    Attributes:
        group: the number of the parents' group.
        child: places of the children in their own group.
        parent: the place of each child's parent in the parents' group, increasing.
    """

    group: int
    child: np.ndarray
    parent: np.ndarray


def child_links(tables: Tables) -> list[list[ChildLinks]]:
    """For every group, the links of its nodes to their parents' groups.

    Siblings are in different links, so that all messages along one link can be multiplied into the
    parents' at once. Links are split by the parents' group and by the child's rank among the siblings
    of its own group.
    """
    group = np.empty(len(tables.topology), dtype=np.int64)
    place = np.empty_like(group)
    for g, nodes in enumerate(tables.groups):
        group[nodes], place[nodes] = g, np.arange(len(nodes))
    found: list[list[ChildLinks]] = [[]]
    for nodes in tables.groups[1:]:
        parent = tables.topology.parent[nodes]
        order = np.argsort(parent, kind="stable")
        first = np.searchsorted(parent[order], parent[order])
        rank = np.empty_like(order)  # among the siblings of this group
        rank[order] = np.arange(len(nodes)) - first
        key = np.stack([rank, group[parent]])
        pairs, label = np.unique(key, axis=1, return_inverse=True)
        label = label.ravel()
        ends = np.cumsum(np.bincount(label))[:-1]
        found.append([])
        for i, at in enumerate(np.split(np.argsort(label, kind="stable"), ends)):
            at = at[np.argsort(place[parent[at]])]
            found[-1].append(ChildLinks(int(pairs[1, i]), at, place[parent[at]]))
    return found


def upward(
    tables: Tables,
    leaves_SXB: Tensor,
    dtype: torch.dtype = torch.float64,
    *,
    likelihoods: Likelihoods | None = None,
    scale_per_state: bool = False,
) -> Upward:
    """Messages from the leaves to the root.

    Args:
        leaves_SXB: `(S, X, B)` integer states, -1 where a leaf is missing.
        dtype: float32 or float64.
        likelihoods: of the states of some nodes, any nodes: `(S or 1, K, B)` float64, at least 0. They
            multiply the node's message λ, so they are one more child of it that was observed.
        scale_per_state: whether every state has a scale of its own; no sample is then doubtful.
    """
    groups, links = tables.groups, child_links(tables)
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
            scale = torch.zeros_like(mantissa if scale_per_state else mantissa[:, :, :1])
            message = Message(mantissa, scale)
        for i, v in enumerate(map(int, nodes)):
            if likelihoods and v in likelihoods:
                given = likelihoods[v].to(observed.device, dtype).expand(members, -1, -1)[:, None]
                observation = Message(given, torch.zeros_like(message.log_scale[:, :1]))
                link = ChildLinks(g, np.array([0]), np.array([i]))
                message, doubt = _join(message, observation, link)
                doubtful |= doubt
        below.append(message)
        if not scale_per_state:  # leaves may also contradict the prior
            before = torch.stack([prior[v] for v in nodes], 1).to(message.mantissa)
            likelihood = (before[..., None] * message.mantissa.detach()).sum(2)
            doubtful |= (likelihood <= torch.finfo(dtype).tiny ** DOUBT).any(1)
        if g == 0:
            break
        table = tables.of(nodes).to(observed.device, dtype)
        message = _send(table, message, scale_per_state)
        sent.append(message)
        for link in links[g]:
            product = joined[link.group]
            if product is None:  # the first children that meet here
                shape = (members, len(groups[link.group]), int(tables.rows[nodes[0]]), batch)
                ones = torch.ones(shape, dtype=dtype, device=observed.device)
                scale = torch.zeros_like(ones if scale_per_state else ones[:, :, :1])
                product = Message(ones, scale)
            joined[link.group], doubt = _join(product, message, link)
            doubtful |= doubt
    return Upward(below[::-1], [below[-1], *sent[::-1]], doubtful)


def safe_upward(
    tables: Tables,
    leaves_SXB: Tensor,
    dtype: torch.dtype = torch.float64,
    *,
    likelihoods: Likelihoods | None = None,
) -> Upward:
    """`upward` with shared scales, or with a scale per state if some sample is doubtful."""
    found = upward(tables, leaves_SXB, dtype, likelihoods=likelihoods)
    if not found.doubtful.any():
        return found
    return upward(tables, leaves_SXB, dtype, likelihoods=likelihoods, scale_per_state=True)


def rows_of(likelihoods: Likelihoods | None, low: int, high: int) -> Likelihoods:
    """The likelihoods of samples low .. high - 1."""
    return {v: given[..., low:high] for v, given in (likelihoods or {}).items()}


def _send(table: Tensor, message: Message, scale_per_state: bool) -> Message:
    """σ `(S, G, R, B)`: the sum over the node's states of P(state | parent) times its message λ."""
    if not scale_per_state:
        return Message(table @ message.mantissa, message.log_scale)
    rows = [_terms(table[:, :, r, :, None], message) for r in range(table.shape[2])]
    return Message(*(torch.stack([row[i].sum(2) for row in rows], dim=2) for i in range(2)))


def _terms(weight: Tensor, message: Message) -> Message:
    """The message times weights `(S, G, K, 1 or B)`, with a scale shared by the states `(S, G, 1, B)`."""
    possible = (weight > 0) & (message.mantissa > 0)
    top = message.log_scale.where(possible, -torch.inf).amax(2, keepdim=True)
    top = top.where(top.isfinite(), 0)
    factor = (message.log_scale - top).clamp_max(0).exp()
    return Message(weight * message.mantissa * factor, top)


def _join(before: Message, sent: Message, link: ChildLinks) -> tuple[Message, Tensor]:
    """Multiply children's σ into their parents' λ, and scale the product to a maximum of 1.

    Returns:
        the parents' messages, and `(S, B)` bool: which samples are doubtful.
    """
    scale_per_state = before.log_scale.shape[2] == before.mantissa.shape[2]
    sent = pick(sent, link.child)
    old = pick(before, link.parent)
    product = old.mantissa * sent.mantissa
    peak = (product if scale_per_state else product.amax(2, keepdim=True)).detach()
    if scale_per_state:
        doubt = torch.zeros_like(peak[:, 0, 0], dtype=torch.bool)
    else:  # compare with the bound that the product reaches if the child agrees with its siblings
        bound = sent.mantissa.amax(2, keepdim=True).detach()
        doubt = (peak <= bound * torch.finfo(peak.dtype).tiny ** DOUBT).any(1)[:, 0]
    peak = peak.where(peak > 0, 1)
    joined = product / peak
    scale = old.log_scale + sent.log_scale + peak.log()
    if len(link.parent) < before.mantissa.shape[1]:
        parent = torch.as_tensor(link.parent, device=joined.device)
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
    """The place of each of some nodes in the concatenation of groups."""
    numbers = np.concatenate(groups)
    rank = np.argsort(numbers)
    return rank[np.searchsorted(numbers, nodes, sorter=rank)]


def weigh(prior: Tensor, message: Message) -> tuple[Tensor, Tensor]:
    """P(state | leaves below) `(S, G, K, B)` and log P(leaves below) `(S, G, B)`.

    Leaves that cannot occur give NaN and -inf, and a gradient of 0.

    Args:
        prior: P(state), `(S, G, K, 1)`, or `(S, G, K, B)` where it differs by sample.
        message: λ, the likelihood of the leaves below.
    """
    terms = _terms(prior, message)
    total = terms.mantissa.sum(2, keepdim=True)
    never = total <= 0
    total = total.masked_fill(never, 1)  # so that no NaN enters the gradient of other samples
    belief = (terms.mantissa / total).masked_fill(never, torch.nan)
    evidence = (total.log() + terms.log_scale).masked_fill(never, -torch.inf)
    return belief, evidence[:, :, 0]


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
    """P(v | leaves) from the parent's posterior `above`, λ_v `below` and σ_v `sent`."""
    if below.log_scale.shape[2] == 1:
        ratio = above / sent.mantissa.where(sent.mantissa > 0, 1)
        return table.transpose(-1, -2) @ ratio * below.mantissa
    found = torch.zeros_like(below.mantissa)
    for r in range(table.shape[2]):  # P(state | parent = r, leaves below) P(parent = r | leaves)
        # a state whose scale exceeds that of the sum has probability 0 in this row: clamp its factor
        factor = (below.log_scale - sent.log_scale[:, :, r : r + 1]).clamp_max(0).exp()
        total = sent.mantissa[:, :, r : r + 1]
        share = above[:, :, r : r + 1] / total.where(total > 0, 1)
        found = found + table[:, :, r, :, None] * below.mantissa * factor * share
    return found
