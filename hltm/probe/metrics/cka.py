"""Linear centred kernel alignment of a layer with the exact posteriors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.units import StreamingUnits, UnitBatch, power_of_two
from hltm.probe.null import QUANTILE


class LinearCKA:
    """CKA = HSIC(x, y) / sqrt( HSIC(x, x) HSIC(y, y) ) of linear kernels, in [-1, 1].

    x are all units of a layer, y all posterior probabilities (Kornblith, Norouzi, Lee and Hinton
    2019, arXiv 1905.00414). It is 1 where they are the same up to a rotation and one scale, and 0 on
    average where they are independent, however many units there are: HSIC is the unbiased estimator of
    Song, Smola, Gretton, Bedo and Borgwardt (2012, equation 5), which for x and y minus their means
    over n rows is, up to a factor that cancels,

        ‖x yᵀ‖² - n/(n-2) Σ_i |x_i|² |y_i|² + Σ_i |x_i|² Σ_i |y_i|² / ((n-1)(n-2)).

    A layer that never varies has 0; fewer than 4 rows have NaN.

    Raises:
        ValueError: in `update`, features that do not fit or are not finite.

    Example:
        >>> x = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
        >>> metric = LinearCKA()
        >>> metric.update(x, -2 * x.flip(0))
        >>> round(float(metric.result()), 6)
        1.0
    """

    def __init__(self) -> None:
        self.x, self.y = _Side(StreamingUnits()), _Side(StreamingUnits())
        self.pairs: list[_Pair] = []  # of (x, y), (x, x) and (y, y)

    def update(self, activations: Tensor | UnitBatch, posteriors: Tensor) -> None:
        """Add a batch: `(…, U, B)` activations and `(…, P, B)` probabilities, or other features."""
        a, p = tuple(activations.shape), tuple(posteriors.shape)
        if len(a) < 2 or a[:-2] != p[:-2] or a[-1] != p[-1]:
            expected = "expected (…, U, B) and (…, P, B)"
            raise ValueError(f"activations {a} and posteriors {p} do not fit, {expected}")
        check_finite(posteriors, "posteriors")
        x = self.x.take(activations)
        y = self.y.take(posteriors.to(x.batch.given))
        sides = (x, y), (x, x), (y, y)
        found = [_Pair.of(p, q) for p, q in sides]
        if self.pairs:
            found = [
                _merged(old.scaled(p.power, q.power), new, p.step, q.step)
                for old, new, (p, q) in zip(self.pairs, found, sides, strict=True)
            ]
        self.pairs = found

    def result(self) -> Tensor:
        """`(…,)` float64, in [-1, 1]."""
        xy, xx, yy = (pair.unbiased() for pair in self.pairs)
        size = (xx.clamp(min=0) * yy.clamp(min=0)).sqrt()
        constant = self.x.units.dead().all(-1) | self.y.units.dead().all(-1)
        return (xy / size).clamp(-1, 1).masked_fill(constant, 0.0)

    def null(self) -> Tensor:
        """`(…,)` float64: the 95% point for independent x and y with the covariances that were seen.

        Where they are independent, n ‖x yᵀ‖² is a sum of squares of independent normal numbers, each
        weighted by a product of eigenvalues of the covariances of x and of y. Its distribution is that
        of Pearson's type III with the same mean, variance and skewness (Kazi-Aoual, Hitier, Sabatier
        and Lebreton 1995, doi 10.1016/0167-9473(94)00064-2, for such permutation tests).
        """
        from scipy.stats import gamma

        _, xx, yy = self.pairs
        size = [pair.xy.square().sum((-2, -1)) for pair in (xx, yy)]
        cubes = [(pair.xy @ pair.xy * pair.xy).sum((-2, -1)) for pair in (xx, yy)]
        skewness = 8**0.5 * cubes[0] / size[0] ** 1.5 * cubes[1] / size[1] ** 1.5
        shape = 4 / skewness.square()
        point = (torch.as_tensor(gamma.ppf(QUANTILE, shape.cpu())).to(shape) - shape) / shape.sqrt()
        found = point * 2**0.5 / xx.rows
        # of the unbiased norms, which the value is divided by
        found = found * (size[0] * size[1] / (xx.unbiased() * yy.unbiased())).sqrt()
        constant = self.x.units.dead().all(-1) | self.y.units.dead().all(-1)
        return found.masked_fill(constant, 0.0)


class _Features(NamedTuple):
    """A batch in the scale that all features of one side share."""

    batch: UnitBatch
    weight: Tensor  # (…, U) float64, from the scale of a feature to it; 0 for a dead feature
    step: Tensor  # (…, U) mean of the batch minus the mean of the rows before
    power: Tensor  # (…,) factor of the numbers so far, because the shared exponent has grown
    squares: Tensor  # (…, B) |x_i - mean|²


class _Side:
    """One set of features, with one scale for all of them: a power of two near the largest spread."""

    def __init__(self, units: StreamingUnits) -> None:
        self.units = units
        self.exponent: Tensor | None = None  # (…,)

    def take(self, x: Tensor | UnitBatch) -> _Features:
        batch = x if isinstance(x, UnitBatch) else self.units.take(x)
        self.units = units = batch.owner(self.units)
        dead = units.dead()
        spread = torch.frexp((units.square / units.samples).sqrt()).exponent + units.exponent
        exponent = spread.masked_fill(dead, -1022).amax(-1).clamp(-1022, 1022)
        if self.exponent is None:
            self.exponent = exponent
        larger = torch.maximum(exponent, self.exponent)
        power = power_of_two((self.exponent - larger).clamp(min=-1022))
        self.exponent = larger
        weight = power_of_two((units.exponent - larger[..., None]).clamp(-1022, 1022))
        weight = weight.masked_fill(dead, 0.0)
        values, rest, kind = batch.values, batch.rest, batch.values.dtype
        # |v - rest|², with the scale of every feature
        both = weight.square()
        squares = both.to(kind)[..., None, :] @ values.square()
        squares = squares - (2 * both * rest).to(kind)[..., None, :] @ values
        squares = squares + (both * rest.square()).sum(-1).to(kind)[..., None, None]
        return _Features(batch, weight, batch.step * weight, power, squares[..., 0, :])


class _Pair(NamedTuple):
    """Sums over n rows of x and y around their means; float64."""

    rows: int
    xy: Tensor  # (…, X, Y) Σ x yᵀ
    x: Tensor  # (…,) Σ |x|²
    y: Tensor  # (…,) Σ |y|²
    both: Tensor  # (…,) Σ |x|² |y|²
    x_by_y: Tensor  # (…, X) Σ x |y|²
    y_by_x: Tensor  # (…, Y) Σ y |x|²

    @classmethod
    def of(cls, p: _Features, q: _Features) -> _Pair:
        """Of one batch."""
        (a, s), (b, r) = (p.batch, p.squares), (q.batch, q.squares)
        return cls(
            a.shape[-1],
            a.inner(b).mul_(p.weight[..., :, None]).mul_(q.weight[..., None, :]),
            s.sum(-1).double(),
            r.sum(-1).double(),
            (s * r).sum(-1).double(),
            _weighted(a, r) * p.weight,
            _weighted(b, s) * q.weight,
        )

    def scaled(self, p: Tensor, q: Tensor) -> _Pair:
        """The same of p x and q y."""
        if bool((p == 1).all() and (q == 1).all()):
            return self
        pq, p2, q2 = p * q, p.square(), q.square()
        return _Pair(
            self.rows, self.xy * pq[..., None, None], self.x * p2, self.y * q2, self.both * pq.square(),
            self.x_by_y * (pq * q)[..., None], self.y_by_x * (pq * p)[..., None],
        )  # fmt: skip

    def around(self, d: Tensor, e: Tensor) -> _Pair:
        """The same of x - d and y - e."""
        n, d2, e2 = self.rows, d.square().sum(-1), e.square().sum(-1)
        xy_e, d_xy = (self.xy @ e[..., None])[..., 0], (d[..., None, :] @ self.xy)[..., 0, :]
        first = (d * self.x_by_y).sum(-1) + (e * self.y_by_x).sum(-1)
        second = d2 * self.y + e2 * self.x + 4 * (d_xy * e).sum(-1) + n * d2 * e2
        return _Pair(
            n,
            ((n * d)[..., :, None] @ e[..., None, :]).add_(self.xy),
            self.x + n * d2,
            self.y + n * e2,
            self.both - 2 * first + second,
            self.x_by_y - d * self.y[..., None] - 2 * xy_e - n * d * e2[..., None],
            self.y_by_x - e * self.x[..., None] - 2 * d_xy - n * e * d2[..., None],
        )

    def unbiased(self) -> Tensor:
        """`(…,)` HSIC, times n (n - 3)."""
        n = self.rows
        if n < 4:
            return torch.full_like(self.x, torch.nan)
        square = self.xy.square().sum((-2, -1))
        return square - self.both * n / (n - 2) + self.x * self.y / ((n - 1) * (n - 2))


def _weighted(batch: UnitBatch, by: Tensor) -> Tensor:
    """`(…, U)` float64 sums of features around their batch's mean, with a weight for every row."""
    total = (batch.values @ by[..., None])[..., 0].double()
    return total - batch.rest * by.sum(-1, dtype=torch.float64)[..., None]


def _merged(old: _Pair, new: _Pair, d: Tensor, e: Tensor) -> _Pair:
    """Of the rows of both, whose means differ by d and e."""
    n, m = old.rows, new.rows
    first = old.around(d * m / (n + m), e * m / (n + m))
    second = new.around(-d * n / (n + m), -e * n / (n + m))
    sums: list[Any] = [a + b for a, b in zip(first[1:], second[1:], strict=True)]
    return _Pair(n + m, *sums)
