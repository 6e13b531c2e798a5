"""The experiment `top_down`: its rules on made-up tables, growth rates, a small run."""

import numpy as np
import pandas as pd
import pytest
from tiny_runs import drawn_once

import dualnets
from dualnets.experiments.theorems import _top_down as top_down
from dualnets.experiments.theorems.top_down import EXPERIMENT
from dualnets.lab.ratios import ratio_interval
from dualnets.lab.stats import mean_interval, pooled

RULES = {claim.name: claim.rule for claim in EXPERIMENT.claims}


def made_up(constant=0.2, full=0.2, uncoupled=0.0, noise=0.01, trees=16, seed=0):
    """Paths as `run_cell` makes them, with the given log gains of the pairs."""
    rng = np.random.default_rng(seed)
    rows = []
    settings = vars(top_down.Settings(seed=seed))
    for member in range(trees):
        start = rng.uniform(0.4, 0.6)
        gains = rng.normal(0, noise, 4) + np.array([full, uncoupled, 0, constant])
        for name, gain in zip(("full", "uncoupled", "frozen", "constant"), gains, strict=True):
            for share in np.linspace(0, 1, 5):
                measures = ("selectivity", "per_norm", "correlation")
                values = dict.fromkeys(measures, start * np.exp(gain * share))
                growing = name in ("full", "uncoupled")
                place = {"cell": str(seed), "member": member, "intervention": name, "share": share}
                norms = {"upper_norm": 1 + share * growing, "ceiling": 0.95}
                norms["time"] = 2 * share * (1 + member)
                rows.append(settings | place | values | norms)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("name", "changes", "outcome", "reason"),
    [
        ("growth", {"uncoupled": 0.1}, "holds", "above 1.1 in 1 and below it in 0 of 1"),
        ("growth", {"uncoupled": 0.2}, "fails", "above 1.1 in 0 and below it in 1 of 1"),
        ("growth", {"uncoupled": 0.2, "noise": 0.1}, "open", "below it in 0"),
        ("growth", {"uncoupled": 0.4}, "fails", "below it in 1"),
        ("growth", {"uncoupled": 0.1, "trees": 8}, "open", "8 trees are fewer"),
        ("learned", {}, "holds", "above 0.1 in 1"),
        ("learned", {"constant": 0.0}, "fails", "below it in 1"),
        ("learned", {"constant": 0.05}, "fails", "below it in 1"),  # significant, and small
        ("learned", {"constant": 0.1}, "open", "above 0.1 in 0 and below it in 0"),
        ("learned", {"constant": -0.1}, "fails", "below it in 1"),
        ("coupled", {}, "holds", "above 0.1 in 1"),
        ("coupled", {"full": 0.0}, "fails", "below it in 1"),
        ("coupled", {"trees": 8}, "open", "8 trees are fewer"),
    ],
)
def test_the_rules(name, changes, outcome, reason):
    found = RULES[name](made_up(**changes))
    assert found.outcome == outcome, found
    assert reason in found.reason


def test_settings_that_disagree_leave_a_claim_open():
    table = pd.concat([made_up(), made_up(constant=0.0).assign(units=50)], ignore_index=True)
    found = RULES["learned"](table)
    assert found.outcome == "open"
    assert "above 0.1 in 1 and below it in 1 of 2" in found.reason


def test_more_seeds_are_more_trees():
    """Cells that differ in their seed alone are one setting."""
    parts = [made_up(uncoupled=0.1), made_up(uncoupled=0.1, seed=1)]
    both = pooled(pd.concat(parts, ignore_index=True))
    for name, rule in RULES.items():
        found = rule(both)
        assert found.estimate.n == 32
        assert len(found.details) == 1, name
    assert top_down.summary_table(both)["n"].eq(32).all()


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


def test_rates_stand_in_the_summary_and_the_judgement():
    table = made_up(full=0.3, uncoupled=0.1)
    rows = top_down.summary_table(table).set_index(["pair", "measure"])
    row = rows.loc[("full / uncoupled", top_down.MEASURES["per_norm"])]
    wide = top_down.rates(table).query("measure == 'per_norm'")
    wide = wide.pivot(index="member", columns="intervention", values="rate")
    full, without = wide["full"].to_numpy(), wide["uncoupled"].to_numpy()
    assert row["rate with"] == f"{mean_interval(full):.4f}"
    assert row["rate without"] == f"{mean_interval(without):.4f}"
    assert row["ratio of rates"] == str(ratio_interval(full, without))
    found = RULES["growth"](table)
    assert found.estimate.value == pytest.approx(full.mean() / without.mean())
    assert found.details[0]["rate_with"] == pytest.approx(full.mean())


@pytest.mark.slow
def test_a_small_run(tmp_path):
    with drawn_once():
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
    assert (run.folder / "top_down.svg").exists()
    assert len(top_down.summary_table(rows)) == 4
