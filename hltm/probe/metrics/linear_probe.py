"""Linear probes in closed form: how well a linear readout of a layer predicts each latent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hltm._results import by_content
from hltm.probe.accumulators.checks import as_numbers, check_finite, check_pair, one_hot
from hltm.probe.accumulators.moments import PairMoments, StreamingMoments
from hltm.probe.accumulators.units import UnitBatch

SIDES = (0,), (2,), (1, 3)  # blocks of every four that each half to fit, and the test, have
BLOCK = 32  # rows that go to one side of the split together
LEAST = 32  # rows that each side needs
NORMAL = 1.6448536269514722  # the 95% point of the normal distribution
RIDGES = tuple(10.0**i for i in range(-6, 4))  # penalties that are tried
MANY = 7  # penalties, from which on eigenvectors are faster than a factorisation for each
WIDEST = 2048  # units, up to which that was measured


@by_content
class LinearReadout(NamedTuple):
    """Linear probes, from `LinearProbe`, and their quality on rows that they were not fitted to; float64.

    Attributes:
        correlation: `(…, T)` of predicted and true indicators of the state, over all states
            together; for two states it is the correlation with the latent itself, so the ceiling
            bounds it.
        null: `(…, T)` the 95% point of that correlation where the rows tested are in random order.
        r2: `(…, T)` coefficient of determination of the indicators, over all states together; below
            0 where the mean predicts better.
        variance: `(…, T)` of the indicators on the rows tested, summed over the states; the r2 of
            several targets together is Σ r2 · variance / Σ variance.
        weight: `(…, U, T, K)`, and intercept `(…, T, K)`, of the indicators.
        ridge: `(…, T)` the penalty, as a share of each unit's variance.
        train_samples, test_samples: rows of either side.
    """

    correlation: Tensor
    null: Tensor
    r2: Tensor
    variance: Tensor
    weight: Tensor
    intercept: Tensor
    ridge: Tensor
    train_samples: int
    test_samples: int


class LinearProbe:
    """Ridge regression of every target's state on all units, by second moments.

    Minimises `Σ |indicator - w·unit - b|² + ridge · n · Σ_u var(u) w_u²` over n rows: the penalty is in units
    of each unit's own variance, so it does not depend on a unit's scale. A dead unit gets weight 0.
    Rows are fitted and tested in alternating blocks of 32, by their number, so the split is the
    same however rows are batched. Takes `(…, U, B)` activations and `(…, T, B)` states; memory is
    three times `(…, U, U + T·K)`.

    Unless a penalty is given, each target has the one, among 1e-6, 1e-5, …, 1e3 for half of the rows that
    are fitted, with which either half predicts the other best. The rows that are tested have no part in it.

    A readout of units that know nothing is fitted on other rows than it is tested on, so its correlation is
    that of predictions with states in random order: nearly normal around 0, with variance
    tr(P Z) / ((n - 1) tr P tr Z) for the covariances P of predicted and Z of true indicators (Hoeffding
    1951, doi 10.1214/aoms/1177729545), which for two states is 1 / (n - 1). `null` is its 95% point.

    Args:
        states: K, the largest number of states of a target.
        ridge: the penalty, above 0; None chooses it.
        lags: how many further readouts are of the targets of other rows of the same side and batch. They are
            made of the same moments of units and of targets, and come behind the first on an axis of 1 + lags
            in front of the result, but of `variance`, which is the same for all.

    Raises:
        ValueError: fewer than 2 states, a ridge that is not above 0; in `update` as `check_pair` and
            `one_hot`; in `result` too few rows.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randint(2, (1, 2000), generator=generator)
        >>> noise = torch.randn(1, 2000, generator=generator)
        >>> probe = LinearProbe()
        >>> probe.update(torch.cat([z + noise, noise]), z)  # no unit is z, a sum of both is
        >>> round(float(probe.result().correlation), 3)
        1.0
    """

    def __init__(self, states: int = 2, ridge: float | None = None, lags: int = 0) -> None:
        if states < 2:
            raise ValueError(f"states must be at least 2, got {states}")
        if ridge is not None and not ridge > 0:
            raise ValueError(f"ridge must be above 0, got {ridge}")
        self.states, self.ridge, self.samples = states, ridge, 0
        # two halves to fit, and rows to test
        self.sides = [StreamingMoments(lags) for _ in SIDES]

    def update(self, activations: Tensor, targets: Tensor, batch: UnitBatch | None = None) -> None:
        """Add a batch of the next rows.

        Args:
            batch: the same activations, whose `products` are made of those of both sides.
        """
        a = check_pair(activations, targets)
        parts = self._add(a, one_hot(targets, self.states).to(a.dtype))
        if batch is not None and batch.shape == a.shape and batch.values.dtype == a.dtype:
            batch.join(parts)

    def update_numbers(self, activations: Tensor, numbers: Tensor) -> None:
        """Add a batch of the next rows, whose targets are K numbers each in place of indicators.

        Args:
            activations: `(…, U, B)`.
            numbers: `(…, T, K, B)`, e.g. probabilities of states; leading axes are equal or broadcast.

        Raises:
            ValueError: activations or numbers that are not finite, or K other than `states`.

        Example:
            >>> a = torch.rand(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            >>> probe = LinearProbe()
            >>> probe.update_numbers(a, torch.stack([a.sum(0), a[0] - a[1]])[None])  # one target
            >>> round(float(probe.result().r2), 6)
            1.0
        """
        if numbers.shape[-2] != self.states:
            raise ValueError(
                f"expected {self.states} numbers of each target, got {numbers.shape[-2]}"
            )
        a = as_numbers(activations)
        check_finite(a)
        check_finite(numbers.flatten(-3, -2))
        self._add(a, numbers.flatten(-3, -2).to(a.dtype))

    def _add(self, a: Tensor, values: Tensor) -> list[UnitBatch]:
        """Add `(…, U, B)` and `(…, T · K, B)` of the next rows; the activations of each side with rows."""
        parts = []
        for moments, which in zip(self.sides, SIDES, strict=True):
            x, y = (_blocks(own, self.samples, which) for own in (a, values))
            if x.shape[-1]:
                parts.append(moments.x.take(x))
                moments.update(parts[-1], y)
        self.samples += a.shape[-1]
        return parts

    @property
    def enough(self) -> bool:
        """Whether there are rows enough to choose a penalty, to fit and to test."""
        return min(side.samples for side in self.sides) >= LEAST

    def result(self) -> LinearReadout:
        """Fit on one side, test on the other."""
        if not self.enough:
            raise ValueError(
                f"a linear probe needs {3 * BLOCK} rows to choose its penalty, to fit and to test, "
                f"got {self.samples}"
            )
        *halves, test = [side.result() for side in self.sides]
        train, units = _merged(*halves), [side.x for side in self.sides[:2]]
        if self.ridge is None:
            ridge = self._chosen(halves, [unit.dead() for unit in units])
        else:
            ridge = torch.full_like(self._together(train.mean_y), self.ridge)
        chosen, weight = ridge.unique().tolist(), torch.zeros_like(train.xy)
        fit = _Ridge(train, units[0].dead(units[1]), len(chosen))
        for penalty in chosen:
            mine = (ridge == penalty).repeat_interleave(self.states, -1)[..., None, :]
            weight = torch.where(mine, fit.weight(penalty), weight)
        return self._tested(weight, train, test, ridge)

    def _chosen(self, halves: list[PairMoments], dead: list[Tensor]) -> Tensor:
        """`(…, T)` the penalty with which either half, with its dead units, predicts the other best."""
        error: Tensor | float = 0.0
        for half, other, constant in zip(halves, reversed(halves), dead, strict=True):
            fit = _Ridge(half, constant, len(RIDGES))
            error = error + torch.stack(
                [self._together(_Errors.of(fit.weight(p), half, other).wrong) for p in RIDGES]
            )
        penalties = torch.tensor(RIDGES, dtype=torch.float64, device=halves[0].xx.device)
        # the same penalty is half the share of twice as many rows
        return penalties[torch.as_tensor(error).argmin(0)] / 2

    def _together(self, values: Tensor) -> Tensor:
        """`(…, T)` sums over the K indicators of each target."""
        return values.unflatten(-1, (-1, self.states)).sum(-1)

    def _tested(
        self, weight: Tensor, train: PairMoments, test: PairMoments, ridge: Tensor
    ) -> LinearReadout:
        """The quality of weights `(…, U, T · K)` on the rows that are tested."""
        found = _Errors.of(weight, train, test)
        fitted, spread, truth, wrong = map(
            self._together, (found.fitted, found.spread, found.truth, found.wrong)
        )
        size = (spread * truth).clamp(min=0).sqrt()
        some = size > 1e-12 * truth
        size = size.where(some, torch.ones_like(size))
        # covariances of a target's predicted and of its true indicators, (…, T, K, K)
        by_target = weight.unflatten(-1, (-1, self.states)).movedim(-2, -3)
        predicted = by_target.mT @ test.xx[..., None, :, :] @ by_target
        true = test.yy.unflatten(-1, (-1, self.states)).unflatten(-3, (-1, self.states))
        true = true.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
        chance = ((predicted * true).sum((-2, -1)) / (test.samples - 1)).clamp(min=0).sqrt()
        return LinearReadout(
            correlation=torch.where(some, fitted / size, 0.0),
            null=torch.where(some, NORMAL * chance / size, 0.0),
            r2=torch.where(truth > 0, 1 - wrong / truth.where(truth > 0, 1.0), 0.0),
            variance=truth,
            weight=weight.unflatten(-1, (-1, self.states)),
            intercept=found.intercept.unflatten(-1, (-1, self.states)),
            ridge=ridge,
            train_samples=train.samples,
            test_samples=test.samples,
        )


def _blocks(values: Tensor, start: int, which: tuple[int, ...]) -> Tensor:
    """The rows of `(…, B)`, the first of which is row `start`, in the given blocks of every four."""
    every = 4 * BLOCK
    head = min(-start % every, values.shape[-1])
    whole = (values.shape[-1] - head) // every * every
    rows = torch.arange(start, start + values.shape[-1], device=values.device) // BLOCK % 4
    wanted = torch.isin(rows, torch.tensor(which, device=values.device))
    ends = [
        part[..., mine.nonzero()[:, 0]]
        for part, mine in (
            (values[..., :head], wanted[:head]),
            (values[..., head + whole :], wanted[head + whole :]),
        )
    ]
    step = which[-1] - which[0] if len(which) > 1 else 4
    middle = values[..., head : head + whole].unflatten(-1, (-1, 4, BLOCK))
    middle = middle[..., which[0] :: step, :].flatten(-3)  # copies whole blocks, not single rows
    return torch.cat([ends[0], middle, ends[1]], -1) if len(rows) > whole else middle


class _Ridge:
    """Ridge regressions of the same rows with some penalties, without their dead units `(…, U)`.

    On a CPU one decomposition into eigenvectors takes as long as 3 to 7 factorisations, up to 2048 units;
    so it serves many penalties, and a factorisation each of few penalties or of more units.
    """

    def __init__(self, train: PairMoments, dead: Tensor, penalties: int) -> None:
        scale = train.xx.diagonal(dim1=-2, dim2=-1).sqrt()
        self.inverse = torch.where(dead | (scale == 0), torch.zeros_like(scale), 1 / scale)
        self.whitened = self.inverse[..., :, None] * train.xx * self.inverse[..., None, :]
        self.right = self.inverse[..., None] * train.xy
        self.values: Tensor | None = None  # (…, U) eigenvalues, where they serve
        if penalties >= MANY and self._decomposes():
            self.values, self.vectors = torch.linalg.eigh(self.whitened)
            self.turned = self.vectors.mT @ self.right

    def _decomposes(self) -> bool:
        """Whether eigenvectors are as fast as that, and there are any."""
        small = self.whitened.device.type == "cpu" and self.whitened.shape[-1] <= WIDEST
        return small and bool(self.whitened.isfinite().all())

    def weight(self, ridge: float) -> Tensor:
        """`(…, U, T · K)`. The system is symmetric and positive definite but for rounding."""
        penalty = torch.full_like(self.whitened[..., 0, 0], ridge)
        while True:
            found, failed = self._solved(penalty)
            if not failed.any() or not penalty.isfinite().all():
                return self.inverse[..., None] * found
            # moments of float32 products: the smallest penalties drown in their rounding
            penalty = torch.where(failed, 10 * penalty, penalty)

    def _solved(self, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """The solution with penalties `(…,)`, and `(…,)` where there is none."""
        if self.values is not None:
            values = self.values + penalty[..., None]
            return self.vectors @ (self.turned / values[..., None]), values[..., 0] <= 0
        penalized = self.whitened.clone()
        penalized.diagonal(dim1=-2, dim2=-1).add_(penalty[..., None])
        lower, failed = torch.linalg.cholesky_ex(penalized)
        return torch.cholesky_solve(self.right, lower), failed > 0


class _Errors(NamedTuple):
    """How weights predict indicators; `(…, T · K)` each."""

    fitted: Tensor  # covariance of prediction and truth
    spread: Tensor  # variance of the prediction
    truth: Tensor  # variance of the truth
    wrong: Tensor  # mean square error
    intercept: Tensor

    @classmethod
    def of(cls, weight: Tensor, train: PairMoments, test: PairMoments) -> _Errors:
        fitted = (weight * test.xy).sum(-2)
        spread = (weight * (test.xx @ weight)).sum(-2)
        truth = test.yy.diagonal(dim1=-2, dim2=-1)
        intercept = train.mean_y - (weight * train.mean_x[..., None]).sum(-2)
        bias = (
            (weight * (test.mean_x - train.mean_x)[..., None]).sum(-2) + train.mean_y - test.mean_y
        )
        return cls(fitted, spread, truth, truth - 2 * fitted + spread + bias.square(), intercept)


def _merged(first: PairMoments, second: PairMoments) -> PairMoments:
    """The moments of both sets of rows together."""
    total = first.samples + second.samples
    share, weight = second.samples / total, first.samples * second.samples / total**2
    dx, dy = second.mean_x - first.mean_x, second.mean_y - first.mean_y
    pairs = (dx, dx), (dx, dy), (dy, dy)
    xx, xy, yy = (
        a + (b - a) * share + weight * p[..., :, None] * q[..., None, :]
        for a, b, (p, q) in zip(first[2:5], second[2:5], pairs, strict=True)
    )
    return PairMoments(first.mean_x + dx * share, first.mean_y + dy * share, xx, xy, yy, total)
