"""Where curves reach goals: exact on straight lines, infinite where never, by the mean curve."""

import numpy as np
import pytest

from dualnets.lab.time_to_threshold import time_to_threshold

PLACES = [1, 10, 100, 1000]


def test_is_linear_in_the_logarithm_and_takes_the_first():
    curve = np.array([[0.0, 1.0, 0.5, 2.0]] * 3)
    for goal, place in ((0.25, 10**0.25), (1.0, 10.0), (1.5, 10 ** (2 + 2 / 3))):
        found = time_to_threshold(PLACES, curve, np.full(3, goal))
        assert found.value == pytest.approx(place, rel=1e-12)
        assert (found.low, found.high, found.n) == (found.value, found.value, 3)


def test_reached_at_once_is_the_first_place_and_never_is_infinite():
    curve = np.array([[1.0, 2.0, 3.0, 4.0]] * 2)
    assert time_to_threshold(PLACES, curve, np.full(2, 0.5)).value == 1
    never = time_to_threshold(PLACES, curve, np.full(2, 4.1))
    assert never[:3] == (np.inf, np.inf, np.inf)


def test_is_the_mean_curves_and_its_interval_knows_who_is_late():
    rng = np.random.default_rng(0)
    late = rng.uniform(0, 3, 40)  # a member's curve rises from 0 to 1 within a decade around it
    curves = np.clip(np.log10(PLACES) - late[:, None] + 0.5, 0, 1)
    found = time_to_threshold(PLACES, curves, np.full(40, 0.5))
    mean = curves.mean(0)
    at = int((mean >= 0.5).argmax())
    share = (0.5 - mean[at - 1]) / (mean[at] - mean[at - 1])
    assert found.value == pytest.approx(10 ** (at - 1 + share), rel=1e-12)
    assert found.low < found.value < found.high < np.inf
    few = time_to_threshold(PLACES, curves[:8], np.full(8, 0.5))
    assert few.high / few.low > found.high / found.low
    # goals go with their members: shuffled they are another question
    goals = np.clip(late / 3, 0.1, 0.9)
    paired = time_to_threshold(PLACES, curves, goals)
    assert paired.value == time_to_threshold(PLACES, curves, goals[::-1]).value
    assert paired[1:3] != time_to_threshold(PLACES, curves, goals[::-1])[1:3]


def test_an_end_may_be_infinite_and_a_mean_that_is_not_finite_is_nan():
    curves = np.array([[0.0, 1.0, 1.0, 1.0]] * 6 + [[0.0] * 4] * 5)
    found = time_to_threshold(PLACES, curves, np.full(11, 0.5))
    assert found.value < found.high == np.inf
    curves[0, 2] = np.nan
    assert np.isnan(time_to_threshold(PLACES, curves, np.full(11, 0.5)).value)
    assert np.isnan(time_to_threshold(PLACES, curves[1:2], np.full(1, 0.5)).low)


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
        time_to_threshold(places, curves, np.zeros(2))
