"""Where curves reach goals: exact on straight lines, infinite where never; times compared."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, rankdata, wilcoxon

from dualnets.lab.time_to_threshold import (
    half_gap_times,
    later,
    median_time,
    member_times,
    time_in_words,
)

PLACES = [1, 10, 100, 1000]


def test_is_linear_in_the_logarithm_and_takes_the_first():
    curve = [0.0, 1.0, 0.5, 2.0]
    goals = {0.25: 10**0.25, 1.0: 10.0, 1.5: 10 ** (2 + 2 / 3), -1.0: 1.0, 2.1: np.inf}
    found = member_times(PLACES, [curve] * len(goals), list(goals))
    assert found == pytest.approx(list(goals.values()), rel=1e-12)


@pytest.mark.parametrize(
    ("places", "curves", "message"),
    [
        ([1, 10], np.zeros((2, 3)), r"\(2, 2\), got \(2, 3\)"),
        ([10, 1, 2], np.zeros((2, 3)), "places must grow from above 0"),
        ([0, 1, 2], np.zeros((2, 3)), "places must grow from above 0"),
    ],
)
def test_refuses_what_does_not_fit(places, curves, message):
    with pytest.raises(ValueError, match=message):
        member_times(places, curves, np.zeros(2))


def test_values_that_are_not_finite_reach_nothing():
    curves = np.array(
        [[0, 1, np.nan, np.nan], [0, np.nan, 1, 1], [0, 0, np.inf, np.nan], [0, 1, 1, 1]]
    )
    found = member_times(PLACES, curves, [0.5, 0.5, 0.5, np.nan])
    assert found[:3] == pytest.approx([10**0.5, 100, np.inf])
    assert np.isnan(found[3])


def enumerated(a, b):
    """P of the signed-rank sum by all 2^n signs: the definition, for few pairs."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    apart = [abs(np.log(x) - np.log(y)) for x, y in pairs]
    ranks = rankdata(apart)
    sums = [ranks @ np.array(sign) for sign in itertools.product((0, 1), repeat=len(pairs))]
    seen = ranks @ np.array([x > y for x, y in pairs])
    return np.mean(np.array(sums) >= seen - 1e-9)


def test_later_is_the_exact_signed_rank_test_with_censored_times_last():
    rng = np.random.default_rng(2)
    for trial in range(20):
        a, b = rng.integers(1, 30, 9) * 10.0, rng.integers(1, 30, 9) * 10.0
        a[rng.random(9) < 0.3], b[rng.random(9) < 0.2] = np.inf, np.inf
        assert later(a, b) == pytest.approx(enumerated(a, b), abs=1e-12), trial
    a, b = rng.lognormal(size=16), rng.lognormal(size=16)
    plain = wilcoxon(np.log(a), np.log(b), alternative="greater", method="exact").pvalue
    assert later(a, b) == pytest.approx(plain, rel=1e-12)
    assert later(a, b, among=3) == min(3 * later(a, b), 1)
    assert later(1000 * a, 1000 * b) == later(a, b)  # the unit of time does not matter


def test_both_censored_is_a_tie_and_one_that_is_counts_most():
    never = np.full(12, np.inf)
    assert later(never, never) == 1
    assert later(never, np.full(12, 5.0)) == 2**-12
    assert later(np.full(12, 5.0), never) == 1
    # one censored time outranks the largest of the differences that are known
    a, b = np.array([1.0] * 3 + [np.inf] * 2), np.array([1e6] * 3 + [1.0] * 2)
    assert later(a, b) == pytest.approx(enumerated(a, b))
    assert later(a, b) < later(np.where(np.isinf(a), 2.0, a), b)
    assert later([1.0, np.nan], [2.0, 3.0]) == 1


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [([1.0], [1.0, 2.0], "of the same members"), ([0.0], [1.0], "times must be above 0, got 0.0")],
)
def test_later_refuses_times_that_do_not_pair(a, b, message):
    with pytest.raises(ValueError, match=message):
        later(a, b)


@pytest.mark.parametrize("n", [6, 12, 24, 25])
def test_the_interval_of_a_median_leaves_out_as_many_as_it_may(n):
    times = np.arange(n) + 1.0
    found = median_time(times[::-1])
    assert found.value == np.median(times)
    outside = int(found.low)
    assert found.high == n + 1 - outside
    # the median lies below the k-th smallest if fewer than k times lie below it
    assert binom.cdf(outside - 1, n, 0.5) <= 0.025 < binom.cdf(outside, n, 0.5)
    assert median_time(times, among=4).low <= found.low


def test_a_median_may_be_censored():
    assert median_time([1.0, 2.0, np.inf])[:3] == (2, 0, np.inf)
    assert median_time([1.0, np.inf, np.inf]).value == np.inf
    assert median_time([np.inf] * 12)[:3] == (np.inf, np.inf, np.inf)
    assert np.isnan(median_time([1.0, np.nan]).value)
    assert time_in_words(median_time([np.inf] * 12), 5000) == "> 5,000"
    assert time_in_words(median_time([30.0] * 6), 5000) == "30"
    assert time_in_words(median_time([30.0, 40.0, np.inf]), 5000) == "40"  # too few for an interval


def test_half_of_every_members_own_gap():
    rows = pd.DataFrame(
        [
            {"member": member, "step": step, "level": 2, "node": "a", "metric": "correlation",
             "initial": 0.2, "value": 0.2 + share * (ceiling - 0.2), "ceiling": ceiling}
            for member, ceiling, shares in ((0, 0.8, (0, 0.25, 0.75)), (1, 0.6, (0, 0.2, 0.3)))
            for step, share in zip((0, 10, 1000), shares, strict=True)
        ]
    )  # fmt: skip
    assert half_gap_times(rows) == pytest.approx([100, np.inf])
