"""The experiment `amplification`: the operator's directions, its rules, a small run."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_runs import drawn_once

import dualnets
import hltm
from dualnets.experiments.theorems import _amplification as amplification
from dualnets.experiments.theorems import _amplification_rules as rules
from dualnets.experiments.theorems.amplification import EXPERIMENT, Settings
from dualnets.lab.plateau import changes
from dualnets.lab.stats import pooled
from dualnets.theory import population_trajectory

CLAIMS = {claim.name: claim for claim in EXPERIMENT.claims}


def test_along_an_eigenvector_the_simple_loss_grows_at_twice_the_eigenvalue():
    """An identity in an infinite batch with plain outputs, to first order in the step; not for others."""
    trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
    gaps = {}
    for normalize in (False, True):
        network = dualnets.tree_network(
            trees, units=3, seed=1, dtype=torch.float64, normalize=normalize
        )
        before, after = population_trajectory(
            network, dualnets.Simple(), trees, augment=hltm.keep_root(), steps=1,
            optimizer=dualnets.SGD(lr=1e-4),
        )  # fmt: skip
        found = amplification.operator_directions(network, trees, n=200_000, seed=3)
        rows = amplification.growth_rates(0, found, before.network, 1, after.network, 1e-4)
        rows = rows[rows["initial"] > 0.01 * rows["initial"].max()]
        error = (rows["value"] - 2 * rows["initial"]).abs() / rows["forecast"].max()
        gaps[normalize] = error.max()
    assert gaps[False] < 0.1  # the samples behind Kbar
    assert gaps[True] > 0.3


def made_up(growth=0.8, units=0.5, hits=1.0, trees=24, seed=0):
    """Directions and units with given rank correlations and hits."""
    rng = np.random.default_rng(seed)
    rows = []

    def follow(share, n=8):
        a = rng.normal(size=n)
        return a, share * a + (1 - abs(share)) * rng.normal(size=n)

    for normalize in (False, True):
        settings = vars(Settings(normalize=normalize, units=8, depth=2, seed=seed))
        for member in range(trees):
            for level in (1, 2):
                place = {"cell": f"{normalize} {seed}", "member": member, "level": level}
                if not normalize:
                    for step in (0, 10):
                        a, b = follow(growth)
                        own = {"kind": "direction", "latent": -1, "step": step}
                        rows += [
                            settings | place | own
                            | {"place": i, "initial": a[i], "forecast": a[i], "value": b[i]}
                            for i in range(8)
                        ]  # fmt: skip
                a, b = follow(units)
                named = int(b.argmax()) if rng.random() < hits else int(rng.integers(8))
                rows += [
                    settings | place | {"kind": "unit", "latent": 0, "place": i, "initial": a[i],
                                        "forecast": float(i == named), "value": b[i], "step": 1000}
                    for i in range(8)
                ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("name", "given", "outcome"),
    [
        ("growth", {}, "holds"),
        ("growth", {"growth": -0.8}, "fails"),
        ("growth", {"growth": 0.0, "trees": 12}, "open"),  # so few trees exclude nothing
        ("growth", {"trees": 8}, "open"),
        ("first", {"units": 0.8}, "holds"),
        ("first", {"units": -0.9, "trees": 60}, "fails"),
        ("first", {"units": 0.0, "trees": 12}, "open"),
        ("first", {"units": 0.9, "trees": 8}, "open"),
        ("forecast", {"units": 0.0}, "holds"),
        ("forecast", {"units": 0.9, "hits": 0.2, "trees": 60}, "fails"),
        ("forecast", {"units": 0.9, "hits": 0.2, "trees": 8}, "open"),
    ],
)
def test_the_rules(name, given, outcome):
    found = CLAIMS[name].rule(made_up(**given))
    assert found.outcome == outcome, found


def test_more_seeds_are_more_trees():
    both = pd.concat([made_up(units=0.8), made_up(units=0.8, seed=1)], ignore_index=True)
    for name in ("growth", "first"):
        found = CLAIMS[name].rule(pooled(both))
        assert found.estimate.n == 48
        assert len(found.details) == {"growth": 1, "first": 4}[name]


def test_chance_is_one_in_n_and_the_forecast_is_compared_with_the_ranking_before():
    table = made_up(units=0.9, hits=0.2, trees=60)
    won = rules.winners(table[table["normalize"]])
    assert won["advantage"].equals(won["forecast_hits"] - won["first_stays"])
    share = won[won["level"] == 1]["first_stays"].mean()
    detail = next(
        d for d in CLAIMS["first"].rule(table).details
        if (d["output"], d["level"]) == ("normalised", 1)
    )  # fmt: skip
    assert detail["value"] == pytest.approx(share - 1 / 8)
    assert "behind at 4" in CLAIMS["forecast"].rule(table).reason
    table["forecast"] = table["initial"]  # the same ranking has no lead
    same = CLAIMS["forecast"].rule(table)
    assert same.outcome == "fails"
    assert same.estimate.value == same.estimate.high == 0


def test_winners_are_those_of_the_last_step_and_must_have_settled():
    table = made_up(units=0.9)
    half = table[table["kind"] == "unit"].assign(step=500)
    settled = pd.concat([table, half], ignore_index=True)
    assert rules.winners(settled).equals(rules.winners(table))
    curves = changes(CLAIMS["first"].plateau, settled)
    assert len(curves) == 4
    assert all(curve.flat and curve.change == 0 for curve in curves)
    half["value"] = -half["value"]
    moved = changes(CLAIMS["first"].plateau, pd.concat([table, half], ignore_index=True))
    assert not any(curve.flat for curve in moved)


@pytest.mark.slow
def test_a_small_run(tmp_path):
    small = {"steps": 20, "snapshots": 3, "evaluation_samples": 512}
    with drawn_once():
        run = dualnets.run("amplification", scale="smoke", out=tmp_path, **small)
    kinds = run.table.groupby("normalize")["kind"].unique()
    assert set(kinds[False]) == {"direction", "unit"}
    assert set(kinds[True]) == {"unit"}
    units = run.table[run.table["kind"] == "unit"]
    assert set(units["step"]) == {10, 20}
    assert units["value"].between(0, 1).all()
    assert (run.folder / "amplification.svg").exists()
    with pytest.raises(ValueError, match="keep-root"):
        Settings(augment="resample-leaves:0.3")
