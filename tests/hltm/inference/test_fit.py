"""EM against enumeration, closed forms and known trees."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import enumerated, irregular_tree, some_leaves
from scipy import stats

import hltm
from hltm.inference import fit as module


def enumerated_step(tree, leaves, weights, pseudo_count=0.0, fixed=()):
    """The tables after one EM step, from the probabilities of all joint states."""
    states, parent = np.asarray(tree.joint().states), tree.topology.parent
    weight_of = np.zeros(len(states))
    for row, weight in zip(leaves.tolist(), weights, strict=True):
        joint = enumerated(tree, row)[2]
        weight_of += weight * joint / joint.sum()
    found = []
    for v in range(len(parent)):
        old = tree.tables.of(v)[0].numpy()
        counts = np.full(old.shape, pseudo_count)
        np.add.at(counts, (states[:, parent[v]] if v else 0, states[:, v]), weight_of)
        total = counts.sum(-1, keepdims=True)
        keep = (total == 0) | (v in fixed)
        found.append(np.where(keep, old, counts / np.where(total == 0, 1, total)).ravel())
    return np.concatenate(found)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), zeros=st.sampled_from([0.0, 0.3]), missing=st.sampled_from([0.0, 0.4]),
    pseudo_count=st.sampled_from([0.0, 0.5]), fixed=st.sampled_from([[], [0], [1, 4]]),
)  # fmt: skip
def test_a_step_is_that_of_enumeration(seed, zeros, missing, pseudo_count, fixed):
    tree = irregular_tree(seed, nodes=6, zeros=zeros, max_states=3)
    leaves = some_leaves(tree, 12, seed, missing)
    weights = np.random.default_rng(seed).random(12)
    found = tree.fit(
        leaves, weights=torch.from_numpy(weights), pseudo_count=pseudo_count, iterations=1,
        fixed=fixed, tolerance=0,
    )  # fmt: skip
    expected = enumerated_step(tree, leaves, weights, pseudo_count, fixed)
    if int(found.iterations) == 1:
        np.testing.assert_allclose(found.tree.tables.flat[0], expected, atol=1e-10)
    else:  # the start was a maximum already, up to rounding
        np.testing.assert_allclose(found.tree.tables.flat[0], expected, atol=1e-6)
    assert not found.tree.tables.flat.isnan().any()


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), zeros=st.sampled_from([0.0, 0.2]),
    pseudo_count=st.sampled_from([0.0, 0.1]), members=st.sampled_from([None, 3]),
)  # fmt: skip
def test_the_objective_never_falls(seed, zeros, pseudo_count, members):
    tree = irregular_tree(seed, nodes=12, zeros=zeros, members=members)
    other = irregular_tree(seed, nodes=12, zeros=0.0, members=members)
    leaves = some_leaves(other, 60, seed)
    found = other.fit(leaves, pseudo_count=pseudo_count, tolerance=0, iterations=30)
    assert (found.objective.diff(dim=-1) >= 0).all()
    assert found.objective.shape == found.log_evidence.shape
    if not pseudo_count:
        assert found.objective.equal(found.log_evidence)
    # the curve begins and ends at the evidence of the tables
    for place, model in ((0, other), (-1, found.tree)):
        evidence = model.posterior(leaves).log_evidence.sum(-1)
        torch.testing.assert_close(found.log_evidence[..., place], evidence, rtol=1e-12, atol=1e-9)
    assert (found.iterations < found.log_evidence.shape[-1]).all()
    assert tree.topology is not found.tree.topology


def leaf_divergence(truth, fitted):
    """KL of the leaves of two trees of one shape, in nats."""
    leaves = torch.cartesian_prod(
        *[torch.arange(k) for k in truth.tables.cardinality[list(truth.leaves)]]
    )
    p, q = (tree.posterior(leaves).log_evidence for tree in (truth, fitted))
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_it_recovers_the_distribution_of_the_leaves(missing):
    truth = irregular_tree(8, nodes=8, max_states=3)
    leaves = truth.sample(40_000, seed=1).leaves.long()
    hidden = torch.rand(leaves.shape, generator=torch.Generator().manual_seed(0)) < missing
    leaves = leaves.masked_fill(hidden, -1)
    found = truth.fit(leaves, seed=3, restarts=4, iterations=600)
    free = int((truth.tables.rows * (truth.tables.cardinality - 1)).sum())
    gain = 2 * float(found.log_evidence[-1] - truth.posterior(leaves).log_evidence.sum())
    # twice the gain over the truth is chi-square with at most as many degrees as there are numbers
    assert 0 < gain < stats.chi2.isf(1e-3, free)
    limit = stats.chi2.isf(1e-3, free) / (2 * 40_000 * (1 - missing) ** 2)
    assert leaf_divergence(truth, found.tree) < limit
    # another tree's leaves are not recovered
    strange = hltm.random_tables(truth.topology, cardinality=truth.tables.cardinality, seed=7)
    assert leaf_divergence(truth, strange) > limit


def test_complete_data_on_a_star_have_a_closed_form():
    """A leaf that copies the root shows it, so every table is a ratio of counts."""
    tree = hltm.LatentTree.from_parents(
        {"root": None, "copy": "root", "a": "root", "b": "root"},
        {
            "root": [0.2, 0.5, 0.3], "copy": np.eye(3).tolist(), "a": [[0.1, 0.9], [0.5, 0.5], [0.8, 0.2]],
            "b": [[0.1, 0.2, 0.3, 0.4]] * 3,
        },
    )  # fmt: skip
    draw = tree.sample(500, seed=0)
    start = hltm.random_tables(tree.topology, cardinality=tree.tables.cardinality, seed=5)
    start = start.intervene({"copy": np.eye(3)})
    found = start.fit(draw.leaves)
    assert int(found.iterations) <= 2
    assert found.tree.table("copy").tolist() == np.eye(3).tolist()
    root = draw.root.long()
    np.testing.assert_allclose(found.tree.table("root"), root.bincount() / 500, atol=1e-12)
    for name, states in (("a", 2), ("b", 4)):
        counts = np.zeros((3, states))
        np.add.at(counts, (root, draw.node(name).long()), 1)
        expected = counts / counts.sum(1, keepdims=True)
        np.testing.assert_allclose(found.tree.table(name), expected, atol=1e-12)
        smooth = start.fit(draw.leaves, pseudo_count=2, fixed="copy")
        expected = (counts + 2) / (counts + 2).sum(1, keepdims=True)
        np.testing.assert_allclose(smooth.tree.table(name), expected, atol=1e-12)
    # and the same with the root itself observed, as a likelihood of its states
    seen = torch.nn.functional.one_hot(root, 3).T[None].double()
    leaves = draw.leaves.long().T[None]
    other = module.fit(start.tables, leaves, {0: seen * 0.5}, fixed=[start.topology.node("copy")])
    np.testing.assert_allclose(other.tree.flat, found.tree.tables.flat, atol=1e-12)
    lost = float(found.log_evidence[-1] - other.log_evidence[0, -1])
    assert lost == pytest.approx(500 * math.log(2), abs=1e-9)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("settings", [{}, {"seed": 1, "restarts": 2}, {"pseudo_count": 0.1}])
def test_members_are_fitted_as_if_alone(shared, settings):
    trees = irregular_tree(5, nodes=10, members=4, max_states=3)[1:]
    leaves = some_leaves(trees, 300, 2)
    leaves = leaves[0] if shared else leaves
    weights = torch.rand(3, 300, generator=torch.Generator().manual_seed(0))
    for of_rows in (None, weights[0], weights):
        found = trees.fit(leaves, weights=of_rows, iterations=80, tolerance=1e-4, **settings)
        assert found.converged.any()
        for s in range(3):
            alone = trees[s].fit(
                leaves if shared else leaves[s], iterations=80, tolerance=1e-4,
                weights=of_rows if of_rows is None or of_rows.ndim == 1 else of_rows[s], **settings,
            )  # fmt: skip
            torch.testing.assert_close(
                found.tree[s].tables.flat, alone.tree.tables.flat, atol=1e-12, rtol=0
            )
            steps = int(alone.iterations)
            assert (int(found.iterations[s]), bool(found.converged[s])) == (steps, alone.converged)
            torch.testing.assert_close(found.log_evidence[s, : steps + 1], alone.log_evidence)
            assert (found.log_evidence[s, steps:] == found.log_evidence[s, steps]).all()
        assert (found.tree.members, found.tree.stacked) == ((1, 2, 3), True)


def test_a_fitted_tree_is_a_tree_like_any_other(tmp_path):
    trees = irregular_tree(5, nodes=10, members=2)
    found = trees.fit(some_leaves(trees, 50, 2), iterations=5).tree
    found.save(tmp_path / "tree.json")
    assert hltm.load_tree(tmp_path / "tree.json") == found
    remade = [found.table(v) for v in range(10)]  # its rows sum to 1 and keep every bit
    assert hltm.LatentTree.from_tables(found.topology, remade, 2) == found
    draw = found.sample(20, seed=1)
    assert found.redraw(draw, found.root).root.equal(draw.root)


def test_weights_are_repetitions():
    tree = irregular_tree(3, nodes=9)
    leaves = some_leaves(tree, 20, 1)
    times = torch.arange(20) % 4
    repeated = tree.fit(leaves.repeat_interleave(times, 0), iterations=5, tolerance=0)
    weighted = tree.fit(leaves, weights=times, iterations=5, tolerance=0)
    torch.testing.assert_close(repeated.log_evidence, weighted.log_evidence, atol=1e-10, rtol=0)
    mixed = tree.fit(leaves.repeat_interleave(times, 0).flip(0), iterations=5, tolerance=0)
    assert mixed.log_evidence.equal(repeated.log_evidence)  # nor does the order count


@pytest.mark.parametrize("leaves", [5, 60, 300])
def test_equal_rows_are_computed_once(leaves):
    random = np.random.default_rng(0)
    kinds = random.integers(-1, 3, (7, leaves), dtype=np.int32)
    states = kinds[random.integers(7, size=500)]
    rows, first = module._distinct(states.T, np.full(leaves, 3), {}, np.ones(500))
    assert rows.leaves.shape == (leaves, 7)
    assert rows.weights.sum() == 500
    for row, at, weight in zip(rows.leaves.T, first, rows.weights, strict=True):
        same = (states == row).all(1)
        assert (np.flatnonzero(same)[0], same.sum()) == (at, weight)


def test_states_that_never_occur_keep_their_rows():
    tree = hltm.LatentTree.from_parents(
        {"root": None, "copy": "root", "other": "root", "gone": "root"},
        {"root": [0.5, 0.25, 0.25], "copy": np.eye(3), "other": [[0.5, 0.5], [0.4, 0.6], [0.3, 0.7]],
         "gone": [[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]},
    )  # fmt: skip
    leaves = {"copy": [0, 0, 1], "other": [0, 1, 0], "gone": [-1, -1, -1]}
    rows = torch.tensor([leaves[tree.topology.names[v]] for v in tree.leaves]).T
    found = tree.fit(rows)
    assert found.tree.table("root").tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert found.tree.table("other")[2].equal(tree.table("other")[2])
    np.testing.assert_allclose(found.tree.table("gone"), tree.table("gone"), atol=1e-12)


def test_nothing_observed_is_nothing_learned():
    tree = irregular_tree(2, nodes=6)
    found = tree.fit(torch.full((3, len(tree.leaves)), -1))
    assert found.log_evidence.abs().max() < 1e-12
    np.testing.assert_allclose(found.tree.tables.flat, tree.tables.flat, atol=1e-12)


@pytest.mark.slow
def test_restarts_keep_the_best():
    truth = irregular_tree(3, nodes=8, max_states=3)
    leaves = truth.sample(300, seed=1).leaves
    ends = [
        float(truth.fit(leaves, seed=4, restarts=r, iterations=300).log_evidence[-1])
        for r in (1, 2, 3, 6)
    ]
    assert ends == sorted(ends)
    assert ends[0] < ends[-1] - 1
    # a random start depends on neither the tables nor the other members
    trees = hltm.random_tables(
        truth.topology, cardinality=truth.tables.cardinality, seed=0, members=3
    )
    first = trees.fit(leaves, seed=4).log_evidence[:, 0]
    assert float(first[0]) == float(truth.fit(leaves, seed=4).log_evidence[0])
    assert len(set(first.tolist())) == 3


def test_evidence_in_every_form_of_posterior():
    tree = irregular_tree(3, nodes=8, max_states=3)
    draw = tree.sample(400, seed=1)
    expected = tree.fit(draw.leaves, iterations=5)
    by_name = {tree.topology.names[v]: draw.node(v) for v in reversed(tree.leaves)}
    frame = pd.DataFrame({name: states.numpy() for name, states in by_name.items()})
    for evidence in (by_name, frame, draw, draw.leaves.numpy().tolist()):
        assert tree.fit(evidence, iterations=5) == expected
    # complete rows have a closed form, at once
    rows = {name: draw.node(name) for name in tree.topology.names}
    found = tree.fit(rows)
    assert int(found.iterations) <= 2
    assert float(found.log_evidence[-1]) == pytest.approx(float(found.tree.log_prob(draw).sum()))
    np.testing.assert_allclose(
        found.tree.table(0), draw.root.long().bincount(minlength=tree.tables.cardinality[0]) / 400
    )
    # a likelihood of equal factors says nothing, up to its own logarithm
    soft = tree.fit({**by_name, tree.topology.names[0]: torch.full((400, len(found.tree.table(0))), 0.25)},
                    iterations=5)  # fmt: skip
    torch.testing.assert_close(soft.tree.tables.flat, expected.tree.tables.flat, atol=1e-12, rtol=0)
    lost = expected.log_evidence - soft.log_evidence
    torch.testing.assert_close(lost, torch.full_like(lost, 400 * math.log(4)))


def test_a_symmetric_start_is_a_saddle_point():
    truth = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    leaves = truth.sample(2000, seed=1).leaves
    even = hltm.symmetric_binary(depth=2, polarity=0.0, seed=0)
    assert (
        float(even.fit(leaves).log_evidence[-1])
        < float(even.fit(leaves, seed=0).log_evidence[-1]) - 100
    )


def test_what_comes_back():
    trees = irregular_tree(5, nodes=10, members=2)
    leaves = some_leaves(trees, 50, 2)
    found = trees.fit(leaves, iterations=3)
    assert (found.log_evidence.shape, found.converged.shape, found.iterations.tolist()) == (
        (2, 4), (2,), [3, 3],
    )  # fmt: skip
    assert repr(found).startswith("Fit(LatentTree(2 x 10 nodes")
    assert "3 iterations, 0 of 2 models converged)" in repr(found)
    one = trees[0].fit(leaves[0])
    assert (one.log_evidence.ndim, one.converged.ndim) == (1, 0)
    assert f"log evidence {float(one.log_evidence[-1]):.6g}, {int(one.iterations)} iter" in repr(
        one
    )
    assert isinstance(one, hltm.Fit)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [1.0, 2.0]}, r"weights have shape \(2,\), expected \(4,\)"),
        ({"weights": [1.0, -1.0, 1.0, 1.0]}, "weights must be finite and at least 0, got -1.0"),
        ({"weights": [1.0, math.nan, 1.0, 1.0]}, "weights must be finite and at least 0, got nan"),
        ({"weights": "many"}, "weights are 'many', expected numbers"),
        ({"pseudo_count": "a"}, "pseudo_count must be a finite number, at least 0, got 'a'"),
        ({"tolerance": None}, "tolerance must be a finite number, at least 0, got None"),
        ({"iterations": 2.5}, "iterations must be an integer, got 2.5"),
        ({"weights": [0.0] * 4}, "a fit needs at least one row of positive weight, got none"),
        ({"pseudo_count": -1}, "pseudo_count must be a finite number, at least 0, got -1"),
        ({"tolerance": math.inf}, "tolerance must be a finite number, at least 0, got inf"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"restarts": 2}, "2 restarts need a seed for their tables, got seed=None"),
        ({"seed": -1}, r"seed must be in 0..2\^64-1, got -1"),
        ({"fixed": [99]}, r"node must be in 0..6, got 99"),
    ],
)
def test_what_cannot_be_is_named(settings, message):
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    with pytest.raises((TypeError, ValueError, IndexError), match=message):
        tree.fit(torch.zeros(4, 4, dtype=torch.int64), **settings)


def test_no_rows_are_refused():
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    with pytest.raises(
        ValueError, match="a fit needs at least one row of positive weight, got none"
    ):
        tree.fit(torch.zeros(0, 4, dtype=torch.int64))


def test_rows_that_cannot_occur_are_named():
    tree = hltm.LatentTree.from_parents(
        {"a": None, "b": "a", "c": "a"}, {"a": [0.5, 0.5], "b": np.eye(2), "c": np.eye(2)}
    )
    leaves = torch.tensor([[0, 0], [1, 1], [1, 0], [0, 0], [1, 0]])
    with pytest.raises(ValueError, match="row 2 has probability 0 under the tables that EM starts"):
        tree.fit(leaves)
    possible = tree.fit(leaves, weights=torch.tensor([1, 1, 0, 1, 0]))
    assert possible.tree.table("a").tolist() == pytest.approx([2 / 3, 1 / 3])
    assert tree.fit(leaves, seed=0).log_evidence.isfinite().all()
    trees = hltm.LatentTree.of_members(tree.tables, 2)
    both = torch.stack([leaves[:2], leaves[1:3]])
    with pytest.raises(ValueError, match="row 1 of tree 1 has probability 0"):
        trees.fit(both)
