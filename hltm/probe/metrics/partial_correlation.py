"""Partial correlations of units with latents given the latents' parents, and what chance makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import one_hot
from hltm.probe.accumulators.conditional import PRODUCTS, Conditional, state_sums
from hltm.probe.accumulators.units import StreamingUnits
from hltm.probe.metrics.correlation_ratio import ratio_square

ROUNDING = 1e-6  # a share of variance that rounding alone leaves unexplained
QUANTILE = 0.95


def partial_square(found: Conditional, states: int) -> Tensor:
    """`(…, U, T)` float64 adjusted squares of partial correlations (see `Specificity`).

    Args:
        found: of targets with states state · K + state of the parent.
        states: K.
    """
    rows, mean = (
        x.unflatten(-1, (states, states)) for x in (found.rows, found.mean)
    )  # (z, parent)
    of_parent = rows.sum(-2)
    total = of_parent.sum(-1)
    given = (mean * rows[..., None, :, :, :]).sum(-2) / of_parent.clamp(min=1)[..., None, :, :]
    share = rows / total[..., None, None]
    extra = (mean - given[..., None, :]).square() * share[..., None, :, :, :]
    explained = (given.square() * share.sum(-2)[..., None, :, :]).sum(-1)
    within = found.variance[..., None]
    left = within - explained
    some = left > ROUNDING * within
    square = torch.where(some, extra.sum((-2, -1)) / left.where(some, 1.0), 0.0).clamp(0, 1)
    parents, joint = ((x > 0).sum(-1) for x in (of_parent, found.rows))
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
        self.units, self.targets, self.states, self.lags = StreamingUnits(), targets, states, lags
        self.batch = self.units.take(activations)
        may = torch.ones(activations.shape[-2], targets.shape[-2], dtype=torch.bool)
        self.allowed = (may if allowed is None else allowed).to(targets.device)

    def rival(self) -> Tensor:
        """`(…, T)` float64 95 % point of the best unit's correlation ratio with its rival."""
        z, found = self.targets, []
        for lag in range(1, self.lags + 1):
            shifted = z.roll(lag * z.shape[-1] // (self.lags + 1), -1)
            every = ratio_square(self._conditional(*self._sums(shifted)))
            own = torch.take_along_dim(every, self._best(every, self.allowed)[..., None], dim=-2)
            own.diagonal(dim1=-2, dim2=-1).fill_(0.0)
            found.append(own.amax(-1))
        return _point(found).sqrt()

    def partial(self, children: Sequence[int], above: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`(…, C)` float64 95 % point of the best unit's partial correlation, and `(…, C, K²)` numbers of
        rows with every joint state.

        Args:
            children: places of C targets, and `above` of their parents.
        """
        k = self.states
        z, parent = self.targets[..., list(children), :], self.targets[..., list(above), :]
        order = parent.argsort(dim=-1, stable=True)
        of_state = one_hot(parent, k).sum(-1).long().unflatten(-1, (-1, k))  # (…, C, K)
        by_rank = parent.gather(-1, order).long()
        size = of_state.gather(-1, by_rank)
        start = (of_state.cumsum(-1) - of_state).gather(-1, by_rank)
        rank = torch.arange(z.shape[-1], device=z.device) - start
        _, given = self._sums(parent)  # (…, U, C, K)
        found, rows = [], z
        allowed = self.allowed[:, list(children)]
        for lag in range(1, self.lags + 1):
            other = start + (rank + lag * size // (self.lags + 1)) % size
            shifted = torch.empty_like(z).scatter_(-1, order, z.gather(-1, order.gather(-1, other)))
            rows, sums = self._joint_sums(shifted * k + parent, given)
            joint = self._conditional(rows, sums)
            alone = self._conditional(*(x.unflatten(-1, (k, k)).sum(-1) for x in (rows, sums)))
            best = self._best(ratio_square(alone), allowed)[..., None, :]
            found.append(torch.take_along_dim(partial_square(joint, k), best, dim=-2)[..., 0, :])
        return _point(found).sqrt(), rows

    def _joint_sums(self, cells: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """`(…, C, K²)` rows and `(…, U, C, K²)` sums; those of state 0 are what is left of the parent's."""
        k = self.states
        if k * k > PRODUCTS:
            return self._sums(cells, k * k)
        indicator = one_hot(cells, k * k).unflatten(-2, (-1, k * k))
        rows, indicator = indicator.sum(-1).double(), indicator[..., k:, :].flatten(-3, -2)
        values = self.batch.values
        sums = (values @ indicator.to(values.dtype).mT).double().unflatten(-1, (-1, k * k - k))
        first = given - sums.unflatten(-1, (k - 1, k)).sum(-2)
        return rows, torch.cat([first, sums], -1)

    def _sums(self, targets: Tensor, states: int | None = None) -> tuple[Tensor, Tensor]:
        return state_sums(self.batch.values, targets, states or self.states)

    def _conditional(self, rows: Tensor, sums: Tensor) -> Conditional:
        units, dead = self.units, self.units.dead()
        mean = sums / rows.clamp(min=1)[..., None, :, :] - self.batch.rest[..., None, None]
        mean = mean.masked_fill(dead[..., None, None] | (rows == 0)[..., None, :, :], 0.0)
        variance = (units.square / units.samples).clamp(min=0).masked_fill(dead, 0.0)
        return Conditional(rows, mean, variance, dead, units.scale())

    def _best(self, every: Tensor, allowed: Tensor) -> Tensor:
        """`(…, T)` the unit with the largest of `(…, U, T)`."""
        return every.masked_fill(~allowed, -1.0).argmax(-2)


def _point(found: list[Tensor]) -> Tensor:
    """The 95 % point over lags: the value that a further one exceeds in at most 5 % of cases."""
    return torch.stack(found, -1).quantile(QUANTILE, dim=-1, interpolation="higher")
