"""Belief geometry: 1 where units are the posterior, least squares elsewhere, chance for nothing."""

import numpy as np
import pytest
import torch

import hltm
from hltm.probe import belief_geometry, visible
from hltm.probe.metrics.linear_probe import BLOCK

TREES = hltm.symmetric_binary(depth=3, polarity=(0.6, 0.9), members=2, seed=0)
TREE = TREES[0]


class Oracle:
    """A causal network of two members: at each position every latent's posterior, rotated."""

    stacked, members, causal = True, (0, 1), True

    def activations(self, leaves):
        found = []
        for i in range(leaves.shape[-1]):
            seen = leaves.long().clone()
            seen[..., i:] = -1
            found.append(TREES.posterior(seen, nodes=TREES.latents).marginals[..., 1])
        turn = torch.linalg.qr(torch.arange(49.0).reshape(7, 7).double().sin())[0]
        return {"beliefs": torch.stack(found, -2) @ turn}


def random_units(leaves):
    weight = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    return (leaves.float() @ weight).tanh()


def test_the_oracle_has_all_there_is_at_every_position():
    table = belief_geometry(Oracle(), TREES, samples=1000, seed=1)
    first = table.position == 0
    assert table[first].value.isna().all()  # the prior does not vary
    assert table[~first].value.min() > 1 - 1e-6
    assert table[~first].null.max() < 0.1
    assert (table.ceiling == 1).all()
    assert len(table) == 2 * 8 * (7 + 3)  # members, positions, latents and levels


def test_untrained_and_meaningless_units():
    draw = TREE.sample(4000, seed=1)
    noise = torch.randn(4000, 5, generator=torch.Generator().manual_seed(1))
    layers = {"untrained": random_units(draw.leaves), "noise": noise}
    table = belief_geometry(layers, TREE, draw=draw, whole=True)
    levels = table[table.node == ""].set_index(["layer", "level"]).value
    assert all(0.05 < levels["untrained", level] < 0.8 for level in (1, 2, 3))
    noise = table[table.layer == "noise"]
    assert (noise.value.abs() < 0.01).all()
    assert noise.null.between(-0.01, 0.02).all()
    untrained = table[table.layer == "untrained"]
    assert (untrained.value > untrained.null).all()


def test_the_initial_source_is_measured_on_the_same_rows():
    draw = TREE.sample(300, seed=1)
    options = {"draw": draw, "whole": True, "belief": "log-odds"}
    beliefs = TREE.posterior(draw.leaves, nodes=TREE.latents).marginals[..., 1].logit()
    leaves = {"x": draw.leaves.double()}
    table = belief_geometry({"x": beliefs}, TREE, initial=leaves, **options, lags=0)
    alone = belief_geometry(leaves, TREE, **options)
    assert np.allclose(table.initial, alone.value, atol=1e-9)
    assert np.allclose(table.gap_closed, 1, atol=1e-3)
    with pytest.raises(ValueError, match=r"initial source has layers \['y'\], expected \['x'\]"):
        belief_geometry({"x": beliefs}, TREE, initial={"y": beliefs}, **options)


def test_it_is_least_squares_on_held_out_rows_however_they_are_batched(monkeypatch):
    draw = TREE.sample(2000, seed=1)
    units = random_units(draw.leaves).double()
    table = belief_geometry({"a": units}, TREE, draw=draw, whole=True, lags=0)
    monkeypatch.setattr(visible, "HELD", 1 << 11)
    short = belief_geometry({"a": units}, TREE, draw=draw, whole=True, lags=0)
    assert short.value.tolist() == pytest.approx(table.value.tolist(), abs=1e-12)
    table = table.set_index("node")
    test = np.arange(2000) // BLOCK % 2 == 1
    x = np.concatenate([units.numpy(), np.ones((2000, 1))], 1)
    y = TREE.posterior(draw.leaves, nodes=TREE.latents).marginals.numpy()  # (B, V, K)
    predicted = np.einsum(
        "bu,uvk->bvk", x, np.linalg.lstsq(x[~test], y[~test].reshape(-1, 14))[0].reshape(-1, 7, 2)
    )
    wrong = ((y - predicted)[test] ** 2).sum((0, 2))
    total = ((y[test] - y[test].mean(0)) ** 2).sum((0, 2))
    for v in range(7):
        expected = 1 - wrong[v] / total[v]
        assert table.value[TREE.topology.names[v]] == pytest.approx(expected, abs=2e-3)
    together = table.loc[""].set_index("level").value
    assert together[1] == pytest.approx(1 - wrong[3:].sum() / total[3:].sum(), abs=2e-3)
    assert table.null.isna().all()


def test_log_messages_are_linear_in_log_odds_and_not_in_probabilities():
    draw = TREE.sample(3000, seed=2)
    below = TREE.posterior(draw.leaves, nodes=["1", "2"], given="own").marginals
    # what the children of the root send it: log P(leaves below the child | root), up to a constant
    edges = torch.stack([TREE.table(v) for v in (1, 2)])  # (V, K of the root, K)
    prior = TREE.posterior({}, nodes=["1", "2"]).marginals[0]
    messages = torch.einsum("vij,bvj->bvi", edges, below / prior).log()
    value = {
        belief: belief_geometry({"m": messages.flatten(1)}, TREE, draw=draw, nodes=["0"], whole=True,
                                belief=belief).value[0]
        for belief in ("probability", "log-odds")
    }  # fmt: skip
    assert value["log-odds"] > 1 - 1e-6
    assert value["probability"] < 1 - 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"belief": "odds"}, "belief must be 'probability' or 'log-odds', got 'odds'"),
        ({"whole": True, "context": "before"}, "with whole=True the units see all leaves"),
        ({"whole": True, "samples": 50}, "needs 96 rows"),
        ({"nodes": ["7"]}, "nodes must be latents, got '7'"),
        ({"lags": -1}, "lags must be at least 0, got -1"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        belief_geometry(Oracle(), TREES, **{"samples": 200, "seed": 0} | options)


def test_log_odds_of_what_the_leaves_rule_out_are_refused():
    tree = hltm.random_hierarchy(v=3, m=2, s=2, L=2, classes=2, seed=0)
    draw = tree.sample(200, seed=0)
    with pytest.raises(ValueError, match="the log-odds of node '0' are infinite"):
        belief_geometry({"x": draw.leaves.float()}, tree, draw=draw, whole=True, belief="log-odds")
