"""Losses in which a batch is compared, or averaged, as a whole: NT-Xent and batch-wise NCE.

Symbols are those of `dualnets.methods.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dualnets._lazy import torch
from dualnets._precision import at_least_float32
from dualnets.methods._plain import distance, plain_ntxent
from dualnets.methods.losses.loss import LOSSES, CheckedLoss
from dualnets.methods.losses.pair_weights import Pairs, distances, softmax_pairs

if TYPE_CHECKING:
    from torch import Tensor


@LOSSES.register("ntxent")
@dataclass(frozen=True)
class NTXent(CheckedLoss):
    """InfoNCE with the 2B - 2 other views of the batch as negatives, averaged over both directions.

    Chen, Kornblith, Norouzi, Hinton (arXiv 2002.05709, equation 1), times τ.

    Attributes:
        temperature: τ of the loss.
    """

    temperature: float = 0.1
    negatives: int = field(default=0, init=False)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        from dualnets.methods.compiled.operation import is_supported

        given = at_least_float32(anchor), at_least_float32(positive), self.temperature
        if is_supported(*given[:2]):
            from dualnets.methods.compiled.ntxent import ntxent

            return ntxent(*given)[0]
        return plain_ntxent(*given)

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        """Distances and weights of 2B anchors, each with 2B - 2 negatives."""
        outputs = torch.cat([anchor, positive], dim=1)
        size, count = anchor.shape[1], outputs.shape[1]
        # offsets from an anchor to its negatives; its positive is at offset B, itself at 0
        apart = torch.arange(1, count, device=outputs.device)
        apart = apart[apart != size]
        others = (torch.arange(count, device=outputs.device) + apart[:, None]) % count
        near = distance(outputs, outputs.roll(size, 1))[:, None]
        far = distance(outputs[:, None], outputs[:, others])
        return softmax_pairs(near, far, self.temperature)


@LOSSES.register("batchwise-nce")
@dataclass(frozen=True)
class BatchwiseNCE(CheckedLoss):
    """-sigmoid((R_- - R_+) / τ), R the mean squared difference over the batch and over units.

    One number per batch rather than per anchor, as in the code of arXiv 2010.00578; one negative per
    anchor and no factor τ.

    Attributes:
        temperature: τ of the loss.
    """

    temperature: float = 0.1
    negatives: int = field(default=1, init=False)

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        near, far = distances(anchor, positive, negatives)
        gap = (far - near).mean((1, 2)) * (2 / anchor.shape[-1]) / self.temperature
        # of a gap above 0, 1 less a small number: that number keeps the gradient
        return torch.where(gap > 0, torch.sigmoid(-gap) - 1, -torch.sigmoid(gap))

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = distances(anchor, positive, negatives)
        scale = 2 / anchor.shape[-1]  # R = 2 / U times the mean of r
        gap = (far - near).detach().mean((1, 2)) * scale / self.temperature
        beta = torch.sigmoid(gap) * torch.sigmoid(-gap) * scale / self.temperature
        return Pairs(near, far, beta[:, None, None].expand_as(far))
