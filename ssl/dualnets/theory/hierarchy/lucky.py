"""Lucky units: how selective the best of n units is before any training, and how many it takes.

Before training, unit j of a latent's block is a random sum of its inputs x, so given the layers
below its selectivity is a random sum too (theory, Section 4; arXiv 2010.00578, Sec. 4.2):

    s_j = 1/2 ( E[w_j x | z = 1] - E[w_j x | z = 0] ) = w_j v,     v = 1/2 ( E[x | z = 1] - E[x | z = 0] )

With weights uniform in ±b, |s_j| has the exact distribution function F of |Σ_k b v_k U_k|; units of a
block share v and have weights of their own, so the best of n has exactly F(t)^n. (Across blocks or
networks v differs: there the chance is a mean of such terms, and F^n of a pooled F is wrong.)

    >>> import dualnets, hltm
    >>> from dualnets.theory import latent_inputs, simulated_best
    >>> trees = hltm.symmetric_binary(depth=3, polarity=0.8, seed=0)
    >>> network = dualnets.tree_network(trees, units=5, seed=1)
    >>> inputs = latent_inputs(network, trees)[2]  # v and the inputs' covariance, exact
    >>> laws = [inputs.law(member=0, latent=v) for v in range(2)]  # F of |s_j|
    >>> round(mean_best(laws[0], 5), 3), round(float(best_cdf(laws[0], 5, 0.1)), 3)
    (0.101, 0.499)
    >>> units_needed(laws, threshold=0.1, chance_of_all=0.9)
    18
    >>> drawn = simulated_best(inputs, units=5, draws=1000, seed=2, members=[0])  # best |s_j|, drawn
    >>> round(float(drawn[0, 0].mean()), 3)
    0.101

The same serves any other score of a unit through `sampled_law`: e.g. |correlation| with the latent,
s_j / std(w_j x), which no scale of the weights changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.special import ndtr

from dualnets._checks import check_whole

Array = NDArray[np.float64]
TERMS = 20_000  # at most, of the Fourier series of a sum of uniform numbers
NEGLIGIBLE = -32.0  # log of a coefficient that is left out
NODES = 160  # of the quadrature of a mean


class Law(Protocol):
    """The distribution of one unit's score, at least 0."""

    @property
    def largest(self) -> float:
        """No score is above it."""

    def cdf(self, score: ArrayLike) -> Array:
        """P(score of one unit <= each of these)."""


class UniformSum(NamedTuple):
    """|Σ_k a_k U_k|, U_k uniform in ±1: the |selectivity| of a unit with uniform weights.

    Attributes:
        coefficients: a, `(N,)`, none of them 0.
    """

    coefficients: Array

    @property
    def largest(self) -> float:
        return float(np.abs(self.coefficients).sum())

    def cdf(self, score: ArrayLike) -> Array:
        """Exact for at most two terms, else a Fourier series of at most 20000 terms (error below 1e-8)."""
        t = np.clip(np.asarray(score, dtype=np.float64), 0, None)
        a = np.sort(np.abs(self.coefficients))
        if len(a) == 0:
            return np.ones_like(t)
        if len(a) == 1:
            return np.clip(t / a[0], 0, 1)
        if len(a) == 2:  # flat up to the difference, then a parabola
            outer = np.clip(a.sum() - t, 0, None)
            inner = np.clip(a[1] - a[0] - t, 0, None)
            return 1 - (outer**2 - inner**2) / (4 * a[0] * a[1])
        # period 2A with A = Σ|a|: the density's series is exact, its coefficients are Π sinc
        width = float(a.sum())
        m = np.arange(1, TERMS + 1)
        bound = np.minimum(0, np.log(width / np.pi) - np.log(np.outer(m, a))).sum(1)
        m = m[: max(int((bound > NEGLIGIBLE).sum()), 1)]
        wave = np.prod(np.sinc(np.outer(m, a / width)), axis=1)  # np.sinc(x) = sin(πx)/(πx)
        angle = np.multiply.outer(t.ravel(), np.pi * m / width)
        found = t.ravel() / width + 2 / np.pi * np.sin(angle) @ (wave / m)
        return np.where(t >= width, 1.0, found.reshape(t.shape).clip(0, 1))


@dataclass(frozen=True)
class HalfNormal:
    """|N(0, scale²)|: normal weights, or many inputs.

    Attributes:
        scale: the standard deviation.

    Raises:
        ValueError: a scale that is not finite and above 0.
    """

    scale: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale must be finite and above 0, got {self.scale}")

    @property
    def largest(self) -> float:
        return 9.0 * self.scale  # beyond float64's resolution of the tail

    def cdf(self, score: ArrayLike) -> Array:
        t = np.clip(np.asarray(score, dtype=np.float64), 0, None) / self.scale
        return np.asarray(2 * ndtr(t) - 1)


class Sampled(NamedTuple):
    """The empirical distribution of drawn scores.

    Attributes:
        scores: `(N,)` sorted, at least 0.
    """

    scores: Array

    @property
    def largest(self) -> float:
        return float(self.scores[-1])

    def cdf(self, score: ArrayLike) -> Array:
        return np.searchsorted(self.scores, np.asarray(score), side="right") / len(self.scores)


def uniform_sum(coefficients: ArrayLike) -> UniformSum:
    """The law of |Σ_k a_k U_k|; terms of 0 are left out.

    Raises:
        ValueError: coefficients that are not one list of finite numbers.

    Example:
        >>> float(uniform_sum([1.0]).cdf(0.25))
        0.25
        >>> round(float(uniform_sum([1.0, 0.5, 0.25, 0.125]).cdf(0.5)), 4)
        0.4935
    """
    a = np.asarray(coefficients, dtype=np.float64)
    if a.ndim != 1 or not np.isfinite(a).all():
        raise ValueError(f"coefficients must be one list of finite numbers, got shape {a.shape}")
    largest = np.abs(a).max(initial=0.0)
    return UniformSum(a[np.abs(a) > 1e-12 * largest])


def sampled_law(scores: ArrayLike) -> Sampled:
    """The empirical law of scores, e.g. of `drawn_correlations`.

    Raises:
        ValueError: no scores, one below 0 or not finite.
    """
    found = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if len(found) == 0 or not np.isfinite(found).all() or found[0] < 0:
        raise ValueError("scores must be finite numbers of at least 0, and at least one")
    return Sampled(found)


def best_cdf(law: Law, units: int, score: ArrayLike) -> Array:
    """F^n: P(the best of n units scores at most this).

    Raises:
        ValueError: units below 1, or a score that is NaN.

    Example:
        >>> round(float(best_cdf(HalfNormal(1.0), 10, 2.0)), 4)
        0.6277
    """
    if np.isnan(score).any():
        raise ValueError(f"a score must be a number, got {score!r}")
    return law.cdf(score) ** check_whole("units", units, low=1)


def mean_best(law: Law, units: int) -> float:
    """E[best of n] = ∫ (1 - F(t)^n) dt; for a sampled law the exact sum over order statistics.

    Raises:
        ValueError: units below 1.

    Example:
        >>> round(mean_best(HalfNormal(1.0), 10), 3)  # sqrt(2 log 10) is 2.146
        1.881
    """
    n = check_whole("units", units, low=1)
    if isinstance(law, Sampled):
        place = np.arange(len(law.scores) + 1) / len(law.scores)
        return float((np.diff(place**n) * law.scores).sum())
    if law.largest == 0:
        return 0.0
    if isinstance(law, UniformSum):  # smooth but for a few corners
        place, weight = np.polynomial.legendre.leggauss(NODES)
        score = law.largest * (place + 1) / 2
        return float(law.largest / 2 * weight @ (1 - law.cdf(score) ** n))
    return float(quad(lambda t: 1 - float(law.cdf(t)) ** n, 0, law.largest, limit=200)[0])


def chance(laws: Iterable[Law], units: int, threshold: float) -> float:
    """P(every latent has a unit above the threshold) = Π_v (1 - F_v(t)^n), n units per latent.

    Exact where the latents' units are independent given their inputs, as in one layer of a tree
    network before training.

    Raises:
        ValueError: units below 1, or a threshold that is NaN.
    """
    n = check_whole("units", units, low=1)
    _check_threshold(threshold)
    return float(np.prod([1 - float(law.cdf(threshold)) ** n for law in laws]))


def units_needed(laws: Sequence[Law], *, threshold: float, chance_of_all: float) -> int | None:
    """The fewest units per latent with which all latents have a lucky one with this chance.

    Args:
        laws: one per latent.
        threshold: what a lucky unit scores at least.
        chance_of_all: in (0, 1).

    Returns:
        n, or None where some latent can never have one.

    Raises:
        ValueError: no laws, a chance outside (0, 1), or a threshold that is NaN.

    Example:
        >>> units_needed([HalfNormal(1.0)] * 16, threshold=1.0, chance_of_all=0.9)
        14
    """
    if not laws or not 0 < chance_of_all < 1:
        raise ValueError(f"expected laws and a chance in (0, 1), got {chance_of_all}")
    _check_threshold(threshold)
    below = np.array([float(law.cdf(threshold)) for law in laws])
    if (below >= 1).any():
        return None

    def enough(n: int) -> bool:
        return bool(np.log1p(-(below**n)).sum() >= np.log(chance_of_all))

    high = 1
    while not enough(high):
        high *= 2
        if high > 1 << 62:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check_threshold(threshold: float) -> None:
    if np.isnan(threshold):
        raise ValueError(f"threshold must be a number, got {threshold}")
