"""Claims about every one of several parts."""

import pytest

from dualnets.lab.all_or_none import all_or_none
from dualnets.lab.stats import Estimate


@pytest.mark.parametrize(
    ("p", "high", "n", "outcome", "reason"),
    [
        ((0.001, 0.002), (0.5, 0.5), 12, "holds", "2 of 2"),
        (
            (0.001, 0.02),
            (0.05, 0.05),
            12,
            "open",
            "1 of 2",
        ),  # one part is shown to differ from none
        ((0.5, 0.5), (0.05, 0.05), 12, "fails", "0 of 2"),
        ((0.5, 0.5), (0.05, 0.2), 12, "open", "0 of 2"),
        ((0.001, 0.001), (0.5, 0.5), 11, "open", "11 trees are fewer"),
        ((0.5, 0.5), (0.05, 0.05), 11, "open", "11 trees are fewer"),
        ((), (), 0, "open", "not measured"),
    ],
)
def test_all_parts_hold_or_all_fail(p, high, n, outcome, reason):
    details = [{"p": each} for each in p]
    effects = [Estimate(each - 0.1, each - 0.2, each, n) for each in high]
    found = all_or_none(details, effects, "size", "{} of {}")
    assert found.outcome == outcome
    assert reason in found.reason
    if high:
        assert found.estimate == min(effects)
        assert found.effect == "size, intervals of all 2 at once"


def test_the_bound_of_an_effect_is_that_of_the_claim():
    effects = [Estimate(1.0, 0.9, 1.05, 12)]
    assert all_or_none([{"p": 0.5}], effects, "", "", bound=1.1).outcome == "fails"
    assert all_or_none([{"p": 0.5}], effects, "", "").outcome == "open"
