"""Draws and redraws: rows of the endless data set of a seed, by address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.draw import Draw
from hltm.sampling.kernels import reference
from hltm.sampling.kernels.request import DrawRequest, coin_limits
from hltm.sampling.philox import COINS, MAX_ROWS, MAX_VIEWS, Stream, check_seed, words_at


def check_rows(start: int, count: int) -> None:
    """Raise unless rows start .. start + count - 1 have addresses.

    Raises:
        TypeError: not integers.
        ValueError: fewer than one row, or rows outside 0..2^34-1.
    """
    for name, value in (("the number of samples", count), ("start", start)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an integer, got {value!r}")
    if count < 1:
        raise ValueError(f"the number of samples must be at least 1, got {count}")
    if start < 0 or start + count > MAX_ROWS:
        raise ValueError(f"rows must lie in 0..2^34-1, got {start}..{start + count - 1}")


def check_draw(topology: Topology, members: tuple[int, ...], draw: Draw) -> None:
    """Raise unless a draw can be of the trees with this shape and these members.

    Raises:
        ValueError: another number of nodes, or other members.
    """
    if draw.topology is not topology and len(draw.topology) != len(topology):
        raise ValueError(f"the draw has {len(draw.topology)} nodes, this tree {len(topology)}")
    if draw.members != members:
        raise ValueError(f"the draw is of members {draw.members}, this tree of {members}")


def check_device(device: torch.device | str) -> torch.device:
    """The device by name; `auto` is CUDA where there is one.

    Raises:
        ValueError: an unknown name, or CUDA asked for where there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {str(device)!r}, expected auto, cpu or cuda") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but this machine has no CUDA")
    return found


def sample(
    tables: Tables,
    members: Sequence[int],
    count: int,
    *,
    seed: int,
    start: int = 0,
    stream: Stream = Stream.DATA,
    stacked: bool = True,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Draw:
    """Rows start .. start + count - 1 of the data set of a seed, for each member.

    Args:
        tables: tables of S trees, or of one that all members share.
        members: S addresses.
        count: B, the number of rows.
        seed: 64 bits.
        stream: what the rows are for; rows of different streams are independent.
        stacked: whether the draw shows its S axis.
        first: keep nodes from this one on; `topology.leaves.start` keeps the leaves alone.
        device: where to draw.
    """
    check_rows(start, count)
    order = DrawRequest(
        topology=tables.topology,
        seed=check_seed(seed),
        stream=stream,
        members=tuple(members),
        start=start,
        count=count,
        first=first,
        device=check_device(device),
    )
    (states,) = run(tables, order)
    return Draw(
        states, tables.topology, stacked, order.seed, stream, order.members, start, 0, first
    )


def views(
    tables: Tables,
    draw: Draw,
    rates: np.ndarray,
    *,
    missing_rates: np.ndarray | None = None,
    count: int = 2,
    first_view: int = 1,
) -> tuple[Draw, ...]:
    """Views first_view .. first_view + count - 1 of the draw's own rows.

    Args:
        tables: the tables that the draw came from.
        draw: the data themselves (view 0), with all nodes kept.
        rates: `(V,)` the chance that each node is drawn again given its parent.
        missing_rates: `(V,)` the chance that each leaf is missing; None for none.
        count: how many views.
        first_view: the number of the first; a fixed data set's epoch e uses 2e + 1 and 2e + 2.

    Raises:
        ValueError: a draw that is itself a view (compose augmentations instead), one that did not
            keep all nodes, states that a node does not have, or view numbers outside 1..2^24-1.
    """
    if draw.view != 0:
        raise ValueError(
            f"views are taken of the data themselves (view 0), got a draw of view {draw.view}; "
            "compose augmentations with `then`"
        )
    if count < 1 or first_view < 1 or first_view + count > MAX_VIEWS:
        raise ValueError(
            f"views must be numbered 1..2^24-1, got {first_view}..{first_view + count - 1}"
        )
    found = _draw_again(tables, draw, rates, range(first_view, first_view + count))
    if missing_rates is None or not missing_rates.any():
        return found
    rows = torch.arange(draw.rows.start, draw.rows.stop, device=draw.states_SVB.device)
    return tuple(
        replace(
            view,
            missing_SXB=missing_leaves(
                tables.topology,
                missing_rates,
                rows,
                seed=draw.seed,
                stream=draw.stream,
                members=draw.members,
                view=view.view,
            ),
        )
        for view in found
    )


def missing_leaves(
    topology: Topology,
    missing_rates: np.ndarray,
    rows: Tensor,
    *,
    seed: int,
    stream: int,
    members: Sequence[int],
    view: int,
) -> Tensor:
    """`(S, X, B)` bool: the leaves that a view misses at any rows, by address.

    Args:
        missing_rates: `(V,)` the chance that each leaf is missing.
        rows: `(B,)` int64 numbers of rows.
    """
    leaves = np.asarray(topology.leaves)
    shape = (len(members), len(leaves), len(rows))
    found = torch.zeros(shape, dtype=torch.bool, device=rows.device)
    some = np.flatnonzero(missing_rates[leaves] > 0)
    if len(some):
        limit = torch.as_tensor(coin_limits(missing_rates[leaves[some]]), device=rows.device)
        coins = words_at(
            rows,
            seed=seed,
            stream=stream | COINS,
            members=members,
            nodes=leaves[some],
            view=view,
        )
        found[:, some] = coins >= limit[:, None]
    return found


def redraw(tables: Tables, draw: Draw, nodes: np.ndarray, *, view: int | None = None) -> Draw:
    """The draw with everything below some nodes drawn again; the nodes keep their states.

    Args:
        tables: the tables to draw from.
        draw: any draw that kept all nodes, also a view, a redraw, or one with states of your own.
        nodes: the nodes whose children, and all below them, are drawn again.
        view: the address of the new numbers; the default is one above the draw's own. `redraw`
            and `views` of one number read the same numbers.

    Raises:
        ValueError: a leaf, no node, a draw that did not keep all nodes, states that a node does
            not have, or a view number that is not above the draw's own (its numbers are used).
    """
    topology = tables.topology
    if len(nodes) == 0:
        raise ValueError("redraw needs at least one node to draw below")
    for v in nodes:
        if v in topology.leaves:
            raise ValueError(f"node {topology.names[v]!r} is a leaf, nothing lies below it")
    new = draw.view + 1 if view is None else view
    if not draw.view < new < MAX_VIEWS:
        raise ValueError(
            f"view must be in {draw.view + 1}..2^24-1, above the draw's own, got {new}"
        )
    rates = np.isin(topology.parent, nodes).astype(np.float64)
    (found,) = _draw_again(tables, draw, rates, range(new, new + 1))
    return found


def _draw_again(tables: Tables, draw: Draw, rates: np.ndarray, numbers: range) -> tuple[Draw, ...]:
    """Views of a draw's own states at its own rows."""
    _check_states(tables, draw)
    order = DrawRequest(
        topology=tables.topology,
        seed=draw.seed,
        stream=draw.stream,
        members=draw.members,
        start=draw.start,
        count=draw.states_SVB.shape[-1],
        views=tuple(numbers),
        rates=rates,
        base=draw.states_SVB,
        device=draw.states_SVB.device,
    )
    found = run(tables, order)
    return tuple(
        replace(draw, states_SVB=states, view=view)
        for view, states in zip(order.views, found, strict=True)
    )


def _check_states(tables: Tables, draw: Draw) -> None:
    """Raise ValueError unless a draw has a state of its own for every node."""
    topology = tables.topology
    if draw.first > 0:
        raise ValueError(f"drawing again needs all nodes, this draw kept nodes {draw.first} and up")
    expected = (len(draw.members), len(topology))
    if draw.states_SVB.shape[:2] != expected:
        raise ValueError(
            f"the draw's states are for (members, nodes) {tuple(draw.states_SVB.shape[:2])}, "
            f"expected {expected}"
        )
    states = draw.states_SVB
    if states.is_floating_point():
        raise TypeError(f"states must be integers, got {states.dtype}")
    # torch finds no largest uint16, numpy has no CUDA
    plain = states.numpy() if states.is_cpu else states.int().cpu().numpy()
    largest = plain.max((0, 2))
    smallest = plain.min((0, 2)) if plain.dtype.kind == "i" else np.zeros_like(largest)
    for v in np.flatnonzero((largest >= tables.cardinality) | (smallest < 0)):
        wrong = smallest[v] if smallest[v] < 0 else largest[v]
        raise ValueError(
            f"node {topology.names[v]!r} has state {wrong}, expected 0..{tables.cardinality[v] - 1}"
        )


def run(tables: Tables, order: DrawRequest) -> list[Tensor]:
    """Fill an order with the fastest kernel that can: one `(S, V - first, B)` tensor per view."""
    if len(tables.flat) not in (1, len(order.members)):
        raise ValueError(f"{len(tables.flat)} trees cannot serve {len(order.members)} members")
    if tables.flat.stride(0) == 0:
        tables = _one_set(tables)
    if order.device.type == "cpu":
        from hltm.sampling.kernels import cpu  # compiles: the first draw pays, not the import

        return cpu.draw(tables, order)
    return reference.draw(tables, order)


_shared: WeakKeyDictionary[Tables, Tables] = WeakKeyDictionary()


def _one_set(tables: Tables) -> Tables:
    """The one set of tables that all members share; kept, so that its thresholds are made once."""
    if tables not in _shared:
        _shared[tables] = tables.take(slice(0, 1))
    return _shared[tables]
