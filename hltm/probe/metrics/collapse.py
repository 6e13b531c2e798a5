"""Whether a layer has collapsed: feature spread, effective rank, dead units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.correlation import DEAD
from hltm.probe.accumulators.moments import StreamingMoments


class Collapsed(NamedTuple):
    """How far a layer has collapsed.

    Attributes:
        spread: `(…,)` float64, near 0 where all outputs point the same way, 1 where they point
            everywhere evenly.
        effective_rank: `(…,)` float64, in 1..U; 0 where nothing varies.
        dead: `(…, U)` bool, units that never vary.
    """

    spread: Tensor
    effective_rank: Tensor
    dead: Tensor


class Collapse:
    """Feature spread and effective rank of `(…, U, B)` activations, and their dead units.

    Spread: the standard deviation of each coordinate of the l2-normalised activations, averaged
    over coordinates, times sqrt(U) (Chen and He 2020, arXiv 2011.10566, Section 4.1). A row of
    zeros stays zero. Effective rank: exp of the entropy of the covariance's singular values,
    normalised to sum to 1 (Roy and Vetterli 2007, there of the singular values of the data; their
    squares are those of the covariance).

    Raises:
        ValueError: in `update`, activations that are not finite.

    Example:
        >>> metric = Collapse()
        >>> metric.update(torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0)))
        >>> found = metric.result()
        >>> round(float(found.spread), 2), round(float(found.effective_rank), 1)
        (1.0, 4.0)
    """

    def __init__(self) -> None:
        self.raw, self.normalized = StreamingMoments(), StreamingMoments()

    def update(self, activations: Tensor) -> None:
        """Add a batch."""
        check_finite(activations)
        a = activations if activations.is_floating_point() else activations.float()
        self.raw.update(a, a[..., :0, :])
        # each coordinate by itself: no products between them are needed
        alone = torch.nn.functional.normalize(a, dim=-2)[..., None, :]
        self.normalized.update(alone, alone[..., :0, :])

    def result(self) -> Collapsed:
        """Spread, rank and dead units of all rows so far."""
        raw, normalized = self.raw.result(), self.normalized.result()
        variance = raw.xx.diagonal(dim1=-2, dim2=-1)
        dead = variance <= DEAD * raw.mean_x.square()
        alive = (~dead).to(variance)
        covariance = raw.xx * alive[..., :, None] * alive[..., None, :]
        values = torch.linalg.eigvalsh(covariance).clamp(min=0)
        total = values.sum(-1)
        share = values / total.where(total > 0, torch.ones_like(total))[..., None]
        rank = torch.special.entr(share).sum(-1).exp()
        deviation = normalized.xx[..., 0, 0].sqrt()
        spread = deviation.mean(-1) * deviation.shape[-1] ** 0.5
        return Collapsed(spread, torch.where(total > 0, rank, 0.0), dead)
