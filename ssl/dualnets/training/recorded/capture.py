"""The gradients of a step as a list of operations, recorded once and then repeated without autograd.

In a small ensemble nearly all the time of a step in torch is spent on what surrounds the operations:
modules, dispatch, and the graph that autograd builds. What a loss and its gradients compute does not
change from step to step, so the operations are recorded (`torch.fx`), those without effect are left
out, those of constants alone are done once, and the rest is repeated by generated code: most of them by
an interpreter that computes the same to rounding.

Only what is known to compute the same operations in every step is recorded (`is_repeatable`). A method or
network that decides by the value of a tensor cannot be recorded, and a recording that does not give the
same numbers to rounding is not used.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import stateless

from dualnets.methods.protocol import Batch, State
from dualnets.networks.compiled.unmodified import has_known_parts
from dualnets.networks.norm_layer import NormLayer
from dualnets.training.eager import Gradients, differentiate
from dualnets.training.recorded.linked_layers import link_layers
from dualnets.training.recorded.repeated import OtherInputsError, repeated
from dualnets.training.recorded.simplified import simplify
from dualnets.training.state import TrainConfig, TrainState, trained_tensors

ROUNDINGS = 64  # by which the numbers of a recording may differ
ELSEWHERE = 0.1  # by which numbers are changed to compare a second time
# parameters times samples, below which one thread is faster than several that meet after every layer
WORTH_THREADS = 2**26
OWN = "dualnets."  # classes of modules whose names begin so are known


def is_repeatable(network: nn.Module, config: TrainConfig) -> bool:
    """Whether a step is known to be the same operations every time, with no effect beside its results.

    So it is for networks and methods of this package whose parts are all of this package, too, in the
    network's own precision.
    """
    return _is_own_network(network) and config.precision == "float32" and _is_own(config.method)


def _is_own_network(network: nn.Module) -> bool:
    return (
        has_known_parts(network)
        and all(type(layer) is NormLayer for layer in network.norms)
        and _is_own(network.norm)
    )


def _is_own(thing: Any) -> bool:
    """Whether settings, and all settings and networks within them, are of classes of this package."""
    if isinstance(thing, nn.Module):
        return _is_own_network(thing)  # a teacher, which no step changes
    if thing is None or isinstance(thing, bool | int | float | str):
        return True
    if isinstance(thing, tuple):
        return all(map(_is_own, thing))
    if not is_dataclass(thing) or not type(thing).__module__.startswith(OWN):
        return False
    return all(_is_own(getattr(thing, item.name)) for item in fields(thing) if item.compare)


class Recording:
    """`differentiate` for a certain network and method, as recorded operations.

    Args:
        network, config: for which `is_repeatable` holds.
        before, batch: of any step, for shapes; they are left as they are.

    Raises:
        RuntimeError: what cannot be recorded, or gives other numbers when it is repeated.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, before: TrainState, batch: Batch
    ) -> None:
        state = before.state
        trained = trained_tensors(network, state)
        self._method = config.method
        self._fixed = [*trained.values(), *network.buffers()]  # changed in place only
        self._memory = [own.detach() for own in self._fixed]  # which stays allocated
        self._modes = _modes(network)
        self._others = [name for name, tensor in state.items() if not tensor.requires_grad]
        self._carried: list[str] = []
        step = self._flat_step(network, config, [*trained], batch)
        from torch.fx.experimental.proxy_tensor import make_fx  # imports for seconds

        recorded = make_fx(step)(*self._inputs(state, batch))
        simplify(recorded.graph)
        link_layers(recorded.graph)
        count = len(self._fixed)
        work = sum(own.numel() for own in trained.values()) * batch.leaves.shape[1]
        one_thread = torch.get_num_threads() == 1 or len(self._fixed[0]) == 1
        alone = one_thread or work < WORTH_THREADS
        self._code = repeated(recorded.graph, count, range(1, 1 + len(trained)), alone=alone)
        self._check(step, self._inputs(state, batch))
        # at the start of a training views or networks may be equal, and much is 0
        order = torch.randperm(batch.leaves.shape[1], generator=torch.Generator().manual_seed(0))
        mixed = batch._replace(leaves=batch.leaves[:, order.to(batch.leaves.device)])
        self._check(step, _with_noise(self._inputs(state, mixed), lambda own: own * 0 + ELSEWHERE))
        with torch.no_grad():
            self._repeat = self._code.bind(*self._fixed)
        self._count = len(trained)

    @torch.no_grad()
    def __call__(
        self, network: nn.Module, config: TrainConfig, state: State, batch: Batch
    ) -> Gradients:
        """The same as `differentiate` for the network and method that were recorded.

        The next call overwrites the gradients. Inputs of other shapes or dtypes are left to plain torch.
        """
        try:
            losses, *rest = self._repeat(*(state[name] for name in self._others), *_present(batch))
        except OtherInputsError:
            with torch.enable_grad():
                return differentiate(network, config, state, batch)
        count = self._count
        return losses, rest[:count], dict(zip(self._carried, rest[count:], strict=True))

    def fits(self, network: nn.Module, config: TrainConfig, before: TrainState) -> bool:
        """Whether method, network and tensors are still those that were recorded, where they were."""
        now = [*trained_tensors(network, before.state).values(), *network.buffers()]
        return (
            config.method is self._method
            and is_repeatable(network, config)
            and self._modes == _modes(network)
            and len(now) == len(self._fixed)
            and all(map(operator.is_, now, self._fixed))
            and all(map(Tensor.is_set_to, now, self._memory))
            and self._others == [n for n, own in before.state.items() if not own.requires_grad]
        )

    def _inputs(self, state: State, batch: Batch) -> list[Tensor]:
        """All inputs, copied, as recorded operations may change them in place."""
        return _copies([*self._fixed, *(state[name] for name in self._others), *_present(batch)])

    def _check(self, step: Callable[..., list[Tensor]], inputs: list[Tensor]) -> None:
        """Raise a RuntimeError unless the code gives the numbers of a step and of changed inputs."""
        count, again, changed = len(self._fixed), _copies(inputs), _shaken(inputs)
        with torch.no_grad():
            found = [*self._code.bind(*again[:count])(*again[count:]), *again]
        shaken = [*step(*changed), *changed]
        expected = [*step(*inputs), *inputs]
        if not all(map(agree, expected, found, shaken)):
            raise RuntimeError("the recorded operations give other numbers")

    def _flat_step(
        self, network: nn.Module, config: TrainConfig, names: Sequence[str], batch: Batch
    ) -> Callable[..., list[Tensor]]:
        """`differentiate` as a function of tensors alone that returns a list."""
        buffers = [f"network.{name}" for name, _ in network.named_buffers()]
        others = [f"state.{name}" for name in self._others]
        places = [
            name for name in ("leaves", "targets", "places") if getattr(batch, name) is not None
        ]

        def step(*inputs: Tensor) -> list[Tensor]:
            named = dict(zip([*names, *buffers, *others, *places], inputs, strict=True))
            own = {
                n.removeprefix("network."): t for n, t in named.items() if n.startswith("network.")
            }
            state = {
                n.removeprefix("state."): t for n, t in named.items() if n.startswith("state.")
            }
            tensors: dict[str, Any] = {name: named[name] for name in places}
            given = batch._replace(**tensors)
            with stateless._reparametrize_module(network, own):
                losses, carried = config.method.loss(network, state, given)
                gradients = torch.autograd.grad(
                    losses.sum(), inputs[: len(names)], allow_unused=True, materialize_grads=True
                )
            self._carried = [*carried]
            return [losses.detach(), *gradients, *(own.detach() for own in carried.values())]

        return step


def _modes(network: nn.Module) -> list[bool]:
    """Whether parts of a network are in training, on which norms depend."""
    return [own.training for own in network.modules()]


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [own.detach().clone().requires_grad_(own.requires_grad) for own in tensors]


def _shaken(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies with every trained number changed by its rounding."""
    return _with_noise(
        tensors, lambda own: own * torch.finfo(own.dtype).eps * own.requires_grad, lowest=-1
    )


def _with_noise(
    tensors: Sequence[Tensor], size: Callable[[Tensor], Tensor], lowest: float = 0
) -> list[Tensor]:
    """Copies, to whose numbers of floating point `size` times noise between `lowest` and 1 is added."""
    own, found = torch.Generator().manual_seed(0), []
    for tensor in tensors:
        copy = tensor.detach().clone()
        if copy.is_floating_point():
            noise = torch.rand(copy.shape, generator=own, dtype=copy.dtype).to(copy.device)
            copy += size(tensor).detach() * (lowest + (1 - lowest) * noise)
        found.append(copy.requires_grad_(tensor.requires_grad))
    return found


def agree(expected: Tensor, found: Tensor, shaken: Tensor) -> bool:
    """Whether tensors are equal to rounding.

    How much that is depends on what was computed: the gradient of a bias below a BatchNorm is 0 but for
    rounding.

    Args:
        expected, found: compared.
        shaken: as expected, of parameters that differ by their rounding.
    """
    if not expected.is_floating_point():
        return expected.equal(found)
    values = expected.detach().nan_to_num(0, 0, 0)
    noise = (shaken.detach() - values).nan_to_num(0, 0, 0).abs()
    unit = torch.finfo(expected.dtype).eps
    bound = ROUNDINGS * (unit * values.abs().sum() + noise.sum()) / max(values.numel(), 1)
    return torch.allclose(found, expected, rtol=ROUNDINGS * unit, atol=float(bound), equal_nan=True)


def _present(batch: Batch) -> Iterator[Tensor]:
    return (own for own in (batch.leaves, batch.targets, batch.places) if own is not None)
