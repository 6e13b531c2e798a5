"""Streaming correlations of units with targets."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.probe.accumulators.units import StreamingUnits, UnitBatch


class StreamingCorrelation:
    """Correlations of `(…, U, B)` activations with `(…, T, B)` targets, batch by batch.

    Sums are float64, of activations that `StreamingUnits` has centred and scaled. Leading axes are kept;
    they must be the same for both. Finite numbers are not required: a unit with one that is not has NaN
    (`Correlation` raises).

    Raises:
        ValueError: in `update`, no real numbers, or unequal numbers of rows.

    Example:
        >>> x = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
        >>> tracker = StreamingCorrelation()
        >>> tracker.update(x[:, :2], -x[:, :2])
        >>> tracker.update(x[:, 2:], -x[:, 2:])
        >>> tracker.correlation()
        tensor([[-1.]], dtype=torch.float64)
    """

    checked = False  # whether activations that are not finite are refused

    def __init__(self) -> None:
        self.units = StreamingUnits(checked=self.checked)
        self.targets = StreamingUnits(checked=False)
        self.cross: Tensor | float = 0.0

    @property
    def samples(self) -> int:
        return self.targets.samples

    def update(self, activations: Tensor | UnitBatch, targets: Tensor | UnitBatch) -> None:
        """Add a batch: activations `(…, U, B)` and targets `(…, T, B)` of real dtypes."""
        batch = activations
        if not isinstance(batch, UnitBatch):
            batch = self.units.take(batch)
        self.units = batch.owner(self.units)
        z = targets
        if not isinstance(z, UnitBatch):
            # states are small integers: they need no wider products than the activations
            z = z if z.dtype == torch.float64 else z.to(batch.values.dtype)
            z = self.targets.take(z)
        self.targets = z.owner(self.targets)
        self.cross = batch.cross(z, self.cross)

    def dead(self) -> Tensor:
        """`(…, U)` bool: units that never varied by more than rounding."""
        return self.units.dead()

    def strength(self) -> Tensor:
        """`(…, U, T)` float64 |correlation|."""
        return self.correlation().abs()

    def correlation(self) -> Tensor:
        """`(…, U, T)` float64 correlations; 0 for what never varied."""
        size = [x.square.clamp(min=0) for x in (self.units, self.targets)]
        constant = self.units.dead()[..., :, None] | self.targets.dead()[..., None, :]
        square = (size[0][..., :, None] * size[1][..., None, :]).masked_fill(constant, 1.0)
        return (self.cross / square.sqrt()).masked_fill(constant, 0.0).clamp(-1, 1)
