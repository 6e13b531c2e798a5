"""Interventions: tables with some nodes' probabilities replaced (Pearl's do-operator)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hltm.model.nodes import Node
from hltm.model.repeated_rows import RepeatedRows
from hltm.model.states import check_range
from hltm.model.tables import TOLERANCE, Table, Tables

Setting = int | Table  # a state, states, a distribution over a node's states, or its whole table


def intervene(tables: Tables, settings: Mapping[Node, Setting], *, stacked: bool) -> Tables:
    """The tables after do(node = setting) for every node of `settings`; other tables keep every bit.

    The tables of the nodes are replaced, and with them the influence of their parents (Pearl 2009,
    "Causality", Definition 3.2.1): P(all | do(v = x)) is the product of all tables but v's, at v = x.

    Args:
        settings: for each node, by number or name, one of
            a state: an integer, or for S stacked trees also S of them, one per tree;
            a distribution over its K states: floats `(K,)` or, for stacked trees, `(S, K)`;
            a whole table: floats `(K_parent, K)` or, for stacked trees, `(S, K_parent, K)`.
        stacked: whether the trees have the S axis.

    Raises:
        KeyError, IndexError: an unknown node.
        TypeError: settings that are not a mapping.
        ValueError: a node given twice, a state that it does not have, the wrong shape, or
            probabilities that are not in [0, 1] or do not sum to 1.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.8, signs="positive", seed=0)
        >>> tree.intervene({"1": 1}).table("1")
        tensor([[0., 1.],
                [0., 1.]], dtype=torch.float64)
    """
    wanted = tables.topology.by_number(settings)
    if not wanted:
        return tables
    fresh = {v: _table(tables, v, value, stacked) for v, value in wanted.items()}
    if isinstance(tables, RepeatedRows):
        return _with_rows(tables, fresh)
    shared = tables.shared and all(len(table) == 1 for table in fresh.values())
    flat = tables.flat[:1] if shared else tables.flat
    index = np.concatenate(
        [tables.start[v] + np.arange(table[0].numel()) for v, table in fresh.items()]
    )
    values = torch.cat([table.expand(len(flat), -1, -1).flatten(1) for table in fresh.values()], 1)
    flat = flat.index_copy(1, torch.from_numpy(index), values)
    return Tables(tables.topology, tables.cardinality, flat.expand(tables.count, -1))


def _with_rows(tables: RepeatedRows, fresh: Mapping[int, Tensor]) -> RepeatedRows:
    """Tables that keep each row once, with those of some nodes replaced."""
    distinct, rank = list(tables.distinct), list(tables.rank)
    for v, table in fresh.items():
        rows = table[:, :1] if table.stride(1) == 0 else table  # (1 or S, 1 or rows, K)
        distinct[v] = rows.flatten(0, 1)
        number = torch.arange(len(distinct[v])).view(rows.shape[:2])
        rank[v] = number.expand(tables.count, int(tables.rows[v])).contiguous()
    return RepeatedRows(tables.topology, tables.cardinality, distinct, rank)


def as_setting(name: str, value: Setting) -> Tensor:
    """A setting as int64 states or float64 probabilities.

    Raises:
        ValueError: neither integers nor floats.
    """
    try:  # a copy: torch warns of arrays that cannot be written
        found = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        shown = repr(value)[:40]
        raise ValueError(f"node {name!r} is set to {shown}, expected numbers") from error
    if found.dtype.is_complex:
        raise ValueError(
            f"node {name!r} is set to complex numbers, expected states or probabilities"
        )
    if found.is_floating_point() and found.ndim == 0:
        raise ValueError(
            f"node {name!r} is set to the float {float(found):g}, expected an integer state or a distribution"
        )
    return found.to(torch.float64 if found.is_floating_point() else torch.int64)


def _table(tables: Tables, v: int, value: Setting, stacked: bool) -> Tensor:
    """The table `(1 or S, rows, K)` float64 that replaces node v's."""
    name, members = tables.topology.names[v], tables.count
    rows, count = int(tables.rows[v]), int(tables.cardinality[v])
    found = as_setting(name, value).cpu()
    shape = tuple(found.shape)
    if found.dtype == torch.int64:
        if shape not in ((), (members,) if stacked else ()):
            kinds = "one integer" + (f" or {members}, one per tree" if stacked else "")
            raise ValueError(
                f"node {name!r} is set to integers of shape {shape}, expected {kinds}; "
                "probabilities are floats"
            )
        states = found.reshape(-1)
        check_range(tables, states[None], [v])
        point = torch.nn.functional.one_hot(states, count)
        return point[:, None].to(torch.float64).expand(-1, rows, -1)
    if stacked and shape == (rows, count) == (members, count) and rows > 1:
        raise ValueError(
            f"node {name!r} is set to probabilities of shape {shape}, which may be one row per tree or "
            f"per state of its parent; give {(members, 1, count)} or {(1, rows, count)}"
        )
    if shape == (count,):
        found = found[None, None]
    elif shape == (rows, count):
        found = found[None]
    elif stacked and shape == (members, count):
        found = found[:, None]
    elif not (stacked and found.ndim == 3 and _broadcasts(shape, (members, rows, count))):
        lead = "S, " if stacked else ""
        raise ValueError(
            f"node {name!r} is set to probabilities of shape {shape}, expected a distribution "
            f"({count},){f' or (S, {count})' if stacked else ''} or a table ({lead}{rows}, {count})"
        )
    return _normalised(name, found).expand(-1, rows, -1)


def _normalised(name: str, table: Tensor) -> Tensor:
    """Rows that sum to 1; those that do so up to rounding are kept, as in `make_tables`."""
    wrong = table[~((table >= 0) & (table <= 1 + TOLERANCE))]
    if len(wrong):
        raise ValueError(
            f"node {name!r} is set to the probability {float(wrong[0])}, expected numbers in [0, 1]"
        )
    total = table.sum(-1, keepdim=True)
    miss = (total - 1).abs()
    if (miss > TOLERANCE).any():
        value = float(total[miss > TOLERANCE][0])
        raise ValueError(
            f"node {name!r} is set to probabilities that sum to {value:.9g}, expected 1"
        )
    return torch.where(miss <= table.shape[-1] * 2.0**-52, table, table / total)


def _broadcasts(shape: tuple[int, ...], full: tuple[int, int, int]) -> bool:
    return shape[0] in (1, full[0]) and shape[1] in (1, full[1]) and shape[2] == full[2]
