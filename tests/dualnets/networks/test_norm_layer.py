"""Running statistics, parts of a BatchNorm inside a network, standardised weights with padding."""

import pytest
import torch

import dualnets
import hltm
from dualnets.networks.norm_layer import NormLayer
from dualnets.networks.normalizations import standardize
from dualnets.networks.wiring import standardize_own

TREES = hltm.symmetric_binary(depth=3, members=2, seed=0)


def batches(count: int, shape=(2, 3, 4, 7)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) + 1 for _ in range(count)]


@pytest.mark.parametrize("shared", [False, True])
def test_running_moments_are_the_mean_of_few_batches_and_then_move_by_the_momentum(shared):
    layer = NormLayer(
        dualnets.BatchNorm(momentum=0.25), members=2, blocks=3, units=4, shared=shared
    ).double()
    expected = []
    for n, batch in enumerate(batches(6), start=1):
        layer(batch, training=True)
        axes = (1, 3) if shared else (3,)
        own = [batch.mean(axes, keepdim=True), batch.var(axes, keepdim=True)]
        if n <= 4:  # 1/n is at least the momentum
            seen = batches(n)
            expected = [
                torch.stack([b.mean(axes, keepdim=True) for b in seen]).mean(0),
                torch.stack([b.var(axes, keepdim=True) for b in seen]).mean(0),
            ]
        else:
            expected = [0.75 * old + 0.25 * new for old, new in zip(expected, own, strict=True)]
        torch.testing.assert_close(layer.mean, expected[0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(layer.variance, expected[1], rtol=1e-12, atol=1e-14)
    assert layer.batches.tolist() == [6, 6]


def test_a_network_that_has_seen_no_batch_goes_by_the_batch_at_hand():
    network = dualnets.tree_network(TREES, units=4, norm=dualnets.BatchNorm(), seed=1)
    leaves = TREES.sample(50, seed=0).leaves
    before, few = network.eval()(leaves), network(leaves[:, :5])
    assert not torch.allclose(few, before[:, :5])
    torch.testing.assert_close(before, network.train()(leaves))
    torch.testing.assert_close(network.eval()(leaves[:, :5]), network(leaves)[:, :5])


@pytest.mark.parametrize("stop", ["mean", "std"])
def test_a_stopped_part_changes_the_gradient_and_not_the_output(stop):
    leaves = TREES.sample(50, seed=0).leaves
    found = []
    for norm in (dualnets.BatchNorm(), dualnets.BatchNorm(**{stop: "stop"})):
        network = dualnets.tree_network(TREES, units=4, norm=norm, seed=1, dtype=torch.float64)
        output = network(leaves)
        output[..., 0].sum().backward()
        found.append((output.detach(), network.weights[0].grad))
    assert found[0][0].equal(found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


def test_a_conv_trees_statistics_are_over_places_and_samples():
    network = dualnets.conv_tree(
        TREES, units=4, norm=dualnets.BatchNorm(), seed=1, dtype=torch.float64
    )
    network(TREES.sample(50, seed=0).leaves)
    raw = dualnets.conv_tree(TREES, units=4, seed=1, dtype=torch.float64)
    before = raw.activations(TREES.sample(50, seed=0).leaves)[1]  # (S, B, V, U)
    mean = network.norms[0].mean
    assert mean.shape == (2, 1, 4, 1)
    torch.testing.assert_close(mean[:, 0, :, 0], before.mean((1, 2)), rtol=1e-12, atol=1e-14)


def test_padded_weights_are_standardised_over_their_own_inputs():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    fan_in = torch.tensor([6, 2, 4])
    found = standardize_own(weight, fan_in)
    for v, count in enumerate(fan_in.tolist()):
        expected = standardize(weight[:, v, :, :count])
        torch.testing.assert_close(found[:, v, :, :count], expected, rtol=1e-12, atol=1e-14)
        assert (found[:, v, :, count:] == 0).all()
    found.square().sum().backward()
    assert (weight.grad[:, 1, :, 2:] == 0).all()
    assert (weight.grad[:, 2, :, 4:] == 0).all()


def test_standardised_weights_of_one_input_are_refused():
    topology = hltm.Topology.from_parents([None, 0, 0, 1, 2, 2])
    tree = hltm.random_tables(topology, seed=0)
    with pytest.raises(ValueError, match=r"at least 2 inputs per unit, level 1 has a block with 1"):
        dualnets.tree_network(tree, units=3, weight_standardization=True, seed=0)
