"""Optimisers whose rates may differ per member: frozen settings, and rules that update tensors by name.

An optimiser is one class below, registered under the word that selects it on the command line. Every
rate is one number, or one per member: a sweep over rates is then one ensemble. Symbols in the rules:
w a parameter, g its gradient, v its velocity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dualnets._checks import check_kind, check_number, check_switch
from dualnets._lazy import no_grad, torch
from dualnets._options import Registry, option
from dualnets._precision import at_least_float32
from dualnets.optim.per_member import (
    Group,
    PerMember,
    at_least_0,
    broadcast,
    broadcast_rates,
    check_count,
    check_rates,
    rates_of_members,
)  # fmt: skip
from dualnets.optim.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]
UPDATES = "updates"  # the slot that counts a parameter's updates
NOT_ADAPTED = (
    "bias",
    "biases",
    "gain",
    "shift",
)  # last names of parameters that LARS does not adapt


class ParameterUpdate(NamedTuple):
    """One parameter in an update: its name, value, gradient, memory by slot, and rates."""

    name: str
    parameter: Tensor
    gradient: Tensor
    memory: Tensors
    rate: Tensor | float
    decay: Tensor | float

    def decayed(self, gradient: Tensor) -> Tensor:
        """The gradient plus the weight decay times the parameter."""
        if isinstance(self.decay, float | int) and self.decay == 0:
            return gradient
        return gradient + self.decay * self.parameter


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """A rule that turns gradients into updates, for each member separately.

    Every rate is one number, or one per member: a sequence, a numpy array or a tensor `(S,)`, which is
    kept as a tuple.

    Attributes:
        lr: learning rate.
        weight_decay: weight decay: times the parameter it is added to the gradient (AdamW: times the
            learning rate it is subtracted from the parameter).
        schedule: factor of the learning rate at every update.
        clip: largest norm of a member's gradient over all its parameters; None for no limit.

    Raises:
        TypeError: a value that is not a rate, or a schedule that is not a `Schedule`.
        ValueError: a rate out of range.
    """

    lr: PerMember = field(default=0.1, kw_only=False)
    weight_decay: PerMember = 0.0
    schedule: Schedule = Schedule()  # noqa: RUF009, frozen
    clip: PerMember | None = None
    _positive: ClassVar[tuple[str, ...]] = ("lr",)  # rates that must be above 0
    _below_1: ClassVar[tuple[str, ...]] = ()  # rates that must lie in 0 <= r < 1
    slots: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        self._check_rates("weight_decay", at_least_0)
        if self.clip is not None:  # one member of a sweep may have no limit: infinity
            self._check_rates("clip", lambda n, rate: check_number(n, rate, above=0, limit=False))
        for name in self._positive:
            self._check_rates(name, lambda n, rate: check_number(n, rate, above=0))
        for name in self._below_1:
            self._check_rates(name, lambda n, rate: check_number(n, rate, low=0, below=1))
        check_kind("schedule", self.schedule, Schedule, 'dualnets.Schedule("cosine")')

    def _check_rates(self, name: str, check: Callable[[str, Any], Any]) -> None:
        """Check a rate, and store it as a number or a tuple."""
        called = "a learning rate" if name == "lr" else name
        object.__setattr__(self, name, check_rates(called, getattr(self, name), check))

    @property
    def is_plain(self) -> bool:
        """Whether an update is nothing but w <- w - lr g."""
        return False

    @property
    def _rates(self) -> tuple[str, ...]:
        return (*self._positive, "weight_decay", "clip", *self._below_1)

    def check(self, members: int) -> None:
        """Raise ValueError unless the rates fit this many members."""
        for name in self._rates:
            what = "learning rates" if name == "lr" else f"values of {name}"
            check_count(what, getattr(self, name), members)

    def of_members(self, low: int, high: int) -> Optimizer:
        """The same rule for members low..high-1."""
        return replace(
            self, **{n: rates_of_members(getattr(self, n), low, high) for n in self._rates}
        )

    def init(self, parameters: Mapping[str, Tensor]) -> Tensors:
        """The optimiser's memory before the first update: `slot.name` -> zeros of the parameter's shape.

        It is of float32 at least. The slot that counts updates is `(S, 1, …)`.
        """
        found = {}
        for name, parameter in parameters.items():
            zeros = torch.zeros_like(at_least_float32(parameter), requires_grad=False)
            counter = broadcast(zeros.new_zeros(len(zeros)), zeros)
            for slot in self.slots:
                found[f"{slot}.{name}"] = (counter if slot == UPDATES else zeros).clone()
        return found

    @no_grad
    def update(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        memory: Tensors,
        alive: Tensor,
        step: int | Tensor = 0,
        steps: int = 1,
        groups: Mapping[str, Group] | None = None,
    ) -> Tensor:
        """Change parameters and memory, `(S, …)` each, in place; computed in float32 at least.

        Parameters and memory of members that are not alive stay the same, bit for bit, and so do those of
        a member of which any new number would not be finite.

        Args:
            parameters, gradients: by name, of equal shapes.
            memory: as `init` returns it.
            alive: `(S,)` bool.
            step, steps: number of this update, counted from 0, and of all updates, for the schedule. A
                tensor `()` for the number keeps it out of the operations that are recorded.
            groups: name of a parameter -> its own rates.

        Returns:
            `(S,)` bool, the members that were updated.
        """
        factor = self.schedule.factor(step, steps)
        scale = self._clipping(gradients)
        pairs: list[tuple[Tensor, Tensor]] = []  # a stored tensor and its new values
        for name, stored in parameters.items():
            group = (groups or {}).get(name, Group())
            parameter, gradient = at_least_float32(stored), at_least_float32(gradients[name])
            if scale is not None:
                gradient = gradient * broadcast(scale, parameter)
            decay = self.weight_decay if group.weight_decay is None else group.weight_decay
            slots = {slot: memory[f"{slot}.{name}"].clone() for slot in self.slots}
            rate = broadcast_rates(self.lr, parameter) * (
                factor * broadcast_rates(group.lr, parameter)
            )
            one = ParameterUpdate(
                name, parameter, gradient, slots, rate, broadcast_rates(decay, parameter)
            )
            pairs.append((stored, (parameter - self._change(one)).to(stored.dtype)))
            pairs += [(memory[f"{slot}.{name}"], new) for slot, new in slots.items()]
        updated = alive & finite_members([new for _, new in pairs], alive)
        for stored, new in pairs:
            # the gradient of a frozen member may be NaN, and 0 * NaN is NaN: select, do not multiply
            stored.copy_(torch.where(broadcast(updated, new), new, stored))
        return updated

    @abstractmethod
    def _change(self, one: ParameterUpdate) -> Tensor:
        """The tensor to subtract from the parameter; the memory, which is a copy, changes in place."""

    def _clipping(self, gradients: Mapping[str, Tensor]) -> Tensor | None:
        """`(S,)` factors that reduce every gradient longer than `clip` to that length."""
        if self.clip is None:
            return None
        squares = [
            at_least_float32(gradient.flatten(1)).square().sum(1) for gradient in gradients.values()
        ]
        length = torch.stack(squares).sum(0).sqrt()
        limit = broadcast_rates(self.clip, length)
        return torch.where(length > limit, limit / length, 1)  # 1 also where both are infinite


OPTIMIZERS: Registry[type[Optimizer]] = Registry()


@OPTIMIZERS.register("sgd")
@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent: v <- momentum v + g + weight_decay w, w <- w - lr v.

    With `nesterov`, w <- w - lr (g + weight_decay w + momentum v). As torch.optim.SGD without
    dampening.

    Attributes:
        momentum: share of the velocity that is kept at every update.
        nesterov: whether the gradient is taken ahead along the velocity (Nesterov's momentum).

    Raises:
        ValueError: a rate out of range, or nesterov without momentum.
    """

    momentum: PerMember = 0.0
    nesterov: bool = False
    _below_1: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_switch("nesterov", self.nesterov)
        if self.nesterov and not self._has_momentum:
            raise ValueError(f"nesterov needs a momentum above 0, got {self.momentum}")

    @property
    def _has_momentum(self) -> bool:
        return any(rate > 0 for rate in _values(self.momentum))

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum",) if self._has_momentum else ()

    @property
    def is_plain(self) -> bool:
        decays = any(rate > 0 for rate in _values(self.weight_decay))
        changing = self.schedule.kind != "constant" or self.schedule.warm_up > 0
        return not (self._has_momentum or decays or changing or self.clip is not None)

    def _change(self, one: ParameterUpdate) -> Tensor:
        gradient = one.decayed(one.gradient)
        if not self._has_momentum:
            return gradient * one.rate
        momentum, velocity = broadcast_rates(self.momentum, one.parameter), one.memory["momentum"]
        velocity.mul_(momentum).add_(gradient)
        return (gradient + momentum * velocity if self.nesterov else velocity) * one.rate


@OPTIMIZERS.register("adam")
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980, Algorithm 1); weight decay is added to the gradient.

    With m and s the moving averages of g and g^2, and t the number of updates,
    w <- w - lr (m / (1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + epsilon).

    Attributes:
        beta1: decay of the moving average of the gradient.
        beta2: decay of the moving average of the squared gradient.
        epsilon: number added to the root of the average of the squared gradient.
    """

    lr: PerMember = field(default=1e-3, kw_only=False)
    beta1: PerMember = 0.9
    beta2: PerMember = 0.999
    epsilon: float = option(1e-8, flag="adam_epsilon")
    slots: ClassVar[tuple[str, ...]] = ("first", "second", UPDATES)
    _below_1: ClassVar[tuple[str, ...]] = ("beta1", "beta2")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("epsilon", self.epsilon, above=0)

    def _change(self, one: ParameterUpdate) -> Tensor:
        return self._adapted(one, one.decayed(one.gradient)) * one.rate

    def _adapted(self, one: ParameterUpdate, gradient: Tensor) -> Tensor:
        """The bias-corrected first average over the root of the bias-corrected second."""
        slow, slower = (
            broadcast_rates(self.beta1, one.parameter),
            broadcast_rates(self.beta2, one.parameter),
        )
        first, second, updates = (one.memory[slot] for slot in self.slots)
        first.mul_(slow).add_(gradient * (1 - slow))
        second.mul_(slower).add_(gradient.square() * (1 - slower))
        updates += 1
        corrected = first / (1 - slow**updates)
        return corrected / ((second / (1 - slower**updates)).sqrt() + self.epsilon)


@OPTIMIZERS.register("adamw")
@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, Algorithm 2).

    w <- w - lr (Adam's step + weight_decay w).
    """

    weight_decay: PerMember = 0.01

    def _change(self, one: ParameterUpdate) -> Tensor:
        return one.decayed(self._adapted(one, one.gradient)) * one.rate


@OPTIMIZERS.register("lars")
@dataclass(frozen=True, kw_only=True)
class LARS(Optimizer):
    """Layer-wise adaptive rates (You, Gitman, Ginsburg, arXiv 1708.03888, Algorithm 1).

    v <- momentum v + lr trust |w| / (|g| + weight_decay |w|) (g + weight_decay w), w <- w - v, with
    norms over a member's whole layer. As usual, biases, gains and shifts have plain momentum and no
    weight decay. They are the parameters of these names and every parameter with at most one axis
    beside S, such as the gain that torch's normalisations call weight.

    Attributes:
        momentum: share of the velocity that is kept at every update.
        trust: length of a layer's update as a share of the layer's norm, at learning rate 1.
    """

    momentum: PerMember = 0.9
    trust: PerMember = 1e-3
    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    _positive: ClassVar[tuple[str, ...]] = ("lr", "trust")
    _below_1: ClassVar[tuple[str, ...]] = ("momentum",)

    def _change(self, one: ParameterUpdate) -> Tensor:
        velocity, gradient = one.memory["momentum"], one.gradient
        if not has_plain_momentum(one.name, one.parameter):
            size = broadcast(one.parameter.flatten(1).norm(dim=1), gradient)  # |w|
            slope = broadcast(gradient.flatten(1).norm(dim=1), gradient)  # |g|
            local = broadcast_rates(self.trust, gradient) * size / (slope + one.decay * size)
            # a norm of 0 gives no scale: then the rate is not adapted
            adapted = (size > 0) & (slope > 0)
            gradient = one.decayed(gradient) * torch.where(adapted, local, 1)
        velocity.mul_(broadcast_rates(self.momentum, gradient)).add_(gradient * one.rate)
        return velocity


def has_plain_momentum(name: str, parameter: Tensor) -> bool:
    """Whether LARS updates a parameter `(S, …)` with plain momentum."""
    words = [word for word in name.split(".") if not word.isdigit()]
    return parameter.ndim <= 2 or (bool(words) and words[-1] in NOT_ADAPTED)


def finite_members(tensors: Sequence[Tensor], members: Tensor) -> Tensor:
    """`(S,)` bool: members all of whose numbers are finite.

    Args:
        tensors: `(S, …)`; others, and those of whole numbers, are passed over.
        members: any tensor `(S,)`.

    Example:
        >>> finite_members([torch.tensor([[1.0, 2.0], [torch.inf, 1.0]])], torch.zeros(2)).tolist()
        [True, False]
    """
    # 0 times a number that is not finite is NaN, and no sum of large numbers overflows
    sums = [
        own.reshape(len(members), -1).mul(0).sum(1)
        for own in tensors
        if own.is_floating_point() and own.ndim and len(own) == len(members)
    ]
    return torch.stack([torch.zeros_like(members, dtype=torch.float32), *sums]).sum(0) == 0


def _values(rates: Any) -> tuple[float, ...]:
    return rates if isinstance(rates, tuple) else (rates,)
