"""The share of a latent in what survives the average over augmentations, against every coin and state."""

import itertools

import numpy as np
import pytest
import torch

import hltm
from dualnets.theory import surviving_share


def average_views(tree, augment, states):
    """`(N, V)` E[state of every node in a view | all states of the sample], coin by coin."""
    rates, parent = augment.rates(tree), tree.topology.parent
    one = [tree.table(v)[..., 1].numpy() for v in range(len(parent))]  # P(1 | state of the parent)
    found = np.zeros(states.shape)
    for coins in itertools.product((0, 1), repeat=len(parent)):
        chance = np.prod(np.where(coins, rates, 1 - rates))
        if chance == 0:
            continue
        redrawn, view = np.zeros(len(parent), dtype=bool), np.zeros(states.shape)
        for v in range(len(parent)):
            redrawn[v] = coins[v] or (v > 0 and redrawn[parent[v]])
            if not redrawn[v]:
                view[:, v] = states[:, v]
            elif v == 0:
                view[:, 0] = one[0].reshape(-1)[0]
            else:
                above = view[:, parent[v]]  # the mean of a state, in which P(1) is linear
                view[:, v] = one[v][0] + (one[v][1] - one[v][0]) * above
        found += chance * view
    return found


@pytest.mark.parametrize(
    "augment",
    [
        hltm.keep_root(), hltm.keep_level(0), hltm.keep_level(1), hltm.resample_leaves(0.3),
        hltm.resample_subtrees(0.4, 1).then(hltm.resample_leaves(0.2)), hltm.resample_subtrees(0.5, 2),
        hltm.keep_nothing(),
    ],
    ids=str,
)  # fmt: skip
def test_shares_are_those_of_the_operator_by_enumeration(augment):
    """Equation 4.10, on trees that are not symmetric."""
    rng = np.random.default_rng(0)
    tables = [
        torch.from_numpy(
            rng.dirichlet([1, 1], size=1 if v == 0 else 2).reshape(-1 if v == 0 else 2, 2)
        )
        for v in range(7)
    ]  # binary, not symmetric
    tables[0] = tables[0].reshape(2)
    tree = hltm.LatentTree.from_tables(hltm.Topology.balanced(2), tables)
    joint = tree.joint()
    states, weight = joint.states.double().numpy(), joint.probability.numpy()
    average = average_views(tree, augment, states)

    def cov(a, b):
        return weight @ (a * b) - (weight @ a) * (weight @ b)

    found = surviving_share(tree, augment)
    for v, below in enumerate(([3, 4, 5, 6], [3, 4], [5, 6])):
        z = states[:, v]
        total = sum(cov(average[:, i], average[:, i]) for i in below)
        own = sum(cov(average[:, i], z) ** 2 for i in below) / cov(z, z)
        assert float(found[v]) == pytest.approx(own / total if total > 1e-12 else 0, abs=1e-9)


def test_views_of_the_root_alone_give_the_square_of_the_top_operators_factor():
    trees = hltm.symmetric_binary(depth=3, polarity=(0.6, 1.0), members=3, seed=0)
    found = surviving_share(trees, hltm.keep_root())
    assert found.shape == (3, 7)
    expected = trees.correlation([0], trees.latents)[:, 0].square()
    assert torch.allclose(found, expected)
    assert torch.allclose(surviving_share(trees[1], hltm.keep_root()), expected[1])


def test_only_binary_trees_have_shares():
    with pytest.raises(ValueError, match="of binary trees, got 4 states"):
        surviving_share(
            hltm.random_hierarchy(v=2, m=2, s=2, L=2, classes=2, seed=0), hltm.keep_root()
        )
