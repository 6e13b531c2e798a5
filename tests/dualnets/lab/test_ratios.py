"""Ratios of means and their intervals: against tests of their ends, by hand, and by how often they cover."""

import numpy as np
import pytest

from dualnets.lab.ratios import gap_closed, ratio_difference, ratio_interval
from dualnets.lab.stats import bootstrap, mean_interval


def test_gap_closed_is_a_ratio_of_means_with_a_paired_interval():
    initial = np.array([0.2, 0.5, 0.4])
    ceiling = np.array([0.9, 0.8, 0.9])
    found = gap_closed(initial, initial + 0.6 * (ceiling - initial), ceiling)
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6)  # every tree closes the same share: no spread
    noisy = gap_closed(initial, np.array([0.8, 0.6, 0.9]), ceiling)
    assert noisy.low < noisy.value < noisy.high
    assert noisy.value == pytest.approx((0.6 + 0.1 + 0.5) / (0.7 + 0.3 + 0.5))


def test_gap_closed_is_not_defined_at_the_ceiling():
    at = np.full(4, 0.9)
    assert np.isnan(gap_closed(at, at, at).value)


def test_intervals_that_hold_at_once_are_wider():
    values, zero = np.random.default_rng(0).normal(0.3, 1, size=12), np.zeros(12)
    one, many = (gap_closed(zero, values, zero + 1, among) for among in (1, 5))
    assert one.value == many.value
    assert many.low < one.low < one.high < many.high
    # with a room that does not vary it is Student's interval of the gain
    assert one == pytest.approx(mean_interval(values))


def test_a_ratio_lies_in_its_interval_if_a_test_does_not_refute_it():
    from scipy import stats

    rng = np.random.default_rng(4)
    room = rng.gamma(4, 0.1, 10)
    gain = room * rng.normal(0.6, 0.3, 10)
    found = ratio_interval(gain, room, among=3)
    for end in (found.low, found.high):
        assert stats.ttest_1samp(gain - end * room, 0).pvalue == pytest.approx(0.05 / 3)
    assert found.value == pytest.approx(gain.sum() / room.sum())
    assert found.n == 10


def test_a_ratio_over_what_may_be_zero_has_no_ends():
    room = np.array([0.5, -0.4, 0.6, -0.3])
    found = ratio_interval(np.ones(4), room)
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert np.isnan(ratio_interval(np.ones(4), -room).value)
    one = ratio_interval(np.ones(1), np.ones(1) * 2)
    assert (one.value, one.n) == (0.5, 1)
    assert np.isnan(one.low)
    assert ratio_interval(np.array([1.0, np.nan, 2.0]), np.ones(3)).n == 2


def skewed(rng, n):
    """Rooms and what is closed of them, as of trees: `(n,)` each."""
    room = rng.gamma(4, 0.1, n)
    return room * np.clip(rng.normal(0.7, 0.3, n), -1, 1.2), room


def percentile(gain, room):
    """The interval that these replace, which covers too little."""
    return bootstrap(
        lambda picks: gain[picks].mean(1) / room[picks].mean(1), len(gain), resamples=1000
    )


@pytest.mark.slow
def test_intervals_of_ratios_cover_what_they_say():
    truth = np.divide(*map(np.mean, skewed(np.random.default_rng(10**6), 2_000_000)))

    def coverage(interval, n, draws, **options):
        inside = 0
        for seed in range(draws):
            found = interval(*skewed(np.random.default_rng([n, seed]), n), **options)
            inside += found.low <= truth <= found.high
        return inside / draws

    for n in (8, 12, 24, 48):
        assert coverage(ratio_interval, n, 6000) == pytest.approx(0.95, abs=0.013)
    # the standard error of these is 0.0009
    assert coverage(ratio_interval, 12, 6000, among=10) == pytest.approx(0.995, abs=0.004)
    assert coverage(percentile, 12, 2000) < 0.93


@pytest.mark.slow
def test_intervals_of_differences_of_ratios_cover_what_they_say():
    def pair(rng, n):
        gain, room = skewed(rng, n)
        return (gain, room), (0.5 * gain + 0.1 * room * rng.normal(1, 1, n), room + 0.1)

    (gain, room), (less, more) = pair(np.random.default_rng(10**6), 2_000_000)
    truth = gain.mean() / room.mean() - less.mean() / more.mean()
    for n in (12, 24):
        inside = 0
        for seed in range(6000):
            found = ratio_difference(*pair(np.random.default_rng([n, seed]), n))
            inside += found.low <= truth <= found.high
        assert inside / 6000 == pytest.approx(0.95, abs=0.02)


def test_a_difference_of_equal_ratios_is_nothing():
    gain, room = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.6, 0.7])
    found = ratio_difference((gain, room), (gain, room))
    assert (found.value, found.low, found.high, found.n) == (0, 0, 0, 3)
    assert np.isnan(ratio_difference((gain, room), (gain, -room)).value)
    one = ratio_difference((gain, np.ones(3)), (room, np.ones(3)))
    assert one == pytest.approx(mean_interval(gain - room))
