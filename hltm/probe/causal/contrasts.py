"""Differences between states of a latent: the largest over pairs of states, with standard error and null."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from hltm.probe.null import QUANTILE


class Contrast(NamedTuple):
    """The largest difference between two states of a latent; float64 `(…,)` unless stated otherwise.

    Attributes:
        value: mean at the second state minus mean at the first, of the pair at which |this| is largest.
        standard_error: of `value`, from the pairs of rows.
        null: the 95% point of |value| where each row's states are exchanged at random.
        pair: int64, the place of the pair in `pairs_of`.
    """

    value: Tensor
    standard_error: Tensor
    null: Tensor
    pair: Tensor


def pairs_of(states: int) -> Tensor:
    """`(P, 2)` int64: all pairs of K states, the lower first."""
    return torch.tensor(list(combinations(range(states), 2)))


def largest(differences: Tensor) -> tuple[Tensor, Tensor]:
    """The entry `(…,)` of `(…, P)` with the largest absolute value, leaving out NaN, and its place.

    Example:
        >>> largest(torch.tensor([1.0, -3.0, torch.nan]))
        (tensor(-3.), tensor(1))
    """
    size = differences.abs().nan_to_num(nan=-1.0, posinf=torch.inf)
    place = size.argmax(-1)
    return differences.gather(-1, place[..., None])[..., 0], place


class ContrastSums:
    """Sums over rows of numbers that are given for each of K states of a latent.

    The null is that of the row's own randomisation: were the latent without effect, the K numbers of a row
    could as well stand in any other order. Over all orders, a state's mean then has the variance
    Σ_rows s² / n² with s² the variance within a row (divided by K - 1), all states are alike, and by the
    central limit theorem the range of the K means has the distribution of the range of K normal
    numbers. For two states these are the sums of ±(a - b) with random signs.

    Example:
        >>> sums = ContrastSums()
        >>> sums.update(torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 3.0]]))  # (K, B)
        >>> found = sums.result()
        >>> float(found.value), round(float(found.standard_error), 4), round(float(found.null), 4)
        (1.0, 0.5774, 1.4609)
    """

    def __init__(self) -> None:
        self.samples = 0
        self.total = self.products = torch.zeros((), dtype=torch.float64)

    def update(self, numbers: Tensor) -> None:
        """Add a batch `(…, K, B)` float64."""
        self.total = self.total + numbers.sum(-1)
        self.products = self.products + numbers @ numbers.mT
        self.samples += numbers.shape[-1]

    def mean(self) -> Tensor:
        """`(…, K)` of each state."""
        return self.total / self.samples

    def result(self) -> Contrast:
        """The largest difference."""
        mean, square = self.mean(), self.products / self.samples
        states = mean.shape[-1]
        a, b = pairs_of(states).unbind(1)
        value, place = largest(mean[..., b] - mean[..., a])
        spread = square[..., a, a] + square[..., b, b] - 2 * square[..., a, b]
        spread = spread.gather(-1, place[..., None])[..., 0] - value.square()
        error = (spread.clamp(min=0) / max(self.samples - 1, 1)).sqrt()
        total = square.diagonal(dim1=-2, dim2=-1).sum(-1) - square.sum((-2, -1)) / states
        within = total.clamp(min=0) / (states - 1)
        null = _widest(states) * (within / self.samples).sqrt()
        return Contrast(value, error, null, place)

    def covariance(self) -> Tensor:
        """`(…, K, K)` of the numbers of different states over rows."""
        mean = self.mean()
        return self.products / self.samples - mean[..., None] * mean[..., None, :]


def exchanged(covariance: Tensor, rows: Tensor, count: int) -> Tensor:
    """`(…, P)` 95 % points of what is confounded, for every pair of K states, were rows' states exchanged.

    Row i has the number x_is under do(z = s), and its own state z_i, in which it is seen. The mean over the
    n_s rows with z_i = s less that over all N rows has the variance C_ss (1/n_s - 1/N) when states are
    exchanged among rows, because these rows are then a random sample without replacement, and for two
    states the covariance is -C_st / N. Over pairs the point is that of Tukey and Kramer (Hayter 1984, Annals
    of Statistics 12: at most 5 % where K means are independent). For numbers that do not depend on the
    state, x_is = x_i, this is the difference of two means of observed rows.

    Args:
        covariance: `(…, K, K)` C over rows.
        rows: `(…, K)` n_s; infinite points where it is 0.
        count: N.

    Example:
        >>> points = exchanged(torch.ones(2, 2, dtype=torch.float64), torch.tensor([50.0, 50.0]), 100)
        >>> round(float(points), 4)  # 1.96 sqrt(1/50 + 1/50)
        0.392
    """
    a, b = pairs_of(rows.shape[-1]).unbind(1)
    own = covariance.diagonal(dim1=-2, dim2=-1) * (1 / rows - 1 / count)
    variance = own[..., a] + own[..., b] + 2 * covariance[..., a, b] / count
    return _widest(rows.shape[-1]) * (variance / 2).clamp(min=0).sqrt()


@cache
def _widest(states: int) -> float:
    """The 95% point of the range of K independent standard normal numbers."""
    from scipy import stats

    if states == 2:
        return float(stats.norm.ppf((1 + QUANTILE) / 2) * 2**0.5)
    return float(stats.studentized_range.ppf(QUANTILE, states, float("inf")))
