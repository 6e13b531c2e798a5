"""Running a network with some of its units replaced: the one operation behind patching and ablation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hltm.probe.capture import Side, TorchNetwork


class Replacement(NamedTuple):
    """The units of one layer that are replaced, and by what.

    Attributes:
        units: bool, broadcasts against the layer's activations: True for units that are replaced.
        values: broadcasts against the layer's activations: what replaces them.
    """

    units: Tensor
    values: Tensor


class PatchableNetwork(Protocol):
    """A network whose units can be replaced.

    `activations(leaves)` returns layer -> activations, `(…, B, U)` or `(…, B, V, U)`.
    `run_with(leaves, replace)` returns the network's output, as in evaluation, where in the layers that
    `replace` names some units of these activations have other values, and everything above reads those.
    """

    def activations(self, leaves: Tensor) -> dict[Any, Tensor]: ...

    def run_with(self, leaves: Tensor, replace: Mapping[Any, Replacement]) -> Tensor: ...


def replaced(activations: Tensor, replacement: Replacement | None) -> Tensor:
    """The activations of a layer with some units replaced; None replaces nothing.

    Example:
        >>> replaced(torch.zeros(2, 3), Replacement(torch.tensor([True, False, True]), torch.ones(2, 3)))
        tensor([[1., 0., 1.],
                [1., 0., 1.]])
    """
    if replacement is None:
        return activations
    values = replacement.values.to(activations)
    return torch.where(replacement.units.to(activations.device), values, activations)


def run_with(network: Any, leaves: Tensor, replace: Mapping[Any, Replacement]) -> Tensor:
    """The output of a network with some units replaced: its own `run_with`, or hooks of a torch module.

    Args:
        network: a `PatchableNetwork`, or a `TorchNetwork`.
        leaves: `(B, X)` or `(S, B, X)` states.
        replace: layer -> its replacement, in the shape of `network.activations`.

    Raises:
        TypeError: a network of another kind, or an output that is no tensor.
        ValueError: as `run_replaced`.
    """
    if isinstance(network, TorchNetwork):
        if leaves.ndim == 3:  # one model on the leaves of S trees, tree by tree
            parts = [
                run_with(network, own, {label: _member(r, s) for label, r in replace.items()})
                for s, own in enumerate(leaves)
            ]
            return torch.stack(parts)
        names = {label: name for name, label in network.labels.items()}
        named = {names[label]: replacement for label, replacement in replace.items()}
        output = run_replaced(network.model, network.encode(leaves), named, side=network.side)
    elif hasattr(network, "run_with"):
        output = network.run_with(leaves, replace)
    else:
        raise TypeError(
            f"units of a {type(network).__name__} cannot be replaced: give a TorchNetwork, or a network "
            "with run_with(leaves, replace)"
        )
    if not isinstance(output, Tensor):
        raise TypeError(f"the network returns a {type(output).__name__}, expected a tensor")
    return output


def _member(replacement: Replacement, s: int) -> Replacement:
    """What a replacement of S members, with S or 1 in front, is for one of them."""
    units, values = (part[s if len(part) > 1 else 0] for part in replacement)
    return Replacement(units, values)


def run_replaced(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    replace: Mapping[str, Replacement],
    *,
    side: Side = "output",
) -> Any:
    """The output of a torch module where some units of named parts are replaced.

    It runs in evaluation mode and without gradients; the mode of every part is restored. The units of
    a part are all numbers of its output for one sample, in order, as in `TorchNetwork`.

    Args:
        inputs: its argument; a tuple for several arguments.
        replace: name as in `model.named_modules()` -> units and values, which broadcast to `(B, U)`.
        side: whether the `output` or the `input` (the first argument) of the parts is replaced.

    Raises:
        ValueError: a name that the model does not have, a part that does not run or runs more than
            once, whose output (or first argument) is no tensor, or has another number of units.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
        >>> off = Replacement(torch.tensor([True, True, True]), torch.zeros(1, 3))
        >>> run_replaced(model, torch.ones(2, 2), {"1": off}).flatten().tolist()
        [0.0, 0.0]
    """
    parts = dict(model.named_modules())
    for name in replace:
        if name not in parts:
            known = ", ".join(repr(part) for part in parts if part)[:200]
            raise ValueError(f"the model has no layer {name!r}; it has {known}")
    ran: set[str] = set()

    def changed(name: str, values: Any) -> Tensor:
        if name in ran:
            raise ValueError(f"layer {name!r} runs more than once; name a part that runs once")
        ran.add(name)
        if not isinstance(values, Tensor):
            raise ValueError(
                f"the {side} of layer {name!r} is a {type(values).__name__}, expected a tensor"
            )
        flat, units = values.reshape(len(values), -1), replace[name].units.shape[-1]
        if flat.shape[1] != units:
            raise ValueError(f"layer {name!r} has {flat.shape[1]} units, the replacement {units}")
        return replaced(flat, replace[name]).reshape(values.shape)

    def of_output(name: str, module: nn.Module, arguments: Any, output: Any) -> Tensor:
        return changed(name, output)

    def of_input(name: str, module: nn.Module, arguments: Any, named: Any) -> Any:
        if arguments:
            return (changed(name, arguments[0]), *arguments[1:]), named
        first = next(iter(named), None)
        if first is None:
            raise ValueError(f"layer {name!r} runs without arguments")
        return arguments, {**named, first: changed(name, named[first])}

    handles: list[Any] = []
    modes = {part: part.training for part in model.modules()}
    try:
        for name in replace:
            if side == "output":
                handles.append(parts[name].register_forward_hook(partial(of_output, name)))
            else:
                hook: Callable[..., Any] = partial(of_input, name)
                handles.append(parts[name].register_forward_pre_hook(hook, with_kwargs=True))
        model.eval()
        with torch.no_grad():
            output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes.items():
            part.training = mode
    for name in replace:
        if name not in ran:
            raise ValueError(f"layer {name!r} did not run for these inputs")
    return output
