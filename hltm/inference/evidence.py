"""What a user knows of the nodes: leaves as an array, or states and likelihoods by node.

Evidence by node is a mapping node -> value. Integers are states, -1 where missing. Floats are
likelihoods, P(what was observed | node = state) up to a factor: one number per state, which
multiplies the probability of every joint state (virtual evidence, Pearl 1988, Section 2.2.2). A row
of length K that is 1 at one state and 0 at the others is therefore the same as that state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._devices import float64_device
from hltm.inference.frames import column_states, columns_by_node, is_frame, is_row, labels_of_nodes
from hltm.inference.leaves import as_states, check_leaves, check_states, refuse_signs
from hltm.model.nodes import Node
from hltm.model.states import MISSING, check_range
from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.draw import Draw


class Evidence(NamedTuple):
    """Evidence in the form that the functions of `hltm.inference` take.

    Attributes:
        leaves_SXB: `(S, X, B)` integer states, -1 where missing.
        likelihoods: node -> `(S or 1, K, B)` float64; states of inner nodes and soft evidence.
    """

    leaves_SXB: Tensor
    likelihoods: dict[int, Tensor]


def read_evidence(tables: Tables, evidence: Any, *, stacked: bool) -> Evidence:
    """Check evidence in any of its forms.

    Args:
        evidence: one of

            - leaves `(B, X)` in storage order, or `(S, B, X)` where `stacked`: see `check_leaves`;
            - a mapping node -> integer states (one, `(B,)` or `(S, B)`), -1 where missing, or float
              likelihoods `(K,)`, `(B, K)` or `(S, B, K)`. What has no axis B holds for every row, and
              without S for every member; if nothing has the axis B, B is 1;
            - a data frame of pandas or polars: columns named after nodes are such a mapping, and columns
              that count from 0 are leaves in storage order. Empty entries are missing: see `frames`;
            - one row of such a frame, a series whose labels are its columns;
            - a draw: its leaves, by name. Its latents are not used, while those in a frame that `to_pandas`
              makes of it are.

        stacked: whether the trees have the member axis S.

    Raises:
        ValueError: evidence that is none of these, a node given twice, a state that a node does not
            have, likelihoods that are negative, not finite or all 0, or numbers of rows that differ.
        KeyError, IndexError: a node that the tree does not have.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> found = read_evidence(tree.tables, {"0": [0.2, 0.8], "1": [1, -1]}, stacked=False)
        >>> found.leaves_SXB[0], found.likelihoods[0].shape
        (tensor([[ 1, -1],
                [-1, -1]]), torch.Size([1, 2, 2]))
    """
    topology = tables.topology
    if isinstance(evidence, Draw):
        drawn = _leaves_of(topology, evidence)
        return Evidence(
            check_states(tables, drawn, topology.leaves, stacked=stacked, what="leaves"), {}
        )
    rows = None
    if is_row(evidence):
        evidence = evidence.to_frame().T
    if is_frame(evidence):
        rows, evidence = len(evidence), columns_by_node(topology, evidence)
    if isinstance(evidence, Mapping):
        return _by_node(tables, evidence, rows, stacked=stacked)
    return Evidence(check_leaves(tables, evidence, stacked=stacked), {})


def every_node(tables: Tables, states: Any, stacked: bool) -> Tensor:
    """`(S, V, B)` states of complete rows: an array `(..., B, V)`, a draw, a mapping or a data frame.

    Raises:
        ValueError: as for evidence, or a node without states, or with likelihoods.
    """
    topology = tables.topology
    if isinstance(states, Draw):
        if states.first or states.topology.names != topology.names:
            raise ValueError(f"expected a draw of all nodes of this tree, got {states!r}")
        states = states.states
    if is_row(states):
        states = states.to_frame().T
    if is_frame(states):
        states = {label: states[label] for label in labels_of_nodes(topology, states)}
    if isinstance(states, Mapping):
        given = topology.by_number(states)
        for v, name in enumerate(topology.names):
            if v not in given:
                raise ValueError(f"node {name!r} has no states, expected complete rows")
        read, batch, _ = _read_all(tables, given, None, stacked=stacked)
        for v, value in read.items():
            if value.is_floating_point():
                raise ValueError(f"node {topology.names[v]!r} has floats, expected integer states")
        members = [tables.count] if any(value.ndim == 2 for value in read.values()) else []
        every = [read[v].expand(*members, batch) for v in range(len(topology))]
        states = torch.stack(every, dim=-1)
    return check_states(tables, states, range(len(topology)), stacked=stacked)


def _read_all(
    tables: Tables, given: Mapping[int, Any], rows: int | None, *, stacked: bool
) -> tuple[dict[int, Tensor], int, bool]:
    """States or likelihoods of nodes, the number of rows, and whether any entry is masked."""
    topology, members = tables.topology, tables.count if stacked else 0
    values = {v: _array(topology.names[v], x) for v, x in given.items()}
    read = {v: _read(tables, v, value) for v, value in values.items()}
    lengths = {} if rows is None else {rows: "the frame"}
    for v, value in read.items():
        axes = value.ndim - value.is_floating_point()  # besides K
        _check_shape(topology.names[v], value, axes, int(tables.cardinality[v]), members)
        if axes:
            lengths.setdefault(value.shape[axes - 1], f"{topology.names[v]!r}")
    if len(lengths) > 1:
        (a, first), (b, second), *_ = lengths.items()
        raise ValueError(
            f"evidence on {first} has {a} rows and on {second} {b}, expected one number"
        )
    masked = any(isinstance(value, np.ma.MaskedArray) for value in values.values())
    return read, next(iter(lengths), 1), masked


def _by_node(
    tables: Tables, evidence: Mapping[Node, Any], rows: int | None, *, stacked: bool
) -> Evidence:
    topology = tables.topology
    wanted = topology.by_number(evidence)
    given, batch, masked = _read_all(tables, wanted, rows, stacked=stacked)
    device = next(
        (value.device for value in given.values() if value.device.type != "cpu"),
        torch.device("cpu"),
    )
    leaves = torch.full(
        (tables.count, len(topology.leaves), batch), MISSING, dtype=torch.int64, device=device
    )
    likelihoods: dict[int, Tensor] = {}
    for v, value in given.items():
        value = value.to(device)
        if value.is_floating_point():
            value = value.expand(batch, -1) if value.ndim == 1 else value
            likelihoods[v] = (value[None] if value.ndim == 2 else value).transpose(1, 2)
        elif v in topology.leaves:
            leaves[:, v - topology.leaves.start] = value
        else:
            states = torch.arange(int(tables.cardinality[v]), device=device)[:, None]
            value = value.expand(batch) if value.ndim == 0 else value
            value = (value[None] if value.ndim == 1 else value)[:, None]
            likelihoods[v] = ((value == states) | (value == MISSING)).to(torch.float64)
    hard = {v: value for v, value in given.items() if not value.is_floating_point()}
    if hard and not masked and (tables.cardinality[list(hard)] == 2).all():
        refuse_signs(tables, hard, leaves, {v: likelihoods[v] for v in hard if v in likelihoods})
    return Evidence(leaves, likelihoods)


def _array(name: str, value: Any) -> Tensor | np.ndarray:
    """The value of a node as an array; a column of a data frame has states, also if they are floats."""
    if isinstance(value, Tensor | np.ndarray):
        return value
    if hasattr(value, "to_numpy") and not is_frame(value):
        return column_states(name, value)
    try:
        found = np.asarray(value)
        return (
            found if found.size else found.astype(np.int64)
        )  # numpy makes floats of an empty list
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"evidence on {name!r} is not an array: {str(error)[:120]}") from error


def _read(tables: Tables, v: int, value: Tensor | np.ndarray) -> Tensor:
    """States of a node as int64, or its likelihoods as float64, in the shape they have."""
    name, count = tables.topology.names[v], int(tables.cardinality[v])
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.ma.isMaskedArray(value):
        value = torch.from_numpy(np.array(value, dtype=np.float64))
    if isinstance(value, Tensor) and value.dtype.is_floating_point:
        return _check_likelihoods(
            name, value.to(float64_device(value.device), torch.float64), count
        )
    states = as_states(value, f"evidence on {name!r}: values").to(torch.int64)
    check_range(tables, states.reshape(1, -1), [v], missing=True)
    return states


def _check_likelihoods(name: str, value: Tensor, count: int) -> Tensor:
    what = f"evidence on {name!r}"
    if value.ndim == 0:
        number = float(value)
        meant = f"give {int(number)}" if number.is_integer() else f"0..{count - 1}"
        meant = "-1 if missing" if math.isnan(number) else meant
        raise ValueError(
            f"{what} is {number}, a float: a state is an integer ({meant}), and likelihoods are "
            f"{count} floats, one per state"
        )
    if value.shape[-1] != count:
        raise ValueError(
            f"{what} are floats of shape {tuple(value.shape)}: likelihoods have shape ({count},) or "
            f"(…, B, {count}), one per state, and states are integers"
        )
    bad = value.detach()[~((value >= 0) & (value < torch.inf))]
    if len(bad):
        raise ValueError(
            f"{what} has likelihood {float(bad[0])}, expected finite numbers of at least 0"
        )
    empty = (value.detach() <= 0).all(-1)
    if empty.any():
        where = f" in row {int(empty.nonzero()[0, -1])}" if empty.ndim else ""
        raise ValueError(f"{what}{where} has likelihood 0 for every state, expected one above 0")
    return value


def _check_shape(name: str, value: Tensor, axes: int, count: int, members: int) -> None:
    """The axes besides K are none, B, or for stacked trees S and B."""
    if axes > (2 if members else 1) or (axes == 2 and len(value) != members):
        last = f", {count}" if value.is_floating_point() else ""
        shapes = f"({members}, B{last})" if members else f"(B{last})" if last else "(B,)"
        hint = "" if value.is_floating_point() else "; likelihoods are floats"
        raise ValueError(
            f"evidence on {name!r} has shape {tuple(value.shape)}, expected at most {shapes}{hint}"
        )


def _leaves_of(topology: Topology, draw: Draw) -> Tensor:
    """A draw's leaves in the order of this tree's."""
    theirs, ours = ([t.names[v] for v in t.leaves] for t in (draw.topology, topology))
    if set(theirs) != set(ours):
        other = next((name for name in theirs if name not in set(ours)), None)
        what = (
            f"has leaf {other!r}, which this tree has not" if other else f"has no leaf {ours[-1]!r}"
        )
        raise ValueError(f"the draw is of a tree with other leaves: it {what}")
    place = {name: i for i, name in enumerate(theirs)}
    return draw.leaves if theirs == ours else draw.leaves[..., [place[name] for name in ours]]
