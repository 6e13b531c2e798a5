"""Joint states of all nodes given leaves: the most likely one, and samples by address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._results import by_content
from hltm.inference.beliefs import weigh
from hltm.inference.messages import (
    Likelihoods,
    Message,
    child_links,
    gather,
    rows_of,
    safe_upward,
)
from hltm.inference.posterior import row_chunks
from hltm.model.states import MISSING
from hltm.model.tables import Tables
from hltm.sampling.kernels.reference import uniform_words
from hltm.sampling.philox import MAX_VIEWS, Stream, check_seed
from hltm.sampling.sample import check_rows

# Chooses the states of a group of nodes. From the group's number and the states of the nodes' parents
# `(S, G, B)`, None for the root: states `(S, G, B)`, and scores `(S, B)` that are finite where the
# leaves can occur (read for the root alone).
Choice = Callable[[int, Tensor | None], tuple[Tensor, Tensor]]
# log probabilities x and y count as equal if |x - y| <= TIE_FLOOR + TIE * |x|
TIE = 1e-12
TIE_FLOOR = 1e-10


@by_content
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


def most_likely(
    tables: Tables, leaves_SXB: Tensor, likelihoods: Likelihoods | None = None
) -> MostLikely:
    """The joint state that maximises P(states, leaves): batch-last `(S, V, B)` and `(S, B)`.

    Maximum-product messages (Pearl 1988) in logarithms, so nothing underflows. From the leaves up,
    with m_v(z) = max over all states below v of log P(states below v | v = z),

        m_v(z) = sum over children c of  max over z' of  log P(c = z' | v = z) + m_c(z'),

    then from the root down every node takes the best state given its parent's. Of several joint
    states that are equally likely to twelve digits, it is the first in lexicographic order of
    storage: the lowest state of the root, then of node 1, and so on. Likelihoods of states, as for
    `posterior`, multiply P(states, leaves).

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> tree.most_likely(torch.tensor([[1, -1], [0, 1]])).states  # a tie goes to root 0
        tensor([[1, 1, 1],
                [0, 0, 1]])
    """
    if leaves_SXB.device.type == "cpu":
        from hltm.inference import joint_kernel  # compiles: at the first call, not at import

        return MostLikely(
            *joint_kernel.most_likely(tables, leaves_SXB, likelihoods, TIE_FLOOR, TIE)
        )
    parts = [
        torch_most_likely(tables, leaves_SXB[..., low:high], rows_of(likelihoods, low, high))
        for low, high in row_chunks(tables, leaves_SXB)
    ]
    return MostLikely(*(torch.cat(pieces, dim=-1) for pieces in zip(*parts, strict=True)))


def torch_most_likely(tables: Tables, leaves_SXB: Tensor, likelihoods: Likelihoods) -> MostLikely:
    """`most_likely` in plain torch, all rows at once."""
    links = child_links(tables)
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
    for v, given in likelihoods.items():
        group = next(g for g, nodes in enumerate(groups) if v in nodes)
        below[group][:, np.flatnonzero(groups[group] == v)] += given.to(device)[:, None].log()
    for g in range(len(groups) - 1, 0, -1):
        nodes = groups[g]
        if nodes[0] >= first_leaf:
            leaf = observed[:, torch.as_tensor(nodes - first_leaf, device=device), None]
            states = torch.arange(below[g].shape[2], device=device)[:, None]
            below[g].masked_fill_((leaf != states) & (leaf != MISSING), -torch.inf)
        rows = [(logs[g][:, :, r, :, None] + below[g]).amax(2) for r in range(logs[g].shape[2])]
        sent = torch.stack(rows, dim=2)
        for link in links[g]:
            siblings = sent[:, torch.as_tensor(link.child, device=device)]
            for pairs in link.rounds:
                left, right, at = (torch.as_tensor(part, device=device) for part in pairs)
                siblings = siblings[:, left].index_add(1, at, siblings[:, right])
            below[link.group].index_add_(1, torch.as_tensor(link.parent, device=device), siblings)

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
    samples: int,
    *,
    seed: int,
    members: Sequence[int],
    start: int = 0,
    first: int = 0,
    likelihoods: Likelihoods | None = None,
) -> Tensor:
    """`(S, N, V, B)` int64 joint states drawn from P(all nodes | leaves), -1 for impossible leaves.

    Joint state n of row i is a function of (tables, leaves, seed, member, first + n, start + i)
    alone: the same states however rows and samples are split over calls.

    Args:
        leaves_SXB: `(S, X, B)` integer states, -1 where missing; missing leaves are drawn too.
        samples: N, how many joint states to draw for each row of leaves.
        start: the number of the first row.
        first: the number of the first joint state.
        likelihoods: of the states of some nodes, as for `posterior`.

    Raises:
        ValueError: fewer than one sample, or rows or samples without an address.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
        >>> draw = tree.sample(5, seed=1)
        >>> states = tree.posterior_samples(draw.leaves, 3, seed=2)
        >>> states.shape, bool((states[..., 3:] == draw.leaves).all())
        (torch.Size([3, 5, 7]), True)
    """
    check_rows(start, max(leaves_SXB.shape[-1], 1))
    if samples < 1 or first < 0 or first + samples > MAX_VIEWS:
        raise ValueError(
            f"samples must be numbered 0..2^24-1, got {samples} from number {first} on"
        )
    number = range(first, first + samples)
    seed = check_seed(seed)
    if leaves_SXB.device.type == "cpu":
        from hltm.inference import joint_kernel

        return joint_kernel.samples(
            tables,
            leaves_SXB,
            number,
            start=start,
            likelihoods=likelihoods,
            seed=seed,
            members=members,
        )
    parts = [
        torch_samples(
            tables, leaves_SXB[..., low:high], number, start=start + low,
            likelihoods=rows_of(likelihoods, low, high), seed=seed, members=members,
        )
        for low, high in row_chunks(tables, leaves_SXB)
    ]  # fmt: skip
    return torch.cat(parts, dim=-1)


def torch_samples(
    tables: Tables,
    leaves_SXB: Tensor,
    numbers: range,
    *,
    seed: int,
    members: Sequence[int],
    start: int,
    likelihoods: Likelihoods,
) -> Tensor:
    """`posterior_samples` in plain torch, all rows at once."""
    shape = len(leaves_SXB), len(numbers), len(tables.topology), leaves_SXB.shape[-1]
    found = torch.empty(shape, dtype=torch.int64, device=leaves_SXB.device)
    if found.numel() == 0:
        return found
    with torch.no_grad():
        parts = safe_upward(tables, leaves_SXB, likelihoods=likelihoods)
    for i, number in enumerate(numbers):
        for rows, messages in parts:
            at = slice(None) if rows is None else rows
            found[:, i, :, at] = _sample(
                tables, messages.below, seed, members, start, shape[-1], number, at
            )
    return found


def _sample(
    tables: Tables,
    below: list[Message],
    seed: int,
    members: Sequence[int],
    start: int,
    batch: int,
    number: int,
    at: Tensor | slice,
) -> Tensor:
    """`(S, V, B)` joint state `number` of the rows `at`: ancestral sampling from the root down.

    Given its parent's state, a node's posterior is proportional to its row of the table times its
    message from below; the state is where the cumulative sum passes a uniform number.
    """
    device = below[0].mantissa.device

    def choose(g: int, above: Tensor | None) -> tuple[Tensor, Tensor]:
        table = tables.of(tables.groups[g]).detach().to(device)
        row = table[:, :, 0, :, None] if above is None else _rows(table, above)
        weight, evidence = weigh(row, below[g])
        word = uniform_words(
            seed, Stream.POSTERIOR, tuple(members), tables.groups[g], number, start, batch, False,
            device,
        )[..., at]  # fmt: skip
        u = (word + 0.5) * 2.0**-32  # never 0 and never 1
        cumulative = weight.cumsum(2)
        limit = u[:, :, None] * cumulative[:, :, -1:]
        return (cumulative <= limit).sum(2), evidence[:, 0]

    return _top_down(tables, choose)[0]


def _top_down(tables: Tables, choose: Choice) -> tuple[Tensor, Tensor]:
    """Choose states from the root down: `(S, V, B)`, -1 for impossible leaves, and the root's scores."""
    group = np.zeros(len(tables.topology), dtype=np.int64)
    place = np.zeros_like(group)
    chosen, score = choose(0, None)
    states = [chosen]
    for g, nodes in enumerate(tables.groups[1:], start=1):
        parent = tables.topology.parent[nodes]
        states.append(choose(g, gather(states, group[parent], place[parent]))[0])
        group[nodes], place[nodes] = g, np.arange(len(nodes))
    found = gather(states, group, place)
    return found.masked_fill(~score.isfinite()[:, None], MISSING), score


def _rows(table: Tensor, above: Tensor) -> Tensor:
    """`(S, G, K, B)` from tables `(S, G, R, K)`: the row of the parent's state `(S, G, B)`."""
    table = table.expand(len(above), -1, -1, -1).transpose(2, 3)
    return table.gather(3, above[:, :, None].expand(-1, -1, table.shape[2], -1))
