"""What becomes of recorded operations: which are done once, which are rows, and where results lie."""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from dualnets.training.recorded import operations  # noqa: F401, which fills `KNOWN`
from dualnets.training.recorded.linked_layers import LinkedBackward, LinkedForward
from dualnets.training.recorded.rows import DTYPES, KNOWN, Rows, UnknownError
from dualnets.training.recorded.simplified import base_of, changes, is_pure, is_view

LINKED = (LinkedForward, LinkedBackward)


class Plan(NamedTuple):
    """What becomes of the operations.

    Attributes:
        once: those that are done once: constants, and views of what stays where it is.
        every: those that are repeated, in the order in which they are.
        placed: whose results lie in chosen memory.
        bound: layers that are bound to their parameters.
        rows: of `every`, those that the interpreter does, in tables of `dtype`.
        views: of `every`, those that are views.
        moving: what lies elsewhere in every call, and is read or written by rows, with its number.
        seen: views of these that rows read.
        changed: what is changed in place.
    """

    once: set[fx.Node]
    every: list[fx.Node]
    placed: set[fx.Node]
    bound: set[fx.Node]
    rows: set[fx.Node]
    views: set[fx.Node]
    dtype: torch.dtype
    moving: dict[fx.Node, int]
    seen: set[fx.Node]
    changed: set[fx.Node]


def make_plan(nodes: list[fx.Node], fixed: int, returned: set[fx.Node], alone: bool) -> Plan:
    """Decide what becomes of the operations of a graph.

    Args:
        nodes: all of them, in order.
        fixed: how many of the first inputs stay the same.
        returned: whose memory results outlive a call.
        alone: whether one thread computes all, so that layers and losses can be rows, too.
    """
    changed = {base_of(node) for node in nodes if changes(node)}
    inputs = [node for node in nodes if node.op == "placeholder"]
    lasting, constants = {*inputs[:fixed]}, set[fx.Node]()
    placed, bound, rows = set[fx.Node](), set[fx.Node](), set[fx.Node]()
    once, every, views = set[fx.Node](), list[fx.Node](), set[fx.Node]()
    dtype = _dtype(nodes)
    for node in nodes:
        if node.op in ("placeholder", "output"):
            continue
        sources = {*node.all_input_nodes}
        if sources <= constants and base_of(node) not in changed and is_pure(node):
            constants.add(node)
        elif _is_made_once(node, lasting | constants, bound | rows):
            lasting.add(node)
        else:
            every.append(node)
            if isinstance(node.target, LINKED):
                stay = lasting | constants | bound
                if not returned & {node} and (alone or _stays(node, stay)):
                    bound.add(node)
                    if alone:
                        rows.add(node)
            elif is_view(node) and not changes(node):
                views.add(node)
            elif (
                sources
                and _is_known(node, dtype, alone)
                and not (node in returned and is_several(node))
            ):
                rows.add(node)
                if node not in returned:
                    placed.add(node)
                    lasting.add(node)
            continue
        once.add(node)
    moving, seen = dict[fx.Node, int](), set[fx.Node]()
    for node in rows:
        for used in (node, *node.all_input_nodes):
            while used in views:
                seen.add(used)
                used = used.args[0]  # type: ignore[assignment]
            if used not in lasting | constants | bound:
                moving.setdefault(used, len(moving))
    order = _in_order(every, rows, views)
    return Plan(once, order, placed, bound, rows, views, dtype, moving, seen, changed)


def _dtype(nodes: list[fx.Node]) -> torch.dtype:
    """The dtype of the first result that can be one of a table."""
    values = (node.meta.get("val") for node in nodes)
    dtypes = (value.dtype for value in values if isinstance(value, Tensor))
    return next((dtype for dtype in dtypes if dtype in DTYPES), torch.float32)


def is_several(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), list | tuple)


def _is_known(node: fx.Node, dtype: torch.dtype, alone: bool) -> bool:
    """Whether the interpreter has an operation, in the form that it has here."""

    def stand_in(value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value.op == "get_attr":
                return getattr(value.graph.owning_module, str(value.target))
            value = value.meta["val"]
        if isinstance(value, Tensor):
            return torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=value.device
            )
        return [*map(stand_in, value)] if isinstance(value, list | tuple) else value

    if not alone and node.target not in KNOWN:
        return False
    try:
        given = [stand_in(own) for own in node.args]
        Rows(dtype).add(node.target, stand_in(node), *given, **node.kwargs)
    except (UnknownError, RuntimeError):
        return False
    return True


def _in_order(every: list[fx.Node], rows: set[fx.Node], views: set[fx.Node]) -> list[fx.Node]:
    """The same operations, rows next to rows as far as what they need allows."""
    if any(changes(node) or not is_pure(node) for node in every):
        return every
    waiting, found, in_rows = [*every], list[fx.Node](), True
    while waiting:
        blocked = {*waiting}
        ready = [
            node for node in waiting
            if not any(own in blocked or base_of(own) in blocked for own in node.all_input_nodes)
        ]  # fmt: skip
        alike = [node for node in ready if node in views or (node in rows) == in_rows]
        if not alike:
            in_rows = not in_rows
            continue
        found.append(alike[0])
        waiting.remove(alike[0])
    return found


def _is_made_once(node: fx.Node, stay: set[fx.Node], several: set[fx.Node]) -> bool:
    """Whether a node is a view of tensors that stay where they are, or one of several results that do."""
    sources = {*node.all_input_nodes}
    if node.target is operator.getitem and sources <= several:
        return True
    return sources <= stay and is_view(node) and not changes(node)


def _stays(node: fx.Node, stay: set[fx.Node]) -> bool:
    """Whether parameters of layers, and where their forward pass keeps its values, stay where they are."""
    _, parameters, *rest = node.args
    return {*parameters, *rest[1:]} - {None} <= stay  # type: ignore[misc]


def memory_slots(nodes: list[fx.Node], placed: set[fx.Node]) -> dict[fx.Node, int]:
    """The number of the piece of memory of every placed node; of equal pieces the one that was last free."""
    ends: dict[fx.Node, int] = {}
    for place, node in enumerate(nodes):
        for used in (node, *node.all_input_nodes):
            ends[base_of(used)] = place
    ended = defaultdict(list)
    for node in placed:
        ended[ends[node]].append(node)
    free: defaultdict[Any, list[int]] = defaultdict(list)
    slots: dict[fx.Node, int] = {}
    count = 0
    for place, node in enumerate(nodes):
        if node in placed:
            waiting = free[room_of(node)]
            slots[node] = waiting.pop() if waiting else count
            count += slots[node] == count
        for gone in ended[place]:
            free[room_of(gone)].append(slots[gone])
    return slots


def room_of(node: fx.Node) -> tuple[int, torch.dtype]:
    """Numbers in the memory of a node, and their dtype."""
    value = node.meta["val"]
    steps = zip(value.shape, value.stride(), strict=True)
    return 1 + sum((size - 1) * step for size, step in steps) if value.numel() else 0, value.dtype
