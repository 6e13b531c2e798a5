"""Recorded operations as generated Python code, for calls without autograd.

The shapes of a recording are the same in every step, and its first inputs are always the same tensors, which
are changed in place only. So the memory of what is computed on the way is chosen once, by how long each
result is needed, and operations write into it. Then views, half of all operations, are made once, too,
and so is what is computed from no input at all. Layers whose parameters stay where they are keep memory
of their own.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._library import custom_ops

from dualnets.training.recorded.linked_layers import LinkedBackward, LinkedForward
from dualnets.training.recorded.simplified import base_of, changes, is_pure, is_view

aten = torch.ops.aten
LINKED = (LinkedForward, LinkedBackward)
COPIES = (aten.clone.default, aten._to_copy.default)


class Repeated(NamedTuple):
    """A recording as code.

    Attributes:
        bind: (fixed inputs) -> a function of the other inputs that returns a tuple of the results. It
            has memory of its own, so that it must not run twice at once.
        code: the source.
    """

    bind: Callable[..., Callable[..., tuple[Tensor, ...]]]
    code: str


def repeated(graph: fx.Graph, fixed: int, lent: range = range(0)) -> Repeated:
    """The generated function of a graph of operations.

    Args:
        graph: of operations and linked layers.
        fixed: how many of the first inputs stay the same.
        lent: which results the next call may overwrite; the others are new tensors in every call.
    """
    nodes = [*graph.nodes]
    inputs = [node for node in nodes if node.op == "placeholder"]
    (output,) = (node for node in nodes if node.op == "output")
    kept = [own for place, own in enumerate(output.args[0]) if place not in lent]
    returned = {base_of(node) for node in kept if isinstance(node, fx.Node)}
    once, every, placed, bound = _divide(nodes, {*inputs[:fixed]}, returned)
    writer = _Writer(graph, placed, bound)
    results = ", ".join(writer.expression(result) for result in output.args[0])
    lines = [
        f"def bind({', '.join(node.name for node in inputs[:fixed])}):",
        *(f"    {line}" for line in writer.memory(_slots(nodes, placed))),
        *(f"    {writer.binding(node) if node in bound else writer.line(node)}" for node in once),
        f"    def repeat({', '.join(node.name for node in inputs[fixed:])}):",
        *(f"        {line}" for line in writer.lines(every, {*output.all_input_nodes})),
        f"        return ({results}{',' * (len(output.args[0]) == 1)})",
        "    return repeat",
    ]
    code = "\n".join(lines)
    names = writer.names
    exec(compile(code, "<recorded operations>", "exec"), names)
    return Repeated(names["bind"], code)


def _divide(
    nodes: list[fx.Node], fixed: set[fx.Node], returned: set[fx.Node]
) -> tuple[list[fx.Node], list[fx.Node], set[fx.Node], set[fx.Node]]:
    """The operations that are done once, and those that are repeated.

    Of the latter also which write into chosen memory, and which are layers that are bound to theirs. None of
    `returned` does.
    """
    changed = {base_of(node) for node in nodes if changes(node)}
    lasting, constants = {*fixed}, set[fx.Node]()
    placed, bound = set[fx.Node](), set[fx.Node]()
    once, every = [], []
    for node in nodes:
        if node.op in ("placeholder", "output"):
            continue
        sources = {*node.all_input_nodes}
        if sources <= constants and base_of(node) not in changed and is_pure(node):
            constants.add(node)
        elif _is_made_once(node, lasting | constants, bound):
            lasting.add(node)
        else:
            every.append(node)
            if isinstance(node.target, LINKED):
                if _can_be_bound(node, lasting | constants | bound, returned):
                    bound.add(node)
                    once.append(node)
            elif node not in returned and sources and _writes(node):
                placed.add(node)
                lasting.add(node)
            continue
        once.append(node)
    return once, every, placed, bound


def _is_made_once(node: fx.Node, stay: set[fx.Node], bound: set[fx.Node]) -> bool:
    """Whether a node is a view of tensors that stay where they are, or one of a bound layer's results."""
    sources = {*node.all_input_nodes}
    if node.target is operator.getitem and sources <= bound:
        return True
    return sources <= stay and is_view(node) and not changes(node)


def _can_be_bound(node: fx.Node, stay: set[fx.Node], returned: set[fx.Node]) -> bool:
    """Whether parameters, and where the forward pass keeps its values, stay where they are."""
    _, parameters, *rest = node.args
    needed = {*parameters, *rest[1:]} - {None}  # type: ignore[misc]
    return needed <= stay and not returned & {*node.users}


def _writes(node: fx.Node) -> bool:
    """Whether the operation can write its result into given memory at no cost."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or is_view(node) or changes(node):
        return False
    return node.target in COPIES or (_plain_name(node.target) is not None and _has_out(node.target))


def _has_out(target: Any) -> bool:
    """Whether the function of `torch` for an operation has an argument `out`."""
    packet = getattr(aten, target._schema.name.split("::")[1])
    given = [_kind(argument) for argument in target._schema.arguments]
    for name in packet.overloads():
        other = getattr(packet, name)
        arguments = other._schema.arguments
        rest = [_kind(argument) for argument in arguments if not argument.is_out]
        if (
            len(arguments) == len(rest) + 1
            and rest == given
            and torch.Tag.generated not in other.tags
        ):
            return True
    return False


def _kind(argument: Any) -> str:
    """The type of an argument; where a function takes a tensor, it takes a number for its second."""
    kind = str(argument.type)
    return "Tensor" if argument.name == "other" else kind


def _slots(nodes: list[fx.Node], placed: set[fx.Node]) -> dict[fx.Node, int]:
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
            waiting = free[_room(node)]
            slots[node] = waiting.pop() if waiting else count
            count += slots[node] == count
        for gone in ended[place]:
            free[_room(gone)].append(slots[gone])
    return slots


def _room(node: fx.Node) -> tuple[int, torch.dtype]:
    """Numbers in the memory of a node, and their dtype."""
    value = node.meta["val"]
    steps = zip(value.shape, value.stride(), strict=True)
    return 1 + sum((size - 1) * step for size, step in steps) if value.numel() else 0, value.dtype


class _Writer:
    """Writes nodes as lines of Python.

    Attributes:
        placed: nodes whose memory is chosen.
        bound: layers that are bound to their parameters.
        names: the global names of the code.
    """

    def __init__(self, graph: fx.Graph, placed: set[fx.Node], bound: set[fx.Node]) -> None:
        self.module, self.placed, self.bound = graph.owning_module, placed, bound
        self.names: dict[str, Any] = {}

    def memory(self, slots: dict[fx.Node, int]) -> Iterable[str]:
        """The pieces of memory, and the tensors in them."""
        made = set()
        for node, slot in slots.items():
            size, dtype = _room(node)
            value = node.meta["val"]
            if slot not in made:
                made.add(slot)
                device = self._global(value.device)
                empty, kind = self._global(torch.empty), self._global(dtype)
                yield f"slot{slot} = {empty}({size}, dtype={kind}, device={device})"
            shape, steps = [*value.shape], [*value.stride()]
            yield f"{node.name} = slot{slot}.as_strided({shape}, {steps})"

    def lines(self, nodes: list[fx.Node], kept: set[fx.Node]) -> Iterable[str]:
        """Repeated operations, each of which forgets what is needed no longer."""
        last = {}
        for place, node in enumerate(nodes):
            for used in (node, *node.all_input_nodes):
                last[used] = place
        own = {*nodes} - self.placed - self.bound - kept
        for place, node in enumerate(nodes):
            yield self.line(node)
            ended = [known.name for known, at in last.items() if at == place and known in own]
            if ended:
                yield f"del {', '.join(ended)}"

    def binding(self, node: fx.Node) -> str:
        """The assignment of a layer, bound to its parameters, to a variable of its name."""
        features, parameters, *rest = node.args
        columns = features.meta["val"].shape[2]  # type: ignore[union-attr]
        arguments = map(self.expression, [parameters, columns, *rest[1:]])
        return f"{node.name} = {self._global(node.target)}.bind({', '.join(arguments)})"

    def line(self, node: fx.Node) -> str:
        """The assignment of a node's result to a variable of its name."""
        if node.op == "get_attr":
            return f"{node.name} = {self._global(getattr(self.module, str(node.target)))}"
        arguments = [self.expression(argument) for argument in node.args]
        if node.target is operator.getitem:
            results = ".results" if node.args[0] in self.bound else ""
            return f"{node.name} = {arguments[0]}{results}[{arguments[1]}]"
        if node in self.bound:
            return f"{node.name}({', '.join([arguments[0], *arguments[2:3]])})"
        if node in self.placed and node.target in COPIES:
            return f"{node.name}.copy_({arguments[0]})"
        named = [f"{name}={self.expression(value)}" for name, value in node.kwargs.items()]
        name = _plain_name(node.target)
        if name is not None and not hasattr(torch, name):
            receiver, *arguments = arguments
            return f"{node.name} = {receiver}.{name}({', '.join([*arguments, *named])})"
        function = self._global(_function_of(node.target) if name is None else getattr(torch, name))
        if node in self.placed:
            return f"{function}({', '.join([*arguments, *named, f'out={node.name}'])})"
        return f"{node.name} = {function}({', '.join([*arguments, *named])})"

    def expression(self, value: Any) -> str:
        """An argument: nodes as variables, lists of them, and numbers."""
        if isinstance(value, fx.Node):
            return value.name
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.expression, value))}]"
        if value is None or isinstance(value, bool | int):
            return repr(value)
        return self._global(value)

    def _global(self, value: Any) -> str:
        """The name of an object."""
        for name, known in self.names.items():
            if known is value:
                return name
        name = f"_{len(self.names)}"
        self.names[name] = value
        return name


def _plain_name(target: Any) -> str | None:
    """The function of `torch`, or the method of a tensor, that calls the same operation at less cost."""
    if target is torch.ops.aten._unsafe_view.default:
        return "view"
    if not isinstance(target, torch._ops.OpOverload):
        return None
    namespace, name = target._schema.name.split("::")
    if namespace != "aten" or name.startswith("_"):
        return None
    known = hasattr(torch, name) or name in ("view", "expand") or name.endswith("_")
    return name if known else None


def _function_of(target: Any) -> Any:
    """The function that an operator in Python was made of, which costs less to call than the operator."""
    if not isinstance(target, torch._ops.OpOverload):
        return target
    made = getattr(custom_ops, "OPDEFS", {}).get(target._schema.name)
    return getattr(made, "_init_fn", target)
