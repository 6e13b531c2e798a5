"""Likelihoods of the states of any nodes, against enumeration; and batches without rows."""

import numpy as np
import pytest
import torch
from few import few
from irregular_trees import agreeing, irregular_tree, some_leaves

from hltm.inference.most_probable import most_likely, posterior_samples
from hltm.inference.posterior import posterior, torch_posterior

EVERY = np.arange(7)


def case(seed, rows=5, members=2):
    """Trees, leaves `(S, X, B)`, and likelihoods on the root, an inner node and a leaf."""
    trees = irregular_tree(seed, nodes=7, max_states=3, members=members)
    leaves = some_leaves(trees, rows, seed, missing=0.5).transpose(1, 2)
    random = np.random.default_rng(seed)
    nodes = {0, len(trees.latents) - 1, 6}
    given = {}
    for v in nodes:
        shape = (members if v else 1, int(trees.tables.cardinality[v]), rows)
        given[v] = torch.from_numpy(random.exponential(size=shape) * (random.random(shape) < 0.8))
    return trees, leaves, given


def weighted(trees, s, row, likelihoods, b, below=None):
    """(P(states) times all likelihoods of the joint states, the states)."""
    joint = trees.joint()
    states = np.asarray(joint.states)
    weight = np.asarray(joint.probability)[s].copy()
    kept = np.ones(7, dtype=bool) if below is None else below
    row = np.where(kept[list(trees.leaves)], row, -1)
    weight[~agreeing(states, trees.leaves, row)] = 0
    for v, given in likelihoods.items():
        if kept[v]:
            weight *= given.expand(len(trees), -1, -1)[s, :, b].numpy()[states[:, v]]
    return weight, states


def belief_of(weight, states, v, k):
    with np.errstate(invalid="ignore"):
        return np.bincount(states[:, v], weight, minlength=k) / weight.sum()


@pytest.mark.parametrize("dtype", few([torch.float64, torch.float32]))
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("seed", few(range(4)))
def test_posteriors_with_likelihoods_equal_enumeration(seed, own, dtype):
    trees, leaves, given = case(seed)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    found = posterior(trees.tables, leaves, EVERY, dtype, own=own, likelihoods=given)
    slow = torch_posterior(trees.tables, leaves, EVERY, dtype, own=own, likelihoods=given)
    for marginals, evidence in (found, slow):
        for s in range(2):
            for b in range(5):
                for v, k in enumerate(trees.tables.cardinality):
                    below = np.isin(EVERY, trees.topology.descendants(v)) if own else None
                    weight, states = weighted(trees, s, leaves[s, :, b], given, b, below)
                    with np.errstate(divide="ignore"):
                        expected = np.log(weight.sum())
                    np.testing.assert_allclose(
                        evidence[(s, v, b) if own else (s, b)], expected, atol=tolerance
                    )
                    np.testing.assert_allclose(
                        marginals[s, v, :k, b], belief_of(weight, states, v, k), atol=tolerance
                    )


@pytest.mark.parametrize("seed", range(4))
def test_most_likely_states_with_likelihoods_equal_enumeration(seed):
    trees, leaves, given = case(seed)
    found = most_likely(trees.tables, leaves, given)
    for s in range(2):
        for b in range(5):
            weight, states = weighted(trees, s, leaves[s, :, b], given, b)
            if weight.max() == 0:
                assert found.states[s, :, b].eq(-1).all()
                continue
            assert found.states[s, :, b].tolist() == states[weight.argmax()].tolist()
            assert float(found.log_probability[s, b]) == pytest.approx(np.log(weight.max()))


def test_samples_with_likelihoods_follow_the_posterior():
    trees, leaves, given = case(1, rows=1)
    count = 4000
    leaves = leaves.expand(-1, -1, count)
    many = {v: likelihood.expand(-1, -1, count) for v, likelihood in given.items()}
    drawn = posterior_samples(
        trees.tables, leaves, 1, seed=0, members=trees.members, likelihoods=many
    )[:, 0]
    for s in range(2):
        weight, states = weighted(trees, s, leaves[s, :, 0], given, 0)
        for v in EVERY:
            expected = belief_of(weight, states, v, 3)
            seen = np.bincount(drawn[s, v].numpy(), minlength=3) / count
            np.testing.assert_allclose(seen, expected, atol=4 * 0.5 / count**0.5)


@pytest.mark.parametrize("with_likelihoods", [False, True])
def test_batches_without_rows_give_results_without_rows(with_likelihoods):
    trees, leaves, given = case(0, rows=0)
    given = given if with_likelihoods else None
    for own in (False, True):
        for method in (posterior, torch_posterior):
            found = method(trees.tables, leaves, EVERY, torch.float64, own=own, likelihoods=given)
            assert found.marginals.shape == (2, 7, int(trees.tables.cardinality.max()), 0)
            assert found.log_evidence.shape == ((2, 7, 0) if own else (2, 0))
    best = most_likely(trees.tables, leaves, given)
    assert best.states.shape == (2, 7, 0)
    assert best.log_probability.shape == (2, 0)
    drawn = posterior_samples(
        trees.tables, leaves, 3, seed=0, members=trees.members, likelihoods=given
    )
    assert drawn.shape == (2, 3, 7, 0)
    assert best.states.dtype == drawn.dtype == torch.int64
