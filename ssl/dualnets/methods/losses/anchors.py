"""Losses of each anchor's own positive and negatives: simple, triplet, InfoNCE.

Symbols are those of `dualnets.methods.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from dualnets._lazy import torch
from dualnets.methods.losses.loss import LOSSES, CheckedLoss
from dualnets.methods.losses.pair_weights import Pairs, distances, softmax_pairs

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class PairLoss(Protocol):
    """A loss of one anchor's own r_+ and r_k, in the form that compiled training computes.

    Compiled training takes those of this module and no subclass of them, which may compute another loss.

    Attributes:
        exponential: whether β_k is exp((r_+ - r_k + margin) / τ) over one plus the sum of these; else 1.
        temperature: τ.
        margin: number added to r_+.
    """

    exponential: ClassVar[bool]
    temperature: float
    margin: float


@LOSSES.register("simple")
@dataclass(frozen=True)
class Simple:
    """r_+ - r_1. Unbounded below where outputs are not normalised."""

    negatives: int = field(default=1, init=False)
    exponential: ClassVar[bool] = False
    temperature: ClassVar[float] = 1.0
    margin: ClassVar[float] = 0.0

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return _pair_loss(self, anchor, positive, negatives)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = distances(anchor, positive, negatives)
        return Pairs(near, far, torch.ones_like(far))


@LOSSES.register("triplet")
@dataclass(frozen=True)
class Triplet(CheckedLoss):
    """τ log(1 + exp((r_+ - r_1 + margin) / τ)), the soft triplet loss.

    Attributes:
        temperature: τ of the loss.
        margin: number added to r_+.
    """

    temperature: float = 0.1
    margin: float = 1.0
    negatives: int = field(default=1, init=False)
    exponential: ClassVar[bool] = True

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return _pair_loss(self, anchor, positive, negatives)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = distances(anchor, positive, negatives)
        # β = sigmoid((r_+ - r_1 + margin) / τ): the share of a negative beside a positive at r_+ + margin
        return softmax_pairs(near, far, self.temperature, self.margin)


@LOSSES.register("infonce")
@dataclass(frozen=True)
class InfoNCE(CheckedLoss):
    """-τ log( exp(-r_+/τ) / (exp(-r_+/τ) + Σ_k exp(-r_k/τ)) ) over H fresh negatives per anchor.

    van den Oord, Li, Vinyals (arXiv 1807.03748, equation 4), with -r/τ as the score.

    Attributes:
        temperature: τ of the loss.
        negatives: number of fresh negatives per anchor.
    """

    temperature: float = 0.1
    negatives: int = 1
    exponential: ClassVar[bool] = True
    margin: ClassVar[float] = 0.0

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return _pair_loss(self, anchor, positive, negatives)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = distances(anchor, positive, negatives)
        return softmax_pairs(near, far, self.temperature)


def _pair_loss(
    loss: Simple | Triplet | InfoNCE, anchor: Tensor, positive: Tensor, negatives: Tensor
) -> Tensor:
    """`(S,)` a loss of distances and its settings."""
    near, far = distances(anchor, positive, negatives)
    if not loss.exponential:
        return (near - far).mean((1, 2))
    gaps = near - far + loss.margin if loss.margin else near - far
    gaps = gaps / loss.temperature
    # with the 1 kept apart, neither a small loss nor its gradient is a difference of large numbers
    total = gaps[:, 0] if gaps.shape[1] == 1 else torch.logsumexp(gaps, 1)
    return loss.temperature * torch.nn.functional.softplus(total).mean(-1)
