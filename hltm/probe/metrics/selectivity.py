"""Selectivity of units to binary latents."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.probe.accumulators.conditional import StreamingConditional
from hltm.probe.metric import Metric


class Selectivity(Metric):
    """s_j = ½ (E[unit j | z = 1] - E[unit j | z = 0]), in the unit's own scale.

    For views that redraw everything below a uniform root, the products of these with the
    correlation to the root make the top covariance operator (docs/theory.md, Section 4). A dead
    unit has selectivity 0; so has every unit where a state never came. Targets have states 0 and 1.

    Raises:
        ValueError: in `update`, as `StreamingConditional`.

    Example:
        >>> metric = Selectivity()
        >>> metric.update(torch.tensor([[3.0, 1.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0, 1]]))
        >>> metric.result()
        tensor([[-1.]], dtype=torch.float64)
    """

    two_states = True
    null = "selectivity"
    takes_batches = True

    def __init__(self) -> None:
        self.sums = StreamingConditional(2)

    def result(self) -> Tensor:
        """`(…, U, T)` selectivities, float64."""
        found = self.sums.result()
        both = (found.rows > 0).all(-1)[..., None, :]
        half = (found.mean[..., 1] - found.mean[..., 0]) / 2 * found.scale[..., None]
        return torch.where(both, half, torch.zeros_like(half))

    def ceiling_factor(self) -> Tensor:
        """`(…, U, T)` sd(unit) / 2 sqrt(p (1 - p)): what a correlation of 1 is in the unit's own scale."""
        share = self.sums.count / self.sums.samples
        spread = 2 * share.prod(-1).sqrt()[..., None, :]
        deviation = self.sums.units.variance().sqrt()[..., None]
        return torch.where(spread > 0, deviation / spread, torch.zeros_like(deviation))

    def strength(self) -> Tensor:
        """`(…, U, T)` |s_j|, float64."""
        return self.result().abs()
