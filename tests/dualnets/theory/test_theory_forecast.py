"""Forecasts: the direction against exact enumeration, the score against the probe."""

import pytest
import torch

import dualnets
import hltm
from dualnets.theory import enumerate_views
from dualnets.theory.hierarchy.forecast import forecast, growth_direction
from hltm.probe import probe_layers

AUGMENT = hltm.keep_root()


def case(**changes):
    trees = hltm.symmetric_binary(depth=2, polarity=(0.6, 1.0), members=2, seed=0)
    return trees, dualnets.tree_network(trees, units=3, seed=1, dtype=torch.float64, **changes)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_direction_is_the_simple_losss(normalize):
    trees, network = case(normalize=normalize)
    table = enumerate_views(trees, AUGMENT)
    mean = table.over_views(network(table.leaves.expand(2, -1, -1)))
    variance = table.covariance(mean).diagonal(dim1=1, dim2=2).sum()
    exact = torch.autograd.grad(variance, list(network.weights))
    found = [growth_direction(network, trees, AUGMENT, samples=20_000, seed=k) for k in range(8)]
    for layer, expected in enumerate(exact):
        parts = torch.stack([made[layer] for made in found])
        error = (parts.mean(0) - expected).abs() / (parts.std(0) / 8**0.5 + 1e-6)
        assert error.max() < 8  # Student's t of 7 degrees, p = 1e-4 each
        assert expected.abs().max() > 20 * (parts.std(0) / 8**0.5).max()


@pytest.mark.parametrize("kind", ["tree", "mlp"])
def test_present_correlations_are_the_probes(kind):
    trees, network = case()
    if kind == "mlp":
        network = dualnets.mlp(trees, units=7, seed=1)
    found = forecast(network, trees, AUGMENT, samples=1000, growth=0.0, seed=4)
    probed = probe_layers(network, trees, samples=1000, seed=4, lags=0, details=False)
    for level, part in found.items():
        score, layer = probed[level].scores["correlation"], probed[level]
        assert torch.allclose(part.strength, score.best, atol=1e-5)
        assert part.winner.equal(score.unit % (len(layer.allowed) // layer.blocks))
        assert torch.allclose(part.correlations, part.present, atol=1e-6)


def test_it_predicts_the_winner_of_training():
    """After some training with the simple loss most forecast winners have won."""
    trees = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), members=8, seed=0)
    network = dualnets.tree_network(trees, units=6, seed=1, normalize=True)
    found = forecast(network, trees, AUGMENT, samples=4096, seed=9)
    final = dualnets.train(
        network, dualnets.SimCLR(), trees, augment=AUGMENT, steps=400, batch=64,
        optimizer=dualnets.SGD(lr=0.3), seed=2,
    )  # fmt: skip
    layers = probe_layers(final.network, trees, samples=4096, seed=3, lags=0, details=False)
    probed = {level: layer.scores["correlation"] for level, layer in layers.items()}
    hits = [(found[k].winner == probed[k].unit % 6).flatten() for k in (1, 2, 3)]
    hits = torch.cat(hits).double()
    assert hits.mean() > 2.5 / 6
    strengths = torch.stack([found[3].strength, probed[3].best]).flatten(1)
    assert torch.corrcoef(strengths)[0, 1] > 0.3


def test_errors():
    trees, network = case()
    with pytest.raises(ValueError, match="growth must be"):
        forecast(network, trees, AUGMENT, growth=-1.0, seed=0)
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        growth_direction(network, trees, AUGMENT, samples=1, seed=0)


def test_networks_and_trees_that_do_not_fit_are_refused():
    trees = hltm.symmetric_binary(depth=3, members=3, seed=0)
    network = dualnets.tree_network(trees, units=4, seed=1)
    for call in (
        lambda network, trees: forecast(network, trees, hltm.keep_root(), seed=0),
        lambda network, trees: growth_direction(
            network, trees, hltm.keep_root(), samples=8, seed=0
        ),
    ):
        with pytest.raises(TypeError, match=r"expected a block network .* got Linear"):
            call(torch.nn.Linear(8, 4), trees)
        with pytest.raises(ValueError, match="2 trees do not fit a network of 3 members"):
            call(network, trees[:2])
        with pytest.raises(TypeError, match="expected trees, got str"):
            call(network, "trees")
        lost = dualnets.tree_network(trees, units=4, seed=1)
        lost.weights[0].data[0] = torch.nan
        with pytest.raises(ValueError, match=r"weights\.0 of the network must be finite"):
            call(lost, trees)
