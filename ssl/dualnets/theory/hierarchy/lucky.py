"""Lucky units: how selective the best of n untrained units is, and how many units it takes.

A *lucky* unit of a latent is selective for it before any training; the paper shows with a bound that
wide layers have one for every latent (its number is unverified, see docs/theory.md); this module has
exact laws instead. Unit j of a latent's block is a random weighted sum w_j·x of its inputs x, so
given the layers below its selectivity s_j is a random sum too (docs/theory.md, Section 4):

    s_j = w_j·v,        v = 1/2 ( E[x | z = 1] - E[x | z = 0] )                       (Equation 4.4)
    P( max_{j <= n} |s_j| <= t ) = F(t)^n                                             (Equation 4.5)

with z the state of the latent. With weights uniform in ±b, F is the distribution function of
|Σ_k b v_k U_k|, U_k uniform in ±1. Units of a block share v and have independent weights, so 4.5 is
exact. (Across blocks or networks v differs: there the probability is a mean of such terms, and F^n of
a pooled F is wrong.)

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

`sampled_law` does the same for any other score of a unit, such as |correlation| with the latent, which
does not depend on the scale of the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.special import ndtr

from dualnets._checks import check_number, check_whole

Array = NDArray[np.float64]
TERMS = 20_000  # at most, of the Fourier series of a sum of uniform numbers
NEGLIGIBLE = -32.0  # log of the largest coefficient that is left out
NODES = 160  # of the quadrature that integrates a mean


class Law(Protocol):
    """The distribution of one unit's score, at least 0."""

    @property
    def largest(self) -> float:
        """The largest possible score."""

    def cdf(self, score: ArrayLike) -> Array:
        """F: the probability that the score of one unit is at most each of these."""


class UniformSum(NamedTuple):
    """The law of |Σ_k a_k U_k|, U_k uniform in ±1: the |selectivity| of a unit with uniform weights.

    Attributes:
        coefficients: `(N,)` a, none of them 0.
    """

    coefficients: Array

    @property
    def largest(self) -> float:
        return float(np.abs(self.coefficients).sum())

    def cdf(self, score: ArrayLike) -> Array:
        """F, exact for at most two terms; otherwise a Fourier series with an error below 1e-8."""
        t = np.clip(np.asarray(score, dtype=np.float64), 0, None)
        a = np.sort(np.abs(self.coefficients))
        if len(a) == 0:
            return np.ones_like(t)
        if len(a) == 1:
            return np.clip(t / a[0], 0, 1)
        if len(a) == 2:  # the density is flat up to the difference, then falls linearly
            outer = np.clip(a.sum() - t, 0, None)
            inner = np.clip(a[1] - a[0] - t, 0, None)
            return 1 - (outer**2 - inner**2) / (4 * a[0] * a[1])
        # The density, repeated with period 2A, A = Σ|a|, has an exact Fourier series: its
        # coefficients are values of the characteristic function, Π_k sinc(m a_k / A).
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
    """The law of |N(0, scale²)|, for normal weights or, approximately, many inputs.

    Attributes:
        scale: the standard deviation.

    Raises:
        ValueError: a scale that is not finite and above 0.
    """

    scale: float

    def __post_init__(self) -> None:
        check_number("scale", self.scale, above=0)

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
    """The law of |Σ_k a_k U_k|, U_k uniform in ±1; coefficients of 0 are left out.

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
        ValueError: no scores, or one that is below 0 or not finite.
    """
    found = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if len(found) == 0 or not np.isfinite(found).all() or found[0] < 0:
        raise ValueError("scores must be finite numbers of at least 0, and at least one")
    return Sampled(found)


def best_cdf(law: Law, units: int, score: ArrayLike) -> Array:
    """F^n, the probability that the best of n units scores at most this (docs/theory.md, Equation 4.5).

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
    """E[best score of n units] = ∫ (1 - F(t)^n) dt; for an empirical law the sum over its scores.

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
    if isinstance(law, UniformSum):  # smooth except at a few corners
        place, weight = _quadrature()
        score = law.largest * (place + 1) / 2
        return float(law.largest / 2 * weight @ (1 - law.cdf(score) ** n))
    return float(quad(lambda t: 1 - float(law.cdf(t)) ** n, 0, law.largest, limit=200)[0])


@functools.cache
def _quadrature() -> tuple[Array, Array]:
    """The nodes and weights of Gauss and Legendre, which take longer to find than the integral."""
    return np.polynomial.legendre.leggauss(NODES)


def chance(laws: Iterable[Law], units: int, threshold: float) -> float:
    """The probability that every latent has a unit above the threshold, with n units per latent.

    It is Π_v (1 - F_v(t)^n) over the latents v (Equation 4.5), which is exact where the units of
    different latents are independent given their inputs, as in one layer of an untrained tree network.

    Raises:
        ValueError: units below 1, or a threshold that is NaN.
    """
    n = check_whole("units", units, low=1)
    _check_threshold(threshold)
    return float(np.prod([1 - float(law.cdf(threshold)) ** n for law in laws]))


def units_needed(laws: Sequence[Law], *, threshold: float, chance_of_all: float) -> int | None:
    """The fewest units per latent with which all latents have a lucky unit with this probability.

    Args:
        laws: of one unit's score, one law per latent.
        threshold: a lucky unit scores above it.
        chance_of_all: the probability, in (0, 1).

    Returns:
        n, or None where a latent cannot have a lucky unit, however many units it has.

    Raises:
        ValueError: no laws, a probability outside (0, 1), or a threshold that is NaN.

    Example:
        >>> units_needed([HalfNormal(1.0)] * 16, threshold=1.0, chance_of_all=0.9)
        14
    """
    if not laws or not 0 < chance_of_all < 1:
        raise ValueError(
            f"expected at least one law and a probability in (0, 1), got {len(laws)} and {chance_of_all}"
        )
    _check_threshold(threshold)
    below = np.array([float(law.cdf(threshold)) for law in laws])
    if (below >= 1).any():
        return None

    def enough(n: int) -> bool:  # in logarithms: below^n of thousands of latents underflows
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
