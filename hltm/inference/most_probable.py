"""Joint states of all nodes given leaves: the most likely one, and samples by address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.messages import MISSING, Feed, Message, feeds, gather, safe_upward, weigh
from hltm.inference.posterior import row_chunks
from hltm.model.tables import Tables
from hltm.sampling.kernels.reference import uniform_words
from hltm.sampling.philox import Stream, check_seed

# a group's number and its parents' states (none for the root) -> states, and a verdict on the rows
Choice = Callable[[int, Tensor | None], tuple[Tensor, Tensor]]
TIE = 1e-12  # log probabilities this close, or closer than this part of their size, are equal
TIE_FLOOR = 1e-10


class MostLikely(NamedTuple):
    """The most likely joint state of a tree given its leaves.

    Attributes:
        states: `(B, V)` or `(S, B, V)` int64, all nodes in storage order; -1 where the leaves
            cannot occur.
        log_probability: `(B,)` or `(S, B)` float64, log P(states, leaves) in nats; less the log
            evidence, it is the logarithm of the states' posterior probability.
    """

    states: Tensor
    log_probability: Tensor


def most_likely(tables: Tables, leaves_SXB: Tensor) -> MostLikely:
    """The joint state that maximises P(states, leaves): batch-last `(S, V, B)` and `(S, B)`.

    Maximum-product messages in logarithms (Pearl 1988), so nothing underflows. Of several joint
    states that are equally likely to twelve digits, it is the first in lexicographic order of
    storage: the lowest state of the root, then of node 1, and so on.
    """
    routes = feeds(tables)
    parts = [
        _most_likely(tables, routes, part)
        for part in leaves_SXB.split(row_chunks(tables, leaves_SXB), dim=-1)
    ]
    return MostLikely(*(torch.cat(pieces, dim=-1) for pieces in zip(*parts, strict=True)))


def _most_likely(tables: Tables, routes: list[list[Feed]], leaves_SXB: Tensor) -> MostLikely:
    groups, device = tables.groups, leaves_SXB.device
    observed = leaves_SXB.to(torch.int64)
    members, _, batch = observed.shape
    first_leaf = tables.topology.leaves.start
    logs = [tables.of(nodes).detach().to(device).log() for nodes in groups]
    below: list[Tensor] = [
        torch.zeros(
            members, len(nodes), int(tables.cardinality[nodes[0]]), batch,
            dtype=torch.float64, device=device,
        )
        for nodes in groups
    ]  # fmt: skip
    for g in range(len(groups) - 1, 0, -1):
        nodes = groups[g]
        if nodes[0] >= first_leaf:
            leaf = observed[:, torch.as_tensor(nodes - first_leaf, device=device), None]
            states = torch.arange(below[g].shape[2], device=device)[:, None]
            below[g].masked_fill_((leaf != states) & (leaf != MISSING), -torch.inf)
        rows = [(logs[g][:, :, r, :, None] + below[g]).amax(2) for r in range(logs[g].shape[2])]
        sent = torch.stack(rows, dim=2)
        for feed in routes[g]:
            child, parent = (torch.as_tensor(at, device=device) for at in (feed.child, feed.parent))
            below[feed.group].index_add_(1, parent, sent[:, child])

    def choose(g: int, above: Tensor | None) -> tuple[Tensor, Tensor]:
        row = logs[g][:, :, 0, :, None] if above is None else _rows(logs[g], above)
        score = row + below[g]
        best = score.amax(2, keepdim=True)
        slack = TIE_FLOOR + TIE * best.abs().where(best.isfinite(), 0)
        states = torch.arange(score.shape[2], device=device)[:, None]
        return states.where(score >= best - slack, score.shape[2]).amin(2), best[:, 0, 0]

    return MostLikely(*_top_down(tables, choose))


def posterior_samples(
    tables: Tables,
    leaves_SXB: Tensor,
    count: int,
    *,
    seed: int,
    members: Sequence[int],
    start: int = 0,
    first: int = 0,
) -> Tensor:
    """`(S, N, V, B)` int64 joint states drawn from P(all nodes | leaves), -1 for impossible leaves.

    Sample n of row i is a function of (tables, leaves, seed, member, first + n, start + i) alone:
    the same states however rows and samples are split.
    """
    size = row_chunks(tables, leaves_SXB)
    found = []
    for low in range(0, leaves_SXB.shape[-1], size):
        part = leaves_SXB[..., low : low + size]
        with torch.no_grad():
            messages = safe_upward(tables, part)
        doubles = [
            _sample(tables, messages.below, check_seed(seed), members, start + low, n)
            for n in range(first, first + count)
        ]
        found.append(torch.stack(doubles, dim=1))
    return torch.cat(found, dim=-1)


def _sample(
    tables: Tables,
    below: list[Message],
    seed: int,
    members: Sequence[int],
    start: int,
    number: int,
) -> Tensor:
    device, batch = below[0].mantissa.device, below[0].mantissa.shape[-1]

    def choose(g: int, above: Tensor | None) -> tuple[Tensor, Tensor]:
        table = tables.of(tables.groups[g]).detach().to(device)
        row = table[:, :, 0, :, None] if above is None else _rows(table, above)
        weight, evidence = weigh(row, below[g])
        word = uniform_words(
            seed, Stream.POSTERIOR, tuple(members), tables.groups[g], number, start, batch, False,
            device,
        )  # fmt: skip
        u = (word + 0.5) * 2.0**-32  # never 0 and never 1
        cumulative = weight.cumsum(2)
        limit = u[:, :, None] * cumulative[:, :, -1:]
        return (cumulative <= limit).sum(2), evidence[:, 0]

    return _top_down(tables, choose)[0]


def _top_down(tables: Tables, choose: Choice) -> tuple[Tensor, Tensor]:
    """Choose states from the root down: `(S, V, B)`, and what the root's choice says of the rows."""
    group = np.zeros(len(tables.topology), dtype=np.int64)
    place = np.zeros_like(group)
    chosen, verdict = choose(0, None)
    states = [chosen]
    for g, nodes in enumerate(tables.groups[1:], start=1):
        parent = tables.topology.parent[nodes]
        states.append(choose(g, gather(states, group[parent], place[parent]))[0])
        group[nodes], place[nodes] = g, np.arange(len(nodes))
    found = gather(states, group, place)
    return found.masked_fill(~verdict.isfinite()[:, None], MISSING), verdict


def _rows(table: Tensor, above: Tensor) -> Tensor:
    """`(S, G, K, B)` from tables `(S, G, R, K)`: the row that the parent's state `(S, G, B)` chooses."""
    table = table.expand(len(above), -1, -1, -1).transpose(2, 3)
    return table.gather(3, above[:, :, None].expand(-1, -1, table.shape[2], -1))
