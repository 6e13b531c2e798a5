"""Recorded operations, less those that change no bit of the results."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
ALIASES = (aten.detach.default, aten.alias.default)  # without autograd the tensor itself
FILLED = {
    aten.ones_like.default: 1, aten.new_ones.default: 1,
    aten.zeros_like.default: 0, aten.new_zeros.default: 0,
}  # fmt: skip


def simplify(graph: fx.Graph) -> None:
    """Remove operations without effect, in place: the results keep their bits.

    Left out are what no result depends on; detached tensors, first powers and products with 1, which are
    what they are made of; and what was computed before. Tensors filled with 0 or 1 come from their shape
    alone, so that all that follows from them alone is a constant.
    """
    changed = changed_bases(graph)
    seen: dict[Any, fx.Node] = {}
    for node in [*graph.nodes]:
        if not isinstance(node.target, torch._ops.OpOverload) or base_of(node) in changed:
            continue
        same = None
        if node.target in ALIASES or (_is_identity(node) and not _is_changed(node, changed)):
            same = node.args[0]
        elif node.target in FILLED:
            value = node.meta["val"]
            with graph.inserting_before(node):
                same = graph.call_function(
                    aten.full.default, (list(value.shape), FILLED[node.target]),
                    {"dtype": value.dtype, "device": value.device},
                )  # fmt: skip
            same.meta = node.meta
        elif is_pure(node) and not _is_changed(node, changed):
            key = str((node.target, node.args, node.kwargs))
            same = seen.setdefault(key, node)
        if isinstance(same, fx.Node) and same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    _remove_unused(graph)
    _change_nothing_in_vain(graph)


def _change_nothing_in_vain(graph: fx.Graph) -> None:
    """Let operations that change what nobody reads afterwards return a new tensor instead."""
    for node in [*graph.nodes]:
        source = node.args[0] if node.args else None
        if not changes(node) or not isinstance(source, fx.Node) or [*source.users] != [node]:
            continue
        if is_view(source) or source.op != "call_function":
            continue
        packet = getattr(aten, node.target._schema.name.split("::")[1].removesuffix("_"))
        if node.target._overloadname in packet.overloads():
            node.target = getattr(packet, node.target._overloadname)


def changes(node: fx.Node) -> bool:
    """Whether an operation changes one of its inputs."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_view(node: fx.Node) -> bool:
    """Whether the result shares the memory of the first input."""
    if node.target is operator.getitem:
        return is_view(node.args[0])  # type: ignore[arg-type]
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target is aten._unsafe_view.default:
        return True  # which its schema does not say
    return any(result.alias_info is not None for result in node.target._schema.returns)


def is_pure(node: fx.Node) -> bool:
    """Whether the result is the same whenever the inputs are."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True  # a constant, or a part of several results
    return not changes(node) and torch.Tag.nondeterministic_seeded not in node.target.tags


def base_of(node: fx.Node) -> fx.Node:
    """The node whose memory a view, one of several results, or the result of a change in place, shares."""
    while is_view(node) or node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    return node


def changed_bases(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose memory is changed in place."""
    return {base_of(node) for node in graph.nodes if changes(node)}


def _is_changed(node: fx.Node, changed: set[fx.Node]) -> bool:
    return any(base_of(source) in changed for source in node.all_input_nodes)


def _is_identity(node: fx.Node) -> bool:
    """Whether the result has the numbers of the first input, of the same shape and dtype."""
    if node.target not in (aten.pow.Tensor_Scalar, aten.mul.Scalar, aten.mul.Tensor):
        return False
    source, other = node.args
    if isinstance(other, fx.Node) or other != 1 or not isinstance(source, fx.Node):
        return False
    before, after = source.meta["val"], node.meta["val"]
    return isinstance(before, Tensor) and before.dtype == after.dtype


def _remove_unused(graph: fx.Graph) -> None:
    """Remove operations whose results nobody needs, and which change nothing in place."""
    for node in reversed([*graph.nodes]):
        if not node.users and node.op in ("call_function", "get_attr") and not changes(node):
            graph.erase_node(node)
