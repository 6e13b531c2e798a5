"""Redraws of BYOL's predictor: times to emerge and a predictor that is always fresh, on made-up curves."""

import numpy as np
import pytest
from judging import judge
from made_up_variants import cell, joined, seeded

from dualnets import experiments
from dualnets.experiments.byol import _byol_reinit as byol_reinit
from dualnets.experiments.byol.byol_reinit import EMERGENCE, FAST, FRESH, NEVER, SLOW

EXPERIMENT = experiments.load("byol_reinit")
HARM, DELAY, FRESHNESS = range(3)
STEPS = (0, 1, 10, 100, 1000)
FAST_5, FAST_10 = FAST
(ALWAYS,) = FRESH
GAINS = {NEVER: 0.36, FAST_5: 0.28, FAST_10: 0.3, ALWAYS: 0.0}  # the room is 0.4


def table(changes=None, *, trees=14, noise=0.002):
    periods = {name: own["redraw_every"] for name, own in {**SLOW, **FAST, **FRESH}.items()}
    gains = GAINS | (changes or {})
    return joined(*(
        cell(name, gain, trees=trees, levels=(2,), noise=noise, spread=0.8, steps=STEPS, seed=at,
             name=str(at), redraw_every=periods.get(name, 0))
        for at, (name, gain) in enumerate(gains.items())
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "holds"),
        ({FAST_5: 0.36}, "open"),  # one of the two only
        ({FAST_5: 0.395}, "fails"),  # sooner
        ({FAST_5: 0.0}, "holds"),  # it never emerges: later than all others
        ({NEVER: 0.0}, "fails"),
        (dict.fromkeys((NEVER, FAST_5, FAST_10), 0.0), "open"),  # all are censored
    ],
)
def test_a_delay_is_judged_by_times_to_half_of_the_gap(changes, verdict):
    found = judge(EXPERIMENT, table(changes), DELAY)
    assert found.verdict == verdict, found.reason
    assert EXPERIMENT.claims[DELAY].plateau is None


def test_a_delay_is_the_ratio_of_the_times_and_never_reached_is_said():
    found = judge(EXPERIMENT, table(noise=1e-9), DELAY)
    # between snapshots the curve is linear in log updates, growth is linear in log(1 + updates)
    places = {name: 0.2 / GAINS[name] for name in (NEVER, FAST_10)}
    share = np.log1p(STEPS[1:]) / np.log1p(STEPS[-1])
    times = {name: np.exp(np.interp(at, share, np.log(STEPS[1:]))) for name, at in places.items()}
    assert found.effect_value == pytest.approx(times[FAST_10] / times[NEVER], rel=0.1)
    assert found.interval[0] > 1
    assert found.n == 14
    found = judge(EXPERIMENT, table({FAST_5: 0.0}), DELAY)
    detail = next(d for d in found.details if d["variant"] == FAST_5)
    assert (detail["time"], detail["never reached"]) == ("> 1,000", 14)


@pytest.mark.parametrize(
    ("changes", "noise", "verdict"),
    [
        ({}, 0.002, "holds"),
        ({ALWAYS: 0.1}, 0.002, "fails"),
        ({ALWAYS: 0.052}, 0.02, "open"),  # on the border
        ({NEVER: 0.1}, 0.002, "open"),  # no reference
    ],
)
def test_nothing_is_learned_where_the_interval_is_negligible(changes, noise, verdict):
    found = judge(EXPERIMENT, table(changes, noise=noise), FRESHNESS)
    assert found.verdict == verdict, found.reason


@pytest.mark.parametrize("claim", [HARM, DELAY, FRESHNESS])
def test_few_trees_and_missing_variants_decide_nothing(claim):
    full = table(dict.fromkeys(SLOW, 0.36), trees=11)
    found = judge(EXPERIMENT, full, claim)
    assert (found.verdict, "11 trees" in found.reason) == ("open", True)
    found = judge(EXPERIMENT, full[full["variant"] != NEVER], claim)
    assert (found.verdict, "not run" in found.reason) == ("open", True)


@pytest.mark.parametrize("claim", [DELAY, FRESHNESS])
def test_trees_of_several_seeds_add_up(claim):
    whole = table(trees=24)
    alone, both = (judge(EXPERIMENT, rows, claim) for rows in (whole, seeded(whole, (0, 1))))
    assert (both.verdict, both.n) == (alone.verdict, 24)
    assert both.interval == pytest.approx(alone.interval)


def test_periods_are_multiples_of_the_time_to_emerge():
    periods = {own["redraw_every"] / EMERGENCE for own in SLOW.values()}
    assert periods == {0.5, 1, 2, 4}
    assert FRESH[ALWAYS]["redraw_every"] == 1
    found = byol_reinit.summary_table(table()).set_index("variant")
    own = float(found.loc[NEVER, "updates to emerge"].split()[0])
    assert found.loc[NEVER, "T / time to emerge"] == "–"
    assert float(found.loc[FAST_5, "T / time to emerge"]) == pytest.approx(5 / own, rel=0.05)
    assert found.loc[ALWAYS, "updates to emerge"] == "> 1,000"
