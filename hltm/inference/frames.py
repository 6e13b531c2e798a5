"""States in the columns of a data frame, of pandas or any library that has `columns` and `to_numpy`."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from hltm.model.nodes import Node
from hltm.model.states import MISSING
from hltm.model.topology import Topology


def is_frame(value: Any) -> bool:
    """Whether a value is a data frame."""
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def columns_by_node(topology: Topology, frame: Any) -> dict[Node, Any]:
    """The columns of a data frame under the nodes that they hold the states of.

    Columns are the nodes that they are named after. Columns that are not names but count from 0, as
    many as there are leaves, are the leaves in storage order: 0, 1, …, or with one word before every
    number, x0, x1, …. Texts "0", "1", … that are names of other nodes than the leaves could be either.

    Raises:
        ValueError: a column that is neither, that occurs twice, or that could be either.
    """
    labels = list(frame.columns)
    if len(set(labels)) < len(labels):
        repeated = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"the frame has column {repeated!r} twice, expected one per node")
    leaves = [topology.names[v] for v in topology.leaves]
    known = set(topology.names)
    named = [isinstance(label, str) and label in known for label in labels]
    if set(map(str, labels)) == set(leaves):
        return {str(label): frame[label] for label in labels}
    word = _word_before_numbers(labels) if len(labels) == len(leaves) else None
    if word == "" and any(named):
        raise ValueError(
            "the columns of the frame count from 0 and are names of nodes too; give "
            "frame.to_numpy() for leaves in order, or frame.to_dict('list') for nodes by name"
        )
    if all(named):
        return {label: frame[label] for label in labels}
    if word is not None and not any(named):
        return {name: frame[label] for name, label in zip(leaves, labels, strict=True)}
    other = labels[named.index(False)]
    shown = ", ".join(map(repr, topology.names[:4]))
    raise ValueError(
        f"the frame has column {str(other)[:40]!r}, expected names of nodes ({shown}, …), or "
        f"the numbers 0..{len(leaves) - 1} for the leaves in order"
    )


def _word_before_numbers(labels: list[Any]) -> str | None:
    """The word, perhaps empty, before the numbers of labels that count from 0; None for others."""
    parts = [re.fullmatch(r"(\D*)(\d+)", str(label)) for label in labels]
    words = {part[1] if part else None for part in parts}
    counted = all(part and int(part[2]) == i for i, part in enumerate(parts))
    return words.pop() if counted and len(words) == 1 else None


def column_states(label: Any, column: Any) -> np.ndarray:
    """`(B,)` states of a column, masked where an entry is empty.

    Empty entries (None, NaN, or pandas' NA) may have made floats of the integers beside them, so
    floats that are whole numbers are states too.

    Raises:
        ValueError: texts, fractions, or negative floats.
    """
    values = np.asarray(column.to_numpy())
    if values.dtype.kind == "O":
        empty = np.array([x is None or str(x) in ("nan", "<NA>") for x in values], dtype=bool)
        filled = np.full(len(values), np.nan)
        try:
            filled[~empty] = list(values[~empty])
        except (TypeError, ValueError) as error:
            raise ValueError(f"column {label!r} does not hold integer states: {error}") from error
        values = filled
    if values.dtype.kind != "f":
        return values
    empty = np.isnan(values)
    known = values[~empty]
    bad = known[(known < 0) | (known != np.floor(known)) | (known > 2**31)]
    if len(bad):
        hint = "; signs become states by (frame > 0).astype(int)" if bad[0] == -1 else ""
        raise ValueError(
            f"column {label!r} holds {bad[0]} in floats, expected integer states from 0{hint}"
        )
    whole = np.where(empty, MISSING, values).astype(np.int64)
    return np.ma.masked_array(whole, empty) if empty.any() else whole
