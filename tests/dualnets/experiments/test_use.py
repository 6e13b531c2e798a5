"""Whether aligned units are used: the rule on made-up tables, members that diverged, one small run."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge
from made_up_variants import cell, joined, seeded

import hltm
from dualnets.experiments import load
from dualnets.experiments.objectives import _use
from dualnets.experiments.objectives.methods import LABEL
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.fields import with_columns
from dualnets.lab.grids import cells
from dualnets.networks.tree_network import tree_network

USE = load("use")
METHODS = ("simclr", "byol", LABEL)


def made_up(leads, trees=12, noise=0.01):
    """A table of method -> lead of the aligned unit, the same at levels 1 and 2; before training it is 0."""
    rng = np.random.default_rng(0)
    made = []
    for variant, lead in leads.items():
        rows = cell(variant, 0.2, trees=trees)
        shares = []
        for metric, size in ((_use.USED, 0.1 + lead), (_use.OTHERS, 0.1), (_use.EXACT, 0.05)):
            for level in (1, 2):
                values = size + rng.normal(0, noise, trees)
                shares.append(rows.iloc[:trees].assign(
                    member=range(trees), step=10, level=level, node=str(level), metric=metric,
                    value=values, initial=0.1, null=0.2,
                ))  # fmt: skip
        made += [rows, *shares]
    return joined(*made)


@pytest.mark.parametrize(
    ("leads", "trees", "verdict", "reason"),
    [
        (dict.fromkeys(METHODS, 0.3), 12, "holds", "above 0 with simclr, byol, label of the root"),
        (
            {"simclr": 0.3, "byol": 0.0, LABEL: 0.3},
            12,
            "open",
            "above 0 with simclr, label of the root",
        ),
        ({"simclr": 0.3, "byol": -0.1, LABEL: 0.3}, 12, "fails", "below 0 with byol"),
        (dict.fromkeys(METHODS, 0.0), 12, "fails", "with no method, and every one is below 0.05"),
        (dict.fromkeys(METHODS, 0.3), 11, "open", "11 trees are fewer than 12"),
    ],
)
@pytest.mark.parametrize("claim", [0, 1])
def test_the_rules(leads, trees, verdict, reason, claim):
    """Before training leads are 0 here, so that both rules come out alike."""
    found = judge(USE, made_up(leads, trees), claim)
    json.dumps(found.as_dict(), allow_nan=False)
    assert found.verdict == verdict
    assert reason in found.reason
    assert found.effect_value == pytest.approx(min(leads.values()), abs=0.02)
    assert {d["variant"] for d in found.details} == set(leads)


def test_a_lead_that_was_there_before_training_is_a_lead_and_no_growth():
    table = made_up(dict.fromkeys(METHODS, 0.3))
    table.loc[table["metric"] == _use.USED, "initial"] = 0.4
    assert [judge(USE, table, claim).verdict for claim in (0, 1)] == ["holds", "fails"]
    both = [judge(USE, seeded(made_up(dict.fromkeys(METHODS, 0.3), 24), (5, 6)), c) for c in (0, 1)]
    assert [(found.verdict, found.n) for found in both] == [("holds", 24)] * 2


def test_leads_that_vary_much_leave_the_claim_open():
    found = judge(USE, made_up(dict.fromkeys(METHODS, 0.0), noise=1.0))
    assert found.verdict == "open"
    assert "no method" in found.reason


def test_a_member_that_diverged_has_no_share_and_changes_no_other():
    trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
    network = tree_network(trees, units=4, seed=1).requires_grad_(False)
    whole = _use.use_of_units(network, trees, seed=0)
    network.weights[0][1] = torch.nan
    found = _use.use_of_units(network, trees, seed=0)
    lost = found.member == 1
    assert found[lost & (found.metric == _use.USED)].value.isna().all()
    pd.testing.assert_frame_equal(found[~lost], whole[~lost])
    assert set(found.node) == {"1", "2"}  # not the root


@pytest.mark.slow
def test_a_small_run(monkeypatch):
    for name, value in {"_use.PATCHED": 60, "_use.DRAWS": 2, "_use.EARLY": 1}.items():
        monkeypatch.setattr(f"dualnets.experiments.objectives.{name}", value)
    monkeypatch.setattr("hltm.probe.causal.setup.FITTED", 128)
    small = {"depth": 3, "members": 2, "steps": 2, "snapshots": 2, "evaluation_samples": 512}
    small["batch"] = 8
    parts = []
    for settings in cells(USE, "smoke", {name: [value] for name, value in small.items()})[1:]:
        outcome = USE.run_cell(settings, torch.device("cpu"), ProgressListener())
        outcome.table.insert(0, "cell", str(len(parts)))
        parts.append(with_columns(outcome.table, settings))
    table = pd.concat(parts, ignore_index=True)
    assert judge(USE, table).reason == "2 trees are fewer than 12"
    summary = USE.summary_table(table)
    assert summary["variant"].tolist() == ["byol", LABEL]
    assert {"used before", "others before", "null", "ceiling"} <= set(summary)
    rows = table[table.metric == _use.USED]
    assert set(rows.level) == {1, 2}
    assert rows.n.eq(60).all()
    assert set(rows.step) == {0, 2}  # not patched early in training
    start = rows[rows.step == 0]
    assert start.value.eq(start.initial).all()
    assert len(USE.plot(table).axes) == 5


def test_a_tree_without_latents_below_the_root_is_refused():
    with pytest.raises(ValueError, match="depth"):
        cells(USE, "smoke", {"depth": [1]})
