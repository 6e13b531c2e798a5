"""Any torch module as an ensemble: stacked copies in one batched pass, with named layers for the levels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dualnets.networks.network import Network, leaf_states, network_members
from hltm.probe import capture
from hltm.probe.causal.replacing import Replacement, run_replaced
from hltm.sampling.philox import Stream, check_seed, uniform
from hltm.tree import LatentTree

Side = Literal["output", "input"]


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
            with that level's latents; all numbers that it returns per sample are its units.
        side: whether the activations of a named layer are its `output` (pre-activations of a linear
            layer) or its `input`.
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
        models = [_built(build, check_seed(seed), member) for member in self.members]
        self._numbers = {name for name, p in models[0].named_parameters() if p.ndim == 0}
        self.model = _stacked(models)
        if batch_dependent is None:
            norms = nn.modules.batchnorm._BatchNorm
            batch_dependent = any(isinstance(part, norms) for part in self.model.modules())
        self._batch_dependent = batch_dependent
        self.to(device, dtype)
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
        # by name: the repr of a function has another memory address in every process
        encode = "None"
        if self.encode is not None:
            encode = getattr(self.encode, "__qualname__", type(self.encode).__name__)
        return (
            f"members={len(self.members)}, inputs={self.inputs}, layers={self.layers}, "
            f"side={self.side!r}, encode={encode}"
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
        return output if self.stacked else output[0]

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Activations of the named layers, in evaluation mode and without gradients.

        Args:
            leaves: as for `forward`.

        Returns:
            Level -> `(S, B, U)`; no S where the network has none.

        Raises:
            ValueError: a layer that does not run, runs twice, or returns no tensor.
        """
        inputs = self._inputs(leaves)
        count = inputs.shape[1]
        shown = vmap(self._captured)(self._stacks(), inputs)
        found = {
            level: shown[name].reshape(len(self.members), count, -1)
            for level, name in self.layers.items()
        }
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
            ValueError: as `hltm.probe.causal.replacing.run_replaced`.
        """
        inputs = self._inputs(leaves)
        rows = inputs.shape[:2] if self.stacked else inputs.shape[1:2]
        given = {}
        for level, replacement in replace.items():
            parts = [part.broadcast_to(*rows, part.shape[-1]) for part in replacement]
            parts = parts if self.stacked else [part[None] for part in parts]
            given[self.layers[level]] = Replacement(*(part.to(inputs.device) for part in parts))
        output = vmap(self._changed)(self._stacks(), inputs, given)
        return output if self.stacked else output[0]

    def _changed(
        self, own: dict[str, Tensor], inputs: Tensor, given: dict[str, Replacement]
    ) -> Tensor:
        """One member's output, with units of some layers replaced."""
        changer = _Changer(self.model, given, self.side)
        named = {f"model.{name}": tensor for name, tensor in self._shaped(own).items()}
        found: Tensor = functional_call(changer, named, (inputs,))
        return found

    def _member(self, own: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """One member's output, from its parameters and buffers."""
        found: Tensor = functional_call(self.model, self._shaped(own), (inputs,))
        return found

    def _captured(self, own: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        """One member's named layers."""
        reader = _Reader(self.model, list(self.layers.values()), self.side)
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
        except RuntimeError as error:
            if "randomness" in str(error):
                raise ValueError(
                    "the module draws random numbers when it runs (dropout?), which would not be reproducible"
                ) from error
            raise ValueError(f"the module does not run as an ensemble: {error}") from error
        if not isinstance(output, Tensor) or output.shape[:-1] != leaves.shape[:-1]:
            given = tuple(output[0].shape if self.stacked else output.shape)
            raise ValueError(f"the module returns {given} for 3 samples, expected (3, U)")
        twin.activations(leaves)


class _Reader(nn.Module):
    """A module that returns the activations of named layers of another one."""

    def __init__(self, model: nn.Module, names: list[str], side: Side) -> None:
        super().__init__()
        self.model, self.names, self.side = model, names, side

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return capture(self.model, inputs, self.names, side=self.side)


class _Changer(nn.Module):
    """A module that runs another one with some units replaced."""

    def __init__(self, model: nn.Module, replace: Mapping[str, Replacement], side: Side) -> None:
        super().__init__()
        self.model, self.replace, self.side = model, replace, side

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = run_replaced(self.model, inputs, self.replace, side=self.side)
        return found


def _built(build: Callable[[], nn.Module], seed: int, member: int) -> nn.Module:
    """The module of one member, a function of its address."""
    number = uniform(1, seed=seed, stream=Stream.INIT, members=[member], node=0, view=1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(number.item() * 2**53))
        model = build()
    if not isinstance(model, nn.Module):
        raise ValueError(f"build must return a torch module, got a {type(model).__name__}")
    return model


def _stacked(models: list[nn.Module]) -> nn.Module:
    """The first module with the stacked parameters and buffers of all.

    A parameter without gradient becomes a buffer: every parameter of a network here is trained.

    Raises:
        ValueError: modules whose parameters differ in name or shape, or modules without parameters.
    """
    held = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in models]
    for name, first in held[0].items():
        if torch.nn.parameter.is_lazy(first):
            raise ValueError(f"{name!r} must have a shape before the module runs, but it is lazy")
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.items()} for one in held]
    for other in shapes[1:]:
        if other != shapes[0]:
            raise ValueError(
                f"build must return the same module each time, got {shapes[0]}, {other}"
            )
    stacks: dict[int, Tensor] = {}  # by identity, so that tied parameters remain tied
    for name, first in held[0].items():
        stack = torch.stack([one[name].detach() for one in held])
        trained = isinstance(first, nn.Parameter) and first.requires_grad
        if isinstance(first, nn.Parameter) and first.ndim == 0:
            stack = stack[:, None]  # optimisers expect an axis beside S
        stacks[id(first)] = nn.Parameter(stack) if trained else stack
    if not any(isinstance(stack, nn.Parameter) for stack in stacks.values()):
        raise ValueError("the module has nothing to train")
    for part in models[0].modules():
        for name, buffer in list(part.named_buffers(recurse=False, remove_duplicate=False)):
            setattr(part, name, stacks[id(buffer)])
        for name, parameter in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            stack = stacks[id(parameter)]
            delattr(part, name)
            if isinstance(stack, nn.Parameter):
                part.register_parameter(name, stack)
            else:
                part.register_buffer(name, stack)
    return models[0]
