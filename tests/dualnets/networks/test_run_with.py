"""Runs of networks in which some units are replaced: blocks, dense layers, ensembles of torch modules."""

import pytest
import torch
from torch import nn

import hltm
from dualnets.networks.mlp import mlp
from dualnets.networks.normalizations import BatchNorm
from dualnets.networks.shuffled_tree import shuffled_tree
from dualnets.networks.torch_ensemble import TorchEnsemble
from dualnets.networks.tree_network import tree_network
from hltm.probe.causal.replacing import Replacement, run_with

TREES = hltm.symmetric_binary(depth=3, members=2, seed=0)
LEAVES, OTHER = TREES.sample(30, seed=1).leaves, TREES.sample(30, seed=2).leaves


def build():
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 3))


NETWORKS = {
    "tree": lambda tree: tree_network(tree, units=4, seed=1, bias=True),
    "dense": lambda tree: mlp(tree, units=5, seed=1, normalize=True),
    "norm": lambda tree: tree_network(tree, units=4, seed=1, norm=BatchNorm()),
    "shuffled": lambda tree: shuffled_tree(tree, units=4, seed=1),
    "torch": lambda tree: TorchEnsemble(tree, build, activations={1: "1", 2: "2", 3: "3"}, seed=1),
    "inputs": lambda tree: TorchEnsemble(
        tree, build, activations={1: "2", 2: "3"}, side="input", seed=1
    ),
}


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_of_any_layer_makes_the_output_that_of_its_source(name, stacked):
    pick = (lambda x: x) if stacked else (lambda x: x[0])
    network = NETWORKS[name](TREES if stacked else TREES[0]).eval()
    leaves, other = pick(LEAVES), pick(OTHER)
    plain, expected = network(leaves).detach(), network(other).detach()
    assert run_with(network, leaves, {}).equal(plain)
    own, source = network.activations(leaves), network.activations(other)
    for level, values in source.items():
        every = torch.ones(values.shape[-1:], dtype=torch.bool)
        found = run_with(network, leaves, {level: Replacement(every, values.detach())})
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        same = run_with(network, leaves, {level: Replacement(every, own[level].detach())})
        torch.testing.assert_close(same, plain, atol=1e-6, rtol=0)
    assert not plain.allclose(expected)


def test_one_unit_of_one_member():
    network = mlp(TREES, units=5, seed=1)
    units = torch.zeros(2, 1, 5, dtype=torch.bool)
    units[1, 0, 3] = True
    found = network.run_with(LEAVES, {3: Replacement(units, torch.full((2, 30, 5), 7.0))})
    assert (found[1, :, 3] == 7).all()
    plain = network(LEAVES).detach()
    assert found[0].equal(plain[0])
    assert found[1, :, :3].equal(plain[1, :, :3])
