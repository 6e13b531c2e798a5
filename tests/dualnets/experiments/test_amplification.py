"""The experiment `amplification`: the operator's directions, its rule, a small run."""

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge

import dualnets
import hltm
from dualnets import experiments
from dualnets.experiments.theorems import _amplification as amplification
from dualnets.theory import population_trajectory


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


def made_up(growth=0.8, units=0.5, hits=1.0, trees=24):
    """Directions and units with given rank correlations and hits."""
    rng = np.random.default_rng(0)
    rows = []

    def follow(share, n=8):
        a = rng.normal(size=n)
        return a, share * a + (1 - abs(share)) * rng.normal(size=n)

    for normalize in (False, True):
        settings = vars(amplification.Settings(normalize=normalize, units=8, depth=2))
        for member in range(trees):
            for level in (1, 2):
                place = {"cell": str(normalize), "member": member, "level": level}
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
    ("changes", "verdict"),
    [
        ({}, "holds"),
        ({"growth": 0.0}, "fails"),
        ({"units": -0.8}, "fails"),
        # below the trivial ranking, which is reported and does not decide
        ({"hits": 0.4, "units": 0.9, "trees": 60}, "holds"),
        ({"hits": 0.0}, "open"),
        ({"trees": 8}, "open"),
    ],
)
def test_the_rule(changes, verdict):
    found = judge(experiments.load("amplification"), made_up(**changes))
    assert found.verdict == verdict, found.reason


def test_the_forecast_is_compared_with_the_ranking_before_training():
    beaten = judge(experiments.load("amplification"), made_up(hits=0.4, units=0.9, trees=60))
    assert "beats chance at 2 of 2" in beaten.reason
    assert "beats the ranking before at 0 of 2 levels and is beaten by it at 2" in beaten.reason
    paired = [entry for entry in beaten.details if entry["what"] == "advantage"]
    assert [entry["behind"] for entry in paired] == [True, True]
    assert all(entry["high"] < 0 for entry in paired)
    table = made_up()
    won = amplification.winners(table[table["normalize"]])
    assert won["advantage"].equals(won["forecast_hits"] - won["first_stays"])
    table["forecast"] = table["initial"]  # the same ranking has no advantage
    assert (
        "at 0 of 2 levels and is beaten by it at 0"
        in judge(experiments.load("amplification"), table).reason
    )
    assert amplification.winners(table)["advantage"].eq(0).all()


def test_one_network_is_not_enough():
    table = made_up()
    assert judge(experiments.load("amplification"), table[table["normalize"]]).verdict == "open"


def test_scores_out_of_sample():
    rng = np.random.default_rng(0)
    known = rng.normal(size=40)
    rows = pd.DataFrame({"member": np.arange(40), "good": known, "value": 2 * known + 1})
    rows["bad"] = rng.normal(size=40)
    assert amplification.out_of_sample(rows, "good") == pytest.approx(1)
    assert amplification.out_of_sample(rows, "bad") < 0.1


def test_a_small_run(tmp_path):
    run = dualnets.run(
        "amplification", scale="smoke", out=tmp_path, steps=20, snapshots=3, evaluation_samples=512
    )
    kinds = run.table.groupby("normalize")["kind"].unique()
    assert set(kinds[False]) == {"direction", "unit"}
    assert set(kinds[True]) == {"unit"}
    units = run.table[run.table["kind"] == "unit"]
    assert units["value"].between(0, 1).all()
    assert (run.folder / "amplification.png").exists()
    with pytest.raises(ValueError, match="keep-root"):
        amplification.Settings(augment="resample-leaves:0.3")
