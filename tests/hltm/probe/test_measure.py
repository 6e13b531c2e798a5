"""The tidy table: arrays, ensembles and networks; what every row means; what it refuses."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_units import noise_and_latents
from sklearn.metrics import roc_auc_score

import hltm
from hltm.probe import RivalBaseline, TorchNetwork, batches, measure, probe_layers

TREES = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.95), members=3, seed=0)
TREE = TREES[0]
N = 3000
DRAW, DRAWS = TREE.sample(N, seed=1), TREES.sample(N, seed=1)
COLUMNS = [
    "member", "layer", "level", "node", "metric", "candidates", "unit", "rival", "value", "null",
    "initial", "ceiling", "ceiling_error", "gap_closed", "n", "note",
]  # fmt: skip
EVERY = ("correlation", "correlation_ratio", "selectivity", "roc_auc", "mutual_information")


def only(table, metric):
    return table[table["metric"] == metric]


def test_perfect_units_are_named_and_rivals_are_the_nearest_latents():
    table = measure(noise_and_latents(DRAW), TREE, draw=DRAW, metrics=EVERY, lags=20)
    assert list(table.columns) == COLUMNS
    assert (table["n"] == N).all()
    names = list(TREE.topology.names[:7])
    for metric in EVERY:
        rows = only(table, metric)
        assert rows["node"].tolist() == names
        assert rows["unit"].tolist() == list(range(5, 12))
        assert (rows["value"] > rows["null"]).all()
    for metric in ("correlation", "correlation_ratio", "roc_auc", "matched_correlation"):
        assert np.allclose(only(table, metric)["value"], 1)
    assert np.allclose(only(table, "selectivity")["value"], 0.5)
    assert np.allclose(only(table, "partial_correlation")["value"][1:], 1, atol=1e-4)
    assert only(table, "linear_probe")["value"].min() > 0.999
    exact = TREE.correlation(range(7), range(7)).abs().fill_diagonal_(0)
    assert only(table, "rival")["rival"].tolist() == [names[i] for i in exact.argmax(-1)]
    assert np.allclose(only(table, "rival")["value"], exact.max(-1).values, atol=0.04)
    assert only(table, "dead_units")["value"].tolist() == [1]
    assert (only(table, "below_null")["value"] == 0).all()
    assert 1 <= only(table, "units_below_null")["value"].item() <= 6  # noise, and the constant


def test_ceilings_are_the_trees_the_posteriors_and_the_leaves():
    leaves = DRAW.leaves.float()
    table = measure(leaves, TREE, draw=DRAW, metrics=EVERY, lags=0)
    bound = TREE.ceiling(TREE.latents, leaves="all")
    posterior = TREE.posterior(DRAW.leaves).marginals[:, :7]
    for metric in ("correlation", "correlation_ratio", "linear_probe", "rival_baseline"):
        assert np.allclose(only(table, metric)["ceiling"], bound.value)
        assert (only(table, metric)["value"] <= bound.value.numpy() + 0.03).all()
    area = [roc_auc_score(DRAW.node(v).numpy(), posterior[:, v, 1].numpy()) for v in range(7)]
    assert np.allclose(only(table, "roc_auc")["ceiling"], area, atol=1e-3)
    assert (only(table, "roc_auc")["value"] <= np.array(area) + 0.005).all()
    known = math.log(2) - torch.special.entr(posterior).sum(-1)
    information = only(table, "mutual_information")
    assert np.allclose(information["ceiling"], known.mean(0), atol=1e-9)
    assert np.allclose(information["ceiling_error"], known.std(0, False) / N**0.5, atol=1e-9)
    assert (information["value"] <= information["ceiling"] + 0.01).all()
    assert table["null"].isna().all()
    assert only(table, "below_null").empty


def test_a_network_that_is_the_posterior_reaches_its_ceiling():
    class Bayes:
        def activations(self, leaves):
            return {"posterior": TREE.posterior(leaves).marginals[:, :7, 1]}

    table = measure(Bayes(), TREE, samples=20_000, seed=3, metrics=EVERY[:1], lags=0)
    rows = only(table, "correlation")
    assert rows["unit"].tolist() == list(range(7))
    assert np.allclose(rows["value"], rows["ceiling"], atol=0.02)
    assert only(table, "linear_cka")["value"].item() == pytest.approx(1, abs=1e-9)
    baseline = only(table, "rival_baseline")
    assert (baseline["value"].to_numpy() < rows["value"].to_numpy() + 1e-6).all()
    draw = TREE.sample(20_000, seed=9)
    posterior = TREE.posterior(draw.leaves).marginals[:, :7, 1]
    for row in baseline.itertuples():
        assert row.rival not in ("", row.node)
        expected = np.corrcoef(posterior[:, int(row.rival)], draw.node(row.node))[0, 1]
        assert row.value == pytest.approx(abs(expected), abs=0.03)


def test_the_null_reads_other_rows():
    class Bayes:
        def activations(self, leaves):
            return {"posterior": TREE.posterior(leaves).marginals[:, :7, 1]}

    for options in ({"samples": N, "seed": 1}, {"draw": DRAW}):
        table = measure(Bayes(), TREE, lags=1, **options)  # not shifted at all
        assert only(table, "correlation")["null"].max() < 0.15


def test_a_better_unit_of_another_block_is_no_candidate():
    z = DRAWS.level(2).float()
    noise = torch.randn(3, N, 2, 2, generator=torch.Generator().manual_seed(0))
    noise[:, :, 0, 1] = z[:, :, 1]  # the second latent stands in the first one's block
    found = probe_layers(noise, TREES, draw=DRAWS, lags=0)[2]
    score = found.scores["correlation"]
    assert (score.strength[:, 1, 1] > 0.999).all()
    assert (score.best[:, 1] < 0.1).all()
    assert ((score.unit // 2) == torch.arange(2)).all()
    assert (score.matched.unit // 2 == torch.arange(2)).all()


@pytest.mark.parametrize("rows", [500, 4096])
def test_streaming_equals_all_at_once(rows, monkeypatch):
    noise = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)).double()
    a = DRAW.states[:, :7].double() @ noise + noise_and_latents(DRAW)[:, :5].repeat(1, 2)[:, :6]
    whole = measure(a, TREE, draw=DRAW, lags=0)
    monkeypatch.setattr("hltm.probe.batches.ROWS", rows)
    parts = measure(a, TREE, draw=DRAW, lags=0)
    assert np.allclose(whole["value"], parts["value"], atol=1e-9, equal_nan=True)
    single = measure(a.float(), TREE, draw=DRAW, lags=0)
    assert np.allclose(whole["value"], single["value"], rtol=1e-4, atol=1e-4, equal_nan=True)
    assert whole["unit"].equals(parts["unit"])


def test_an_ensemble_is_its_members():
    a = noise_and_latents(DRAWS)
    table = measure(a, TREES, draw=DRAWS, lags=20)
    for s in range(3):
        one = measure(a[s], TREES[s], draw=TREES[s].sample(N, seed=1), lags=20)
        same = table[table["member"] == s].reset_index(drop=True)
        assert same.drop(columns=["value", "null"]).equals(one.drop(columns=["value", "null"]))
        for column in ("value", "null"):
            assert np.allclose(same[column], one[column], atol=1e-6, equal_nan=True)


def test_blocks_are_held_against_their_own_latents():
    z = DRAWS.level(2).float()
    noise = torch.randn(*z.shape, 4, generator=torch.Generator().manual_seed(0))
    noise[..., 2] -= 2 * z
    table = measure(noise, TREES, draw=DRAWS, lags=40)
    best = only(table, "correlation")
    assert (table["candidates"] == "own block").all()
    assert best["unit"].tolist() == [2] * 6
    assert best["layer"].tolist() == [2] * 6
    assert np.allclose(best["ceiling"], TREES.ceiling(TREES.level(2), leaves="own").value.flatten())
    # the same figures as the other probe, up to the rows
    for s in range(3):
        for v in range(2):
            x, y = noise[s, :, v, 2].numpy(), z[s, :, v].numpy()
            row = best[(best["member"] == s) & (best["node"] == TREE.topology.names[1 + v])]
            assert row["value"].item() == pytest.approx(abs(np.corrcoef(x, y)[0, 1]), abs=1e-5)
    assert measure({2: noise}, TREES, draw=DRAWS, lags=40).equals(table)


def test_gap_closed_stands_beside_the_initial_value():
    torch.manual_seed(0)
    before = torch.nn.Sequential(torch.nn.Linear(8, 6))
    after = torch.nn.Sequential(torch.nn.Linear(8, 6))
    first, last = (TorchNetwork(model, ["0"]) for model in (before, after))
    options = {"samples": 2000, "seed": 5, "lags": 0}
    table = only(measure(last, TREE, initial=first, **options), "correlation")
    alone = only(measure(first, TREE, **options), "correlation")
    assert np.allclose(table["initial"], alone["value"])
    expected = (table["value"] - table["initial"]) / (table["ceiling"] - table["initial"])
    assert np.allclose(table["gap_closed"], expected)
    with pytest.raises(ValueError, match="the initial source has layers"):
        measure(last, TREE, initial=TorchNetwork(before, {"0": 1}), **options)


def test_networks_on_one_tree_and_more_states():
    tree = hltm.random_tables(
        hltm.Topology.balanced(2, 2), cardinality=3, concentration=0.5, seed=1
    )
    draw = tree.sample(2000, seed=1)
    a = torch.nn.functional.one_hot(draw.leaves.long(), 3).float().flatten(1)
    table = measure(
        a, tree, draw=draw, lags=20, metrics=("correlation_ratio", "mutual_information")
    )
    rows = only(table, "correlation_ratio")
    assert (rows["value"] <= rows["ceiling"] + 0.03).all()
    assert (rows["value"] > rows["null"]).all()
    assert (only(table, "linear_probe")["value"] <= rows["ceiling"].to_numpy() + 0.03).all()
    assert "correlation" not in set(measure(a, tree, draw=draw, lags=0)["metric"])
    with pytest.raises(ValueError, match="roc_auc is for latents of two states"):
        measure(a, tree, draw=draw, metrics=["roc_auc"])

    class Four:  # networks of one tree, each on rows of its own
        members, stacked = (0, 1, 2, 3), True

        def activations(self, leaves):
            assert leaves.shape[0] == 4
            return {"leaves": leaves.float()}

    shared = measure(Four(), TREE, samples=1000, seed=0, lags=0)
    assert shared["member"].unique().tolist() == [0, 1, 2, 3]
    assert only(shared, "correlation").groupby("node")["ceiling"].nunique().max() == 1


def test_meaningless_and_constant_units_are_below_the_null():
    noise = torch.randn(N, 3, generator=torch.Generator().manual_seed(3))
    noise[:, 1] = 0.0
    table = measure(noise, TREE, draw=DRAW)
    assert only(table, "below_null")["value"].mean() > 0.5
    assert only(table, "dead_units")["value"].item() == 1
    dead = measure(torch.zeros(N, 2), TREE, draw=DRAW)
    assert dead["value"].isna().sum() == 1  # the root has no parent
    assert (only(dead, "correlation")["value"] == 0).all()
    assert (only(dead, "below_null")["value"] == 1).all()
    for metric in ("linear_cka", "effective_rank", "feature_spread"):
        assert only(dead, metric)["value"].item() == 0


def test_nan_names_the_layer_and_the_unit():
    a = noise_and_latents(DRAW)
    a[7, 4] = math.nan
    with pytest.raises(
        ValueError, match=r"unit 4 of member 0 of layer 'h2' has activation nan in row 7"
    ):
        measure({"h2": a}, TREE, draw=DRAW)
    blocks = torch.randn(2, N, 2, 3, generator=torch.Generator().manual_seed(0))
    blocks[1, 5, 1, 2] = math.inf
    trees = TREES[1:]
    with pytest.raises(
        ValueError, match="unit 2 of block 1 of member 2 of layer 2 has activation inf"
    ):
        measure({2: blocks}, trees, draw=trees.sample(N, seed=1), details=False)


def test_what_cannot_be_probed_is_refused():
    a = noise_and_latents(DRAW)
    cases = [
        ({"source": a}, "need the draw"),
        ({"source": TorchNetwork(torch.nn.Linear(8, 2), [""])}, "give draw, or samples and seed"),
        ({"source": {}, "draw": DRAW}, "mapping of activations is empty"),
        ({"source": a[:-1], "draw": DRAW}, "expected 3000 rows on axis 0"),
        ({"source": a[None, None], "draw": DRAW}, "expected 3000 rows on axis 0"),
        ({"source": {2: a[:, :3, None]}, "draw": DRAW}, r"or \(3000, 2, U\)"),
        ({"source": a, "tree": TREES, "draw": DRAW}, "the draw is of members"),
        ({"source": a, "draw": hltm.symmetric_binary(depth=2, seed=0).sample(N, seed=0)}, "7 nodes"),
        ({"source": a, "draw": replace(TREE.draw(N, seed=1, first=7), origin=None)}, "needs its latents"),
        ({"source": a, "draw": DRAW, "metrics": ["accuracy"]}, "unknown metric 'accuracy'"),
        ({"source": a, "draw": DRAW, "nodes": [9]}, "nodes must be latents, got '9'"),
        ({"source": a, "draw": DRAW, "nodes": []}, "nodes must be latents, got none"),
        ({"source": a, "draw": DRAW, "leaves": "some"}, "leaves must be 'own' or 'all'"),
        ({"source": a, "draw": DRAW, "lags": -1}, "lags must be at least 0, got -1"),
        ({"source": a, "draw": DRAW, "lags": 2000}, "2000 lags need at least 4000 rows, got 3000"),
    ]  # fmt: skip
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            measure(**{"tree": TREE} | arguments)


def test_a_table_of_the_wrong_number_of_members_is_refused():
    found = probe_layers(noise_and_latents(DRAW), TREE, draw=DRAW, lags=0)
    with pytest.raises(ValueError, match="expected 1 members, got 3"):
        hltm.probe.to_frame(found, TREE, members=[0, 1, 2])


def test_chosen_nodes_and_numpy_arrays():
    table = measure(noise_and_latents(DRAW).numpy(), TREE, draw=DRAW, nodes=["2", 0], lags=0)
    assert only(table, "correlation")["node"].tolist() == ["2", "0"]
    assert only(table, "correlation")["unit"].tolist() == [7, 5]
    found = probe_layers(noise_and_latents(DRAW), TREE, draw=DRAW, nodes=["2", 0], lags=0)[
        "activations"
    ]
    assert found.scores["correlation"].strength.shape == (1, 14, 2)


def test_a_pass_over_the_same_rows_computes_no_posterior_again(monkeypatch):
    tree = hltm.symmetric_binary(depth=2, seed=0)
    draw = tree.sample(6000, seed=1)  # two batches
    layers = {name: draw.leaves.float() + k for k, name in enumerate("ab")}
    found, calls = measure(layers, tree, draw=draw, lags=20), []
    whole, once = batches.posterior, RivalBaseline.update
    monkeypatch.setattr(batches, "posterior", lambda *a, **k: calls.append("p") or whole(*a, **k))
    monkeypatch.setattr(RivalBaseline, "update", lambda *a: calls.append("r") or once(*a))
    again = measure(layers, tree, draw=draw, lags=20, initial=layers)
    assert sorted(calls) == ["p"] * 2 + ["r"] * 4  # for both layers together, and before training
    both = again.metric != "dead_units"
    pd.testing.assert_series_equal(again.initial[both], found.value[both], check_names=False)
    monkeypatch.setattr(batches, "KEPT", 10)
    assert measure(layers, tree, draw=draw, lags=20, initial=layers).equals(again)
    assert calls.count("p") == 2 + 4
