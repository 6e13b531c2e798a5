"""The experiment `top_down`: its rule on made-up tables, growth rates, a small run."""

import numpy as np
import pandas as pd
import pytest
from judging import judge

import dualnets
from dualnets import experiments
from dualnets.experiments.theorems import _top_down as top_down
from dualnets.lab.stats import mean_interval


def made_up(constant=0.1, full=0.1, trees=16):
    """Paths as `run_cell` makes them, with the given log gains of the pairs."""
    rng = np.random.default_rng(0)
    rows = []
    settings = vars(top_down.Settings())
    for member in range(trees):
        start = rng.uniform(0.4, 0.6)
        noise = rng.normal(0, 0.01, 4)
        gains = noise + np.array([full, 0, 0, constant])
        for name, gain in zip(("full", "uncoupled", "frozen", "constant"), gains, strict=True):
            for share in np.linspace(0, 1, 5):
                measures = ("selectivity", "per_norm", "correlation")
                values = dict.fromkeys(measures, start * np.exp(gain * share))
                growing = name in ("full", "uncoupled")
                place = {"cell": "a", "member": member, "intervention": name, "share": share}
                norms = {"upper_norm": 1 + share * growing, "ceiling": 0.95}
                norms["time"] = 2 * share * (1 + member)
                rows.append(settings | place | values | norms)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "holds", "2 of 2 constant against frozen, 2 of 2 full"),
        ({"constant": 0.0, "full": 0.0}, "fails", "0 of 2 constant against frozen, 0 of 2 full"),
        ({"constant": -0.1, "full": -0.1}, "fails", "0 of 2"),
        ({"full": 0.0}, "open", "2 of 2 constant against frozen, 0 of 2 full"),
        ({"trees": 8}, "open", "8 trees are fewer"),
    ],
)
def test_the_rule(changes, verdict, reason):
    found = judge(experiments.load("top_down"), made_up(**changes))
    assert found.verdict == verdict
    assert reason in found.reason


def test_norms_are_compared_where_both_have_them():
    """A path that only grows faster, along the same curve of norm, gains nothing at equal norm."""
    table = made_up(full=0.0, constant=0.0)
    full = table["intervention"] == "full"
    table.loc[full, "upper_norm"] = 1 + 2 * table.loc[full, "share"]
    for measure in ("per_norm", "correlation"):
        start = table[table["share"] == 0].groupby("member")[measure].mean()
        for name, rate in (("full", 2.0), ("uncoupled", 1.0)):
            own = table["intervention"] == name
            table.loc[own, measure] = table[own]["member"].map(start) * (
                1 + 0.1 * rate * table[own]["share"]
            )
    pairs = top_down.compare(table)
    equal = pairs[pairs["at"] == "equal norm"]
    assert np.abs(equal["log_gain"]).max() < 1e-12
    assert (pairs[pairs["at"] == "equal time"]["log_gain"].abs() < 0.1).all()


def test_growth_rates_are_slopes_of_logarithms():
    """exp(g t / T) grows at g / T, whatever the stretch; the stretch is the first half of full's growth."""
    table = made_up(full=0.3, constant=0.1)
    found = top_down.rates(table)
    assert set(found["intervention"]) == {"full", "uncoupled", "frozen", "constant"}
    assert set(found["measure"]) == {"per_norm", "correlation"}
    assert (found["until"] == 0.5).all()
    ends = table.pivot(index=["member", "intervention"], columns="share", values="per_norm")
    ends["whole"] = np.log(ends[1.0] / ends[0.0])
    expected = found.apply(
        lambda row: (
            ends.loc[(row["member"], row["intervention"]), "whole"] / (2 * (1 + row["member"]))
        ),
        axis=1,
    )
    assert np.allclose(found["rate"], expected, rtol=1e-12, atol=1e-12)
    falling = made_up(full=-0.3)
    assert (top_down.rates(falling)["until"] == 1).all()
    waits = (table["intervention"] == "full") & (table["share"] < 0.7)
    for measure in ("per_norm", "correlation"):  # half of its growth comes later, for all
        first = table.groupby(["member", "intervention"])[measure].transform("first")
        table.loc[waits, measure] = first[waits]
    assert (top_down.rates(table)["until"] == 0.75).all()


def test_rates_stand_in_the_summary_and_the_verdict():
    table = made_up(full=0.3)
    row = (
        top_down.summary_table(table).set_index(["pair", "measure"]).loc["full / uncoupled"].iloc[0]
    )
    wide = top_down.rates(table).query("measure == 'per_norm'")
    wide = wide.pivot(index="member", columns="intervention", values="rate")
    for column, values in (
        ("rate with", wide["full"]),
        ("rate without", wide["uncoupled"]),
        ("difference of rates", wide["full"] - wide["uncoupled"]),
    ):
        assert row[column] == f"{mean_interval(values.to_numpy()):.4f}"
    details = judge(experiments.load("top_down"), table).details
    assert [row["rate with"], row["rate without"]] == next(
        entry["rates"][:2] for entry in details if entry["pair"] == "full / uncoupled"
    )


def test_a_small_run(tmp_path):
    run = dualnets.run("top_down", scale="smoke", out=tmp_path, points=5, growth=1.3)
    rows = run.table
    assert set(rows["intervention"]) == {"full", "uncoupled", "frozen", "constant"}
    first = rows[rows["share"] == 0]
    assert np.allclose(first["correlation"], first["correlation_initial"])
    assert (rows["correlation"] <= rows["ceiling"] + 1e-9).all()
    ends = rows[rows["share"] == 1].pivot(
        index="member", columns="intervention", values="upper_norm"
    )
    assert np.allclose(np.maximum(ends["full"], ends["uncoupled"]).max(), ends["full"].max())
    start = first.groupby("member")["upper_norm"].first()
    assert np.allclose(ends["frozen"], start)
    assert np.allclose(ends["constant"], start, rtol=1e-4)
    assert (run.folder / "top_down.png").exists()
    assert len(top_down.summary_table(rows)) == 4
