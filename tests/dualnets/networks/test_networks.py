"""Block networks against plain single networks, their addresses, shapes and refusals."""

import pytest
import torch
from scipy import stats

import dualnets
import hltm

TREES = hltm.symmetric_binary(depth=3, branching=2, members=3, seed=0)
LEAVES = TREES.sample(17, seed=1).leaves


def slow_tree(network, member: int, leaves: torch.Tensor) -> tuple[torch.Tensor, list]:
    """One member, one latent at a time: every block is a small linear layer of its own."""
    below = [leaves[:, [x]].to(network.dtype) for x in range(leaves.shape[1])]
    shown = []
    for layer in range(network.depth):
        weight = network.weights[layer][member]
        children = len(below) // len(weight)
        blocks = []
        for v in range(len(weight)):
            joined = torch.cat(below[v * children : (v + 1) * children], dim=1)
            block = joined @ weight[v].T
            if network.biases is not None:
                block = block + network.biases[layer][member, v]
            blocks.append(block)
        shown.append(torch.stack(blocks, 1))
        below = [block.relu() for block in blocks] if layer < network.depth - 1 else blocks
    output = torch.cat(below, 1)
    if network.normalize:
        output = output / output.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return output, shown


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("make", [dualnets.tree_network, dualnets.mlp])
def test_equals_one_plain_network_per_member(make, bias, normalize):
    network = make(TREES, units=4, seed=2, bias=bias, normalize=normalize, dtype=torch.float64)
    output, shown = network(LEAVES), network.activations(LEAVES)
    for s in range(3):
        expected, layers = slow_tree(network, s, LEAVES[s])
        torch.testing.assert_close(output[s], expected, rtol=1e-12, atol=1e-14)
        for level, layer in enumerate(layers, start=1):
            layer = layer.flatten(1) if make is dualnets.mlp else layer
            torch.testing.assert_close(shown[level][s], layer, rtol=1e-12, atol=1e-14)


def test_rectify_is_relu_below_the_top():
    network = dualnets.tree_network(TREES, units=4, seed=2)
    shown = network.activations(LEAVES)
    after = network.rectify(shown)
    assert after[1].equal(shown[1].relu())
    assert after[3].equal(shown[3])
    assert (shown[3] < 0).any()


def test_without_biases_the_output_is_homogeneous_in_every_layer():
    network = dualnets.tree_network(TREES, units=4, seed=2, dtype=torch.float64)
    before = network(LEAVES)
    with torch.no_grad():
        network.weights[1].mul_(3.0)
    torch.testing.assert_close(network(LEAVES), 3 * before, rtol=1e-12, atol=0)


def test_a_member_is_the_same_network_in_any_ensemble():
    whole = dualnets.tree_network(TREES, units=4, seed=2, bias=True)
    single = dualnets.tree_network(TREES[1], units=4, seed=2, bias=True)
    for ours, its in zip(whole.parameters(), single.parameters(), strict=True):
        assert ours[1:2].equal(its)
    assert single(LEAVES[1]).shape == (17, 4)
    part = dualnets.mlp(TREES[1:], units=4, seed=2)
    assert part.weights[0].equal(dualnets.mlp(TREES, units=4, seed=2).weights[0][1:])


def test_seeds_members_and_layers_differ():
    a = dualnets.mlp(TREES, units=8, seed=2)
    assert not a.weights[0].equal(dualnets.mlp(TREES, units=8, seed=3).weights[0])
    assert not a.weights[0][0].equal(a.weights[0][1])
    assert not a.weights[1].equal(a.weights[2])


def test_weights_are_drawn_as_linear_layers_draw_them():
    network = dualnets.mlp(TREES, units=200, layers=2, bias=True, seed=4)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        bound = weight.shape[-1] ** -0.5
        for part in (weight, bias):
            flat = (part.detach().double().flatten() / bound + 1) / 2
            assert stats.kstest(flat.numpy(), "uniform").pvalue > 1e-3
    layer = torch.nn.Linear(8, 200)  # the same law
    both = network.weights[0][0].detach().flatten(), layer.weight.detach().flatten()
    assert stats.ks_2samp(*(part.numpy() for part in both)).pvalue > 1e-3


def test_one_tree_many_networks():
    network = dualnets.tree_network(TREES[0], units=4, members=5, seed=2)
    leaves = TREES[0].sample(3, seed=1).leaves.expand(5, -1, -1)
    assert network(leaves).shape == (5, 3, 4)
    assert network.stacked


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dualnets.tree_network(TREES, units=0, seed=0), "units must be at least 1, got 0"),
        (lambda: dualnets.mlp(TREES, units=3, layers=0, seed=0), "layers must be at least 1"),
        (
            lambda: dualnets.tree_network(TREES, units=3, members=4, seed=0),
            "members=4 is for a single tree",
        ),
        (lambda: dualnets.mlp(TREES[0], units=3, members=0, seed=0), "members must be at least 1"),
        (lambda: dualnets.mlp(TREES, units=3, seed=-1), "seed must be in 0..2\\^64-1, got -1"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_leaves_of_the_wrong_shape_are_named():
    network = dualnets.tree_network(TREES, units=3, seed=0)
    with pytest.raises(ValueError, match=r"leaves have shape \(3, 17, 7\), expected \(3, B, 8\)"):
        network(LEAVES[..., :7])
