"""Recorded operations as generated Python code, for calls without autograd.

The first inputs of a recording are always the same tensors, which are
changed in place only: views of them, and what is computed from no input at all, are made once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from dualnets.training.simplified import base_of, changes, is_pure, is_view


class Repeated(NamedTuple):
    """A recording in two parts.

    Attributes:
        prepare: (fixed inputs) -> a tuple of tensors that stay valid.
        repeat: (all inputs, those tensors) -> a tuple of the results.
        code: the source of both.
    """

    prepare: Callable[..., tuple[Tensor, ...]]
    repeat: Callable[..., tuple[Tensor, ...]]
    code: str


def repeated(graph: fx.Graph, fixed: int) -> Repeated:
    """The generated functions of a graph of operations, the first `fixed` of whose inputs stay the same."""
    nodes = [*graph.nodes]
    inputs = [node for node in nodes if node.op == "placeholder"]
    (output,) = (node for node in nodes if node.op == "output")
    once, every = _divide(nodes, {*inputs[:fixed]})
    writer = _Writer(graph)
    kept = [node for node in once if any(user in every or user is output for user in node.users)]
    results = [writer.expression(result) for result in output.args[0]]
    lines = [
        *_function("prepare", inputs[:fixed], once, [node.name for node in kept], writer),
        *_function("repeat", [*inputs, *kept], every, results, writer),
    ]
    code = "\n".join(lines)
    names = writer.names
    exec(compile(code, "<recorded operations>", "exec"), names)
    return Repeated(names["prepare"], names["repeat"], code)


def _divide(nodes: list[fx.Node], fixed: set[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """The operations that are done once, and those that are repeated, in their order."""
    changed = {base_of(node) for node in nodes if changes(node)}
    views, constants = {*fixed}, set[fx.Node]()
    once, every = [], []
    for node in nodes:
        if node.op in ("placeholder", "output"):
            continue
        sources = {*node.all_input_nodes}
        if sources <= constants and base_of(node) not in changed and is_pure(node):
            constants.add(node)
        elif sources <= views | constants and is_view(node) and not changes(node):
            views.add(node)
        else:
            every.append(node)
            continue
        once.append(node)
    return once, every


class _Writer:
    """Writes nodes as lines of Python.

    Attributes:
        names: the global names of the code.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.module = graph.owning_module
        self.names: dict[str, Any] = {}

    def line(self, node: fx.Node) -> str:
        """The assignment of a node's result to a variable of its name."""
        if node.op == "get_attr":
            return f"{node.name} = {self._global(getattr(self.module, str(node.target)))}"
        arguments = [self.expression(argument) for argument in node.args]
        if node.target is operator.getitem:
            return f"{node.name} = {arguments[0]}[{arguments[1]}]"
        named = [f"{name}={self.expression(value)}" for name, value in node.kwargs.items()]
        name = _plain_name(node.target)
        if name is not None and not hasattr(torch, name):
            receiver, *arguments = arguments
            return f"{node.name} = {receiver}.{name}({', '.join([*arguments, *named])})"
        function = self._global(node.target if name is None else getattr(torch, name))
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


def _function(
    name: str, arguments: list[fx.Node], nodes: list[fx.Node], results: list[str], writer: _Writer
) -> list[str]:
    """The source of a function, which forgets every result after its last use."""
    last = {}
    for place, node in enumerate(nodes):
        last[node] = place
        for source in node.all_input_nodes:
            last[source] = place
    own = {*nodes}
    lines = [f"def {name}({', '.join(node.name for node in arguments)}):"]
    for place, node in enumerate(nodes):
        lines.append(f"    {writer.line(node)}")
        ended = [n.name for n, at in last.items() if at == place and n in own]
        ended = [n for n in ended if n not in results]
        lines += [f"    del {', '.join(ended)}"] * bool(ended)
    return [*lines, f"    return ({', '.join(results)}{',' * (len(results) == 1)})"]
