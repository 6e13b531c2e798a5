"""Contrastive losses: pure functions of outputs, one value per member (theory, Section 3).

With r(u, v) = 1/2 ||u - v||^2, an anchor a, its positive + (a view of the same sample) and H
negatives k (views of other samples), r_+ = r(a, +) and r_k = r(a, k). All but BatchwiseNCE carry
the factor τ, which libraries usually drop: learning rates differ by it.

Outputs are `(S, B, U)`, negatives `(S, H, B, U)`; a loss is the mean over the batch, `(S,)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Loss(Protocol):
    """A contrastive loss; `negatives` is H, the fresh negatives it asks for per anchor."""

    @property
    def negatives(self) -> int: ...

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """`(S,)` from anchor and positive `(S, B, U)` and negatives `(S, H, B, U)`."""


@runtime_checkable
class PairLoss(Protocol):
    """A loss of one anchor's own r_+ and r_k, which a compiled span can take.

    Attributes:
        slope: 0 for β = 1; 1 for β_k = exp((r_+ - r_k + margin) / τ) over one plus their sum.
        temperature: τ.
        margin: added to r_+.
    """

    slope: ClassVar[int]
    temperature: float
    margin: float


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


@dataclass(frozen=True)
class Triplet:
    """τ log(1 + exp((r_+ - r_1 + margin) / τ)), the soft triplet loss."""

    temperature: float = 0.1
    margin: float = 1.0
    negatives: int = 1
    slope: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_negatives(self, exactly=1)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        gap = distance(anchor, positive) - distance(anchor, negatives[:, 0]) + self.margin
        return self.temperature * softplus(gap / self.temperature).mean(-1)


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


LOSSES: dict[str, type] = {
    "simple": Simple,
    "triplet": Triplet,
    "infonce": InfoNCE,
    "ntxent": NTXent,
    "batchwise-nce": BatchwiseNCE,
}


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


def _check_negatives(loss: Loss, exactly: int | None = None) -> None:
    name = type(loss).__name__
    if exactly is not None and loss.negatives != exactly:
        raise ValueError(f"{name} takes {exactly} fresh negatives per anchor, got {loss.negatives}")
    if loss.negatives < 0 or (exactly is None and loss.negatives < 1):
        raise ValueError(f"{name} needs at least 1 negative per anchor, got {loss.negatives}")
