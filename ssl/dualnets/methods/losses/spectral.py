"""The spectral contrastive loss, a function of inner products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets._precision import at_least_float32
from dualnets.methods.losses.loss import LOSSES, CheckedLoss

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("spectral")
@dataclass(frozen=True)
class SpectralContrastive(CheckedLoss):
    """-2 f_a·f_+ + mean_k (f_a·f_k)^2 over H fresh negatives.

    HaoChen, Wei, Gaidon, Ma (arXiv 2106.04156, equation 6): an unbiased estimate of their loss, whose
    negatives are independent samples, so the rest of the batch is not used. It is a function of inner
    products, not of distances, and has no pair weights.

    Attributes:
        negatives: number of fresh negatives per anchor.
    """

    negatives: int = 1

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        anchor, positive, negatives = map(at_least_float32, (anchor, positive, negatives))
        near = (anchor * positive).sum(-1)
        far = (anchor[:, None] * negatives).sum(-1).square().mean(1)
        return (far - 2 * near).mean(-1)
