"""The log probability of complete rows: the sum of one log table entry per node."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.model.tables import Tables

CHUNK = 1 << 22  # table entries looked up at a time, to bound memory


def log_prob(tables: Tables, states_SVB: Tensor) -> Tensor:
    """`(S, B)` float64 log P(all nodes) = sum over nodes v of log P(v | parent of v), in nats.

    It is differentiable in `tables.flat`. Rows that cannot occur have -inf, and gradient 0.

    Args:
        states_SVB: `(S, V, B)` integer states of all nodes in storage order.

    Raises:
        ValueError: a state that is missing, -1.
    """
    if states_SVB.dtype.is_signed and (states_SVB < 0).any():
        _, v, b = (states_SVB < 0).nonzero()[0].tolist()
        raise ValueError(
            f"node {tables.topology.names[v]!r} is missing in row {b}, expected complete rows; "
            "posterior(…).log_evidence is the log probability of part of the nodes"
        )
    size = max(CHUNK // (states_SVB.shape[0] * states_SVB.shape[1]), 1)
    parts = [_rows(tables, part) for part in states_SVB.split(size, dim=-1)]
    return torch.cat(parts, dim=-1)


def _rows(tables: Tables, states_SVB: Tensor) -> Tensor:
    device = states_SVB.device
    start, width = (
        torch.as_tensor(each, device=device)[:, None] for each in (tables.start, tables.cardinality)
    )
    states = states_SVB.to(torch.int64)
    above = states[:, torch.as_tensor(tables.topology.parent, device=device).clamp_min(0)]
    above[:, 0] = 0  # the root's table has one row
    index = start + above * width + states
    entry = tables.flat.to(device).gather(1, index.flatten(1)).unflatten(1, index.shape[1:])
    never = entry <= 0
    logs = entry.masked_fill(never, 1).log()  # so that no NaN enters the gradient of other rows
    total = logs.cumsum(1)[:, -1]  # node after node: a sum's order may depend on the other rows
    return total.masked_fill(never.any(1), -torch.inf)
