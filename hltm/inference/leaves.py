"""The check of the leaves that a user gives."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.inference.messages import MISSING
from hltm.model.tables import Tables


def check_leaves(tables: Tables, leaves: Tensor, *, stacked: bool) -> Tensor:
    """Leaves `(B, X)`, or `(S, B, X)` where `stacked`, as integer states `(S, X, B)`, batch-last.

    Args:
        leaves: states of the X leaves in storage order, -1 where missing; any integer dtype.
        stacked: whether `leaves` has the member axis S.

    Raises:
        ValueError: the wrong shape or dtype, no rows, or a state that a leaf does not have.
    """
    topology, members = tables.topology, tables.count
    found = torch.as_tensor(leaves)
    shape = (*([members] if stacked else []), "B", len(topology.leaves))
    if found.ndim != len(shape) or (*found.shape[:-2], "B", found.shape[-1]) != shape:
        shown = ", ".join(map(str, shape))
        raise ValueError(f"leaves have shape {tuple(found.shape)}, expected ({shown})")
    if found.dtype.is_floating_point or found.dtype.is_complex:
        raise ValueError(f"leaves have dtype {found.dtype}, expected integer states")
    if found.shape[-2] == 0:
        raise ValueError("leaves have no rows, expected at least one")
    # torch cannot compare 16-bit unsigned numbers; 8-bit ones are kept to save memory
    found = found if found.dtype == torch.uint8 else found.to(torch.int64)
    states = torch.as_tensor(tables.cardinality[list(topology.leaves)], device=found.device)
    rows = tuple(range(found.ndim - 1))
    low, high = found.amin(rows).to(torch.int64), found.amax(rows).to(torch.int64)
    if ((low < MISSING) | (high >= states)).any():
        found = found.to(torch.int64)
        where = ((found < MISSING) | (found >= states)).nonzero()[0]
        leaf = int(where[-1])
        raise ValueError(
            f"leaf {topology.names[topology.leaves[leaf]]!r} has state {int(found[tuple(where)])}, "
            f"expected 0..{int(states[leaf]) - 1}, or -1 if missing"
        )
    return (found if stacked else found[None]).transpose(1, 2)
