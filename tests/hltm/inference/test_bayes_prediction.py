"""Bayes predictions: the definitions by enumeration, no predictor does better, and samples agree."""

import numpy as np
import pytest
import torch
from few import few
from irregular_trees import irregular_tree

import hltm
from hltm.inference import masks


def enumerated_pair(tree, node, leaves):
    """`(K, N)` P(node, states of these leaves), by adding up the joint."""
    states, probability = tree.joint()
    column = torch.zeros(len(states), dtype=torch.int64)
    for x in leaves:
        column = column * int(tree.tables.cardinality[x]) + states[:, x]
    found = torch.zeros(int(tree.tables.cardinality[node]), int(column.max()) + 1).double()
    return found.index_put((states[:, node], column), probability, accumulate=True).numpy()


def seen(tree, node, leaves):
    below = set(tree.topology.descendants(node).tolist())
    return [x for x in tree.leaves if leaves == "all" or x in below]


@pytest.mark.parametrize("leaves", ["own", "all"])
@pytest.mark.parametrize("seed", few(range(4)))
def test_they_are_their_definitions(seed, leaves):
    tree = irregular_tree(seed, nodes=7, max_states=3, zeros=0.3 * (seed % 2))
    found = tree.bayes_prediction(range(7), leaves=leaves)
    assert not torch.stack([found.cross_entropy_error, found.accuracy_error]).any()
    for v in range(7):
        pair = enumerated_pair(tree, v, seen(tree, v, leaves))
        given = pair.sum(0)[None].repeat(len(pair), 0)
        occurs = pair > 0
        entropy = -(pair[occurs] * np.log(pair[occurs] / given[occurs])).sum()
        assert float(found.cross_entropy[v]) == pytest.approx(entropy, abs=1e-12)
        assert float(found.accuracy[v]) == pytest.approx(pair.max(0).sum(), abs=1e-12)


def test_no_prediction_costs_less():
    tree = irregular_tree(3, nodes=5, max_states=3)
    pair = enumerated_pair(tree, 0, list(tree.leaves))
    best = tree.bayes_prediction(0)
    random = np.random.default_rng(0)
    for _ in range(50):
        q = random.dirichlet(np.ones(len(pair)), pair.shape[1]).T
        assert -(pair * np.log(q)).sum() >= float(best.cross_entropy)


def test_samples_agree_with_enumeration(monkeypatch):
    trees = hltm.random_tables(hltm.Topology.balanced(3), cardinality=3, members=2, seed=0)
    for leaves in ("own", "all"):
        exact = trees.bayes_prediction(trees.latents, leaves=leaves)
        with monkeypatch.context() as patch:
            patch.setattr(masks, "MAX_EXACT", 1)
            found = trees.bayes_prediction(trees.latents, leaves=leaves, samples=4000, seed=1)
        for value, error in (
            ("cross_entropy", "cross_entropy_error"),
            ("accuracy", "accuracy_error"),
        ):
            spread = getattr(found, error)
            distance = (getattr(found, value) - getattr(exact, value)).abs() / spread
            assert distance.max() < 4.5  # of 56 numbers, p below 4e-4
            assert distance.mean() > 0.25  # and the error is not far too large


def test_a_ceiling_of_1_is_no_perfect_decoder():
    tree = hltm.LatentTree.from_parents(
        {"z": None, "x": "z"}, {"z": [1 / 3] * 3, "x": [[1, 0], [0, 1], [0, 1]]}
    )
    assert float(tree.ceiling("z").value[0]) == pytest.approx(1)
    best = tree.bayes_prediction("z")
    assert float(best.accuracy[0]) == pytest.approx(2 / 3, abs=1e-12)
    assert float(best.cross_entropy[0]) == pytest.approx(2 / 3 * np.log(2), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"leaves": "none"}, "leaves must be 'own' or 'all', got 'none'"),
        ({"samples": 1}, "at least 2 samples, got 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        hltm.symmetric_binary(depth=1, seed=0).bayes_prediction(0, **settings)
