"""Streaming means of units given the state of each target, and the units' own variance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_pair, one_hot
from hltm.probe.accumulators.correlation import DEAD


class Conditional(NamedTuple):
    """Means of units given states of targets; float64 unless stated otherwise.

    Attributes:
        rows: `(…, T, K)` number of rows with every state.
        mean: `(…, U, T, K)` mean of a unit given a state, minus the unit's overall mean; 0 for a
            state that never came.
        variance: `(…, U)` of every unit, divided by the number of rows.
        constant: `(…, U)` bool: units that never varied.
    """

    rows: Tensor
    mean: Tensor
    variance: Tensor
    constant: Tensor


class StreamingConditional:
    """E[unit | target = k] of `(…, U, B)` activations and `(…, T, B)` targets of K `states`.

    Sums are of activations minus the first batch's mean, in float64 across batches, so a large
    mean does not cancel a small variance.

    Raises:
        ValueError: fewer than 2 states; in `update`, as `check_pair` and `one_hot`.

    Example:
        >>> sums = StreamingConditional()
        >>> sums.update(torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[0, 1, 1]]))
        >>> sums.result().mean  # 1 and 4, around 3
        tensor([[[-2.,  1.]]], dtype=torch.float64)
    """

    def __init__(self, states: int = 2) -> None:
        if states < 2:
            raise ValueError(f"states must be at least 2, got {states}")
        self.states, self.samples = states, 0

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        a = check_pair(activations, targets)
        if self.samples == 0:
            self.shift = a.mean(-1, keepdim=True)
            self.count = self.square = self.sums = self.total = a.new_zeros((), dtype=torch.float64)
        a = a - self.shift
        indicator = one_hot(targets, self.states)
        self.count = self.count + indicator.sum(-1).double()
        self.sums = self.sums + (a @ indicator.to(a.dtype).transpose(-1, -2)).double()
        self.total = self.total + a.sum(-1, dtype=torch.float64)
        norm = torch.linalg.vector_norm(a, dim=-1, dtype=torch.float64)
        self.square = self.square + norm.square()
        self.samples += a.shape[-1]

    def result(self) -> Conditional:
        """Counts, conditional means and variances of all rows so far."""
        count, sums = (x.unflatten(-1, (-1, self.states)) for x in (self.count, self.sums))
        mean = self.total / self.samples
        each = sums / count.clamp(min=1)[..., None, :, :]
        centred = (each - mean[..., None, None]) * (count > 0)[..., None, :, :]
        variance = (self.square / self.samples - mean.square()).clamp(min=0)
        constant = variance <= DEAD * (mean + self.shift[..., 0].double()).square()
        return Conditional(
            count,
            centred.masked_fill(constant[..., None, None], 0.0),
            variance.masked_fill(constant, 0.0),
            constant,
        )
