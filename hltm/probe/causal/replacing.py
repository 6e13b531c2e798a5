"""Running a network with some of its units replaced: the one operation behind patching and ablation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hltm._results import by_content
from hltm.probe.sources.capture import find_parts, run_hooked
from hltm.probe.sources.containers import Label
from hltm.probe.sources.layer_axes import LayerAxes
from hltm.probe.sources.reading import Side
from hltm.probe.sources.torch_network import TorchNetwork
from hltm.probe.sources.undisturbed import kept_state


@by_content
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

    Example:
        >>> class Sum:  # of two hidden units
        ...     def activations(self, leaves):
        ...         return {"hidden": leaves[..., :2].float()}
        ...     def run_with(self, leaves, replace):
        ...         hidden = self.activations(leaves)["hidden"]
        ...         return replaced(hidden, replace.get("hidden")).sum(-1, keepdim=True)
        >>> first = Replacement(torch.tensor([True, False]), torch.tensor([5.0, 0.0]))
        >>> Sum().run_with(torch.tensor([[1, 1, 0]]), {"hidden": first})
        tensor([[6.]])
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

    Example:
        >>> network = TorchNetwork(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), ["0"])
        >>> zero = Replacement(torch.ones(3, dtype=torch.bool), torch.zeros(3))
        >>> run_with(network, torch.ones(2, 4, dtype=torch.int64), {"0": zero})[0]
        tensor([0., 0., 0.])
    """
    if isinstance(network, TorchNetwork):
        if leaves.ndim == 3:  # one model on the leaves of S trees, tree by tree
            parts = [
                run_with(network, own, {label: _member(r, s) for label, r in replace.items()})
                for s, own in enumerate(leaves)
            ]
            return torch.stack(parts)
        check_replaceable(network, list(replace))
        names = {label: name for name, label in network.labels.items()}
        axes = network.axes(leaves)
        with kept_state(network.model):
            output = run_replaced(
                network.model, network.inputs(leaves), {names[k]: r for k, r in replace.items()},
                side=network.side, axes={names[k]: axes[k] for k in replace}, rows=len(leaves),
            )  # fmt: skip
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


def check_replaceable(network: Any, layers: Sequence[Label] | None = None) -> None:
    """Raise where a `TorchNetwork` reads less of its layers than what would be replaced.

    Args:
        layers: labels; None for all.

    Raises:
        ValueError: a layer that is read with select, call, pool or positions.
    """
    if not isinstance(network, TorchNetwork) or (layers is not None and not layers):
        return
    if network.select is not None or network.call is not None:
        raise ValueError("units of layers that are read with select or call cannot be replaced")
    for label in network.reduced:
        if layers is None or label in layers:
            raise ValueError(
                f"units of layer {label!r} cannot be replaced, since it is read with pool or positions: "
                "leave these out, then its units are all numbers of a row, and units={node: range(start, "
                "stop)} chooses, for example, the channels of one position"
            )


def _member(replacement: Replacement, s: int) -> Replacement:
    """What a replacement of S members, with S or 1 in front, is for one of them."""
    units, values = (part[s if len(part) > 1 else 0] for part in replacement)
    return Replacement(units, values)


def run_replaced(
    model: nn.Module,
    inputs: Any,
    replace: Mapping[str, Replacement],
    *,
    side: Side = "output",
    axes: Mapping[str, LayerAxes] | None = None,
    rows: int | None = None,
) -> Any:
    """The output of a torch module where some units of named parts are replaced.

    It runs in evaluation mode and without gradients; the mode of every part is restored. The units of
    a part are all numbers of its output for one sample, in order, as in `TorchNetwork`.

    Args:
        inputs: its argument; a tuple for several arguments, a mapping for named ones.
        replace: name of a part, as in `capture`, -> units and values, which broadcast to `(B, U)`.
        side: whether the `output` or the `input` (the first argument) of the parts is replaced.
        axes: name -> where the rows are; on the first axis by default.
        rows: their number B, with `axes`.

    Raises:
        ValueError: a name that the model does not have, a part that does not run or runs more than
            once, whose output (or first argument) is no tensor, or has another number of units.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
        >>> off = Replacement(torch.tensor([True, True, True]), torch.zeros(1, 3))
        >>> run_replaced(model, torch.ones(2, 2), {"1": off}).flatten().tolist()
        [0.0, 0.0]
    """
    parts = find_parts(model, list(replace)) if replace else {}
    unknown = [name for name in replace if name not in parts]
    if unknown:
        raise ValueError(f"layer {unknown[0]!r} is a pattern, expected the name of one part")
    ran: set[str] = set()

    def changed(name: str, values: Any) -> Tensor:
        if name in ran:
            raise ValueError(f"layer {name!r} runs more than once; name a part that runs once")
        ran.add(name)
        if not isinstance(values, Tensor):
            raise ValueError(
                f"the {side} of layer {name!r} is a {type(values).__name__}, expected a tensor"
            )
        own = (axes or {}).get(name, LayerAxes(name))
        flat = own(values, values.shape[0] if axes is None or rows is None else rows)
        units = replace[name].units.shape[-1]
        if flat.shape[-1] != units:
            raise ValueError(
                f"layer {name!r} has {flat.shape[-1]} units, the replacement {units}: expected all "
                "numbers of a row, at every position"
            )
        return own.back(replaced(flat, replace[name]), values.shape)

    def hook(name: str, arguments: Any, named: Any, output: Any) -> Any:
        path = parts[name].path
        if side == "output":
            return _put(output, path, partial(changed, name))
        if arguments:
            return (_put(arguments[0], path, partial(changed, name)), *arguments[1:]), named
        first = next(iter(named), None)
        if first is None:
            raise ValueError(f"layer {name!r} runs without arguments")
        return arguments, {**named, first: _put(named[first], path, partial(changed, name))}

    hooks = {name: (parts[name].name, partial(hook, name)) for name in replace}
    output = run_hooked(model, inputs, hooks, side)
    for name in replace:
        if name not in ran:
            raise ValueError(f"layer {name!r} did not run for these inputs")
    return output


def _put(values: Any, path: Sequence[int | str], change: Callable[[Any], Tensor]) -> Any:
    """The values with the item at a path changed: of tuples, lists and mappings."""
    if not path:
        return change(values)
    step, rest = path[0], path[1:]
    if isinstance(values, Mapping):
        return type(values)({**values, step: _put(values[step], rest, change)})  # type: ignore[call-arg]
    if isinstance(values, (tuple, list)) and isinstance(step, int):
        items = [
            _put(x, rest, change) if i == step % len(values) else x for i, x in enumerate(values)
        ]
        return type(values)(*items) if hasattr(values, "_fields") else type(values)(items)
    raise ValueError(f"item {step!r} of a {type(values).__name__} cannot be replaced")
