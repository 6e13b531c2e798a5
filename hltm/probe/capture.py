"""Activations of any torch module by the names of its parts, and the module as a network to probe."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hltm.data import encode as encoders

Side = Literal["output", "input"]


def capture(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    layers: str | Sequence[str],
    *,
    side: Side = "output",
) -> dict[str, Tensor]:
    """The outputs, or inputs, of named parts of a module.

    The output of a linear part is pre-activation; the output of the nonlinearity behind it is
    post-activation, and so is the input of the next linear part, which is needed where the
    nonlinearity is a function and not a module. The model runs once, in evaluation mode and without
    gradients; the mode of every part is restored.

    Args:
        inputs: its argument; a tuple for several arguments.
        layers: names as in `model.named_modules()`; nothing else is kept.
        side: `output`, or `input` for the first argument of the named part.

    Returns:
        name -> a copy of the tensor, in its own shape, dtype and device. A later in-place operation
        does not change it.

    Raises:
        ValueError: a name that the model does not have (the error lists those that it has), no name,
            a part that does not run or runs more than once, a part whose output is no tensor, or a
            side that is neither output nor input.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> found = capture(model, torch.zeros(3, 8), ["0", "1"])
        >>> {name: tuple(values.shape) for name, values in found.items()}
        {'0': (3, 5), '1': (3, 5)}
        >>> found["1"].equal(found["0"].relu())
        True
    """
    if side not in ("output", "input"):
        raise ValueError(f"side must be 'output' or 'input', got {side!r}")
    wanted = [layers] if isinstance(layers, str) else list(layers)
    parts = dict(model.named_modules())
    if not wanted:
        raise ValueError(f"layers is empty; the model has {_listed(parts)}")
    for name in wanted:
        if name not in parts:
            near = difflib.get_close_matches(name, parts, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"the model has no layer {name!r}{hint}; it has {_listed(parts)}")
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        """Copy the output, or the first argument, of one part."""
        if name in found:
            raise ValueError(f"layer {name!r} runs more than once; name a part that runs once")
        values = output if side == "output" else next(iter((*arguments, *named.values())), None)
        if not isinstance(values, Tensor):
            raise ValueError(
                f"the {side} of layer {name!r} is a {type(values).__name__}, expected a tensor"
            )
        found[name] = values.detach().clone()  # a ReLU in place would overwrite it

    modes = {part: part.training for part in model.modules()}
    handles = []
    try:
        for name in wanted:
            hook = parts[name].register_forward_hook(partial(keep, name), with_kwargs=True)
            handles.append(hook)
        model.eval()
        with torch.no_grad():
            model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes.items():
            part.training = mode
    for name in wanted:
        if name not in found:
            raise ValueError(f"layer {name!r} did not run for these inputs")
    return {name: found[name] for name in wanted}


def _listed(parts: Mapping[str, nn.Module]) -> str:
    """Names of parts for an error, at most 60 of them."""
    names = [repr(name) for name in parts if name]
    return ", ".join(names[:60]) + (", …" if len(names) > 60 else "") or "none"


class TorchNetwork:
    """Any torch module as a network to probe: `activations(leaves)`.

    The units of a layer are all numbers of its output for one sample: for a convolution, every
    channel at every place.

    Args:
        model: a module that takes `(B, …)` inputs.
        layers: names of its parts, or name -> label: the number of a level, for a layer that is
            compared with that level's latents, or any string.
        encode: from leaves `(B, X)` to the model's input; bits by default.
        side: as in `capture`.

    Raises:
        ValueError: two layers under one label; in `activations`, as `capture`.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> network = TorchNetwork(model, {"0": 1, "2": 2})
        >>> {level: tuple(a.shape) for level, a in network.activations(tree.sample(7, seed=0).leaves).items()}
        {1: (7, 6), 2: (7, 3)}
        >>> table = hltm.probe.measure(network, tree, samples=500, seed=1)
        >>> len(table[table.metric == "correlation"])  # 2 latents of level 1, the root
        3
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | Mapping[str, int | str],
        *,
        encode: Callable[[Tensor], Tensor] = encoders.bits,
        side: Side = "output",
    ) -> None:
        names = [layers] if isinstance(layers, str) else layers
        self.labels: dict[str, Any] = (
            dict(names) if isinstance(names, Mapping) else {name: name for name in names}
        )
        if len(set(self.labels.values())) < len(self.labels):
            raise ValueError(f"labels of layers must be distinct, got {self.labels}")
        self.model, self.encode, self.side = model, encode, side

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter; the CPU where it has none."""
        first = next(self.model.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def activations(self, leaves: Tensor) -> dict[Any, Tensor]:
        """Label -> `(B, U)` for `(B, X)` leaves, or `(S, B, U)` for `(S, B, X)`."""
        if leaves.ndim == 3:  # one model on the leaves of S trees, tree by tree
            members = [self.activations(own) for own in leaves]
            return {label: torch.stack([m[label] for m in members]) for label in members[0]}
        found = capture(self.model, self.encode(leaves), list(self.labels), side=self.side)
        return {label: found[name].reshape(len(leaves), -1) for name, label in self.labels.items()}
