"""Recorded operations as generated Python code, for calls without autograd.

The shapes of a recording are the same in every step, and its first inputs are always the same tensors, which
are changed in place only. So the memory of what is computed on the way is chosen once, by how long each
result is needed. Then views, half of all operations, are made once, too, and so is what is computed from no
input at all. Layers whose parameters stay where they are keep memory of their own. Operations
that the interpreter knows become rows of its tables, each of which is run by one call; the others
are called between them. Where other inputs, results that outlive the call, and results of called operations
lie is new in every call, which the tables are told.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx
from torch._library import custom_ops

from dualnets.training.recorded.plan import Plan, is_several, make_plan, memory_slots, room_of
from dualnets.training.recorded.rows import Rows
from dualnets.training.recorded.simplified import base_of

aten = torch.ops.aten


class OtherInputsError(RuntimeError):
    """An input of another shape, dtype or device than was recorded; nothing was done."""


class Repeated(NamedTuple):
    """A recording as code.

    Attributes:
        bind: (fixed inputs) -> a function of the other inputs that returns a tuple of the results, or
            raises `OtherInputsError`. It has memory of its own, so that it must not run twice at once.
        code: the source.
    """

    bind: Callable[..., Callable[..., tuple[Tensor, ...]]]
    code: str


def repeated(
    graph: fx.Graph, fixed: int, lent: range = range(0), *, alone: bool = True
) -> Repeated:
    """The generated function of a graph of operations.

    Args:
        graph: of operations and linked layers.
        fixed: how many of the first inputs stay the same.
        lent: which results the next call may overwrite; the others are new tensors in every call.
        alone: whether one thread computes all, so that layers and losses can be rows, too.

    Raises:
        RuntimeError: the shape of a result depends on values.
    """
    (output,) = (node for node in graph.nodes if node.op == "output")
    if any(map(_has_shape_of_values, graph.nodes)):
        raise RuntimeError("shapes that depend on values")
    _copy_parts(graph, output, lent)
    nodes = [*graph.nodes]
    kept = [own for place, own in enumerate(output.args[0]) if place not in lent]
    returned = {base_of(node) for node in kept if isinstance(node, fx.Node)}
    plan = make_plan(nodes, fixed, returned, alone)
    writer = _Writer(graph, plan)
    inputs = [node for node in nodes if node.op == "placeholder"]
    results = ", ".join(map(writer.result, output.args[0]))
    lines = [
        f"def bind({', '.join(node.name for node in inputs[:fixed])}):",
        *(f"    {line}" for line in writer.memory(nodes)),
        *(f"    {line}" for line in writer.once(nodes)),
        *(f"    {line}" for line in writer.tables()),
        f"    def _repeat({', '.join(node.name for node in inputs[fixed:])}):",
        *(f"        {line}" for line in writer.lines(inputs[fixed:], {*output.all_input_nodes})),
        f"        return ({results}{',' * (len(output.args[0]) == 1)})",
        "    return _repeat",
    ]
    code = "\n".join(lines)
    names = writer.names
    exec(compile(code, "<recorded operations>", "exec"), names)
    return Repeated(names["bind"], code)


def _has_shape_of_values(node: fx.Node) -> bool:
    """Whether other values of the inputs may give a result of another shape."""
    if node.target is aten.index.Tensor:
        _, *places = node.all_input_nodes
        return any(own.meta["val"].dtype in (torch.bool, torch.uint8) for own in places)
    return torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ())


def _copy_parts(graph: fx.Graph, output: fx.Node, lent: range) -> None:
    """Return copies of what is one of several results, so that these may lie in chosen memory."""
    results = [*output.args[0]]  # type: ignore[misc]
    for place, own in enumerate(results):
        if place in lent or not isinstance(own, fx.Node) or own.op != "call_function":
            continue
        if is_several(base_of(own)):
            with graph.inserting_before(output):
                results[place] = graph.call_function(aten.clone.default, (own,))
            results[place].meta["val"] = own.meta["val"].clone()
    output.args = (results,)


def _as_recorded(tensor: Tensor, steps: Any) -> Tensor:
    """A tensor with the strides that rows take for granted."""
    return torch.empty_strided(tensor.shape, steps, dtype=tensor.dtype).copy_(tensor)


class _Writer:
    """Writes operations as lines of Python.

    Attributes:
        plan: what becomes of them.
        names: the global names of the code.
    """

    def __init__(self, graph: fx.Graph, plan: Plan) -> None:
        self.module, self.plan = graph.owning_module, plan
        self.names: dict[str, Any] = {}
        self.needed = {*graph.output_node().all_input_nodes}  # by more than rows
        for node in reversed(plan.every):
            if node not in plan.rows and (node not in plan.views or node in self.needed):
                self.needed |= {node, *node.all_input_nodes}
        self.runs: list[list[fx.Node] | fx.Node] = []  # operations by themselves, and rows together
        for node in plan.every:
            if node not in plan.rows:
                if node in self.needed:
                    self.runs.append(node)
            elif self.runs and isinstance(self.runs[-1], list):
                self.runs[-1].append(node)
            else:
                self.runs.append([node])

    def memory(self, nodes: list[fx.Node]) -> Iterable[str]:
        """The pieces of memory, and the tensors in them."""
        made = set()
        single = {node for node in self.plan.placed if not is_several(node)}
        for node, slot in memory_slots([*self.plan.every, nodes[-1]], single).items():
            size, dtype = room_of(node)
            value = node.meta["val"]
            if slot not in made:
                made.add(slot)
                yield f"_slot{slot} = {self._new((size,), (1,), dtype, value.device)}"
            yield f"{node.name} = _slot{slot}.as_strided({[*value.shape]}, {[*value.stride()]})"
        for node in self.plan.placed - single:
            given = ["None" if own is None else self._like(own) for own in node.meta["val"]]
            yield f"{node.name} = [{', '.join(given)}]"
        for node in self.plan.moving:
            yield f"{node.name} = {self._like(node.meta['val'])}"

    def once(self, nodes: list[fx.Node]) -> Iterable[str]:
        """What is done once."""
        for node in nodes:
            if node in self.plan.bound:
                yield self.binding(node)
            elif node in self.plan.once or node in self.plan.seen:
                yield self.line(node)

    def tables(self) -> Iterable[str]:
        """The tables of rows."""
        moving = ", ".join(node.name for node in self.plan.moving)
        yield f"_bases = {self._global(np.zeros)}({len(self.plan.moving)}, 'int64')"
        for number, run in enumerate(self.runs):
            if isinstance(run, list):
                table, dtype = self._global(Rows), self._global(self.plan.dtype)
                yield f"_table = {table}({dtype}, [{moving}])"
                for node in run:
                    options = [
                        f"{name}={self.expression(own)}" for name, own in node.kwargs.items()
                    ]
                    given = ", ".join(
                        [
                            self._global(node.target),
                            node.name,
                            *map(self.expression, node.args),
                            *options,
                        ]
                    )
                    yield f"_table.add({given})"
                yield f"_run{number} = _table.bound(_bases)"

    def lines(self, inputs: list[fx.Node], kept: set[fx.Node]) -> Iterable[str]:
        """Repeated operations, each of which forgets what is needed no longer."""
        plan = self.plan
        last: dict[fx.Node, int] = {}
        for place, run in enumerate(self.runs):
            for node in run if isinstance(run, list) else [run]:
                for used in (node, *node.all_input_nodes):
                    last[used] = last[base_of(used)] = place
        own = {*plan.every} - plan.placed - plan.bound - kept - plan.rows
        for node in inputs:
            value, name = node.meta["val"], node.name
            form = self._global((value.shape, value.dtype, value.device))
            yield f"if ({name}.shape, {name}.dtype, {name}.device) != {form}:"
            yield f"    raise {self._global(OtherInputsError)}({name!r})"
        for node in inputs:
            if node in plan.moving:
                yield from self.moved(node)
        for node in plan.rows & {*plan.moving}:
            yield f"{node.name} = {self._like(node.meta['val'])}"
            yield from self.moved(node, checked=True)
        for place, run in enumerate(self.runs):
            if isinstance(run, list):
                yield f"_run{place}()"
            else:
                yield self.line(run)
                if run in plan.moving:
                    yield from self.moved(run)
            ended = [
                known.name
                for known, at in last.items()
                if at == place and known in own & self.needed
            ]
            if ended:
                yield f"del {', '.join(ended)}"

    def moved(self, node: fx.Node, checked: bool = False) -> Iterable[str]:
        """Tell the tables where a tensor lies."""
        name, value = node.name, node.meta["val"]
        if not checked:
            steps = self._global(value.stride())
            yield f"if {name}.stride() != {steps}:"
            if node in self.plan.changed:
                yield f"    raise {self._global(OtherInputsError)}({name!r})"
            else:
                yield f"    {name} = {self._global(_as_recorded)}({name}, {steps})"
        yield f"_bases[{self.plan.moving[node]}] = {name}.data_ptr()"

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
            results = ".results" if node.args[0] in self.plan.bound else ""
            return f"{node.name} = {arguments[0]}{results}[{arguments[1]}]"
        if node in self.plan.bound:
            return f"{node.name}({', '.join([arguments[0], *arguments[2:3]])})"
        named = [f"{name}={self.expression(value)}" for name, value in node.kwargs.items()]
        name = _plain_name(node.target)
        if name is not None and not hasattr(torch, name):
            receiver, *arguments = arguments
            return f"{node.name} = {receiver}.{name}({', '.join([*arguments, *named])})"
        function = self._global(_function_of(node.target) if name is None else getattr(torch, name))
        return f"{node.name} = {function}({', '.join([*arguments, *named])})"

    def result(self, value: Any) -> str:
        """A result, of constants a copy."""
        constant = isinstance(value, fx.Node) and base_of(value) in self.plan.once
        return f"{self.expression(value)}{'.clone()' * constant}"

    def expression(self, value: Any) -> str:
        """An argument: nodes as variables, lists of them, and numbers."""
        if isinstance(value, fx.Node):
            return value.name
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.expression, value))}]"
        if value is None or isinstance(value, bool | int):
            return repr(value)
        return self._global(value)

    def _like(self, value: Tensor) -> str:
        """A new tensor of the shape, strides, dtype and device of another one."""
        return self._new(value.shape, value.stride(), value.dtype, value.device)

    def _new(self, shape: Any, steps: Any, dtype: torch.dtype, device: torch.device) -> str:
        empty, kind = self._global(torch.empty_strided), self._global(dtype)
        where = "" if device.type == "cpu" else f", device={self._global(device)}"
        return f"{empty}({tuple(shape)}, {tuple(steps)}, dtype={kind}{where})"

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
