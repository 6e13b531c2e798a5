"""Partial correlations of units with latents given the latents' parents, and what chance makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hltm.probe.accumulators.conditional import state_sums
from hltm.probe.accumulators.units import StreamingUnits
from hltm.probe.null import upper_point

ROUNDING = 1e-6  # a share of variance that rounding alone leaves unexplained
HELD = 1 << 23  # shifted indicators of states held at a time


def partial_square(rows: Tensor, mean: Tensor, variance: Tensor, states: int) -> Tensor:
    """`(…, U, T)` float64 adjusted squares of partial correlations (see `Specificity`).

    Args:
        rows: `(…, T, K²)` numbers of rows with state · K + state of the parent.
        mean: `(…, U, T, K²)` of units given these, minus the overall mean.
        variance: `(…, U, T)` or `(…, U, 1)` of units.
        states: K.
    """
    count, mean = (x.unflatten(-1, (states, states)) for x in (rows, mean))  # (z, parent)
    of_parent = count.sum(-2)
    total = of_parent.sum(-1)
    given = (mean * count[..., None, :, :, :]).sum(-2) / of_parent.clamp(min=1)[..., None, :, :]
    share = count / total[..., None, None]
    extra = (mean - given[..., None, :]).square() * share[..., None, :, :, :]
    left = variance - (given.square() * share.sum(-2)[..., None, :, :]).sum(-1)
    some = left > ROUNDING * variance
    square = torch.where(some, extra.sum((-2, -1)) / left.where(some, 1.0), 0.0).clamp(0, 1)
    parents, joint = ((x > 0).sum(-1) for x in (of_parent, rows))
    degrees = (total - joint)[..., None, :]
    adjusted = 1 - (1 - square) * (total - parents)[..., None, :] / degrees.clamp(min=1)
    adjusted = adjusted.clamp(0, 1).where(some, 0.0)
    return adjusted.masked_fill(degrees <= 0, torch.nan)


def sampling_error(rows: Tensor, states: int) -> Tensor:
    """`(…, T)` float64 standard error of that square, for a normal unit that follows the parent alone.

    ρ² is then beta distributed with (m - k) / 2 and (n - m) / 2 degrees of freedom.

    Args:
        rows: `(…, T, K²)` numbers of rows with every joint state.
    """
    total = rows.sum(-1)
    joint = (rows > 0).sum(-1)
    more = joint - (rows.unflatten(-1, (states, states)).sum(-2) > 0).sum(-1)
    left = total - joint
    return (2 * more / (left * (left + more + 2))).clamp(min=0).sqrt()


class BestUnitNull:
    """What the best unit scores where targets are shifted against units, among all of the rows or among
    those with the same state of the parent.

    Rows are independent, so shifted targets have the distribution that they would have if units knew
    nothing of them; units keep their dependence on each other and on the parent.

    Args:
        activations, targets: `(…, U, B)` and states `(…, T, B)`.
        states: K.
        lags: shifts.
        allowed: `(U, T)` bool, the units among which each target's best is chosen; all by default.
    """

    def __init__(
        self, activations: Tensor, targets: Tensor, states: int, lags: int, allowed: Tensor | None
    ) -> None:
        units, self.targets, self.states, self.lags = StreamingUnits(), targets.long(), states, lags
        batch, dead = units.take(activations), units.dead()
        # centred to the last digit, so that a unit's sum over all rows is 0
        values = batch.values - batch.rest.to(batch.values.dtype)[..., None]
        self.values = values.masked_fill(dead[..., None], 0.0).contiguous()
        self.variance = units.square.clamp(min=0).masked_fill(dead, 0.0) / units.samples
        may = torch.ones(activations.shape[-2], targets.shape[-2], dtype=torch.bool)
        self.allowed = (may if allowed is None else allowed).to(targets.device)

    def rival(self) -> Tensor:
        """`(…, T)` float64 95% point of the best unit's correlation ratio with its rival."""
        rows, found = self.targets.shape[-1], []

        def shifted(lag: int) -> Tensor:
            return self.targets.roll(lag * rows // (self.lags + 1), -1)

        for _, every, best in self._best(shifted, self.allowed):
            own = torch.take_along_dim(every, best[..., None], dim=-2)  # (…, lags, T, T)
            own.diagonal(dim1=-2, dim2=-1).fill_(0.0)
            found.append(own.amax(-1))
        return _point(found)

    def partial(self, children: Sequence[int], above: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`(…, C)` float64 95% point of the best unit's partial correlation, and `(…, C, K²)` numbers of
        rows with every joint state.

        Args:
            children: places of C targets, and `above` of their parents.
        """
        k = self.states
        z, parent = (self.targets[..., list(of), :] for of in (children, above))
        order = parent.argsort(dim=-1, stable=True)
        ordered, by_rank = z.gather(-1, order), parent.gather(-1, order)
        of_state = _sums(torch.ones_like(parent), parent, k)  # (…, C, K)
        size = of_state.gather(-1, by_rank)
        start = (of_state.cumsum(-1) - of_state).gather(-1, by_rank)
        rank = torch.arange(z.shape[-1], device=z.device) - start

        def shifted(lag: int) -> Tensor:
            other = rank + (lag * of_state // (self.lags + 1)).gather(-1, by_rank)
            other = start + other.where(other < size, other - size)
            return torch.empty_like(z).scatter_(-1, order, ordered.gather(-1, other))

        # a shift does not change how often joint states occur
        rows = _sums(torch.ones_like(z), z * k + parent, k * k).double()
        found = []
        for states, _, best in self._best(shifted, self.allowed[:, list(children)]):
            unit = best.flatten(-2)[..., None].expand(*best.shape[:-2], -1, z.shape[-1])
            values = self.values.gather(-2, unit).unflatten(-2, best.shape[-2:]).double()
            sums = _sums(values, states * k + parent[..., None, :, :], k * k)
            variance = self.variance.gather(-1, best.flatten(-2)).reshape(best.shape)
            mean = sums / rows.clamp(min=1)[..., None, :, :]
            found.append(partial_square(rows, mean, variance, k))
        return _point(found), rows

    def _best(
        self, shifted: Callable[[int], Tensor], allowed: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For some lags at a time, shifted targets `(…, lags, T, B)`, all η² `(…, lags, U, T)` and the
        unit with the largest `(…, lags, T)`.
        """
        size = self.targets.numel() * (1 if self.states == 2 else self.states)
        step = max(HELD // size, 1)
        for low in range(1, self.lags + 1, step):
            lags = range(low, min(low + step, self.lags + 1))
            z = torch.stack([shifted(lag) for lag in lags], -3)
            every = self._ratios(z.flatten(-3, -2)).unflatten(-1, (len(lags), -1)).movedim(-2, -3)
            yield z, every, every.masked_fill(~allowed, -1.0).argmax(-2)

    def _ratios(self, z: Tensor) -> Tensor:
        """`(…, U, T)` float64 η² of targets `(…, T, B)`."""
        if self.states == 2:  # the sums of both states are opposite
            one, count = (self.values @ z.to(self.values.dtype).mT).double(), z.sum(-1)
            left = count * (z.shape[-1] - count) / z.shape[-1]
            between = one.square() / left.clamp(min=0.5)[..., None, :]
        else:
            count, sums = state_sums(self.values, z, self.states)
            between = (sums.square() / count.clamp(min=1)[..., None, :, :]).sum(-1)
        variance = self.variance[..., None] * z.shape[-1]
        return torch.where(variance == 0, 0.0, between / variance).clamp(0, 1)


def _sums(values: Tensor, cells: Tensor, number: int) -> Tensor:
    """`(…, number)` sums over rows of values `(…, B)` in every cell."""
    shape = (*values.shape[:-1], number)
    return values.new_zeros(shape).scatter_add_(-1, cells.expand(values.shape), values)


def _point(found: list[Tensor]) -> Tensor:
    """The 95% point over lags, axis -2, of what these are the squares of."""
    return upper_point(torch.cat(found, -2), -2).sqrt()
