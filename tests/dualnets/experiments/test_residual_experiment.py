"""The experiment `residual`: its rule on made-up tables, its rows against the operators themselves."""

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge

import dualnets
from dualnets import experiments
from dualnets.experiments.theorems import _residual as residual
from dualnets.lab.experiment import ProgressListener

POLARITIES = (0.7, 0.97, 0.99)


def made_up(medians=(0.9, 0.08, 0.03), trees=16, references=residual.REFERENCES, spread=0.02):
    random = np.random.default_rng(0)
    rows = []
    for at in references:
        for polarity, median in zip(POLARITIES, medians, strict=True):
            settings = vars(residual.Settings(polarity_low=polarity, **at))
            for layer in (1, 2):
                for member in range(trees):
                    value = median * np.exp(spread * random.normal())
                    rows.append(
                        settings
                        | {"cell": f"{at}{polarity}", "layer": layer, "member": member}
                        | {"residual": value, "matrix_residual": value, "cosine": 0.9, "length": 1}
                    )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "holds", "predicts the update at: 2 units, weights 1, τ 1"),
        ({"medians": (0.9, 0.12, 0.03)}, "fails", "it does not at: 2 units"),
        ({"medians": (0.05, 0.05, 0.05)}, "open", "not decided"),
        ({"trees": 12}, "open", "not decided"),
        ({"medians": (0.9, 0.05, 0.06)}, "open", "not decided"),
    ],
)
def test_the_rule(changes, verdict, reason):
    found = judge(experiments.load("residual"), made_up(**changes))
    assert found.verdict == verdict
    assert reason in found.reason


def test_one_bad_reference_is_enough_to_fail():
    good = made_up(references=residual.REFERENCES[:2])
    bad = made_up(references=residual.REFERENCES[2:], medians=(1.5, 1.6, 1.7))
    bad["cosine"] = -0.6  # it points the wrong way
    found = judge(experiments.load("residual"), pd.concat([good, bad]))
    assert found.verdict == "fails"
    assert "10 units, initial weights, τ 0.1 (median 1.7, cosine -0.6)" in found.reason
    assert found.effect_value == pytest.approx(1.65, abs=0.05)
    cosines = {entry["where"]: entry["cosine"] for entry in found.details if "cosine" in entry}
    assert list(cosines.values()) == [0.9, 0.9, -0.6]


def test_other_settings_are_no_reference():
    table = made_up().assign(negatives=2)
    assert judge(experiments.load("residual"), table).verdict == "open"
    assert "no reference" in judge(experiments.load("residual"), table).reason


def test_a_cell_measures_the_operators():
    settings = residual.Settings(members=3, polarity_low=0.9, weights=1.0)
    table = residual.run_cell(settings, torch.device("cpu"), ProgressListener()).table
    assert len(table) == 6
    trees = settings.build_trees()
    network = settings.build_network(trees, 0, torch.device("cpu")).double()
    weights = [weight.data for weight in network.weights]
    for weight in weights:
        weight *= (3 * weight.shape[-1]) ** 0.5
    assert torch.cat([weight.flatten() for weight in weights]).std() == pytest.approx(1, abs=0.2)
    data = dualnets.theory.TreeViews(trees, residual.parse("keep-root"))
    found = dualnets.theory.pairwise_operator(network, data, 2, dualnets.InfoNCE(1.0))
    top = table[table["layer"] == 2]
    assert top["residual"].to_numpy() == pytest.approx(found.residual().numpy(), rel=1e-9)
    assert top["matrix_residual"].to_numpy() == pytest.approx(found.matrix_residual().numpy())
    law = top["length"] ** 2 + 1 - 2 * top["length"] * top["cosine"]  # of cosines
    assert np.sqrt(law).to_numpy() == pytest.approx(top["residual"].to_numpy(), rel=1e-6)


def test_a_run_leaves_figure_and_page(tmp_path):
    run = dualnets.run("residual", scale="smoke", out=tmp_path, device="cpu", members=2)
    assert (run.folder / "residual.png").exists()
    assert run.verdicts[0].verdict == "open"
    assert "residual" in residual.headline(run.table)
    summary = residual.summary_table(run.table)
    assert list(summary["polarity"]) == [0.7, 0.7, 0.97, 0.97]
    assert "n = 2 trees" in summary.attrs["caption"]
