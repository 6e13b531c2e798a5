"""Intervals, tests and effects against what can be counted by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

from dualnets.lab.stats import (
    bootstrap,
    exceeds,
    gap_closed,
    last_step,
    mean_interval,
    ratio_difference,
    ratio_interval,
)


def test_exact_test_equals_enumeration_of_signs():
    rng = np.random.default_rng(1)
    difference = rng.normal(0.4, 1, size=9)
    ranks = np.argsort(np.argsort(np.abs(difference))) + 1
    observed = ranks[difference > 0].sum()
    sums = [ranks[list(up)].sum() for k in range(10) for up in itertools.combinations(range(9), k)]
    expected = np.mean(np.array(sums) >= observed)
    assert exceeds(difference, np.zeros(9)) == pytest.approx(expected, abs=1e-12)


def test_the_test_is_one_sided_and_needs_thirteen_trees():
    def best(n, levels=5):
        return exceeds(np.arange(n) + 1.0, np.zeros(n)) * levels

    assert best(13) < 0.001 < best(12)
    assert exceeds(np.zeros(13), np.arange(13) + 1.0) == 1.0


@pytest.mark.parametrize(
    "values", [np.zeros(5), np.array([1.0, np.nan, 2.0]), np.array([np.inf, 1])]
)
def test_no_difference_and_no_number_are_no_evidence(values):
    assert exceeds(values, np.zeros(len(values))) == 1.0


def test_pairs_without_a_difference_are_left_out():
    after = np.array([0.0, 0.0, 1.0, 2.0, 3.0])
    assert exceeds(after, np.zeros(5)) == pytest.approx(1 / 8)


def test_mean_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        found = mean_interval(rng.normal(3, 2, size=8))
        inside += found.low <= 3 <= found.high
    assert 0.92 <= inside / 400 <= 0.98
    assert np.isnan(mean_interval(np.array([1.0])).low)
    assert mean_interval(np.array([1.0, np.nan, 3.0])).n == 2


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


def test_intervals_that_hold_at_once_leave_out_less_each():
    from scipy import stats

    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1, size=12)
    for among in (1, 5):
        found = mean_interval(values, among)
        test = stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / among)
        assert (found.low, found.high) == pytest.approx((test.low, test.high))
    zero = np.zeros(12)
    one, many = (gap_closed(zero, values, zero + 1, among) for among in (1, 5))
    assert one.value == many.value
    assert many.low < one.low < one.high < many.high
    # with a room that does not vary it is Student's interval of the gain
    assert one == pytest.approx(mean_interval(values))


@pytest.mark.parametrize(
    ("values", "text"),
    [([0.8, 0.9], "0.85 ±.64"), ([0.5], "0.50"), ([], "–"), ([3.0, 1.0, 2.0], "2.00 ±2.48")],
)
def test_a_brief_number_has_half_of_its_interval(values, text):
    assert mean_interval(np.array(values)).brief == text


def test_a_bootstrap_draws_members_with_all_their_values():
    rng = np.random.default_rng(3)
    x, y = rng.normal(1, 1, 15), rng.normal(2, 1, 15)
    found = bootstrap(lambda picks: y[picks].mean(1) / x[picks].mean(1), 15, resamples=500)
    picks = np.random.default_rng(0).integers(0, 15, size=(500, 15))
    drawn = [y[each].mean() / x[each].mean() for each in picks]
    assert found.value == pytest.approx(y.mean() / x.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert np.isnan(bootstrap(lambda picks: x[picks].mean(1), 1).low)
    assert np.isnan(bootstrap(lambda picks: np.full(len(picks), np.nan), 4).value)


def test_the_last_step_is_that_of_every_cell():
    table = pd.DataFrame({"cell": list("aabb"), "step": [0, 10, 0, 20], "value": range(4)})
    assert last_step(table)["value"].tolist() == [1, 3]


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
