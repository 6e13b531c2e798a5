"""Normalisations of pre-activations: BatchNorm in separate parts, LayerNorm, GroupNorm, and of weights.

All work on `(…, U, B)`, units then batch, and leading axes (members, blocks) are independent of each
other. Numbers of less than 32 bits are normalised in float32 and returned in their own dtype. A trained
gain and shift (`affine`) belong to the layer that has the norm. A normalisation is one class below,
registered under the word that selects it on the command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from dualnets._checks import check_choice, check_number, check_whole
from dualnets._lazy import torch
from dualnets._options import Registry
from dualnets._precision import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

Part = Literal["on", "off", "stop"]
PARTS = ("on", "off", "stop")


class Moments(NamedTuple):
    """Mean and variance of every unit over a batch, `(…, U, 1)` each; the variance is the biased one."""

    mean: Tensor
    variance: Tensor


class Normalization(ABC):
    """A frozen dataclass that normalises pre-activations `(…, U, B)`.

    Attributes:
        batch_dependent: whether the output of a sample depends on the other samples of its batch.
        affine: whether a trained gain and shift per unit follow.
        epsilon: number added to the variance.
    """

    batch_dependent: ClassVar[bool]
    affine: bool
    epsilon: float

    @abstractmethod
    def __call__(self, values: Tensor) -> Tensor:
        """`(…, U, B)` normalised values."""

    def check_units(self, units: int, where: str = "") -> None:  # noqa: B027, most norms have no limit
        """Raise ValueError where a layer of so many units cannot be normalised; `where` names the layer."""


NORMS: Registry[type[Normalization]] = Registry()


@NORMS.register("batch")
@dataclass(frozen=True)
class BatchNorm(Normalization):
    """(p - mean) / sqrt(variance + epsilon) over the batch, each part on, off or without gradient.

    Ioffe and Szegedy (arXiv 1502.03167, Algorithm 1). The effect of a part on learning is in its
    gradient: with the mean on, the gradient g_i of the normalised values becomes g_i - mean_j g_j
    (docs/theory.md, Section 6); `stop` subtracts or divides by the same number without gradient.

    Attributes:
        mean: whether the batch's mean is subtracted: on, off, or stop: on without gradient.
        std: whether the values are divided by the batch's standard deviation: on, off, or stop: on
            without gradient. With the mean off, it is still the deviation around the mean.
        affine: whether a trained gain and shift per unit follow.
        epsilon: number added to the variance.
        momentum: step of the running moments, for evaluation, towards those of a batch.

    Raises:
        TypeError: epsilon or momentum is not a number.
        ValueError: an unknown word for a part, epsilon not above 0, or momentum outside 0..1.

    Example:
        >>> import torch
        >>> p = torch.tensor([[[1.0, 3.0]]])
        >>> BatchNorm(epsilon=1e-12)(p).tolist(), BatchNorm(std="off")(p).tolist()
        ([[[-1.0, 1.0]]], [[[-1.0, 1.0]]])
        >>> BatchNorm(mean="off", epsilon=1e-12)(p).tolist()
        [[[1.0, 3.0]]]
    """

    mean: Part = "on"
    std: Part = "on"
    affine: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.1
    batch_dependent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("BatchNorm's mean", self.mean, PARTS)
        check_choice("BatchNorm's std", self.std, PARTS)
        check_number("epsilon", self.epsilon, above=0)
        check_number("momentum", self.momentum, low=0, high=1)

    @staticmethod
    def moments(values: Tensor) -> Moments:
        """The batch's own moments, over the last axis of `(…, U, B)`."""
        return _moments(at_least_float32(values), -1)

    def __call__(self, values: Tensor, moments: Moments | None = None) -> Tensor:
        """Normalised by the batch's own moments, or by the given ones."""
        if moments is None and self.mean == self.std == "on":
            # with the batch as the last axis this is torch's layer norm, five times as fast in one call
            given = at_least_float32(values)
            found = torch.nn.functional.layer_norm(given, values.shape[-1:], eps=self.epsilon)
            return found.to(values.dtype)
        return self._normalized(values, self.moments(values) if moments is None else moments)

    def with_moments(self, values: Tensor) -> tuple[Tensor, Moments]:
        """The values normalised by the batch's own moments, and these moments."""
        if not self.mean == self.std == "on":
            moments = self.moments(values)
            return self._normalized(values, moments), moments
        given = at_least_float32(values)  # torch's layer norm returns the moments, too
        axes = given.shape[-1:]
        found, mean, inverse = torch.native_layer_norm(given, axes, None, None, self.epsilon)
        with torch.no_grad():
            variance = (inverse.square().reciprocal() - self.epsilon).clamp_min(0)
        return found.to(values.dtype), Moments(mean.detach(), variance)

    def _normalized(self, values: Tensor, moments: Moments) -> Tensor:
        found, (mean, variance) = at_least_float32(values), moments
        if self.mean != "off":
            found = found - (mean.detach() if self.mean == "stop" else mean)
        if self.std != "off":
            variance = variance.detach() if self.std == "stop" else variance
            found = found * (variance + self.epsilon).rsqrt()
        return found.to(values.dtype)


@NORMS.register("layer")
@dataclass(frozen=True)
class LayerNorm(Normalization):
    """(p - mean) / sqrt(variance + epsilon) over the units of each sample; in a tree network, of a block.

    Ba, Kiros, Hinton (arXiv 1607.06450, equation 3).

    Attributes:
        affine: whether a trained gain and shift per unit follow.
        epsilon: number added to the variance.
    """

    affine: bool = False
    epsilon: float = 1e-5
    batch_dependent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, above=0)

    def __call__(self, values: Tensor) -> Tensor:
        return _standardized(values, -2, self.epsilon)

    def check_units(self, units: int, where: str = "") -> None:
        _check_groups("LayerNorm", units, 1, where)


@NORMS.register("group")
@dataclass(frozen=True)
class GroupNorm(Normalization):
    """LayerNorm within each of several equal groups of neighbouring units (Wu and He, arXiv 1803.08494).

    Attributes:
        groups: number of equal groups of units.
        affine: whether a trained gain and shift per unit follow.
        epsilon: number added to the variance.

    Raises:
        ValueError: fewer than one group; on use, units that do not divide into the groups.
    """

    groups: int = 2
    affine: bool = False
    epsilon: float = 1e-5
    batch_dependent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, above=0)
        check_whole("groups", self.groups, low=1)

    def __call__(self, values: Tensor) -> Tensor:
        units = values.shape[-2]
        if units % self.groups:
            raise ValueError(f"{units} units do not divide into {self.groups} groups")
        grouped = values.unflatten(-2, (self.groups, -1))
        return _standardized(grouped, -2, self.epsilon).flatten(-3, -2)

    def check_units(self, units: int, where: str = "") -> None:
        _check_groups("GroupNorm", units, self.groups, where)


def standardize(weight: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Weights with mean 0 and variance 1 / fan-in over each unit's inputs, the last axis.

    Weight standardisation (Qiao and others, arXiv 1903.10520), scaled by fan-in^(-1/2) so that
    pre-activations keep the size of the inputs.
    """
    return _standardized(weight, -1, epsilon) * weight.shape[-1] ** -0.5


def _standardized(values: Tensor, axis: int, epsilon: float) -> Tensor:
    given = at_least_float32(values)
    mean, variance = _moments(given, axis)
    return ((given - mean) * (variance + epsilon).rsqrt()).to(values.dtype)


def _moments(values: Tensor, axis: int) -> Moments:
    """In two passes: on a CPU ten times as fast as torch.var_mean."""
    mean = values.mean(axis, keepdim=True)
    return Moments(mean, (values - mean).square().mean(axis, keepdim=True))


def _check_groups(name: str, units: int, groups: int, where: str) -> None:
    """Raise ValueError unless the groups are equal and of 2 units or more: one unit less its mean is 0."""
    if units % groups or units == groups:
        raise ValueError(
            f"{name} needs equal groups of 2 units or more, got {units} units in {groups} "
            f"group(s){where and ' '}{where}"
        )
