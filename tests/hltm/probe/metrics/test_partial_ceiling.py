"""Ceilings of partial correlations, against functions of the enumerated leaves."""

import numpy as np
import pytest
import scipy.linalg
import torch

import hltm
from hltm.model.enumeration import joint
from hltm.probe import Specificity, partial_ceiling
from hltm.probe.metrics import partial_ceiling as module

TREES = {
    "binary": hltm.symmetric_binary(depth=2, polarity=0.7, seed=0),
    "three states": hltm.random_tables(hltm.Topology.balanced(2, 2), cardinality=3, seed=0),
    "uneven": hltm.random_tables(
        hltm.Topology.from_parents([-1, 0, 0, 1, 1, 2]), cardinality=2, seed=4
    ),
}


def enumerated(tree, v, leaves):
    """P(parent, latent, joint state of the leaves) as an array."""
    found = joint(tree.tables)
    shape = tuple(int(k) for k in tree.tables.cardinality)
    whole = found.probability.reshape(shape).numpy()
    below = [x for x in tree.leaves if leaves == "all" or above(tree, x, v)]
    kept = [int(tree.topology.parent[v]), v, *below]
    whole = whole.sum(tuple(set(range(len(shape))) - set(kept)))
    whole = whole.transpose(np.argsort(np.argsort(kept)))
    return whole.reshape(shape[kept[0]], shape[v], -1)


def above(tree, node, v):
    while node > v:
        node = int(tree.topology.parent[node])
    return node == v


def explained(f, table):
    """Variance of f over leaves that the states of a table `(states, leaves)` explain."""
    mean = (f @ table.sum(0)) / table.sum()
    given = table @ f / table.sum(1)
    return (table.sum(1) * (given - mean) ** 2).sum()


def partial_square(f, p):
    leaves = p.sum((0, 1))
    parent, pair = explained(f, p.sum(1)), explained(f, p.reshape(-1, p.shape[-1]))
    return (pair - parent) / (leaves @ f**2 - (leaves @ f) ** 2 - parent)


@pytest.mark.parametrize("leaves", ["own", "all"])
@pytest.mark.parametrize("name", TREES)
def test_no_function_of_the_leaves_has_more_and_one_has_as_much(name, leaves):
    tree = TREES[name]
    found = partial_ceiling(tree, leaves=leaves)
    assert found.value[0].isnan()
    assert (found.standard_error[1:] == 0).all()
    rng = np.random.default_rng(0)
    for v in range(1, len(tree.latents)):
        p = enumerated(tree, v, leaves)
        n = p.shape[-1]
        square = float(found.value[v]) ** 2
        assert max(partial_square(f, p) for f in rng.normal(size=(50, n))) < square + 1e-12
        # as quadratic forms over all functions of the leaves
        mean = p.sum((0, 1))
        total = np.diag(mean) - np.outer(mean, mean)
        pair, parent = (
            t.T @ np.diag(1 / t.sum(1)) @ t - np.outer(mean, mean)
            for t in (p.reshape(-1, n), p.sum(1))
        )
        left = total - parent + np.outer(mean, mean)  # constants have no variance
        expected = scipy.linalg.eigh(pair - parent, left, eigvals_only=True)[-1]
        assert square == pytest.approx(expected, abs=1e-9)


def test_sampled_ceilings_agree_with_exact_ones(monkeypatch):
    tree = hltm.symmetric_binary(depth=3, polarity=0.8, members=2, seed=0)
    exact = partial_ceiling(tree)
    assert exact.value.shape == (2, 7)
    monkeypatch.setattr(module, "ENUMERATED", 1)
    sampled = partial_ceiling(tree)
    off = ((sampled.value - exact.value) / sampled.standard_error)[:, 1:]
    assert off.abs().max() < 3.5
    assert off.abs().max() > 0.5  # an error far too large would hide anything


def test_the_best_function_scores_the_ceiling_on_rows():
    tree = hltm.symmetric_binary(depth=2, polarity=0.7, seed=0)
    draw = tree.sample(20_000, seed=1)
    z = draw.states.T[:3]
    metric = Specificity([-1, 0, 0], lags=0)
    metric.update(tree.posterior(draw.leaves, nodes=[0, 1, 2]).marginals[..., 1].T, z)
    found = metric.result(torch.arange(3)).partial
    bound = partial_ceiling(tree).value
    assert (found[1:] < bound[1:] + 0.01).all()
    assert (found[1:] > 0.9 * bound[1:]).all()


def test_what_has_no_ceiling_and_what_is_refused():
    wide = hltm.balanced(depth=2, cardinality=17, seed=0)
    assert partial_ceiling(wide, samples=100).value.isnan().all()
    with pytest.raises(ValueError, match="leaves must be 'own' or 'all', got 'some'"):
        partial_ceiling(wide, leaves="some")
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        partial_ceiling(wide, samples=1)
    # a latent that its parent determines
    copies = hltm.symmetric_binary(depth=2, polarity=1.0, seed=0)
    assert (partial_ceiling(copies).value[1:] == 0).all()
