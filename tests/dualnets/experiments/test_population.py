"""The experiment `population`: exact probes, its rule on made-up tables, a small run."""

import numpy as np
import pandas as pd
import pytest
from judging import judge

import dualnets
import hltm
from dualnets import experiments
from dualnets.experiments.theorems import _population as population
from hltm.probe import probe_layers


def test_exact_probes_are_the_limit_of_sampled_ones():
    trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
    for make, units in ((dualnets.tree_network, 3), (dualnets.mlp, 5)):
        network = make(trees, units=units, seed=1)
        exact = population.ExactProbe(trees).best(network)
        sampled = probe_layers(network, trees, samples=60_000, seed=2, lags=0, details=False)
        for level, found in exact.items():
            assert (found - sampled[level].scores["correlation"].best).abs().max() < 0.02


def made_up(bias=0.0, noise=0.005, trees=20, spread=0.05):
    rng = np.random.default_rng(0)
    rows = []
    start, end = rng.normal(0.6, 0.05, trees), rng.normal(0.8, spread, trees)
    for batch, seeds in ((0, 1), (128, 4)):
        settings = vars(population.Settings(batch=batch))
        for seed in range(seeds):
            for member in range(trees):
                for step, value in ((0, start[member]), (1000, end[member])):
                    moved = (bias + rng.normal(0, noise)) * (batch > 0) * (step > 0)
                    place = {"cell": str(batch), "data_seed": seed, "member": member, "step": step}
                    values = {"value": value + moved, "initial": start[member], "ceiling": 0.9}
                    rows.append(settings | place | values | {"level": 2, "latent": 0})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "holds"),
        ({"bias": -0.1}, "fails"),
        ({"noise": 0.1}, "fails"),
        ({"noise": 0.03}, "open"),
        ({"trees": 8}, "open"),
    ],
)
def test_the_rule(changes, verdict):
    found = judge(experiments.load("population"), made_up(**changes))
    assert found.verdict == verdict, found.reason


def test_the_interval_of_a_share_includes_the_noise_of_the_gain():
    """A constant difference, over gains that vary between trees: its share of their mean varies too."""
    made = made_up(bias=0.02, noise=0.0, spread=0.1)
    (row,) = population.compare(made).to_dict("records")
    assert row["difference"].high - row["difference"].low < 1e-12
    assert row["share"].value == pytest.approx(0.02 / row["gain"])
    assert row["share"].high - row["share"].low > 0.01
    found = judge(experiments.load("population"), made)
    assert found.interval == (row["share"].low, row["share"].high)


def test_an_infinite_batch_that_gains_nothing_decides_nothing():
    found = judge(experiments.load("population"), made_up().assign(initial=0.95))
    assert found.verdict == "open"
    assert "gains nothing" in found.reason


def test_without_an_infinite_batch_it_is_open():
    table = made_up()
    assert judge(experiments.load("population"), table[table["batch"] != 0]).verdict == "open"


def test_a_small_run(tmp_path):
    run = dualnets.run("population", scale="smoke", out=tmp_path, steps=30, snapshots=3)
    ends = population.by_tree(run.table)
    assert set(ends["batch"]) == {0, 32, 128}
    starts = run.table[run.table["step"] == 0]
    assert starts["value"].equals(starts["initial"])
    per_tree = starts.groupby(["member", "level", "latent"])["value"]
    assert (per_tree.max() - per_tree.min()).max() < 1e-7  # the same networks, whatever the batch
    assert (run.table["value"] <= run.table["ceiling"] + 1e-6).all()
    assert (run.folder / "population.png").exists()
    with pytest.raises(ValueError, match="0 for the infinite one, got 1"):
        population.Settings(batch=1)
