"""Contrastive losses: pure functions of outputs, one value per member (theory, Section 3).

The gradient of a loss of distances is that of Σ_k β_k (r_+ - r_k), β_k = -∂L/∂r_k: so what a loss
is to training is its pair weights. Beside the usual losses, whose weights follow from a formula,
stand those whose weights are given as a function of distance; all show them by `pairs`.

With r(u, v) = 1/2 ||u - v||^2, an anchor a, its positive + (a view of the same sample) and H
negatives k (views of other samples), r_+ = r(a, +) and r_k = r(a, k). All but BatchwiseNCE carry
the factor τ, which libraries usually drop: learning rates differ by it.

Outputs are `(S, B, U)`, negatives `(S, H, B, U)`; a loss is the mean over the batch, `(S,)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dualnets._checks import check_number, check_whole


class Loss(Protocol):
    """A contrastive loss; `negatives` is H, the fresh negatives it asks for per anchor."""

    @property
    def negatives(self) -> int: ...

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """`(S,)` from anchor and positive `(S, B, U)` and negatives `(S, H, B, U)`."""


@runtime_checkable
class PairLoss(Protocol):
    """A loss of one anchor's own r_+ and r_k, in the form a compiled span computes.

    It takes those of this module and no subclass of them, which may compute something else.

    Attributes:
        slope: 0 for β = 1; 1 for β_k = exp((r_+ - r_k + margin) / τ) over one plus their sum.
        temperature: τ.
        margin: added to r_+.
    """

    slope: ClassVar[int]
    temperature: float
    margin: float


class Pairs(NamedTuple):
    """Distances of N anchors to their positives and negatives, and what each negative weighs.

    Attributes:
        near: `(S, 1, N)` r_+.
        far: `(S, H, N)` r_k.
        beta: `(S, H, N)` β_k = -∂L/∂r_k of an anchor's own loss, without gradient.
    """

    near: Tensor
    far: Tensor
    beta: Tensor


class Weighing(Protocol):
    """A loss of distances, which can say what each pair weighs in it."""

    @property
    def negatives(self) -> int: ...

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """As of any `Loss`."""

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        """Distances and weights; the loss's gradient is that of their `weighted_gap`."""


def weighted_gap(pairs: Pairs) -> Tensor:
    """`(S,)` the mean over anchors of Σ_k β_k (r_+ - r_k), the weights held fixed."""
    return (pairs.beta * (pairs.near - pairs.far)).sum(1).mean(-1)


def _distances(anchor: Tensor, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """r_+ `(S, 1, B)` and r_k `(S, H, B)`."""
    return distance(anchor, positive)[:, None], distance(anchor[:, None], negatives)


def _softmax_pairs(near: Tensor, far: Tensor, temperature: float, margin: float = 0.0) -> Pairs:
    """Of -τ log of the positive's share: β_k is negative k's share, exp(-r_k/τ) over the sum of all."""
    logits = -torch.cat([near + margin, far], dim=1).detach() / temperature
    return Pairs(near, far, logits.softmax(dim=1)[:, 1:])


def distance(a: Tensor, b: Tensor) -> Tensor:
    """r = 1/2 ||a - b||^2 over the last axis."""
    return (a - b).square().sum(-1) / 2


@dataclass(frozen=True)
class Simple:
    """r_+ - r_1. Unbounded below where outputs are not normalised."""

    negatives: int = 1
    slope: ClassVar[int] = 0
    temperature: ClassVar[float] = 1.0
    margin: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _check_negatives(self, exactly=1)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return (distance(anchor, positive) - distance(anchor, negatives[:, 0])).mean(-1)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        return Pairs(near, far, torch.ones_like(far))


@dataclass(frozen=True)
class Triplet:
    """τ log(1 + exp((r_+ - r_1 + margin) / τ)), the soft triplet loss."""

    temperature: float = 0.1
    margin: float = 1.0
    negatives: int = 1
    slope: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        check_number("margin", self.margin)
        _check_negatives(self, exactly=1)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        gap = distance(anchor, positive) - distance(anchor, negatives[:, 0]) + self.margin
        return self.temperature * softplus(gap / self.temperature).mean(-1)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        # β = sigmoid((r_+ - r_1 + margin)/τ): the positive further away by the margin
        return _softmax_pairs(near, far, self.temperature, self.margin)


@dataclass(frozen=True)
class InfoNCE:
    """-τ log( exp(-r_+/τ) / (exp(-r_+/τ) + Σ_k exp(-r_k/τ)) ) over H fresh negatives per anchor."""

    temperature: float = 0.1
    negatives: int = 1
    slope: ClassVar[int] = 1
    margin: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_negatives(self)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        near = distance(anchor, positive)[:, None]
        far = distance(anchor[:, None], negatives)
        if self.negatives == 1:  # the same number, in half the passes
            return self.temperature * softplus((near - far) / self.temperature).mean((1, 2))
        total = torch.logsumexp(torch.cat([-near, -far], 1) / self.temperature, dim=1)
        return (self.temperature * total + near[:, 0]).mean(-1)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        return _softmax_pairs(near, far, self.temperature)


@dataclass(frozen=True)
class NTXent:
    """InfoNCE with the 2B - 2 other views of the batch as negatives, both directions averaged."""

    temperature: float = 0.1
    negatives: int = 0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_negatives(self, exactly=0)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        outputs = torch.cat([anchor, positive], dim=1)  # (S, 2B, U)
        square = outputs.square().sum(-1) / 2
        r = square[:, :, None] + square[:, None] - outputs @ outputs.transpose(1, 2)
        itself = torch.eye(r.shape[-1], dtype=torch.bool, device=r.device)
        total = torch.logsumexp((-r / self.temperature).masked_fill(itself, -torch.inf), dim=-1)
        return self.temperature * total.mean(-1) + distance(anchor, positive).mean(-1)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        """Of 2B anchors, each with 2B - 2 negatives."""
        outputs = torch.cat([anchor, positive], dim=1)
        size, count = anchor.shape[1], outputs.shape[1]
        apart = torch.arange(1, count, device=outputs.device)
        apart = apart[apart != size]  # places from an anchor to its negatives; its positive is at B
        others = (torch.arange(count, device=outputs.device) + apart[:, None]) % count
        near = distance(outputs, outputs.roll(size, 1))[:, None]
        far = distance(outputs[:, None], outputs[:, others])
        return _softmax_pairs(near, far, self.temperature)


@dataclass(frozen=True)
class BatchwiseNCE:
    """-sigmoid((R_- - R_+) / τ), R the mean squared difference over the batch and over features.

    One number per batch rather than per anchor, as the original paper's code has it; one negative
    per anchor, no factor τ.
    """

    temperature: float = 0.1
    negatives: int = 1

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_negatives(self, exactly=1)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        near = (anchor - positive).square().mean((1, 2))
        far = (anchor - negatives[:, 0]).square().mean((1, 2))
        return -torch.sigmoid((far - near) / self.temperature)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        scale = 2 / anchor.shape[-1]  # R = 2 / U times the mean of r
        gap = (far - near).detach().mean((1, 2)) * scale / self.temperature
        share = torch.sigmoid(gap)
        beta = share * (1 - share) * scale / self.temperature
        return Pairs(near, far, beta[:, None, None].expand_as(far))


@dataclass(frozen=True)
class SpectralContrastive:
    """-2 f_a·f_+ + mean_k (f_a·f_k)^2 over H fresh negatives (HaoChen and others, arXiv 2106.04156).

    An unbiased estimate of their loss, whose negatives are independent samples, so it takes fresh
    ones and never the rest of the batch. Of inner products, not distances: it has no pair weights.
    """

    negatives: int = 1

    def __post_init__(self) -> None:
        _check_negatives(self)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        near = (anchor * positive).sum(-1)
        far = (anchor[:, None] * negatives).sum(-1).square().mean(1)
        return (far - 2 * near).mean(-1)


@dataclass(frozen=True)
class ExponentialWeights:
    """Σ_k w_k (r_+ - r_k) with w_k = exp(-r_k / τ) held fixed: near negatives are pushed hardest.

    A covariance-operator loss (theory, Section 3): its pair weights are given, not derived. Unbounded
    below where outputs are not normalised.
    """

    temperature: float = 0.1
    negatives: int = 1

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_negatives(self)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.pairs(anchor, positive, negatives))

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        return Pairs(near, far, (-far.detach() / self.temperature).exp())


@dataclass(frozen=True)
class InverseDistanceWeights:
    """Σ_k w_k (r_+ - r_k) with w_k = 1 / (r_k + epsilon) held fixed; otherwise as ExponentialWeights."""

    epsilon: float = 0.1
    negatives: int = 1

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, above=0)
        _check_negatives(self)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.pairs(anchor, positive, negatives))

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = _distances(anchor, positive, negatives)
        return Pairs(near, far, (far.detach() + self.epsilon).reciprocal())


@dataclass(frozen=True)
class Detached:
    """Σ_k β_k (r_+ - r_k) with another loss's own weights held fixed.

    Its gradient is that of the other loss: the weights are all that training hears of it.

    Raises:
        ValueError: a loss that is not one of distances.

    Example:
        >>> outputs = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
        >>> loss = Detached(InfoNCE(temperature=0.5))
        >>> loss(outputs[0], outputs[1], outputs[2][:, None]).shape
        torch.Size([2])
    """

    criterion: Weighing = field(default_factory=InfoNCE)

    def __post_init__(self) -> None:
        if isinstance(self.criterion, type) or not hasattr(self.criterion, "pairs"):
            raise ValueError(f"{self.criterion} is not a loss of distances, it has no pair weights")

    @property
    def negatives(self) -> int:
        """H of the other loss."""
        return self.criterion.negatives

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.criterion.pairs(anchor, positive, negatives))


LOSSES: dict[str, type] = {
    "simple": Simple,
    "triplet": Triplet,
    "infonce": InfoNCE,
    "ntxent": NTXent,
    "batchwise-nce": BatchwiseNCE,
    "spectral": SpectralContrastive,
    "exponential": ExponentialWeights,
    "inverse-distance": InverseDistanceWeights,
    "detached": Detached,
}


def _check_temperature(temperature: float) -> None:
    check_number("temperature", temperature, above=0)


def _check_negatives(loss: Loss, exactly: int | None = None) -> None:
    name = type(loss).__name__
    check_whole("negatives", loss.negatives, low=0)
    if exactly is not None and loss.negatives != exactly:
        raise ValueError(f"{name} takes {exactly} fresh negatives per anchor, got {loss.negatives}")
    if exactly is None and loss.negatives < 1:
        raise ValueError(f"{name} needs at least 1 negative per anchor, got {loss.negatives}")
