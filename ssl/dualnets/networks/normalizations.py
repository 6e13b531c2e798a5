"""Normalisations of pre-activations, per member: BatchNorm taken apart, LayerNorm, GroupNorm, weights.

All work on `(…, U, B)`, units then batch, and share nothing between what the leading axes count;
short numbers are normalised in float32 and come back as short as they were.
Gains and shifts behind them are the business of the layer that has them (`affine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from dualnets._checks import check_number, check_whole

Part = Literal["on", "off", "stop"]
PARTS = ("on", "off", "stop")


class Moments(NamedTuple):
    """Mean and variance of every unit over a batch, `(…, U, 1)` each; the variance is the biased one."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class BatchNorm:
    """(p - mean) / sqrt(variance + epsilon) over the batch, each part on, off or without gradient.

    Ioffe and Szegedy (arXiv 1502.03167). What a part does to learning is in its gradient: with the
    mean on, the gradient g_i above arrives below as g_i - mean_j g_j (theory, Section 6); `stop`
    subtracts or divides by the same number and lets no gradient through it.

    Attributes:
        mean, std: `on`, `off` or `stop`. With the mean off, the standard deviation is still that
            around the mean.
        affine: whether a trained gain and shift per unit follow.
        epsilon: added to the variance.
        momentum: how far running statistics move to a batch's, for evaluation.

    Raises:
        ValueError: a part of another name, epsilon not above 0, or momentum outside 0..1.

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
        for name, part in (("mean", self.mean), ("std", self.std)):
            if part not in PARTS:
                raise ValueError(f"BatchNorm's {name} must be on, off or stop, got {part!r}")
        _check_epsilon(self.epsilon)
        check_number("momentum", self.momentum, low=0, high=1)

    @staticmethod
    def moments(values: Tensor) -> Moments:
        """The batch's own."""
        return _moments(_long(values), -1)

    def __call__(self, values: Tensor, moments: Moments | None = None) -> Tensor:
        """Normalised by the batch's own moments, or by the given ones."""
        if moments is None and self.mean == self.std == "on":
            # with the batch as the last axis this is torch's layer norm, five times as fast in one call
            return layer_norm(_long(values), values.shape[-1:], eps=self.epsilon).to(values.dtype)
        return self._by(values, self.moments(values) if moments is None else moments)

    def with_moments(self, values: Tensor) -> tuple[Tensor, Moments]:
        """Normalised by the batch's own moments, and what these are."""
        if not self.mean == self.std == "on":
            moments = self.moments(values)
            return self._by(values, moments), moments
        given = _long(values)  # torch's layer norm knows them anyway
        found, mean, inverse = torch.native_layer_norm(
            given, given.shape[-1:], None, None, self.epsilon
        )
        with torch.no_grad():
            variance = (inverse.square().reciprocal() - self.epsilon).clamp_min(0)
        return found.to(values.dtype), Moments(mean.detach(), variance)

    def _by(self, values: Tensor, moments: Moments) -> Tensor:
        found, (mean, variance) = _long(values), moments
        if self.mean != "off":
            found = found - (mean.detach() if self.mean == "stop" else mean)
        if self.std != "off":
            variance = variance.detach() if self.std == "stop" else variance
            found = found * (variance + self.epsilon).rsqrt()
        return found.to(values.dtype)


@dataclass(frozen=True)
class LayerNorm:
    """Mean 0 and variance 1 over the units of each sample (Ba, Kiros, Hinton, arXiv 1607.06450).

    In a tree network the units are those of one block.
    """

    affine: bool = False
    epsilon: float = 1e-5
    batch_dependent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def __call__(self, values: Tensor) -> Tensor:
        return _standardized(values, -2, self.epsilon)


@dataclass(frozen=True)
class GroupNorm:
    """LayerNorm within each of `groups` equal groups of neighbouring units (Wu and He, arXiv 1803.08494).

    Raises:
        ValueError: fewer than one group; on use, units that do not divide into the groups.
    """

    groups: int = 2
    affine: bool = False
    epsilon: float = 1e-5
    batch_dependent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)
        check_whole("groups", self.groups, low=1)

    def __call__(self, values: Tensor) -> Tensor:
        units = values.shape[-2]
        if units % self.groups:
            raise ValueError(f"{units} units do not divide into {self.groups} groups")
        grouped = values.unflatten(-2, (self.groups, -1))
        return _standardized(grouped, -2, self.epsilon).flatten(-3, -2)


Normalization = BatchNorm | LayerNorm | GroupNorm


def standardize(weight: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Weights with mean 0 and variance 1 / fan-in over each unit's inputs, the last axis.

    Weight standardisation (Qiao and others, arXiv 1903.10520), scaled so that it keeps the size of
    what passes through.
    """
    return _standardized(weight, -1, epsilon) * weight.shape[-1] ** -0.5


def _standardized(values: Tensor, axis: int, epsilon: float) -> Tensor:
    given = _long(values)
    mean, variance = _moments(given, axis)
    return ((given - mean) * (variance + epsilon).rsqrt()).to(values.dtype)


def _long(values: Tensor) -> Tensor:
    """The values in float32 where they are shorter: a few bits of a mean are no mean."""
    return values.float() if values.dtype.itemsize < 4 else values


def _moments(values: Tensor, axis: int) -> Moments:
    """In two passes: on a CPU ten times as fast as torch.var_mean."""
    mean = values.mean(axis, keepdim=True)
    return Moments(mean, (values - mean).square().mean(axis, keepdim=True))


def _check_epsilon(epsilon: float) -> None:
    check_number("epsilon", epsilon, above=0)
