"""Draws of consecutive samples by address, their views, and redraws below some nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm._devices import check_device
from hltm._integers import as_integer
from hltm.model.states import check_range
from hltm.model.tables import Tables
from hltm.sampling.draw import Draw, Origin, check_draw
from hltm.sampling.kernels import on_device
from hltm.sampling.kernels.request import DrawRequest
from hltm.sampling.observed import flipped_leaves, missing_leaves
from hltm.sampling.philox import (
    MAX_ROWS,
    MAX_VIEWS,
    Stream,
    check_seed,
)


def check_rows(start: int, samples: int, *, least: int = 1) -> None:
    """Raise unless samples start .. start + samples - 1 have addresses.

    Raises:
        TypeError: not integers.
        ValueError: fewer than `least` samples, or samples outside 0..2^34-1.
    """
    samples = as_integer("the number of samples", samples, least)
    start = as_integer("start", start)
    if start < 0 or start + samples > MAX_ROWS:
        raise ValueError(f"rows must lie in 0..2^34-1, got {start}..{start + samples - 1}")


def sample(
    tables: Tables,
    members: Sequence[int],
    samples: int,
    *,
    seed: int,
    start: int = 0,
    stream: Stream = Stream.DATA,
    stacked: bool = True,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Draw:
    """Samples start .. start + samples - 1 of the endless data set of a seed, for each member.

    Args:
        tables: of S trees, or of one that all members share.
        members: S addresses.
        samples: how many; none, 0, gives an empty draw.
        stream: what the samples are for; samples of different streams are independent.
        stacked: whether the draw shows its S axis.
        first: the lowest node to keep; `topology.leaves.start` keeps the leaves alone.
        device: where to draw; the states do not depend on it.

    Raises:
        TypeError, ValueError: samples below 0 or beyond 2^34, a seed outside 64 bits, or a device
            that does not exist.
    """
    request = data_request(tables, members, samples, seed, start, stream, first, device)
    (states,) = draw_states(tables, request)
    return Draw(
        states, tables.topology, stacked, request.seed, stream, request.members, request.start,
        first=request.first, origin=Origin(tables.digest, request.members),
    )  # fmt: skip


def data_request(
    tables: Tables,
    members: Sequence[int],
    samples: int,
    seed: int,
    start: int,
    stream: Stream,
    first: int,
    device: torch.device | str,
) -> DrawRequest:
    """The request for samples of the data themselves, with arguments and errors of `sample`."""
    check_rows(start, samples, least=0)
    if not 0 <= first < len(tables.topology):
        raise ValueError(f"first must be in 0..{len(tables.topology) - 1}, got {first}")
    return DrawRequest(
        tables.topology, check_seed(seed), stream, tuple(members), int(start), int(samples),
        first=int(first), device=check_device(device),
    )  # fmt: skip


def views(
    tables: Tables,
    draw: Draw,
    rates: np.ndarray,
    *,
    missing_rates: np.ndarray | None = None,
    flip_rates: np.ndarray | None = None,
    count: int = 2,
    first_view: int = 1,
) -> tuple[Draw, ...]:
    """Views first_view .. first_view + count - 1 of the draw's own samples.

    Args:
        draw: the data themselves (view 0), with all nodes kept.
        rates: `(V,)` the redraw rate of every node.
        missing_rates: `(V,)` the probability that each node is missing, or `(2, V)`, as for
            `missing_leaves`; None for 0.
        flip_rates: `(V,)` the probability that each leaf is flipped; None for 0.
        first_view: the number of the first; a fixed data set's epoch e uses 2e + 1 and 2e + 2.

    Raises:
        ValueError: a draw of another tree, one that is itself a view (compose augmentations instead),
            one that did not keep all nodes, states that a node does not have, or view numbers outside
            1..2^24-1.
    """
    check_draw(tables, draw.members, draw)
    count, first_view = index(count), index(first_view)
    if draw.view != 0:
        raise ValueError(
            f"views are taken of the data themselves (view 0), got a draw of view {draw.view}; "
            "compose augmentations with `then`"
        )
    if count < 1 or first_view < 1 or first_view + count > MAX_VIEWS:
        raise ValueError(f"views must be in 1..2^24-1, got {first_view}..{first_view + count - 1}")
    found = _draw_again(tables, draw, rates, range(first_view, first_view + count))
    rows = torch.arange(draw.rows.start, draw.rows.stop, device=draw.states_SVB.device)
    address: Any = {"seed": draw.seed, "stream": draw.stream, "members": draw.members}
    if flip_rates is not None and flip_rates.any():
        leaves = tables.topology.leaves.start
        shown = (
            flipped_leaves(
                tables, flip_rates, own.states_SVB[:, leaves:], rows=rows, view=own.view, **address
            )
            for own in found
        )
        found = tuple(
            replace(own, observed_SXB=each) for own, each in zip(found, shown, strict=True)
        )
    if missing_rates is not None and missing_rates.any():
        missing = partial(missing_leaves, tables.topology, missing_rates, rows, **address)
        found = tuple(replace(own, missing_SXB=missing(view=own.view)) for own in found)
    return found


def redraw(tables: Tables, draw: Draw, nodes: np.ndarray, *, view: int | None = None) -> Draw:
    """The draw with everything below some nodes drawn again; the nodes keep their states.

    Args:
        draw: any draw that kept all nodes, also a view, a redraw, or one with states of your own.
        nodes: the nodes whose children, and all below them, are drawn again.
        view: the address of the new random numbers; the default is one above the draw's own. `redraw`
            and `views` with the same view number use the same random numbers.

    Raises:
        ValueError: a draw of another tree, a leaf, no node, a draw that did not keep all nodes, states
            that a node does not have, or a view number that is not above the draw's own, whose numbers
            are used up.
    """
    topology = tables.topology
    check_draw(tables, draw.members, draw)
    if len(nodes) == 0:
        raise ValueError("redraw needs at least one node below which to draw, got none")
    for v in nodes:
        if v in topology.leaves:
            raise ValueError(f"node {topology.names[v]!r} is a leaf, nothing lies below it")
    new = draw.view + 1 if view is None else index(view)
    if not draw.view < new < MAX_VIEWS:
        raise ValueError(
            f"view must be in {draw.view + 1}..2^24-1, above the draw's own, got {new}"
        )
    rates = np.isin(topology.parent, nodes).astype(np.float64)
    (found,) = _draw_again(tables, draw, rates, range(new, new + 1))
    return found


def _draw_again(tables: Tables, draw: Draw, rates: np.ndarray, numbers: range) -> tuple[Draw, ...]:
    """Views of a draw's own states at its own samples."""
    _check_states(tables, draw)
    base = draw.states_SVB
    request = DrawRequest(
        tables.topology, draw.seed, draw.stream, draw.members, draw.start, base.shape[-1],
        views=tuple(numbers), rates=rates, base=base, device=base.device,
    )  # fmt: skip
    found = zip(numbers, draw_states(tables, request), strict=True)
    return tuple(
        replace(draw, states_SVB=states, view=view, redraws=(*draw.redraws, (view, rates)))
        for view, states in found
    )


def _check_states(tables: Tables, draw: Draw) -> None:
    """Raise unless a draw has, for every node, states that the node can have."""
    topology, states = tables.topology, draw.states_SVB
    if draw.first > 0:
        raise ValueError(
            f"a redraw needs all nodes, but this draw keeps nodes from {draw.first} on"
        )
    expected = (len(draw.members), len(topology))
    if states.shape[:2] != expected:
        raise ValueError(
            f"the draw's states are for (members, nodes) {tuple(states.shape[:2])}, expected {expected}"
        )
    if states.is_floating_point():
        raise TypeError(f"states must be integers, got {states.dtype}")
    check_range(tables, states, range(len(topology)))


def draw_states(tables: Tables, request: DrawRequest) -> list[Tensor]:
    """Draw what is requested with the fastest kernel that can: one `(S, V - first, B)` tensor per view."""
    if tables.count not in (1, len(request.members)):
        raise ValueError(
            f"the tables are for {tables.count} trees, expected 1 or {len(request.members)}, one "
            "per member"
        )
    if tables.shared:
        tables = _one_set(tables)
    if request.samples == 0:
        shape = (len(request.members), len(tables.topology) - request.first, 0)
        empty = torch.empty(shape, dtype=tables.state_dtype, device=request.device)
        return [empty.clone() for _ in request.views]
    if request.device.type == "cpu":
        from hltm.sampling.kernels import cpu  # compiles: at the first draw, not at import

        return cpu.draw(tables, request)
    return on_device.draw(tables, request)


def _one_set(tables: Tables) -> Tables:
    """The one set of tables that all members share; kept, so that its thresholds are made once."""
    return tables.kept("one set", lambda all_sets: all_sets.take(slice(0, 1)))
