"""Any torch module as an ensemble: stacked copies in one batched pass, with named layers for the levels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dualnets.networks.network import Network, leaf_states, network_members
from dualnets.networks.stacked_module import build_member, stack_members
from hltm._devices import check_device
from hltm.probe.causal.replacing import Replacement, run_replaced
from hltm.probe.sources.capture import find_parts, per_layer, read_parts
from hltm.probe.sources.layer_axes import (
    FEW,
    MANY,
    LayerAxes,
    Pool,
    Positions,
    check_axis,
    check_reduction,
    find_axes,
)
from hltm.probe.sources.reading import Selector, Side
from hltm.probe.sources.undisturbed import kept_state
from hltm.sampling.philox import check_seed
from hltm.tree import LatentTree


class TorchEnsemble(Network):
    """S copies of a torch module, each with parameters and buffers of its own, in one batched pass.

    `model` holds the parameters and buffers of all members under the module's own names, with S in
    front (a parameter that is a single number is `(S, 1)`); `torch.func` runs it in one batched pass.
    BatchNorm's running statistics are per member, too. A parameter whose `requires_grad` is False
    becomes a buffer.

    Args:
        tree: one tree or S trees; S trees make S networks with the trees' addresses.
        build: returns one untrained module on the CPU, which maps `(B, …)` inputs to `(B, U)`.
            It is called once per member, with torch's global generator seeded by the member's
            address (and restored afterwards).
        activations: level -> the name, as in `model.named_modules()`, of the layer that is compared
            with that level's latents, or of one item of what it returns, `lstm[0]`; all numbers of a
            sample are its units. The axis of the samples need not be the first one.
        side: whether the activations of a named layer are its `output` (pre-activations of a linear
            layer) or its `input`.
        select, call, batch_axis, unit_axis, pool, positions: for all layers or layer -> which item, run,
            axes and positions are read, as in `hltm.probe.TorchNetwork`. With `positions` every latent
            of the level has its own block of units.
        encode: (`(B, X)` states) -> the module's inputs, row by row, e.g. images; by default the
            features that all networks have: bits, or one-hot numbers for leaves of more than two
            states.
        members: for one tree only: this many networks on it, each on rows of its own.
        seed: of the initial weights.
        batch_dependent: whether a sample's output in training depends on the other samples of its
            batch; by default, whether the module has one of torch's BatchNorms. A module with another
            such normalisation needs True.
        dtype, device: of the weights.

    Raises:
        ValueError: no layer or one that the module does not have, `members` beside several trees,
            or a module that draws random numbers when it runs (dropout), differs between members, has
            nothing to train, does not return `(B, U)`, or that `torch.func.vmap` cannot run (such as a
            BatchNorm with momentum None, which counts in Python).

    Example:
        >>> import hltm
        >>> trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
        >>> def build():
        ...     return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
        >>> network = TorchEnsemble(trees, build, activations={1: "1", 2: "3"}, seed=0)
        >>> leaves = trees.sample(7, seed=1).leaves
        >>> network(leaves).shape, network.model[0].weight.shape
        (torch.Size([3, 7, 2]), torch.Size([3, 6, 4]))
        >>> {level: tuple(values.shape) for level, values in network.activations(leaves).items()}
        {1: (3, 7, 6), 2: (3, 7, 2)}
    """

    def __init__(
        self,
        tree: LatentTree,
        build: Callable[[], nn.Module],
        *,
        activations: Mapping[int, str],
        side: Side = "output",
        encode: Callable[[Tensor], Tensor] | None = None,
        members: int | None = None,
        seed: int,
        batch_dependent: bool | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        select: Selector | Mapping[str, Selector] | None = None,
        call: int | Mapping[str, int] | None = None,
        batch_axis: int | Mapping[str, int] | None = None,
        unit_axis: int | Mapping[str, int] | None = None,
        pool: Pool | Mapping[str, Pool] | None = None,
        positions: Positions | Mapping[str, Positions] | None = None,
    ) -> None:
        addresses, stacked = network_members(tree, members)
        super().__init__(states=leaf_states(tree), members=addresses, stacked=stacked)
        levels = [level for level in activations if not isinstance(level, int) or level < 1]
        if levels or not activations:
            raise ValueError(f"activations need levels 1, 2, … and layers, got {activations!r}")
        if max(activations) > tree.topology.depth:
            raise ValueError(
                f"the tree has levels 1..{tree.topology.depth}, got activations of {max(activations)}"
            )
        self.layers = dict(sorted(activations.items()))
        self.side, self.encode = side, encode
        models = [build_member(build, check_seed(seed), member) for member in self.members]
        self._numbers = {name for name, p in models[0].named_parameters() if p.ndim == 0}
        self.model = stack_members(models)
        if batch_dependent is None:
            norms = nn.modules.batchnorm._BatchNorm
            batch_dependent = any(isinstance(part, norms) for part in self.model.modules())
        self._batch_dependent = batch_dependent
        self.to(check_device(device, dtype), dtype)
        self._reading = {"select": select, "call": call}
        self._set = {
            "select": select, "call": call, "batch_axis": batch_axis, "unit_axis": unit_axis,
            "pool": pool, "positions": positions,
        }  # fmt: skip
        self._axes: dict[str, LayerAxes] = {}
        self._try()

    @property
    def depth(self) -> int:
        """The highest level that has a named layer."""
        return max(self.layers)

    @property
    def batch_dependent(self) -> bool:
        """Whether a sample's output in training depends on the other samples of its batch."""
        return self._batch_dependent

    def extra_repr(self) -> str:
        encode = _named(self.encode)
        return (
            f"members={len(self.members)}, inputs={self.inputs}, layers={self.layers}, "
            f"side={self.side!r}, encode={encode}"
            + "".join(f", {name}={_named(x)}" for name, x in self._set.items() if x is not None)
        )

    def forward(self, leaves: Tensor) -> Tensor:
        """The output of every network, in the mode (`train()`, `eval()`) it is in.

        Args:
            leaves: `(S, B, X)` states, or `(B, X)` without the S axis.

        Returns:
            `(S, B, U)` or `(B, U)`.

        Raises:
            ValueError: leaves of the wrong shape.
        """
        output = vmap(self._member)(self._stacks(), self._inputs(leaves))
        return output if self.stacked or not isinstance(output, Tensor) else output[0]

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Activations of the named layers, in evaluation mode and without gradients.

        Args:
            leaves: as for `forward`.

        Returns:
            Level -> `(S, B, U)`, or `(S, B, V, U)` with `positions`; no S where the network has none.
            Buffers stay what they were.

        Raises:
            ValueError: a layer that does not run, runs twice, or returns no tensor.
        """
        inputs = self._inputs(leaves)
        with kept_state(self.model):
            shown = vmap(self._arranged)(self._stacks(), inputs)
        found = {level: shown[name] for level, name in self.layers.items()}
        return found if self.stacked else {level: values[0] for level, values in found.items()}

    @torch.no_grad()
    def run_with(self, leaves: Tensor, replace: Mapping[int, Replacement]) -> Tensor:
        """The output in evaluation where some units are replaced; see `hltm.probe.causal.replacing`.

        Args:
            leaves: as for `forward`.
            replace: level -> units and values, which broadcast against its `activations`.

        Returns:
            As `forward`.

        Raises:
            ValueError: as `hltm.probe.causal.replacing.run_replaced`, or layers that are read with
                `select` or `call`.
        """
        if replace and any(part is not None for part in self._reading.values()):
            raise ValueError("units of layers that are read with select or call cannot be replaced")
        inputs = self._inputs(leaves)
        rows = inputs.shape[:2] if self.stacked else inputs.shape[1:2]
        given = {}
        for level, replacement in replace.items():
            parts = [part.broadcast_to(*rows, part.shape[-1]) for part in replacement]
            parts = parts if self.stacked else [part[None] for part in parts]
            given[self.layers[level]] = Replacement(*(part.to(inputs.device) for part in parts))
        with kept_state(self.model):
            output = vmap(self._changed)(self._stacks(), inputs, given)
        return output if self.stacked else output[0]

    def _changed(
        self, own: dict[str, Tensor], inputs: Tensor, given: dict[str, Replacement]
    ) -> Tensor:
        """One member's output, with units of some layers replaced."""
        changer = _Changer(self.model, given, self.side, self._axes)
        named = {f"model.{name}": tensor for name, tensor in self._shaped(own).items()}
        found: Tensor = functional_call(changer, named, (inputs,))
        return found

    def _member(self, own: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """One member's output, from its parameters and buffers."""
        found: Tensor = functional_call(self.model, self._shaped(own), (inputs,))
        return found

    def _arranged(self, own: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        """One member's named layers, `(B, U)` or `(B, V, U)` each."""
        shown = self._captured(own, inputs)
        return {name: self._axes[name](values, len(inputs)) for name, values in shown.items()}

    def _captured(self, own: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        """One member's named layers, each in its own shape."""
        reader = _Reader(self.model, list(self.layers.values()), self.side, self._reading)
        named = {f"model.{name}": tensor for name, tensor in self._shaped(own).items()}
        found: dict[str, Tensor] = functional_call(reader, named, (inputs,))
        return found

    def _shaped(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """One member's parameters and buffers in the module's own shapes."""
        return own | {name: own[name].reshape(()) for name in self._numbers}

    def _stacks(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, `(S, …)` each."""
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    def _inputs(self, leaves: Tensor) -> Tensor:
        """`(S, B, …)` inputs of the modules."""
        given = self._checked(leaves)
        if self.encode is None:
            return self._encoded(given.transpose(1, 2)).transpose(1, 2)
        made = self.encode(given.flatten(0, 1).to(self.device))
        made = made.unflatten(0, given.shape[:2])
        return made.to(self.dtype) if made.is_floating_point() else made

    def _try(self) -> None:
        """Run three rows in training and for the layers, so that a module that cannot work is refused now."""
        twin = copy.deepcopy(self)  # whose running statistics may change
        leaves = torch.zeros(len(self.members), 3, self.inputs, dtype=torch.uint8)
        leaves = leaves if self.stacked else leaves[0]
        try:
            with torch.no_grad():
                output = twin(leaves)
        except Exception as error:  # of the module or its encoder
            if "randomness" in str(error):
                raise ValueError(
                    "the module draws random numbers when it runs (dropout?), which would not be reproducible"
                ) from error
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ValueError(f"the module does not run as an ensemble: {reason:.180}") from error
        if not isinstance(output, Tensor):
            raise ValueError(
                f"the module returns a {type(output).__name__}, expected a tensor (B, U)"
            )
        if output.shape[:-1] != leaves.shape[:-1]:
            given = tuple(output[0].shape if self.stacked else output.shape)
            raise ValueError(f"the module returns {given} for 3 samples, expected (3, U)")
        self._axes = twin._found_axes()

    def _found_axes(self) -> dict[str, LayerAxes]:
        """The axes of the named layers, from a trial of six rows and one of two.

        Raises:
            ValueError: also a name that is a pattern.
        """
        names = list(self.layers.values())
        found = find_parts(self.model, names)
        if set(found) != set(names):
            raise ValueError(f"activations must name one layer for each level, got {self.layers}")
        options = {name: per_layer(value, found, name) for name, value in self._set.items()}
        rows = torch.zeros(len(self.members), MANY, self.inputs, dtype=torch.uint8)
        places = torch.arange(MANY)
        rows[:, places, places % self.inputs] = 1  # distinct rows
        rows = rows if self.stacked else rows[0]
        trials = [
            vmap(self._captured)(self._stacks(), self._inputs(part))
            for part in (rows, rows[..., 1 : 1 + FEW, :])
        ]
        parts = dict(self.model.named_modules(remove_duplicate=False))
        axes = {}
        for name in found:
            check_axis("batch_axis", options["batch_axis"].get(name))
            check_axis("unit_axis", options["unit_axis"].get(name))
            own = {option: values.get(name) for option, values in options.items()}
            check_reduction(own["pool"], own["positions"])
            many, few = (shown[name][0] for shown in trials)
            axes[name] = find_axes(name, parts[found[name].name], self.model, many, few, own)
        return axes


class _Changer(nn.Module):
    """A module that runs another one with some units replaced."""

    def __init__(
        self,
        model: nn.Module,
        replace: Mapping[str, Replacement],
        side: Side,
        axes: Mapping[str, LayerAxes],
    ) -> None:
        super().__init__()
        self.model, self.replace, self.side, self.axes = model, replace, side, axes

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = run_replaced(
            self.model, inputs, self.replace, side=self.side, axes=self.axes, rows=len(inputs)
        )
        return found


class _Reader(nn.Module):
    """A module that returns the activations of named layers of another one."""

    def __init__(
        self, model: nn.Module, names: list[str], side: Side, reading: dict[str, Any]
    ) -> None:
        super().__init__()
        self.model, self.names, self.side, self.reading = model, names, side, reading

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        wanted = find_parts(self.model, self.names)
        return read_parts(self.model, inputs, wanted, side=self.side, **self.reading)


def _named(value: Any) -> str:
    """An option, with functions by name: their repr has another memory address in every process."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_named(x)}" for name, x in value.items()) + "}"
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else repr(value)
