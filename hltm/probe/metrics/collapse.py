"""Whether a layer has collapsed: feature spread, effective rank, dead units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hltm._results import by_content
from hltm.probe.accumulators.units import StreamingUnits, UnitBatch, power_of_two

LARGE = 2.0**400  # squares of numbers up to this, and of their inverses, are far from overflow


@by_content
class Collapsed(NamedTuple):
    """How far a layer has collapsed, from `Collapse`.

    Attributes:
        spread: `(…,)` float64, near 0 where all outputs point the same way, 1 where they point
            everywhere evenly.
        effective_rank: `(…,)` float64, in 1..U; 0 where nothing varies.
        dead: `(…, U)` bool, units that never vary by more than rounding.
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
    squares are those of the covariance). Neither depends on the activations' scale.

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
        self.units, self.directions = StreamingUnits(), StreamingUnits(checked=False)
        self.products: Tensor | float = 0.0  # (…, U, U) in the units' scales

    def update(self, activations: Tensor | UnitBatch) -> None:
        """Add a batch."""
        batch = activations
        if not isinstance(batch, UnitBatch):
            batch = self.units.take(batch)
        self.units = batch.owner(self.units)
        self.products = batch.cross(batch, self.products)
        self.directions.take(_directions(batch.given))

    def result(self) -> Collapsed:
        """Spread, rank and dead units of all rows so far."""
        dead = self.units.dead()
        exponent = self.units.exponent
        # one scale for all units, that of the largest which varies
        most = exponent.masked_fill(dead, -1022).amax(-1, keepdim=True)
        scale = power_of_two((exponent - most).clamp(-1022, 0)).masked_fill(dead, 0.0)
        covariance = self.products * scale[..., :, None] * scale[..., None, :]
        values = torch.linalg.eigvalsh(covariance).clamp(min=0)
        total = values.sum(-1)
        share = values / total.where(total > 0, 1.0)[..., None]
        rank = torch.special.entr(share).sum(-1).exp()
        deviation = self.directions.variance().sqrt()
        spread = deviation.mean(-1) * deviation.shape[-1] ** 0.5
        return Collapsed(spread, torch.where(total > 0, rank, 0.0), dead)


def _directions(a: Tensor) -> Tensor:
    """Rows of `(…, U, B)` of length 1.

    In float64, where squares of float32 do not overflow and a layer whose units share a large mean spreads
    more than rounding. Other rows and members have no part in it, to the last bit.
    """
    if a.dtype == torch.float64:
        largest = a.abs().amax(-2, keepdim=True)
        far = (largest > LARGE) | (largest < 1 / LARGE) & (largest > 0)
        a = a / largest.where(far, 1.0)
    a = a.double()
    length = a.square().sum(-2, keepdim=True).sqrt()
    return a / length.where(length > 0, 1.0)
