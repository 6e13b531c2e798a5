"""The reference kernel: any tree, any device, in plain torch; a fast kernel must give the same bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.sampling.kernels.request import BLOCK, NEVER, DrawRequest
from hltm.sampling.philox import DECISIONS, WORD_PLANE, philox

CHUNK = 1 << 21  # states of one group drawn at a time, to bound memory


def draw(tables: Tables, request: DrawRequest) -> list[Tensor]:
    """Draw states; one `(S, V - first, B)` tensor per view, uint8 or uint16."""
    if request.blocks is not None:
        parts = [draw(tables, request.block(i)) for i in range(len(request.blocks))]
        return [torch.cat(states, dim=-1) for states in zip(*parts, strict=True)]
    widest = max(len(nodes) for nodes in tables.groups) * len(request.members)
    step = max(CHUNK // widest // BLOCK, 1) * BLOCK
    kept = len(tables.topology) - request.first
    shape = (len(request.members), kept, request.samples)
    found = [
        torch.empty(shape, dtype=tables.state_dtype, device=request.device) for _ in request.views
    ]
    for low in range(0, request.samples, step):
        part = slice(low, min(low + step, request.samples))
        for out, states in zip(found, _draw_part(tables, request, part), strict=True):
            out[..., part] = states[:, request.first :].to(tables.state_dtype)
    return found


def _draw_part(tables: Tables, request: DrawRequest, part: slice) -> list[Tensor]:
    """All views of the samples request.start + part, `(S, V, B)` int64 states each."""
    start, count = request.start + part.start, part.stop - part.start

    def numbers(stream: int, view: int, nodes: np.ndarray) -> Tensor:
        # decisions are drawn like the states of binary nodes
        binary = bool(tables.cardinality[nodes[0]] == 2) if stream < DECISIONS else True
        return uniform_words(
            request.seed, stream, request.members, nodes, view, start, count, binary, request.device
        )

    shape = (len(request.members), len(tables.topology), count)
    base = torch.zeros(shape, dtype=torch.int64, device=request.device)
    if request.base is not None:
        base = request.base[..., part].to(request.device, torch.int64)
    held = np.zeros(len(tables.topology), bool) if request.held is None else request.held
    if request.base is None or request.base_held:
        for group in tables.groups:
            nodes = group[request.base_needed[group] & ~held[group]]
            if len(nodes):
                u = numbers(request.stream, 0, nodes)
                base[:, nodes] = next_states(tables, nodes, base, u)

    found = []
    for view in request.views:
        if view == 0:
            found.append(base)
            continue
        states = base.clone()
        redrawn = torch.zeros(shape, dtype=torch.bool, device=request.device)
        for group in tables.groups:
            nodes = group[request.redraw_case[group] != NEVER]
            if len(nodes) == 0:
                continue
            # redrawn by its own decision, or because the parent was
            decision = numbers(request.stream | DECISIONS, view, nodes)
            limit = torch.as_tensor(request.redraw_limits[nodes], device=request.device)
            redrawn[:, nodes] = decision >= limit[:, None]
            if nodes[0] > 0:
                redrawn[:, nodes] |= redrawn[:, tables.topology.parent[nodes]]
            fresh = next_states(tables, nodes, states, numbers(request.stream, view, nodes))
            new = redrawn[:, nodes] & torch.as_tensor(~held[nodes], device=request.device)[:, None]
            states[:, nodes] = torch.where(new, fresh, states[:, nodes])
        found.append(states)
    return found


def next_states(tables: Tables, nodes: np.ndarray, states: Tensor, u: Tensor) -> Tensor:
    """`(S, G, B)` states of a group of nodes given their parents' states and uniform 32-bit words."""
    rows, steps = int(tables.rows[nodes[0]]), int(tables.cardinality[nodes[0]]) - 1
    index = tables.threshold_start[nodes][:, None] + np.arange(rows * steps)
    threshold = tables.thresholds[:, torch.as_tensor(index)].to(u.device)  # (S, G, rows * steps)
    # One search serves all rows of a table: row r is lifted by r * 2^33, more than any threshold or u,
    # so that the rows after each other make one sorted sequence, in which u is lifted likewise.
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
    # the layout of `hltm.sampling.philox`; one call, or 32 for a binary node, serves so many samples
    samples = BLOCK if binary else 4
    first = start // samples
    blocks = torch.arange(first, (start + count - 1) // samples + 1, device=device)
    node = torch.as_tensor(nodes, device=device)[:, None, None] << 8 | stream
    member = torch.tensor(members, device=device)[:, None, None, None]
    plane = torch.arange(32, device=device) if binary else torch.tensor([WORD_PLANE], device=device)
    words = philox((plane << 24 | view, blocks[:, None], node, member), seed)
    stacked = torch.stack(words, dim=-1)  # (S, G, blocks, planes, 4)
    if binary:  # word w of plane b holds bit 31-b of u of 32 samples
        lane = torch.arange(32, device=device)
        u = torch.zeros_like(stacked[..., 0, :, None]).expand(*stacked[..., 0, :].shape, 32)
        for b in range(32):  # most significant bit first
            u = u << 1 | (stacked[..., b, :, None] >> lane) & 1
    else:
        u = stacked[..., 0, :]
    offset = start - first * samples
    return u.flatten(2)[..., offset : offset + count]
