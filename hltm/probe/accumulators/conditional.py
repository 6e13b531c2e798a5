"""Streaming means of units given the state of each target, and the units' own variance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_fit, check_states, one_hot
from hltm.probe.accumulators.units import StreamingUnits, UnitBatch

# more states than this are summed row by row, which takes the same time for any number
PRODUCTS = 16


class Conditional(NamedTuple):
    """Means of units given states of targets; float64 unless stated otherwise.

    Attributes:
        rows: `(…, T, K)` number of rows with every state.
        mean: `(…, U, T, K)` mean of a unit given a state, minus the unit's overall mean, in units of
            `scale`; 0 for a state that never came.
        variance: `(…, U)` of every unit, divided by the number of rows, in units of scale².
        dead: `(…, U)` bool: units that never varied by more than rounding.
        scale: `(…, U)` a power of two, near the unit's largest value.
    """

    rows: Tensor
    mean: Tensor
    variance: Tensor
    dead: Tensor
    scale: Tensor


class StreamingConditional:
    """E[unit | target = k] of `(…, U, B)` activations and `(…, T, B)` targets of K `states`.

    Sums are float64, of activations that `StreamingUnits` has centred and scaled.

    Raises:
        ValueError: fewer than 2 states; in `update`, as `StreamingUnits` and `one_hot`, or targets that
            do not fit the activations.

    Example:
        >>> sums = StreamingConditional()
        >>> sums.update(torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[0, 1, 1]]))
        >>> found = sums.result()
        >>> found.mean * found.scale  # 1 and 4, around 3
        tensor([[[-2.,  1.]]], dtype=torch.float64)
    """

    def __init__(self, states: int = 2) -> None:
        if states < 2:
            raise ValueError(f"states must be at least 2, got {states}")
        self.states, self.units = states, StreamingUnits()
        # (…, T, K) rows, and (…, U, T, K) sums of units minus their means over all rows
        self.count = self.sums = torch.zeros((), dtype=torch.float64)

    @property
    def samples(self) -> int:
        return self.units.samples

    def update(self, activations: Tensor | UnitBatch, targets: Tensor) -> None:
        """Add a batch."""
        batch = activations
        check_fit(batch, targets)
        check_states(targets, self.states)
        if not isinstance(batch, UnitBatch):
            batch = self.units.take(batch)
        self.units = batch.owner(self.units)
        total = batch.before + batch.shape[-1]
        count, sums = state_sums(batch.values, targets, self.states)
        # the centre of the batch minus the mean of all rows, and that mean minus the one before
        here = batch.step * (batch.before / total) - batch.rest
        there = batch.step * (batch.shape[-1] / total)
        added = sums + here[..., None, None] * count[..., None, :, :]
        if batch.before:
            moved = there[..., None, None] * self.count[..., None, :, :]
            added = added + self.sums * batch.power[..., None, None] - moved
        self.sums = added
        self.count = self.count + count

    def result(self) -> Conditional:
        """Counts, conditional means and variances of all rows so far."""
        units, dead = self.units, self.units.dead()
        mean = self.sums / self.count.clamp(min=1)[..., None, :, :]
        variance = (units.square / units.samples).clamp(min=0)
        return Conditional(
            self.count,
            mean.masked_fill((self.count == 0)[..., None, :, :] | dead[..., None, None], 0.0),
            variance.masked_fill(dead, 0.0),
            dead,
            units.scale(),
        )


def state_sums(values: Tensor, targets: Tensor, states: int) -> tuple[Tensor, Tensor]:
    """`(…, T, K)` float64 numbers of rows, and `(…, U, T, K)` float64 sums of `(…, U, B)` values.

    Example:
        >>> count, sums = state_sums(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 1, 1]]), 2)
        >>> count.tolist(), sums.tolist()
        ([[1.0, 2.0]], [[[1.0, 6.0]]])
    """
    if states <= PRODUCTS:
        indicator = one_hot(targets, states)
        sums = (values @ indicator.to(values.dtype).mT).double()
        count = indicator.sum(-1).double()
        return count.unflatten(-1, (-1, states)), sums.unflatten(-1, (-1, states))
    lead, units = values.shape[:-2], values.shape[-2]
    rows = values.flatten(0, -3) if lead else values[None]  # (S, U, B)
    z = targets.reshape(len(rows), *targets.shape[-2:]).long()
    rows = rows.transpose(1, 2).reshape(-1, units)  # (S · B, U)
    members = torch.arange(len(z), device=z.device)[:, None] * states
    found, counts = [], []
    for t in range(z.shape[1]):
        cell = (z[:, t] + members).flatten()
        found.append(rows.new_zeros(len(z) * states, units).index_add_(0, cell, rows).double())
        counts.append(torch.bincount(cell, minlength=len(z) * states).double())
    sums = torch.stack(found).reshape(-1, len(z), states, units).permute(1, 3, 0, 2)
    count = torch.stack(counts, 1).reshape(len(z), states, -1).mT
    return count.reshape(*lead, *count.shape[1:]), sums.reshape(*lead, *sums.shape[1:])
