"""What a view shows of its leaves, by address: which are missing, and which are flipped, to which state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm.model.nodes import NodeNumber
from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.kernels.request import decision_limits
from hltm.sampling.philox import DECISIONS, FLIPS, RATES, words_at


def flipped_leaves(
    tables: Tables,
    flip_rates: np.ndarray,
    leaves_SXB: Tensor,
    *,
    rows: Tensor,
    seed: int,
    stream: int,
    members: Sequence[int],
    view: int,
) -> Tensor:
    """`(S, X, B)` leaves as a view shows them, of the same dtype: some replaced by any of their states.

    One 32-bit number u decides both: a leaf of K states is flipped where u >= l, l = (1 - rate) 2^32, to
    state ⌊(u - l) K / (2^32 - l)⌋, so that the states are equally likely to within 2^-32 of all.

    Args:
        flip_rates: `(V,)` the probability that each leaf is flipped.
        leaves_SXB: the leaves' states.
        rows, seed, stream, members, view: the address, as for `missing_leaves`.
    """
    first = tables.topology.leaves.start
    some = np.flatnonzero(flip_rates > 0)
    limit = torch.as_tensor(decision_limits(flip_rates[some]), device=rows.device)[:, None]
    states = torch.as_tensor(tables.cardinality[some].astype(np.int64), device=rows.device)[:, None]
    u = _words(rows, some, seed=seed, stream=stream | FLIPS, members=members, view=view)
    chosen = (u - limit) * states // (2**32 - limit).clamp(min=1)
    signed = leaves_SXB.view(torch.int16) if leaves_SXB.dtype == torch.uint16 else leaves_SXB
    found = signed.clone()
    places = torch.from_numpy(some - first).to(rows.device)
    # torch has few operations for uint16, whose bits are kept as int16
    found[:, places] = torch.where(u >= limit, chosen.to(found.dtype), signed[:, places])
    return found.view(leaves_SXB.dtype)


def _words(
    rows: Tensor, nodes: np.ndarray, *, seed: int, stream: int, members: Sequence[int], view: int
) -> Tensor:
    """`(S, G, B)` int64 numbers of plane 255 at any samples, on their device."""
    if rows.device.type == "cuda":
        return words_at(rows, seed=seed, stream=stream, members=members, nodes=nodes, view=view)
    from hltm.sampling.kernels.missing import words  # compiles: at the first use, not at import

    address = {"seed": seed, "stream": stream, "members": members, "view": view}
    made = words(rows.cpu().numpy(), nodes, **address)  # type: ignore[arg-type]
    return torch.from_numpy(made.astype(np.int64)).to(rows.device)


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
    """`(S, X, B)` bool: the leaves that a view misses at any samples, by address.

    Args:
        missing_rates: `(V,)` the probability that each node is missing, with all leaves below it; or
            `(2, V)`, the least and the largest, between which each row has its own.
        rows: `(B,)` int64 numbers of samples.
        seed, stream, members, view: the rest of the address.
    """
    shape = (len(members), len(topology.leaves), len(rows))
    found = torch.zeros(shape, dtype=torch.bool, device=rows.device)
    some = np.flatnonzero(missing_rates.reshape(-1, len(topology)).any(0))
    if len(some) == 0:
        return found
    if missing_rates.ndim == 2:
        where: Any = {"seed": seed, "members": members, "view": view}
        t = (_words(rows, np.zeros(1, np.int64), stream=stream | RATES, **where) + 0.5) / 2**32
        low, high = torch.as_tensor(missing_rates[:, some, None], device=rows.device)  # (G, 1)
        limits = ((1 - low - t * (high - low)) * 2**32).round()  # (S, G, B)
        decided = _words(rows, some, stream=stream | DECISIONS, **where) >= limits
    elif rows.device.type != "cuda":
        # compiles: at the first use, not at import
        from hltm.sampling.kernels.missing import missing

        made = missing(
            rows.cpu().numpy(), decision_limits(missing_rates[some]), some, seed=seed,
            stream=stream | DECISIONS, members=members, view=view,
        )  # fmt: skip
        decided = torch.from_numpy(made).to(rows.device)
    else:
        limit = torch.as_tensor(decision_limits(missing_rates[some]), device=rows.device)
        u = words_at(
            rows,
            seed=seed,
            stream=stream | DECISIONS,
            members=members,
            nodes=some,
            view=view,
        )
        decided = u >= limit[:, None]
    first = topology.leaves.start
    own = some >= first
    found[:, some[own] - first] = decided[:, own]
    for g in np.flatnonzero(~own):
        below = topology.descendants(NodeNumber(some[g]))
        found[:, below[below >= first] - first] |= decided[:, g : g + 1]
    return found
