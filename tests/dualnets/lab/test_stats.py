"""Intervals, tests and effects against what can be counted by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

from dualnets.lab.stats import bootstrap, exceeds, last_step, mean_interval


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


def test_intervals_that_hold_at_once_leave_out_less_each():
    from scipy import stats

    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1, size=12)
    for among in (1, 5):
        found = mean_interval(values, among)
        test = stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / among)
        assert (found.low, found.high) == pytest.approx((test.low, test.high))


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


def test_students_test_decides_with_six_pairs_what_signed_ranks_cannot():
    from scipy import stats as reference

    rng = np.random.default_rng(0)
    before = rng.normal(0, 1, 6)
    after = before + 0.5 + rng.normal(0, 0.1, 6)
    found = exceeds(after, before, exact=False)
    assert found == pytest.approx(reference.ttest_rel(after, before, alternative="greater").pvalue)
    assert found < 0.01 < exceeds(after, before)
    assert exceeds(before, after, exact=False) == pytest.approx(1 - found)
    assert exceeds(after, before, 5, exact=False) == pytest.approx(5 * found)
    ones = np.ones(6)
    assert [exceeds(ones * by, 0.0, exact=False) for by in (1, 0, -1)] == [0.0, 0.5, 1.0]
    assert exceeds(np.array([1.0, np.nan]), 0.0, exact=False) == 1.0
    assert exceeds(np.ones(1), 0.0, exact=False) == exceeds(np.ones(0), 0.0, exact=False) == 1.0
