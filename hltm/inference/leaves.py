"""The check of integer states that a user gives: leaves, or all nodes.

-1 is a missing state. Where a state is written as a sign, -1 is state 0, so signs that were taken for
states would pass as leaves of which those in state 0 are missing. Floats are refused whatever they
hold. Integers -1 and 1 of a binary tree are refused where 0 never occurs although it should: see
`refuse_signs`, which also names the way to say that -1 does mean missing, a masked array of numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm._devices import float64_device
from hltm.inference.posterior import posterior
from hltm.model.states import MISSING, check_range
from hltm.model.tables import Tables

# States are taken for signs if at least ENOUGH of them are 1, none is 0, the tree gives so many ones a
# probability below CHANCE, and signs are likelier than missing states. Only ROWS rows are looked at.
ENOUGH = 6
CHANCE = 1e-3
ROWS = 1024


def as_states(values: Any, what: str = "leaves") -> Tensor:
    """States of any integer type as a tensor of uint8 or signed integers: arrays, nested lists, bools.

    Args:
        values: a tensor, or what numpy can make an array of; masked entries become -1.
        what: the name of the values in messages.

    Raises:
        ValueError: not an array of integers, or an integer above 2^63 - 1.
    """
    if isinstance(values, Tensor):
        found = values.detach().to(float64_device(values.device))  # all that follows is in float64
        whole = not (found.dtype.is_floating_point or found.dtype.is_complex)
    else:
        try:
            array: Any = values if isinstance(values, np.ndarray) else np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{what} are not an array of integers: {str(error)[:120]}") from error
        kind = array.dtype.kind
        if kind == "O":
            other = next((x for x in array.flat if not isinstance(x, int)), "too large an integer")
            raise ValueError(
                f"{what} hold {str(other)[:40]!r}, expected integers; a missing state is -1"
            )
        if kind in "US":
            text = str(array.flat[0])[:40] if array.size else ""
            raise ValueError(
                f"{what} hold the text {text!r}, expected integers: states are numbers; of a BIF file "
                "hltm.formats.bif.state_names lists their names in order"
            )
        if kind not in "biuf":
            raise ValueError(f"{what} have dtype {array.dtype}, expected integers")
        empty_list = array.size == 0 and array is not values  # numpy makes floats of it
        whole = kind != "f" or empty_list
        if isinstance(array, np.ma.MaskedArray) and whole:
            array = np.ma.filled(array.astype(np.int64), MISSING)
        # a copy in the machine's byte order: torch takes neither read-only arrays nor others
        order = array.dtype.newbyteorder("=") if kind != "f" else np.float64
        found = torch.from_numpy(np.array(array, dtype=order))
    if not whole:
        raise ValueError(f"{what} have dtype {found.dtype}, expected integers; {_hint(found)}")
    if found.dtype == torch.bool:
        return found.to(torch.uint8)
    if found.dtype.is_signed or found.dtype == torch.uint8:  # kept, to save memory
        return found
    found = found.to(torch.int64)  # torch cannot compare unsigned numbers of 16 bits and more
    if found.numel() and int(found.min()) < 0:
        raise ValueError(f"{what} hold a state above 2^63 - 1, expected a node's states or -1")
    return found


def _hint(values: Tensor) -> str:
    """What floats, given where states are expected, were meant to be."""
    if values.dtype.is_complex:
        return "complex numbers are no states"
    if values.isnan().any():
        return "NaN is no state, a missing one is -1"
    if values.numel() and (values.abs() == 1).all():
        return "they look like signs: (leaves > 0).long() makes states of them"
    return (
        "a missing one is -1" if (values != values.round()).any() else "convert them with .long()"
    )


def check_leaves(tables: Tables, leaves: Any, *, stacked: bool) -> Tensor:
    """Leaves `(B, X)`, or `(S, B, X)` where `stacked`, as integer states `(S, X, B)`, batch-last.

    Args:
        leaves: states of the X leaves in storage order, -1 where missing or masked; any integer dtype.
            Stacked trees may share leaves `(B, X)`.
        stacked: whether `leaves` may have the member axis S.

    Raises:
        ValueError: the wrong shape or dtype, a state that a leaf does not have, or leaves that look
            like signs.
    """
    topology = tables.topology
    found = check_states(tables, leaves, topology.leaves, stacked=stacked, what="leaves")
    binary = (tables.cardinality[topology.leaves.start :] == 2).all()
    if binary and not isinstance(leaves, np.ma.MaskedArray):
        refuse_signs(tables, found, found)
    return found


def check_states(
    tables: Tables, states: Any, nodes: Sequence[int], *, stacked: bool, what: str = "states"
) -> Tensor:
    """`(S, V, B)` states of consecutive nodes from `(B, V)` or, for stacked trees, also `(S, B, V)`.

    Raises:
        ValueError: the wrong shape or dtype, or a state that a node does not have, -1 aside.
    """
    members = tables.count
    found = as_states(states, what)
    shapes = [("B", len(nodes)), *([(members, "B", len(nodes))] if stacked else [])]
    lead = found.shape[:-2]
    if (
        found.ndim < 2
        or found.shape[-1] != len(nodes)
        or (lead and (not stacked or lead != (members,)))
    ):
        shown = " or ".join("({})".format(", ".join(map(str, shape))) for shape in shapes[::-1])
        raise ValueError(f"{what} have shape {tuple(found.shape)}, expected {shown}")
    found = found.transpose(-1, -2)
    check_range(tables, found, nodes, missing=True)
    return found if lead else found.expand(members, *found.shape)


def refuse_signs(
    tables: Tables,
    given: Mapping[int, Tensor] | Tensor,
    leaves_SXB: Tensor,
    likelihoods: Mapping[int, Tensor] | None = None,
) -> None:
    """Refuse integer evidence that looks like signs: -1 and 1, and never the 0 that should occur.

    If -1 means missing, the probability p that a tree shows 1 wherever a node is observed is the
    evidence itself, and the pattern of missing states has a probability of its own: at most m, where
    every node misses its states independently at the rate at which it does here. If -1 is a sign for
    state 0, the rows have probability s. Evidence is refused if at least 6 states are 1, p < 1e-3 and
    s > p m. So rows that a tree made are refused by mistake with probability below 1e-3, and rows that
    show one node and miss the rest are accepted however many they are; a few rows of signs are too.

    Args:
        given: the states as they were given, samples last, all of nodes with two states: by node
            `(B,)`, `(S, B)` or one state, or of all leaves `(S, X, B)`.
        leaves_SXB, likelihoods: the same evidence as the functions of `hltm.inference` take it.

    Raises:
        ValueError: as above; the message names both ways out.
    """
    values = [given] if isinstance(given, Tensor) else list(given.values())
    if not any(x.dtype.is_signed for x in values):
        return
    first = [x[..., :ROWS] if x.ndim else x for x in values]
    # a 0 is nearly always among the first rows
    if any((x == 0).any() for x in first) or sum(int((x == 1).sum()) for x in first) < ENOUGH:
        return
    if any((x == 0).any() for x in values) or not any((x == MISSING).any() for x in values):
        return
    leaves = leaves_SXB[..., :ROWS]
    inner = {v: x[..., :ROWS] for v, x in (likelihoods or {}).items()}
    at = tables.topology.leaves
    chosen = [v - at.start for v in (at if isinstance(given, Tensor) else given) if v in at]
    signed = leaves.clone()
    signed[:, chosen] = leaves[:, chosen].clamp_min(0)
    # a missing state has likelihoods (1, 1), and state 0 has (1, 0)
    states = {v: torch.stack([x[:, 0], x[:, 1] - x[:, 0] * x[:, 1]], 1) for v, x in inner.items()}
    missing = _log_missing(first)
    log_p, log_s = _log_evidence(tables, leaves, inner), _log_evidence(tables, signed, states)
    if float(log_p.max()) < math.log(CHANCE) and float((log_s - log_p - missing).sum()) > 0:
        raise ValueError(
            "states are -1 and 1 and never 0, as signs are: (leaves > 0).long() makes states of them; "
            "if -1 does mean missing, give numpy.ma.masked_equal(leaves, -1)"
        )


def _log_evidence(tables: Tables, leaves: Tensor, inner: Mapping[int, Tensor]) -> Tensor:
    """`(S,)` log P(all rows)."""
    root = np.zeros(1, dtype=np.int64)
    with torch.no_grad():
        return posterior(tables, leaves, root, likelihoods=inner or None).log_evidence.sum(-1)


def _log_missing(given: Sequence[Tensor]) -> Tensor:
    """`(S,)` or `()` log probability of where states are missing, at each node's own rate."""
    total = torch.zeros((), dtype=torch.float64, device=given[0].device)
    for x in given:
        if x.ndim:
            rate = (x == MISSING).to(torch.float64).mean(-1)
            part = -x.shape[-1] * (torch.special.entr(rate) + torch.special.entr(1 - rate))
            total = total + (part.sum(-1) if x.ndim == 3 else part)
    return total
