"""The root's table: its rules on made-up tables, its numbers, and a small run."""

import numpy as np
import pandas as pd
import pytest
from judging import judge
from tiny_runs import drawn_once

import dualnets
from dualnets import experiments
from dualnets.experiments.emergence import _root_alignment as root_alignment
from dualnets.lab.plateau import changes
from dualnets.lab.stats import pooled

UNITS, LOWS = (2, 5, 10, 20), (0.7, 0.8, 0.9)
CLAIMS = ("units", "polarity", "training")


def made_up(by_units=0.1, by_low=0.05, closed=0.2, trees=16, noise=0.01, seed=0, **settings):
    """A table as `run_cell` makes it: root = .4 + by_units per doubling + by_low per step of the range.

    Before training it is .2 + .04 per doubling lower; `closed` moves the widest's start further down.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for units in UNITS:
        for at, low in enumerate(LOWS):
            given = {"units": units, "polarity_low": low, "depth": 3, "steps": 10, "seed": seed}
            own = vars(root_alignment.Settings(**given | settings))
            for member in range(trees):
                doublings = np.log2(units / 2)
                end = 0.4 + by_units * doublings + by_low * at + rng.normal(0, noise)
                start = end - 0.1 - closed * (units == max(UNITS)) + rng.normal(0, noise)
                for step, value in ((0, start), (5, end), (10, end)):
                    place = {"cell": f"{units} {low} {seed}", "member": member, "step": step}
                    row = own | place | {"level": 3, "node": "root", "null": 0.03, "n": 100}
                    bounds = {"initial": start, "ceiling": 0.95}
                    rows.append(row | bounds | {"metric": "correlation", "value": value})
                    rows.append(row | bounds | {"metric": "below_null", "value": 0.0})
                    below = row | {"level": 2, "metric": "correlation", "value": 0.1}
                    rows.append(below | {"initial": 0.1, "ceiling": 0.2})
    return pd.DataFrame(rows)


def verdicts(table):
    experiment = experiments.load("root_alignment")
    assert tuple(claim.name for claim in experiment.claims) == CLAIMS
    return [judge(experiment, table, claim) for claim in range(3)]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ("holds", "holds", "holds")),
        ({"by_units": 0.0}, ("fails", "holds", "holds")),
        pytest.param({"by_units": -0.05}, ("fails", "holds", "holds"), marks=pytest.mark.slow),
        ({"by_low": 0.0}, ("holds", "fails", "holds")),
        # what training adds is the same share of less room in wide networks, then much less of it
        ({"by_units": 0.0, "closed": 0.0}, ("fails", "holds", "fails")),
        # no growth is shown, and none is excluded
        ({"by_units": 0.01, "by_low": 0.01, "noise": 0.2, "closed": 0.0}, ("open",) * 3),
        ({"trees": 11}, ("open",) * 3),
    ],
)
def test_the_rules(changed, expected):
    assert tuple(found.verdict for found in verdicts(made_up(**changed))) == expected


def test_a_trend_of_one_range_only_is_open():
    table = made_up()
    flat = table["polarity_low"] == 0.8
    table.loc[flat & (table["metric"] == "correlation"), "value"] = 0.5
    found = verdicts(table)[0]
    assert found.verdict == "open"
    assert "U[0.7, 1], U[0.9, 1]" in found.reason


def test_a_rise_is_that_of_the_trees_own_lines():
    """Trees that differ by far more than they rise do not hide the rise."""
    table = made_up(by_units=0.03, noise=0.0)
    table["value"] += 0.02 * table["member"]
    found = verdicts(table)[0]
    assert found.verdict == "holds"
    expected = 0.03 * np.log2(20 / 2)
    assert found.effect_value == pytest.approx(expected)
    assert found.interval == pytest.approx((expected, expected))
    slopes = root_alignment._rises(np.log([2.0, 4, 8]), np.array([[0.0, 1, 2], [1, 0, 0.5]]))
    assert slopes == pytest.approx([2, -0.5])


def test_one_value_has_no_trend():
    table = made_up()
    found = verdicts(table[(table["units"] == 5) & (table["polarity_low"] == 0.7)])
    assert [one.verdict for one in found] == ["open"] * 3
    assert "several values of units" in found[0].reason
    assert "several values of polarity-low" in found[1].reason


def test_seeds_are_pooled_and_other_settings_kept_apart():
    both = pooled(pd.concat([made_up(trees=8), made_up(trees=8, seed=1)], ignore_index=True))
    assert [found.n for found in verdicts(both)] == [16] * 3
    assert [found.verdict for found in verdicts(both)] == ["holds"] * 3
    summary = root_alignment.summary_table(both)
    assert (len(summary), set(summary["n"])) == (12, {16})
    other = made_up(lr=0.5).assign(cell=lambda table: table["cell"] + " fast")
    summary = root_alignment.summary_table(pd.concat([made_up(), other], ignore_index=True))
    assert (len(summary), set(summary["n"])) == (24, {16})
    assert summary["polarity"].iloc[-1] == "U[0.9, 1], lr 0.5"


def test_every_cell_must_be_flat():
    table = made_up()
    curves = changes(root_alignment.ends, table)
    assert len(curves) == 12
    assert all(curve.flat for curve in curves)
    late = (table["units"] == 20) & (table["step"] == 5)
    table.loc[late, "value"] -= 0.1
    moving = [curve.part for curve in changes(root_alignment.ends, table) if not curve.flat]
    assert moving == [f"U[{low}, 1], 20 units" for low in LOWS]


@pytest.mark.slow
def test_a_small_run(tmp_path):
    with drawn_once():
        run = dualnets.run(
            "root_alignment", scale="smoke", out=tmp_path, steps=20, evaluation_samples=512
        )
    found = root_alignment.roots(run.table)
    assert len(found) == 16
    # strengths and signs of all edges have the same addresses in every range
    trees = found.pivot(index="member", columns=["polarity_low", "units"], values="ceiling")
    assert (trees[0.9, 2] > trees[0.7, 2]).all()
    assert (trees[0.9, 2] == trees[0.9, 5]).all()
    summary = root_alignment.summary_table(run.table)
    part = found[(found["polarity_low"] == 0.7) & (found["units"] == 2)]
    assert summary["after"].iloc[0] == pytest.approx(part["value"].mean())
    assert summary["sd after"].iloc[0] == pytest.approx(np.std(part["value"], ddof=1))
    assert {verdict.verdict for verdict in run.verdicts} == {"open"}
