"""o oᵀ against enumeration, selectivity against brute force and draws, and where the form fails."""

import pytest
import torch
from theory_cases import networks, tree

import dualnets
import hltm
from dualnets.theory import enumerate_views, selectivity, tree_operator


def asymmetric(seed=0, members=None):
    """A binary tree with tables of any kind."""
    topology = hltm.Topology.balanced(2)
    random = torch.Generator().manual_seed(seed)
    tables = []
    for v in range(7):
        p = 0.1 + 0.8 * torch.rand(1 if v == 0 else 2, generator=random, dtype=torch.float64)
        table = torch.stack([1 - p, p], -1)
        tables.append(table[0] if v == 0 else table)
    return hltm.LatentTree.from_tables(topology, tables, members)


@pytest.mark.parametrize("one", [tree(3), tree(2, branching=3), asymmetric()], ids=repr)
def test_selectivity_is_a_difference_of_conditional_means(one):
    for network in networks(one, bias=True):
        for level in range(1, one.topology.depth + 1):
            exact = selectivity(network, one, level)
            leaves = enumerate_views(one, hltm.keep_root()).leaves
            values = network.rectify(network.activations(leaves))[level].detach()
            for i, v in enumerate(one.level(level)):
                given = one.leaf_distribution([v])
                own = values[:, i] if values.ndim == 3 else values
                expected = (given[1] - given[0]) @ own / 2
                assert (exact.value[i] - expected).abs().max() < 1e-13
            assert exact.standard_error.abs().max() == 0
            guess = selectivity(network, one, level, samples=3000, seed=4)
            z = ((guess.value - exact.value) / guess.standard_error)[guess.standard_error > 0]
            assert z.abs().max() < 4.5


@pytest.mark.parametrize("one", [tree(3), asymmetric(), tree(2, members=3)], ids=repr)
def test_the_top_operator_is_o_times_o(one):
    (network, dense) = networks(one, bias=True)
    table = enumerate_views(one, hltm.keep_root())
    level = one.topology.depth - 1
    nodes = list(one.level(level))
    s = selectivity(network, one, level).value
    units = s.shape[-1]
    found = tree_operator(one, [v for v in nodes for _ in range(units)], s.flatten(-2))
    leaves = table.leaves.expand(3, -1, -1) if one.stacked else table.leaves
    values = network.rectify(network.activations(leaves))[level].detach().flatten(-2)
    expected = table.covariance(table.over_views(values))
    assert (found.matrix - expected).abs().max() < 1e-14
    assert expected.abs().max() > 1e-5
    # units that see all leaves do not follow the root through one latent: the form fails
    s = selectivity(dense, one, level).value[..., 0, :]
    wrong = tree_operator(one, [nodes[0]] * s.shape[-1], s)
    values = dense.rectify(dense.activations(leaves))[level].detach()
    expected = table.covariance(table.over_views(values))
    assert (wrong.matrix - expected).norm() > 0.05 * expected.norm()


def test_other_views_share_more():
    one = tree(3)
    (network, _) = networks(one)
    s = selectivity(network, one, 2).value.flatten()
    found = tree_operator(one, [1, 1, 1, 2, 2, 2], s)
    table = enumerate_views(one, hltm.keep_level(2))
    values = network.rectify(network.activations(table.leaves))[2].detach().flatten(1)
    expected = table.covariance(table.over_views(values))
    assert (found.matrix - expected).norm() > 0.05 * expected.norm()


def test_networks_that_share_a_tree_have_rows_of_their_own():
    one = tree(2)
    network = dualnets.tree_network(one, units=3, members=4, seed=1, dtype=torch.float64)
    exact = selectivity(network, one, 1)
    guess = selectivity(network, one, 1, samples=2000, seed=3)
    assert exact.value.shape == guess.value.shape == (4, 2, 3)
    z = ((guess.value - exact.value) / guess.standard_error)[guess.standard_error > 0]
    assert z.abs().max() < 4.5
    assert 0.4 < z.square().mean() < 2


def test_what_makes_no_sense_is_refused():
    one = tree(2)
    (network, _) = networks(one)
    with pytest.raises(ValueError, match="expected one for each of 2 nodes"):
        tree_operator(one, [1, 2], torch.zeros(3))
    with pytest.raises(ValueError, match="needs a seed and at least 2 samples"):
        selectivity(network, one, 1, samples=100)
    ternary = hltm.random_tables(hltm.Topology.balanced(2), cardinality=3, seed=0)
    with pytest.raises(ValueError, match="selectivity is defined for binary latents; level 1"):
        selectivity(network, ternary, 1)


def test_what_shows_no_layers_or_does_not_fit_is_refused():
    one = tree(2)
    with pytest.raises(TypeError, match=r"a network of this library, .* got Linear"):
        selectivity(torch.nn.Linear(4, 2), one, 1)
    network = dualnets.tree_network(one, units=3, seed=1)
    with pytest.raises(ValueError, match="3 trees do not fit a network of 1 members"):
        selectivity(network, tree(2, members=3), 1)
    with pytest.raises(ValueError, match=r"the network has activations of levels 1\.\.1, got 2"):
        selectivity(dualnets.mlp(one, units=3, layers=1, seed=1), one, 2)
    with pytest.raises(ValueError, match="expected at least one node"):
        tree_operator(one, [], [])
    with pytest.raises(ValueError, match="selectivities must be finite"):
        tree_operator(one, [1, 2], [0.5, float("nan")])
    with pytest.raises(ValueError, match="selectivities of 2 members do not fit 3 trees"):
        tree_operator(tree(2, members=3), [1, 2], torch.ones(2, 2))
