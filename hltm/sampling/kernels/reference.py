"""The reference kernel: any tree, any device, in plain torch; every fast kernel must give its bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.sampling.kernels.request import NEVER, DrawRequest
from hltm.sampling.philox import COINS, WORD_PLANE, philox

CHUNK = 1 << 21  # states of one group drawn at a time, to bound memory


def draw(tables: Tables, order: DrawRequest) -> list[Tensor]:
    """Draw states; one `(S, V - first, B)` tensor per view, uint8 or uint16."""
    if order.blocks is not None:
        parts = [draw(tables, order.block(i)) for i in range(len(order.blocks))]
        return [torch.cat(states, dim=-1) for states in zip(*parts, strict=True)]
    widest = max(len(nodes) for nodes in tables.groups) * len(order.members)
    rows = max(CHUNK // widest // 128, 1) * 128
    kept = len(tables.topology) - order.first
    shape = (len(order.members), kept, order.count)
    found = [torch.empty(shape, dtype=tables.state_dtype, device=order.device) for _ in order.views]
    for low in range(0, order.count, rows):
        part = slice(low, min(low + rows, order.count))
        for out, states in zip(found, _draw_rows(tables, order, part), strict=True):
            out[..., part] = states[:, order.first :].to(tables.state_dtype)
    return found


def _draw_rows(tables: Tables, order: DrawRequest, part: slice) -> list[Tensor]:
    """All views of the rows order.start + part."""
    start, count = order.start + part.start, part.stop - part.start

    def numbers(stream: int, view: int, nodes: np.ndarray) -> Tensor:
        binary = bool(tables.cardinality[nodes[0]] == 2) if stream < COINS else True
        return uniform_words(
            order.seed, stream, order.members, nodes, view, start, count, binary, order.device
        )

    shape = (len(order.members), len(tables.topology), count)
    base = torch.zeros(shape, dtype=torch.int64, device=order.device)
    if order.base is not None:
        base = order.base[..., part].to(order.device, torch.int64)
    else:
        for group in tables.groups:
            nodes = group[order.base_needed[group]]
            if len(nodes):
                u = numbers(order.stream, 0, nodes)
                base[:, nodes] = next_states(tables, nodes, base, u)

    found = []
    for view in order.views:
        if view == 0:
            found.append(base)
            continue
        states = base.clone()
        redrawn = torch.zeros(shape, dtype=torch.bool, device=order.device)
        for group in tables.groups:
            nodes = group[order.reach[group] != NEVER]
            if len(nodes) == 0:
                continue
            coin = numbers(order.stream | COINS, view, nodes)
            limit = torch.as_tensor(order.coins[nodes], device=order.device)
            redrawn[:, nodes] = coin >= limit[:, None]
            if nodes[0] > 0:
                redrawn[:, nodes] |= redrawn[:, tables.topology.parent[nodes]]
            fresh = next_states(tables, nodes, states, numbers(order.stream, view, nodes))
            states[:, nodes] = torch.where(redrawn[:, nodes], fresh, states[:, nodes])
        found.append(states)
    return found


def next_states(tables: Tables, nodes: np.ndarray, states: Tensor, u: Tensor) -> Tensor:
    """`(S, G, B)` states of a group of nodes given their parents' states and uniform 32-bit words."""
    rows, steps = int(tables.rows[nodes[0]]), int(tables.cardinality[nodes[0]]) - 1
    index = tables.threshold_start[nodes][:, None] + np.arange(rows * steps)
    threshold = tables.thresholds[:, torch.as_tensor(index)].to(u.device)  # (S, G, rows * steps)
    # all rows of a table make one sorted sequence, each row lifted above the one before it
    lift = torch.arange(rows, device=u.device).repeat_interleave(steps) << 33
    row = torch.zeros_like(u) if nodes[0] == 0 else states[:, tables.topology.parent[nodes]]
    lifted = u + (row << 33)
    threshold = threshold.expand(len(u), -1, -1)  # one tree may serve all members
    below = torch.searchsorted((threshold + lift).contiguous(), lifted.contiguous(), right=True)
    return below - row * steps


def uniform_words(
    seed: int,
    stream: int,
    members: tuple[int, ...],
    nodes: np.ndarray,
    view: int,
    start: int,
    count: int,
    binary: bool,
    device: torch.device,
) -> Tensor:
    """`(S, G, B)` int64: the uniform 32-bit number of every member, node and row, by address."""
    samples = 128 if binary else 4  # one call of the generator serves so many samples
    first = start // samples
    blocks = torch.arange(first, (start + count - 1) // samples + 1, device=device)
    node = torch.as_tensor(nodes, device=device)[:, None, None] << 8 | stream
    member = torch.tensor(members, device=device)[:, None, None, None]
    plane = torch.arange(32, device=device) if binary else torch.tensor([WORD_PLANE], device=device)
    words = philox((plane << 24 | view, blocks[:, None], node, member), seed)
    stacked = torch.stack(words, dim=-1)  # (S, G, blocks, planes, 4)
    if binary:
        lane = torch.arange(32, device=device)
        u = torch.zeros_like(stacked[..., 0, :, None]).expand(*stacked[..., 0, :].shape, 32)
        for b in range(32):  # most significant bit first
            u = u << 1 | (stacked[..., b, :, None] >> lane) & 1
    else:
        u = stacked[..., 0, :]
    offset = start - first * samples
    return u.flatten(2)[..., offset : offset + count]
