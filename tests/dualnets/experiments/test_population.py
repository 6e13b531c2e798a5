"""The experiment `population`: exact probes, its rules on made-up tables, a small run."""

import numpy as np
import pandas as pd
import pytest
import torch
from judging import judge
from tiny_runs import drawn_once

import dualnets
import hltm
from dualnets import experiments
from dualnets.experiments.theorems import _population as population
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.stats import pooled
from hltm.probe import probe_layers

CPU = torch.device("cpu")
EXPERIMENT = experiments.load("population")
BIAS, NOISE = 0, 1


def test_exact_probes_are_the_limit_of_sampled_ones():
    trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
    for make, units in ((dualnets.tree_network, 3), (dualnets.mlp, 5)):
        network = make(trees, units=units, seed=1)
        exact = population.ExactProbe(trees).best(network)
        sampled = probe_layers(network, trees, samples=60_000, seed=2, lags=0, details=False)
        for level, found in exact.items():
            assert (found - sampled[level].scores["correlation"].best).abs().max() < 0.02


def made_up(bias=0.0, noise=0.005, trees=20, spread=0.05, depth=2, reference=0, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    start, end = rng.normal(0.6, 0.05, trees), rng.normal(0.8, spread, trees)
    for batch, seeds in ((reference, 1), (128, 4)):
        settings = vars(population.Settings(batch=batch, depth=depth, seed=seed))
        for data_seed in range(seeds):
            for member in range(trees):
                for step, value in ((0, start[member]), (500, end[member]), (1000, end[member])):
                    moved = (bias + rng.normal(0, noise)) * (batch == 128) * (step > 0)
                    place = {
                        "cell": f"{depth} {batch} {seed}",
                        "data_seed": data_seed,
                        "step": step,
                    }
                    values = {"value": value + moved, "initial": start[member], "ceiling": 0.9}
                    rows.append(
                        settings | place | values | {"member": member, "level": 2, "latent": 0}
                    )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changes", "bias", "noise"),
    [
        ({}, "holds", "holds"),
        ({"bias": -0.1}, "fails", "holds"),
        ({"bias": 0.02, "spread": 0.1}, "open", "holds"),
        ({"noise": 0.1}, "open", "fails"),
        ({"noise": 0.015, "spread": 0.06}, "holds", "open"),
        ({"trees": 8}, "open", "open"),
        ({"reference": 2048, "depth": 4}, "holds", "holds"),
        ({"reference": 512}, "open", "open"),  # too small to stand for the infinite batch
    ],
)
def test_the_rules(changes, bias, noise):
    found = [judge(EXPERIMENT, made_up(**changes), claim) for claim in (BIAS, NOISE)]
    assert [each.verdict for each in found] == [bias, noise], [each.reason for each in found]


def test_one_depth_is_enough_to_fail_and_all_are_needed_to_hold():
    fine, off = made_up(), made_up(bias=-0.1, depth=4, reference=2048)
    found = judge(EXPERIMENT, pd.concat([fine, off]), BIAS)
    assert found.verdict == "fails"
    assert "of the gain at depth 2, " in found.reason
    assert found.effect_value == pytest.approx(-0.5, abs=0.1)
    both = pd.concat([fine, made_up(depth=4, reference=2048)])
    assert judge(EXPERIMENT, both, BIAS).verdict == "holds"
    few = pd.concat([fine, made_up(depth=4, reference=2048, trees=8)])
    assert judge(EXPERIMENT, few, BIAS).verdict == "open"


def test_intervals_are_wider_where_more_depths_are_judged():
    alone, with_others = made_up(), pd.concat([made_up(), made_up(depth=4, reference=2048)])
    one, two = (population.compare(table).iloc[0]["share"] for table in (alone, with_others))
    assert one.value == two.value
    assert two.high - two.low > one.high - one.low


def test_the_interval_of_a_share_includes_the_noise_of_the_gain():
    """A constant difference, over gains that vary between trees: its share of their mean varies too."""
    made = made_up(bias=0.02, noise=0.0, spread=0.1)
    (row,) = population.compare(made).to_dict("records")
    assert row["share"].value == pytest.approx(0.02 / row["gain"])
    assert row["share"].high - row["share"].low > 0.01
    found = judge(EXPERIMENT, made, BIAS)
    assert found.interval == (row["share"].low, row["share"].high)


def test_noise_is_the_variance_between_seeds_over_that_between_trees():
    made = made_up(noise=0.02, trees=200)
    (row,) = population.compare(made).to_dict("records")
    ends = made[made["step"] == 1000]
    one = ends[ends["batch"] == 0].set_index("member")["value"].var()
    seeds = ends[ends["batch"] == 128].groupby("member")["value"].var().mean()
    assert row["noise"].value == pytest.approx(seeds / one)
    assert row["noise"].low < 0.02**2 / 0.05**2 < row["noise"].high


def test_an_infinite_batch_that_gains_nothing_decides_nothing():
    found = judge(EXPERIMENT, made_up().assign(initial=0.95), BIAS)
    assert found.verdict == "open"
    assert "gains nothing" in found.reason


def test_without_an_infinite_batch_it_is_open():
    table = made_up()
    assert judge(EXPERIMENT, table[table["batch"] != 0], BIAS).verdict == "open"


def test_what_still_changes_is_open():
    table = made_up()
    late = (table["step"] == 1000) & (table["batch"] == 128)
    assert EXPERIMENT.verdicts(table)[BIAS].verdict == "holds"
    moving = table.assign(value=table["value"].where(~late, table["value"] + 0.012))
    (found, _) = EXPERIMENT.verdicts(moving)
    assert found.verdict == "open"
    assert "still changing (tree, depth 2)" in found.reason


def test_seeds_are_more_trees():
    table = pooled(pd.concat([made_up(trees=10, seed=seed) for seed in (3, 4)]))
    assert [judge(EXPERIMENT, table, claim).n for claim in (BIAS, NOISE)] == [20, 20]


def test_deeper_trees_are_probed_on_samples(monkeypatch):
    settings = population.Settings(
        depth=2, members=2, batch=16, steps=2, snapshots=2, data_seeds=2, evaluation_samples=30_000
    )
    exact = population.run_cell(settings, CPU, ProgressListener()).table
    monkeypatch.setattr(population, "MOST_STATES", 8)
    sampled = population.run_cell(settings, CPU, ProgressListener()).table
    assert (exact["value"] != sampled["value"]).all()
    assert (exact["value"] - sampled["value"]).abs().max() < 0.02


@pytest.mark.slow
def test_a_small_run(tmp_path):
    with drawn_once():
        run = dualnets.run("population", scale="smoke", out=tmp_path, steps=30)
    assert [verdict.name for verdict in run.verdicts] == ["bias", "noise"]
    assert set(run.table["step"]) >= {0, 15, 30}  # half of the updates, for the plateau
    ends = population.by_tree(run.table)
    assert set(ends["batch"]) == {0, 32, 128}
    starts = run.table[run.table["step"] == 0]
    assert starts["value"].equals(starts["initial"])
    per_tree = starts.groupby(["member", "level", "latent"])["value"]
    assert (per_tree.max() - per_tree.min()).max() < 1e-7  # the same networks, whatever the batch
    assert (run.table["value"] <= run.table["ceiling"] + 1e-6).all()
    assert (run.folder / "population.svg").exists()
    with pytest.raises(ValueError, match="0 for the infinite one, got 1"):
        population.Settings(batch=1)
