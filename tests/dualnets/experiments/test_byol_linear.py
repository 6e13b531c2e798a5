"""The experiment on linear BYOL: a small run holds, broken ones do not."""

import numpy as np
import pandas as pd
import pytest
from judging import judge

import dualnets
from dualnets import experiments
from dualnets.experiments.byol import _byol_linear as byol_linear


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return dualnets.run(
        "byol_linear", scale="smoke", out=tmp_path_factory.mktemp("runs"), points=9, until=1.0,
    )  # fmt: skip


def test_it_holds(run):
    assert judge(experiments.load("byol_linear"), run.table).verdict == "holds"
    assert run.verdicts[0].effect_value == 1.0
    assert run.verdicts[0].of == "networks"
    assert (run.folder / "byol_linear.png").exists()
    modes = run.table[run.table["quantity"] == "mode"]
    assert (modes["value"] - modes["predicted"]).abs().max() < 1e-9
    phase = run.table[run.table["quantity"] == "phase"]
    gone = byol_linear.collapsed(phase)
    assert gone.any()
    assert not gone.all()


def test_every_network_counts_once_and_is_another(run):
    found = byol_linear.networks(run.table)
    phase = run.table[run.table["quantity"] == "phase"]
    assert len(found) == 3 * 9 * 2  # members, decays, rates
    assert len(phase) == 4 * len(found)
    assert run.verdicts[0].n == (found["away"] > byol_linear.NEAR).sum() <= len(found)
    edges = run.table[run.table["quantity"] == "edge"]
    assert edges.groupby("target_rate")["value"].nunique().eq(12).all()  # no start twice
    at_once = phase.groupby(["target_rate", "step_decay", "member"])["value"]
    assert (at_once.max() > 100 * at_once.min()).any()  # a network that loses some of its modes
    survivors = phase[~byol_linear.collapsed(phase)]
    rest = 1 / (4 * 1.2**2)
    assert (survivors[survivors["step_decay"] < 0.1]["value"] > rest).all()


def test_a_network_with_one_wrong_mode_is_wrong(run):
    table = run.table.copy()
    one = (table["quantity"] == "phase") & (table["mode"] == 2)
    table.loc[one, "value"] = np.where(byol_linear.collapsed(table[one]), 1.0, 0.0)
    assert not byol_linear.networks(table)["agrees"].any()
    assert judge(experiments.load("byol_linear"), table).verdict == "fails"


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [("drift", "fails"), ("edge", "fails"), ("sgd", "open"), ("phase", "open"), ("paths", "open")],
)
def test_the_rule(run, spoil, verdict):
    table = run.table.copy()
    if spoil == "drift":
        table.loc[table["source"] == "integrated", "value"] += 1e-6
    elif spoil == "edge":  # the collapse predicted is another
        phase = table["quantity"] == "phase"
        table.loc[phase, "predicted"] = 1 - table.loc[phase, "predicted"]
    elif spoil == "sgd":
        coarse = table[table["source"] == "sgd lr / 1"]["value"].to_numpy()
        table.loc[table["source"] == "sgd lr / 2", "value"] = coarse
    elif spoil == "phase":
        table = table[~table["quantity"].isin(["phase", "edge"])]
    else:
        table = table[table["quantity"].isin(["phase", "edge"])]
    assert judge(experiments.load("byol_linear"), table).verdict == verdict


def test_settings_are_checked():
    with pytest.raises(ValueError, match="features 9 must not exceed inputs 6"):
        byol_linear.Settings(features=9)


def test_the_summary_has_every_part(run):
    found = byol_linear.summary_table(run.table)
    assert isinstance(found, pd.DataFrame)
    assert set(found["what"]) == {
        "drift of e^(2ηt) D", "modes, |matrix - mode|", "modes lost where predicted",
    }  # fmt: skip
    assert np.isfinite(found["n"]).all()
