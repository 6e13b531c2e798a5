"""Messages between the nodes of a tree in torch: any device, any tables, differentiable.

Belief propagation (Pearl 1982; docs/theory.md, Equations 4.11 to 4.13). Write T_v = P(v | parent).
With λ_v(z) = P(leaves below v | v = z), which is 1 at the observed state of a leaf and 0 at others (1
everywhere if the leaf is missing), one sweep up and one down give every posterior:

    up:    σ_v(z_p) = sum over z of T_v(z | z_p) λ_v(z)              what v sends to its parent p
           λ_p = product over children v of σ_v                      where children meet
    root:  P(root | leaves) ∝ prior · λ_root, and its sum is P(leaves)
    down:  P(v | leaves) = λ_v(z) · sum over z_p of T_v(z | z_p) P(z_p | leaves) / σ_v(z_p)

The first sweep is here, the rest in `hltm.inference.beliefs`.

Nodes of one level and one shape of table (`tables.groups`) are handled together. Axes: S members, G
nodes of a group, R rows of a table (states of the parent), K states, B samples, X leaves.

No state is lost, whatever the tables, the number of children and their order. A message is a mantissa
times a power of two, an exact scaling, and the sweeps add, multiply and divide numbers that are not
negative, so no digits are lost to cancellation: a result is exact but for one relative rounding of
each operation on the way from the leaves to it, *provided that no number other than zero underflows*.

- With a *shared* exponent, one for all states of a node, sending a message is a matrix product. With
  ε = SMALL[dtype], every entry of a table is 0 or at least ε, and every mantissa 0 or at least ε^2; so
  the terms of a message are 0 or at least ε^3, which is a normal number. A product of messages of
  which a state falls below ε^2 though both its factors are positive makes the sample `doubtful`.
- Doubtful samples, and all samples of a tree with an entry between 0 and ε, are computed again: those
  of float32 in float64, and those of float64 with an exponent *per state*. Then every mantissa is 0
  or in [1/2, 1), those of the tables too; products of such numbers cannot underflow, and in a sum a
  term vanishes only beside one that is 2^1000 times as large. Leaves whose tables have no entry
  between 0 and ε are as above all the same: what they send is 0 or at least ε.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.states import MISSING
from hltm.model.tables import Tables

Likelihoods = Mapping[int, Tensor]  # node -> (S or 1, K, B) float64 of its states, at least 0
SMALL = {torch.float32: 1e-12, torch.float64: 1e-100}  # the cube is a normal number


class Message(NamedTuple):
    """Likelihoods per state of G nodes: mantissa · 2^exponent.

    Attributes:
        mantissa: `(S, G, K, B)`, at most 1.
        exponent: integers in the same dtype, `(S, G, 1, B)` if shared by the states, `(S, G, K, B)` if
            per state.
    """

    mantissa: Tensor
    exponent: Tensor


class Upward(NamedTuple):
    """All messages from the leaves to the root, one per group of `tables.groups`.

    Attributes:
        below: λ of each node: P(leaves below the node | its state).
        sent: σ of each node: P(leaves below the node | its parent's state); unused for the root.
        doubtful: `(S, B)` bool: samples that need an exponent per state.
    """

    below: list[Message]
    sent: list[Message]
    doubtful: Tensor

    def rows(self, chosen: Tensor) -> Upward:
        """The messages of some samples, `(B,)` bool."""
        return Upward(
            [Message(*(part[..., chosen] for part in message)) for message in self.below],
            [Message(*(part[..., chosen] for part in message)) for message in self.sent],
            self.doubtful[..., chosen],
        )


class Pairs(NamedTuple):
    """How siblings in a row are joined in pairs.

    Attributes:
        left: places of the first of each pair, and of those that stay alone.
        right: places of the second of each pair.
        at: the place in `left` of the partner of each of `right`.
    """

    left: np.ndarray
    right: np.ndarray
    at: np.ndarray


class ChildLinks(NamedTuple):
    """The nodes of one group that are children of nodes of another.

    Attributes:
        group: the number of the parents' group.
        child: places of the children in their own group, siblings in a row.
        rounds: the pairs that are joined first, then those of what these leave, and so on, until one
            of each parent's children is left: log2 of their number of steps, not one for each child.
        parent: the place of each parent in its group, increasing.
    """

    group: int
    child: np.ndarray
    rounds: list[Pairs]
    parent: np.ndarray


def group_places(tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """`(V,)` the number of every node's group and its place in it."""
    group = np.empty(len(tables.topology), dtype=np.int64)
    place = np.empty_like(group)
    for g, nodes in enumerate(tables.groups):
        group[nodes], place[nodes] = g, np.arange(len(nodes))
    return group, place


def child_links(tables: Tables) -> list[list[ChildLinks]]:
    """For every group, the links of its nodes to their parents' groups."""
    group, place = group_places(tables)
    found: list[list[ChildLinks]] = [[]]
    for nodes in tables.groups[1:]:
        above = tables.topology.parent[nodes]
        found.append([])
        for g in np.unique(group[above]):
            child = np.flatnonzero(group[above] == g)
            child = child[np.argsort(place[above[child]], kind="stable")]
            parent, count = np.unique(place[above[child]], return_counts=True)
            rounds = []
            while (count > 1).any():
                rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
                left, right = np.flatnonzero(rank % 2 == 0), np.flatnonzero(rank % 2)
                rounds.append(Pairs(left, right, np.searchsorted(left, right - 1)))
                count = (count + 1) // 2
            found[-1].append(ChildLinks(int(g), child, rounds, parent))
    return found


def upward(
    tables: Tables,
    leaves_SXB: Tensor,
    dtype: torch.dtype = torch.float64,
    *,
    likelihoods: Likelihoods | None = None,
    per_state: bool = False,
) -> Upward:
    """Messages from the leaves to the root.

    Args:
        leaves_SXB: `(S, X, B)` integer states, -1 where a leaf is missing.
        dtype: float32 or float64.
        likelihoods: of the states of some nodes, any nodes: `(S or 1, K, B)` float64, at least 0. They
            multiply the node's message λ, so they are one more child of it that was observed.
        per_state: whether every state has an exponent of its own; no sample is then doubtful. It
            needs float64.
    """
    groups, links = tables.groups, child_links(tables)
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
            apart = per_state and has_small(tables.of(nodes), dtype)
            message = Message(mantissa, torch.zeros_like(mantissa if apart else mantissa[:, :, :1]))
        at = np.flatnonzero(np.isin(nodes, list(likelihoods or ())))
        if likelihoods and len(at):
            parts = [likelihoods[v].to(observed.device) for v in nodes[at].tolist()]
            given = torch.stack([part.expand(members, -1, -1) for part in parts], dim=1)
            seen, lost = _observation(given, dtype, per_state)
            message, doubt = _join(message, seen, at, per_state)
            doubtful |= lost | doubt
        below.append(message)
        if g == 0:
            break
        message = send(tables.of(nodes).to(observed.device, dtype), message)
        sent.append(message)
        for link in links[g]:
            product = joined[link.group]
            if product is None:  # the first children that meet here
                shape = (members, len(groups[link.group]), int(tables.rows[nodes[0]]), batch)
                ones = torch.ones(shape, dtype=dtype, device=observed.device)
                product = Message(ones, torch.zeros_like(ones if per_state else ones[:, :, :1]))
            siblings = pick(message, link.child)
            for left, right, at in link.rounds:
                first, second = pick(siblings, left), pick(siblings, right)
                siblings, doubt = _join(first, second, at, per_state)
                doubtful |= doubt
            joined[link.group], doubt = _join(product, siblings, link.parent, per_state)
            doubtful |= doubt
    return Upward(below[::-1], [below[-1], *sent[::-1]], doubtful)


def safe_upward(
    tables: Tables,
    leaves_SXB: Tensor,
    dtype: torch.dtype = torch.float64,
    *,
    likelihoods: Likelihoods | None = None,
    per_state: bool = False,
) -> list[tuple[Tensor | None, Upward]]:
    """`upward` with shared exponents, and with an exponent per state of the samples that need it.

    Args:
        per_state: whether all samples need it.

    Returns:
        one part or several: the numbers of the samples, None for all, and their messages.
    """
    doubtful = torch.ones_like(leaves_SXB[0, 0], dtype=torch.bool)
    parts: list[tuple[Tensor | None, Upward]] = []
    if not (per_state or has_small(tables.flat, dtype)):
        found = upward(tables, leaves_SXB, dtype, likelihoods=likelihoods)
        doubtful = found.doubtful.any(0)
        if not doubtful.any():
            return [(None, found)]
        if not doubtful.all():
            parts.append(((~doubtful).nonzero()[:, 0], found.rows(~doubtful)))
    rows = doubtful.nonzero()[:, 0]
    leaves_SXB = leaves_SXB[..., rows]
    given = {v: found.to(rows.device)[..., rows] for v, found in (likelihoods or {}).items()}
    if dtype == torch.float32 and not per_state:
        again = safe_upward(tables, leaves_SXB, likelihoods=given)
    else:
        again = [(None, upward(tables, leaves_SXB, likelihoods=given, per_state=True))]
    return [*parts, *((rows if at is None else rows[at], found) for at, found in again)]


def rows_of(likelihoods: Likelihoods | None, low: int, high: int) -> Likelihoods:
    """The likelihoods of samples low .. high - 1."""
    return {v: given[..., low:high] for v, given in (likelihoods or {}).items()}


def has_small(numbers: Tensor, dtype: torch.dtype) -> bool:
    """Whether some numbers lie between 0 and SMALL."""
    return bool(((numbers.detach() > 0) & (numbers.detach() < SMALL[dtype])).any())


def split(number: Tensor) -> Message:
    """Numbers, 0 or of any size, as mantissas in [1/2, 1) and exponents, which have no gradient."""
    exponent = torch.frexp(number.detach()).exponent.to(number.dtype)
    half = (exponent / 2).floor()  # 2^-exponent may be infinite
    return Message(number * (-half).exp2() * (half - exponent).exp2(), exponent)


def _observation(given: Tensor, dtype: torch.dtype, per_state: bool) -> tuple[Message, Tensor]:
    """Likelihoods `(S, G, K, B)` as messages, and `(S, B)` bool: which samples are doubtful."""
    message = split(given)
    if per_state:
        return message, torch.zeros_like(given[:, 0, 0], dtype=torch.bool)
    shared = terms_of(torch.ones_like(given), message)
    lost = (shared.mantissa < SMALL[dtype]) & (message.mantissa > 0)
    return Message(shared.mantissa.to(dtype), shared.exponent.to(dtype)), lost.flatten(1, 2).any(1)


def send(table: Tensor, message: Message) -> Message:
    """σ `(S, G, R, B)`: the sum over the node's states of P(state | parent) times its message λ."""
    if message.exponent.shape[2] == 1:
        return Message(table @ message.mantissa, message.exponent)
    rows = [terms_of(table[:, :, r, :, None], message) for r in range(table.shape[2])]
    return Message(*(torch.stack([row[i].sum(2) for row in rows], dim=2) for i in range(2)))


def terms_of(weight: Tensor, message: Message) -> Message:
    """The message times weights `(S, G, K, 1 or B)`, with an exponent shared by the states."""
    if message.exponent.shape[2] == 1:
        return Message(weight * message.mantissa, message.exponent)
    factor = split(weight)
    exponent = factor.exponent + message.exponent
    possible = (weight > 0) & (message.mantissa > 0)
    top = exponent.where(possible, -torch.inf).amax(2, keepdim=True)
    top = top.where(top.isfinite(), 0)
    # Impossible states, of term 0, may have larger exponents, which count in the gradient: up to 2^500,
    # so that a product of two such numbers is finite.
    scale = (exponent - top).clamp(-1100, 500).exp2()
    return Message(factor.mantissa * message.mantissa * scale, top)


def _join(
    before: Message, sent: Message, at: np.ndarray, per_state: bool
) -> tuple[Message, Tensor]:
    """Multiply messages into those at some places, each place once, and scale the product to at most 1.

    Returns:
        all messages, and `(S, B)` bool: which samples are doubtful.
    """
    if per_state:
        before = Message(before.mantissa, before.exponent.expand_as(before.mantissa))
    old = pick(before, at)
    product = old.mantissa * sent.mantissa
    exponent = old.exponent + sent.exponent
    if per_state:
        doubt = torch.zeros_like(product[:, 0, 0], dtype=torch.bool)
        joined, more = split(product)
    else:
        lost = product < SMALL[product.dtype] ** 2
        lost &= torch.minimum(old.mantissa, sent.mantissa) > 0
        doubt = lost.flatten(1, 2).any(1)
        # 2^-exponent is finite: what is smaller is doubtful
        more = torch.frexp(product.detach().amax(2, keepdim=True)).exponent.to(product.dtype)
        least = math.log2(SMALL[product.dtype]) * 3
        joined = product * (-more.clamp_min(least)).exp2()
    exponent = exponent + more
    if len(at) < before.mantissa.shape[1]:
        place = torch.as_tensor(at, device=joined.device)
        joined = before.mantissa.index_copy(1, place, joined)
        exponent = before.exponent.index_copy(1, place, exponent)
    return Message(joined, exponent), doubt


def pick(message: Message, at: np.ndarray) -> Message:
    """The messages of some nodes of a group."""
    if np.array_equal(at, np.arange(message.mantissa.shape[1])):
        return message
    index = torch.as_tensor(at, device=message.mantissa.device)
    return Message(message.mantissa[:, index], message.exponent[:, index])


def places(groups: list[np.ndarray], nodes: np.ndarray) -> np.ndarray:
    """The place of each of some nodes in the concatenation of groups."""
    numbers = np.concatenate(groups)
    rank = np.argsort(numbers)
    return rank[np.searchsorted(numbers, nodes, sorter=rank)]


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
