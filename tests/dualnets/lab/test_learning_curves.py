"""Learning curves: the probe's own numbers, symbols as targets, and members that have diverged."""

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets.experiments.emergence import cardinality, hierarchy
from dualnets.lab.ablation import AblationSettings
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.learning_curves import FiniteMembers, learning_curves
from hltm.probe import measure, probe_layers
from hltm.sampling.philox import Stream

BUDGET = {
    "members": 2,
    "steps": 6,
    "snapshots": 3,
    "units": 3,
    "batch": 16,
    "evaluation_samples": 600,
}


def curves(kind=AblationSettings, **changes):
    settings = kind(variant="", **(BUDGET | {"depth": 2} | changes))
    metric, targets = settings.build_probe()
    options = {"metric": metric, "targets": targets}
    return settings, learning_curves(settings, torch.device("cpu"), ProgressListener(), **options)


@pytest.mark.parametrize("kind", [AblationSettings, cardinality.Settings])
@pytest.mark.parametrize("network", ["tree", "mlp"])
def test_they_are_the_probes_numbers(kind, network):
    settings, found = curves(kind, network=network)
    metric = settings.build_probe()[0]
    table = measure(
        found.last, settings.build_trees(), samples=600, seed=0, metrics=[metric], details=False,
        initial=found.first,
    )  # fmt: skip
    ours = found.table[found.table["step"] == 6]
    for name in (metric, f"{metric}_post_relu", "below_null"):
        one, other = (
            rows[rows["metric"] == name].set_index(["member", "level", "node"]).sort_index()
            for rows in (ours, table)
        )
        assert len(one) == len(other) == 2 * 3
        assert one.index.equals(other.index)
        assert (one["candidates"] == other["candidates"]).all()
        for column in ("value", "initial"):
            assert np.array_equal(one[column], other[column])
        if name == metric:
            assert np.array_equal(one["null"], other["null"])
    total = ours[ours["metric"] == "dead_units"].drop_duplicates(["member", "level"])
    if network == "mlp":  # a shared layer is counted once
        wanted = table[table["metric"] == "dead_units"]["value"]
        assert total["value"].tolist() == wanted.tolist()


def test_symbols_are_followed_through_a_plain_twin():
    settings = hierarchy.Settings(
        variant="",
        depth=2,
        symbols=3,
        rules=3,
        members=2,
        units=4,
        steps=1,
        evaluation_samples=2500,
    )
    trees, (metric, targets) = settings.build_trees(), settings.build_probe()
    network = settings.build_network(trees, 1, torch.device("cpu"))
    found = probe_layers(
        network,
        trees,
        samples=2500,
        seed=2,
        metrics=[metric],
        targets=targets,
        lags=0,
        details=False,
    )
    draw = trees.draw(2500, seed=2, stream=Stream.EVALUATION)
    shown = network.activations(draw.leaves)
    for level, layer in found.items():
        score = layer.scores["correlation_ratio"]
        symbols = hltm.families.random_hierarchy.symbols(draw, m=3, level=level).numpy()
        units = shown[level].detach().numpy().astype(np.float64)
        for member in range(2):
            for node in range(symbols.shape[2]):
                ratios = []
                for unit in range(4):
                    values, z = units[member, :, node, unit], symbols[member, :, node]
                    fitted = np.array([values[z == k].mean() for k in range(3)])[z]
                    ratios.append(fitted.std() / values.std())
                assert max(ratios) == pytest.approx(float(score.best[member, node]), abs=1e-5)
                assert int(score.unit[member, node]) % 4 == int(np.argmax(ratios))


def test_a_member_that_has_diverged_is_nan_and_no_other_is():
    trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
    network = dualnets.tree_network(trees, units=3, seed=1)
    options = {"samples": 600, "seed": 2, "lags": 20, "details": False}
    alone = probe_layers(network, trees, **options)
    network.weights[0].data[1] = 1e38
    network.weights[1].data[1, 0, :, 0] = 1e30
    shown = FiniteMembers(network)
    found = probe_layers(shown, trees, **options)
    assert shown.diverged.tolist() == [False, True, False]
    for level, layer in found.items():
        score, before = (own[level].scores["correlation"] for own in (found, alone))
        torch.testing.assert_close(score.best[[0, 2]], before.best[[0, 2]], rtol=0, atol=2e-6)
        torch.testing.assert_close(score.null[[0, 2]], before.null[[0, 2]], rtol=0, atol=2e-6)
        assert layer.dead[1].all()
