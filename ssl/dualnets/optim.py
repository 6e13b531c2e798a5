"""Optimisers whose rates may differ per member; frozen settings, pure rules, state by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
PerMember = float | Sequence[float]
UPDATES = "updates"  # the slot that counts a parameter's updates
PLAIN = ("bias", "gain", "shift")  # names of what LARS leaves to plain momentum


class Group(NamedTuple):
    """Rates of some parameters beside those of all others.

    Attributes:
        lr: times the optimiser's learning rate.
        weight_decay: in place of the optimiser's; None for the optimiser's.
    """

    lr: float = 1.0
    weight_decay: float | None = None


class One(NamedTuple):
    """One parameter in an update: its name, value, gradient, memory by slot, and rates."""

    name: str
    parameter: Tensor
    gradient: Tensor
    memory: Tensors
    rate: Tensor | float
    decay: Tensor | float

    def decayed(self, gradient: Tensor) -> Tensor:
        """A gradient with the weight decay's part."""
        if isinstance(self.decay, float | int) and self.decay == 0:
            return gradient
        return gradient + self.decay * self.parameter


@dataclass(frozen=True)
class Schedule:
    """What the learning rate is multiplied with, step by step.

    Attributes:
        kind: `constant`, or `cosine`: from 1 down to `final` along half a cosine.
        warm_up: first steps during which the rate rises linearly from 0.
        final: where the cosine ends.

    Raises:
        ValueError: a kind of another name, warm_up below 0, or final outside 0..1.

    Example:
        >>> [round(Schedule("cosine", warm_up=2).factor(step, 6), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """

    kind: Literal["constant", "cosine"] = "constant"
    warm_up: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "cosine"):
            raise ValueError(f"a schedule is constant or cosine, got {self.kind!r}")
        if self.warm_up < 0:
            raise ValueError(f"warm_up must be at least 0 steps, got {self.warm_up}")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must be in 0..1, got {self.final}")

    def factor(self, step: int, steps: int) -> float:
        """The factor of update `step`, counted from 0, of `steps`."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        if self.kind == "constant":
            return 1.0
        share = (step - self.warm_up) / max(steps - self.warm_up, 1)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """A rule that turns gradients into updates, member by member.

    Attributes:
        weight_decay: added to the gradient, times the parameter (AdamW: taken off the parameter
            directly, times the learning rate).
        schedule: of the learning rate.
        clip: largest length of a member's gradient, over all its parameters; None for no limit.

    Every rate is a number, or one per member: a sweep over rates is one ensemble.
    """

    lr: PerMember = field(default=0.1, kw_only=False)
    weight_decay: PerMember = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    clip: PerMember | None = None
    _above: ClassVar[tuple[str, ...]] = ("lr", "clip")
    _within: ClassVar[tuple[str, ...]] = ()  # rates that lie in 0 <= r < 1
    slots: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for rate in _values(self.lr):
            if not rate > 0 or rate == float("inf"):
                raise ValueError(f"a learning rate must be above 0 and finite, got {rate}")
        for rate in _values(self.weight_decay):
            if not 0 <= rate < float("inf"):
                raise ValueError(f"weight_decay must be at least 0 and finite, got {rate}")
        for rate in _values(self.clip):
            if not rate > 0:
                raise ValueError(f"clip must be above 0, got {rate}")
        for name in self._within:
            for rate in _values(getattr(self, name)):
                if not 0 <= rate < 1:
                    raise ValueError(f"{name} must be in 0 <= {name} < 1, got {rate}")

    @property
    def is_plain(self) -> bool:
        """Whether an update is nothing but w <- w - lr g."""
        return False

    def check(self, members: int) -> None:
        """Raise ValueError unless the rates fit this many members."""
        for name in ("lr", "weight_decay", "clip", *self._within):
            rates = getattr(self, name)
            if isinstance(rates, Sequence) and len(rates) != members:
                what = "learning rates" if name == "lr" else f"values of {name}"
                raise ValueError(f"expected {members} {what}, one per member, got {len(rates)}")

    def of_members(self, low: int, high: int) -> Optimizer:
        """The same rule for members low..high-1."""
        names = ("lr", "weight_decay", "clip", *self._within)
        listed: dict[str, Any] = {
            name: tuple(getattr(self, name))[low:high]
            for name in names
            if isinstance(getattr(self, name), Sequence)
        }
        return replace(self, **listed)

    def init(self, parameters: Mapping[str, Tensor]) -> Tensors:
        """What the rule remembers of every parameter: `slot.name` -> zeros of its shape.

        The slot that counts updates is a column `(S, 1, …)`.
        """
        found = {}
        for name, parameter in parameters.items():
            zeros = torch.zeros_like(parameter, requires_grad=False)
            column = _column(zeros.new_zeros(len(zeros)), zeros)
            for slot in self.slots:
                found[f"{slot}.{name}"] = (column if slot == UPDATES else zeros).clone()
        return found

    @torch.no_grad()
    def update(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        memory: Tensors,
        alive: Tensor,
        step: int = 0,
        steps: int = 1,
        groups: Mapping[str, Group] | None = None,
    ) -> None:
        """Change parameters and memory, `(S, …)` each, in place.

        Parameters of members that are not alive stay as they are, bit for bit; what is remembered
        of them is of no use any more.

        Args:
            parameters, gradients: by name, the same shapes.
            memory: as `init` makes it.
            alive: `(S,)` bool.
            step, steps: for the schedule; updates are counted from 0.
            groups: name of a parameter -> its rates.
        """
        factor = self.schedule.factor(step, steps)
        scale = self._clipping(gradients)
        # elsewhere than on a CPU, asking would wait for the device
        everyone = alive.device.type == "cpu" and bool(alive.all())
        for name, parameter in parameters.items():
            group = (groups or {}).get(name, Group())
            gradient = gradients[name]
            if scale is not None:
                gradient = gradient * _column(scale, parameter)
            decay = self.weight_decay if group.weight_decay is None else group.weight_decay
            own = {slot: memory[f"{slot}.{name}"] for slot in self.slots}
            rate = _rate(self.lr, parameter) * (factor * group.lr)
            one = One(name, parameter, gradient, own, rate, _rate(decay, parameter))
            change = self._change(one)
            # a frozen member's gradient may be NaN, and 0 * NaN is NaN: choose, do not multiply
            kept = change if everyone else torch.where(_column(alive, parameter), change, 0)
            parameter.sub_(kept)

    @abstractmethod
    def _change(self, one: One) -> Tensor:
        """What is taken off the parameter; memory changes in place."""

    def _clipping(self, gradients: Mapping[str, Tensor]) -> Tensor | None:
        """`(S,)` factors that keep every member's gradient within its limit."""
        if self.clip is None:
            return None
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
        length = torch.stack(squares).sum(0).sqrt()
        limit = torch.as_tensor(self.clip, dtype=length.dtype, device=length.device)
        return (limit / length.clamp(min=1e-12)).clamp(max=1)


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent: v <- momentum v + g + weight_decay w, w <- w - lr v.

    With `nesterov`, w <- w - lr (g + weight_decay w + momentum v). As in torch.optim.SGD, without
    dampening.

    Raises:
        ValueError: rates out of range, or nesterov without momentum.
    """

    momentum: PerMember = 0.0
    nesterov: bool = False
    _within: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self._moves:
            raise ValueError(f"nesterov needs a momentum above 0, got {self.momentum}")

    @property
    def _moves(self) -> bool:
        return any(rate > 0 for rate in _values(self.momentum))

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum",) if self._moves else ()

    @property
    def is_plain(self) -> bool:
        decays = any(rate > 0 for rate in _values(self.weight_decay))
        changing = self.schedule.kind != "constant" or self.schedule.warm_up > 0
        return not (self._moves or decays or changing or self.clip is not None)

    def _change(self, one: One) -> Tensor:
        gradient = one.decayed(one.gradient)
        if not self._moves:
            return gradient * one.rate
        momentum, velocity = _rate(self.momentum, one.parameter), one.memory["momentum"]
        velocity.mul_(momentum).add_(gradient)
        return (gradient + momentum * velocity if self.nesterov else velocity) * one.rate


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980); weight decay is added to the gradient.

    Attributes:
        beta1, beta2: how slowly the averages of the gradient and of its square forget.
        epsilon: added to the root of the second average.
    """

    lr: PerMember = field(default=1e-3, kw_only=False)
    beta1: PerMember = 0.9
    beta2: PerMember = 0.999
    epsilon: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("first", "second", UPDATES)
    _within: ClassVar[tuple[str, ...]] = ("beta1", "beta2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {self.epsilon}")

    def _change(self, one: One) -> Tensor:
        return self._adapted(one, one.decayed(one.gradient)) * one.rate

    def _adapted(self, one: One, gradient: Tensor) -> Tensor:
        """The corrected first average over the root of the corrected second."""
        slow, slower = _rate(self.beta1, one.parameter), _rate(self.beta2, one.parameter)
        first, second, updates = (one.memory[slot] for slot in self.slots)
        first.mul_(slow).add_(gradient * (1 - slow))
        second.mul_(slower).add_(gradient.square() * (1 - slower))
        updates += 1
        corrected = first / (1 - slow**updates)
        return corrected / ((second / (1 - slower**updates)).sqrt() + self.epsilon)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

    w <- w - lr (adapted gradient + weight_decay w).
    """

    weight_decay: PerMember = 0.01

    def _change(self, one: One) -> Tensor:
        return one.decayed(self._adapted(one, one.gradient)) * one.rate


@dataclass(frozen=True, kw_only=True)
class LARS(Optimizer):
    """Layer-wise adaptive rates (You, Gitman, Ginsburg, arXiv 1708.03888).

    v <- momentum v + lr trust |w| / (|g| + weight_decay |w|) (g + weight_decay w), w <- w - v, with
    lengths over a member's whole layer. Biases, gains and shifts take plain momentum and no decay,
    as is usual.

    Attributes:
        momentum: how slowly the velocity forgets.
        trust: how far a layer moves, as a share of its length, at rate 1.
    """

    momentum: PerMember = 0.9
    trust: float = 1e-3
    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    _within: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.trust > 0:
            raise ValueError(f"trust must be above 0, got {self.trust}")

    def _change(self, one: One) -> Tensor:
        velocity, gradient = one.memory["momentum"], one.gradient
        if not any(kind in one.name for kind in PLAIN):
            length = _column(one.parameter.flatten(1).norm(dim=1), gradient)
            steepness = _column(gradient.flatten(1).norm(dim=1), gradient)
            local = self.trust * length / (steepness + one.decay * length)
            # where either is 0 there is nothing to adapt to
            moving = (length > 0) & (steepness > 0)
            gradient = one.decayed(gradient) * torch.where(moving, local, 1)
        velocity.mul_(_rate(self.momentum, gradient)).add_(gradient * one.rate)
        return velocity


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "lars": LARS}


def _values(rates: PerMember | None) -> Sequence[float]:
    if rates is None:
        return ()
    return rates if isinstance(rates, Sequence) else (rates,)


def _column(per_member: Tensor, parameter: Tensor) -> Tensor:
    """`(S,)` as `(S, 1, …)`, to broadcast over a parameter."""
    return per_member.view(-1, *[1] * (parameter.ndim - 1))


def _rate(rates: PerMember, parameter: Tensor) -> Tensor | float:
    """A number as it is; one per member as a column."""
    if not isinstance(rates, Sequence):
        return rates
    return _column(torch.tensor(rates, dtype=parameter.dtype, device=parameter.device), parameter)
