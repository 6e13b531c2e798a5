"""The check that states are states of their nodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hltm.model.tables import Tables

MISSING = -1  # in place of the state of a node that was not observed


def check_range(
    tables: Tables, states_SVB: Tensor, nodes: Sequence[int], *, missing: bool = False
) -> None:
    """Raise unless every state is one that its node has.

    Args:
        states_SVB: `(..., V, B)` integers of any type, of V nodes.
        nodes: their numbers, consecutive.
        missing: whether -1 is allowed, for a missing state.

    Raises:
        ValueError: the first node with another state, and the state.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, seed=0)
        >>> check_range(tree.tables, torch.tensor([[0, 1], [1, 2]]), [0, 1])
        Traceback (most recent call last):
        ValueError: node '1' has state 2, expected 0..1
    """
    if states_SVB.numel() == 0:
        return
    if states_SVB.dtype == torch.uint16:  # torch cannot reduce it
        states_SVB = states_SVB.to(torch.int32)
    others = tuple(i for i in range(states_SVB.ndim) if i != states_SVB.ndim - 2)
    low, high = (
        found.cpu().to(torch.int64) for found in (states_SVB.amin(others), states_SVB.amax(others))
    )
    limit = torch.from_numpy(tables.cardinality[nodes[0] : nodes[-1] + 1])
    least = MISSING if missing else 0
    for i in ((low < least) | (high >= limit)).nonzero()[:1, 0].tolist():
        state, v = int(low[i] if low[i] < least else high[i]), nodes[i]
        kind = "leaf" if missing and v in tables.topology.leaves else "node"
        raise ValueError(
            f"{kind} {tables.topology.names[v]!r} has state {state}, expected 0..{int(limit[i]) - 1}"
            + ", or -1 if missing" * missing
        )
