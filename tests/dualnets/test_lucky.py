"""The experiment on lucky units: its rule on made-up tables, and a small run."""

import numpy as np
import pandas as pd
import pytest

import dualnets
from dualnets.experiments import lucky


def made_up(offset=0.0, narrow=0.3, wide=0.8, lasts=0.8, trees=24, widths=True):
    rng = np.random.default_rng(0)
    rows = []
    for units, chance in ((2, narrow), (10, wide)) if widths else ((2, narrow),):
        settings = vars(lucky.Settings(units=units))
        for member in range(trees):
            for level in (1, 2, 3):
                for latent in range(2 ** (3 - level)):
                    start = rng.uniform(0.2, 0.8)
                    end = lasts * start + (1 - lasts) * rng.uniform(0.2, 0.8)
                    place = {"cell": str(units), "member": member, "level": level, "latent": latent}
                    luck = {"predicted": chance, "lucky": float(rng.random() < chance + offset)}
                    values = {"initial": start, "final": end, "ceiling": 0.9, "null": 0.02}
                    size = {"selectivity": 0.1, "selectivity_predicted": 0.1}
                    rows.append(settings | place | luck | values | size)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "holds", "as predicted"),
        ({"offset": 0.2}, "fails", "standard errors"),
        ({"wide": 0.3}, "fails", "width does not help"),
        ({"lasts": -0.5}, "fails", "rank correlation -"),
        ({"lasts": 0.1}, "open", "of the rank correlation"),
        ({"widths": False}, "open", "one width"),
        ({"trees": 10}, "open", "10 trees are fewer"),
    ],
)
def test_the_rule(changes, verdict, reason):
    found = lucky.verdict(made_up(**changes))
    assert found.verdict == verdict, found.reason
    assert reason in found.reason


def test_a_small_run(tmp_path):
    run = dualnets.run("lucky", scale="smoke", out=tmp_path, steps=20, evaluation_samples=512)
    table = run.table
    assert (table["initial"] <= table["ceiling"] + 1e-9).all()
    assert table["lucky"].eq(table["initial"] >= 0.8 * table["ceiling"]).all()
    for _, _, rows in lucky.widths(table):
        assert abs(lucky.standard_errors(rows)) < lucky.CALIBRATED
        broken = rows.assign(predicted=rows["predicted"] ** 3)
        assert abs(lucky.standard_errors(broken)) > 2
        ratio = rows["selectivity"].mean() / rows["selectivity_predicted"].mean()
        assert ratio == pytest.approx(1, abs=0.15)
    assert (run.folder / "lucky.png").exists()
