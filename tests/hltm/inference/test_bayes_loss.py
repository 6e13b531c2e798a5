"""Bayes losses: equal to enumeration of the definition, and where they are sampled, within their errors."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import irregular_tree

import hltm
from hltm.inference import leaf_losses, masks
from hltm.inference.prefixes import prefix_posteriors


def leaf_table(tree, member=0):
    """P(leaves) with an axis for each leaf, by adding up the joint."""
    states, probability = tree.joint()
    probability = probability[member] if tree.stacked else probability
    leaves = list(tree.leaves)
    found = np.zeros(tree.tables.cardinality[leaves])
    np.add.at(found, tuple(states[:, leaves].numpy().T), probability.numpy())
    return found


def loss_of(p, q, seen, x):
    """-E_p[log q(x | seen)] from tables of leaves; the definition."""
    gone = tuple(i for i in range(p.ndim) if i not in (*seen, x))
    p, q = (table.sum(gone, keepdims=True) for table in (p, q))
    return cross_entropy(p, q, x)


def cross_entropy(p, q, x):
    """-sum of p log(q given all axes but x), where no axis is summed over."""
    log = np.log((q / np.maximum(q.sum(x, keepdims=True), 1e-300))[p > 0])
    return -(p[p > 0] * log).sum()


def same_leaves(tree, seed):
    """Another tree over the same leaves: a root with tables of its own."""
    random = np.random.default_rng(seed)
    names = [tree.topology.names[v] for v in tree.leaves]
    tables = {"hub": [0.3, 0.7]} | {
        name: random.dirichlet(np.ones(tree.tables.cardinality[v]), 2)
        for name, v in zip(names, tree.leaves, strict=True)
    }
    return hltm.LatentTree.from_parents({"hub": None, **dict.fromkeys(names, "hub")}, tables)


trees = {
    "seed": st.integers(0, 10**6), "nodes": st.integers(3, 7), "zeros": st.sampled_from([0.0, 0.3]),
    "kind": st.sampled_from(["bayes", "filtered", "other"]),
}  # fmt: skip


def tree_and_predictor(seed, nodes, zeros, kind):
    tree = irregular_tree(seed, nodes=nodes, max_states=3, zeros=zeros)
    if kind == "other":
        return tree, same_leaves(tree, seed)
    return tree, tree.filtered(tree.topology.depth // 2) if kind == "filtered" else None


@settings(max_examples=10)
@given(**trees, data=st.data())
def test_the_loss_of_an_order_is_its_definition(seed, nodes, zeros, kind, data):
    tree, predictor = tree_and_predictor(seed, nodes, zeros, kind)
    order = data.draw(st.permutations(range(len(tree.leaves))))
    context = data.draw(st.sampled_from([None, 0, 1, 2]))
    numbers = [tree.leaves[x] for x in order]
    found = tree.bayes_loss(order=numbers, context=context, predictor=predictor)
    p, q = leaf_table(tree), leaf_table(tree if predictor is None else predictor)
    seen = [order[max(0, i - context) if context is not None else 0 : i] for i in range(len(order))]
    expected = [loss_of(p, q, y, x) for x, y in zip(order, seen, strict=True)]
    np.testing.assert_allclose(found.value, expected, atol=1e-10)
    assert found.leaves.tolist() == numbers
    assert (found.standard_error == 0).all()
    assert (found.value >= 0).all()
    if context is None:  # the chain rule
        assert float(found.value.sum()) == pytest.approx(-(p[p > 0] * np.log(q[p > 0])).sum())


@settings(max_examples=10)
@given(**trees, rate=st.sampled_from([0.3, 1.0]), level=st.integers(0, 1))
def test_the_loss_of_a_mask_is_its_definition(seed, nodes, zeros, kind, rate, level):
    tree, predictor = tree_and_predictor(seed, nodes, zeros, kind)
    mask = hltm.drop_leaves(0.25).then(hltm.drop_subtrees(rate, level))
    p, q = leaf_table(tree), leaf_table(tree if predictor is None else predictor)
    rates, total, number = mask.missing_rates(tree), 0.0, 0.0
    for decided in itertools.product([0, 1], repeat=nodes):  # every node by itself
        weight = np.where(decided, rates, 1 - rates).prod()
        if not weight:
            continue
        gone = [
            i for i, x in enumerate(tree.leaves)
            if any(decided[v] for v in [x, *tree.topology.ancestors(x)])
        ]  # fmt: skip
        seen = [i for i in range(p.ndim) if i not in gone]
        total += weight * sum(loss_of(p, q, seen, x) for x in gone)
        number += weight * len(gone)
    found = tree.bayes_loss(mask=mask, predictor=predictor)
    assert float(found.value) == pytest.approx(total / number, abs=1e-10)
    assert float(found.standard_error) == 0


def test_a_fixed_mask_predicts_each_of_its_leaves_from_the_visible_ones():
    tree = irregular_tree(4, nodes=9, max_states=3)
    p, first = leaf_table(tree), tree.leaves.start
    for gone in ([first + 1], [first, tree.leaves[-1]], [tree.latents[-1]], ["0"]):
        leaves = sorted({int(v) for g in gone for v in tree.topology.descendants(g) if v >= first})
        places = [v - first for v in leaves]
        seen = [i for i in range(p.ndim) if i not in places]
        expected = np.mean([loss_of(p, p, seen, x) for x in places])
        found = tree.bayes_loss(mask=gone)
        assert float(found.value) == pytest.approx(expected, abs=1e-10)
        assert found.leaves.tolist() == leaves


@settings(max_examples=10)
@given(**trees, level=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_loss_under_noise_is_its_definition(seed, nodes, zeros, kind, level):
    tree, predictor = tree_and_predictor(seed, nodes, zeros, kind)
    p, q = leaf_table(tree), leaf_table(tree if predictor is None else predictor)
    masked = (
        hltm.Masking(),
        [np.hstack([(1 - level) * np.eye(k), np.full((k, 1), level)]) for k in p.shape],
    )
    flipped = hltm.Flips(), [(1 - level) * np.eye(k) + level / k for k in p.shape]
    for noise, kernels in (masked, flipped):
        total = 0.0
        for x in range(p.ndim):
            joint = []
            for table in (p, q):
                for i, kernel in enumerate(kernels):  # the noisy axes come last, in order
                    weight = np.eye(p.shape[i]) if i == x else np.ones((p.shape[i], 1))
                    both = weight[:, :, None] * kernel[:, None]  # (state, kept, noisy)
                    table = np.tensordot(table, both.reshape(len(kernel), -1), ([0], [0]))
                joint.append(table)
            # of every axis (kept, noisy), only leaf x's own is split
            split = [t.reshape(*t.shape[:x], p.shape[x], -1, *t.shape[x + 1 :]) for t in joint]
            total += cross_entropy(*split, x)
        found = tree.bayes_loss(noise=noise, level=level, predictor=predictor)
        assert float(found.value) == pytest.approx(total / p.ndim, abs=1e-10)
        several = tree.bayes_loss(noise=noise, level=np.array([level, 0.5]), predictor=predictor)
        assert several.value.shape == (2,)
        assert float(several.value[0]) == float(found.value)


def test_a_filtered_tree_has_one_loss_on_its_own_data_and_on_the_trees():
    trees = irregular_tree(11, nodes=10, max_states=3, members=2, zeros=0.4)
    for kind in ({}, {"mask": hltm.drop_leaves(0.4)}, {"noise": hltm.Flips(), "level": 0.4}):
        losses = []
        for level in range(trees.topology.depth + 1):
            low = trees.filtered(level)
            found = trees.bayes_loss(predictor=low, **kind)
            torch.testing.assert_close(
                found.value, low.bayes_loss(**kind).value, atol=1e-12, rtol=0
            )
            losses.append(found.value)
        assert all((a >= b - 1e-12).all() for a, b in itertools.pairwise(losses))
        assert (losses[0] - losses[-1]).max() > 0.01
        torch.testing.assert_close(losses[-1], trees.bayes_loss(**kind).value, atol=0, rtol=0)


def test_members_and_predictors_of_one_tree_or_several():
    trees = irregular_tree(2, nodes=8, members=3)
    one = trees[0].filtered(0)
    for kind in (
        {},
        {"mask": hltm.drop_subtrees(0.4, 1)},
        {"noise": hltm.Masking(), "level": (0.2, 0.8)},
    ):
        found = trees.bayes_loss(predictor=one, **kind)
        assert found.value.shape[0] == 3
        for s in range(3):
            alone = trees[s].bayes_loss(predictor=one, **kind)
            torch.testing.assert_close(found.value[s], alone.value, atol=0, rtol=0)


def test_what_a_predictor_holds_impossible_costs_infinity():
    tree = hltm.symmetric_binary(depth=1, polarity=0.8, seed=0)
    certain = hltm.symmetric_binary(depth=1, polarity=1.0, signs="positive", seed=0)
    found = tree.bayes_loss(predictor=certain)
    assert found.value[0] == pytest.approx(np.log(2), abs=1e-12)
    assert found.value[1] == np.inf
    assert tree.bayes_loss(mask=hltm.drop_leaves(0.5), predictor=certain).value == np.inf
    # what comes after leaves that it holds impossible costs infinity, too
    cut = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)
    # the first two leaves are equal
    cut = cut.intervene({v: [[1.0, 0.0], [0.0, 1.0]] for v in ("3", "4")})
    whole = cut.intervene({"4": [[0.9, 0.1], [0.1, 0.9]]})
    found = whole.bayes_loss(predictor=cut).value
    assert found[0].isfinite()
    assert found[1:].tolist() == [np.inf] * 3
    assert whole.bayes_loss(order=[5, 3, 6, 4], predictor=cut).value[:3].isfinite().all()
    assert whole.bayes_loss(mask=["6"], predictor=cut).value == np.inf
    assert cut.bayes_loss(predictor=whole).value.isfinite().all()


def test_only_patterns_that_can_occur_are_enumerated(monkeypatch):
    tree = hltm.random_hierarchy(v=4, m=2, s=2, L=2, classes=4, seed=0)
    kinds = ({}, {"mask": hltm.drop_leaves(0.3)})
    expected = [tree.bayes_loss(**kind).value for kind in kinds]
    monkeypatch.setattr(masks, "MAX_EXACT", 64)  # of 4^4 = 256 joint states
    for kind, value in zip(kinds, expected, strict=True):
        found = tree.bayes_loss(**kind)
        torch.testing.assert_close(found.value, value, atol=1e-12, rtol=0)
        assert (found.standard_error == 0).all()


@settings(max_examples=10)
@given(**trees, data=st.data())
def test_messages_kept_from_place_to_place_give_the_posterior(seed, nodes, zeros, kind, data):
    tree, predictor = tree_and_predictor(seed, nodes, zeros, kind)
    predictor = tree if predictor is None else predictor
    order = np.array(data.draw(st.permutations(range(len(tree.leaves)))))
    leaves = tree.sample(20, seed=seed).leaves.long()
    found = list(prefix_posteriors(predictor.tables, leaves.T, order))
    for i, x in enumerate(order):
        seen = torch.full_like(leaves, -1)
        seen[:, order[:i]] = leaves[:, order[:i]]
        known = dict(zip(predictor.leaves, seen.T, strict=True))
        expected = predictor.posterior(known, nodes=predictor.leaves[int(x)]).marginals[:, 0]
        torch.testing.assert_close(found[i].T, expected, atol=1e-12, rtol=0, equal_nan=True)


def test_more_states_than_can_be_enumerated_are_sampled():
    tree = hltm.LatentTree.from_parents(
        {"r": None, **dict.fromkeys(map(str, range(18)), "r")},
        {"r": [0.5, 0.5], **{str(i): [[0.9, 0.1], [0.1, 0.9]] for i in range(18)}},
    )
    found = tree.bayes_loss(mask=["3"], samples=512)  # 2^17 patterns
    assert float(found.value) == pytest.approx(0.3251, abs=0.001)  # H(.1): the root is known
    assert 0 < float(found.standard_error) < 0.001
    found = tree.bayes_loss(samples=512)
    assert (found.standard_error[:17] == 0).all()
    assert float(found.value[17]) == pytest.approx(0.3251, abs=0.001)


CASES = {
    "prefixes": {},
    "order": {"context": 2},
    "mask": {"mask": hltm.drop_leaves(0.4)},
    "subtrees": {"mask": hltm.drop_subtrees(0.5, 1)},
    "masking": {"noise": hltm.Masking(), "level": 0.5},
    "flips": {"noise": hltm.Flips(), "level": 0.3},
}


@pytest.mark.parametrize("kind", CASES.values(), ids=CASES)
def test_sampled_losses_agree_with_exact_ones(monkeypatch, kind):
    """Over 20 seeds the errors, in units of the standard error, have mean 0 and spread 1."""
    tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.95), seed=0)
    predictor = tree.filtered(2)
    exact = tree.bayes_loss(predictor=predictor, **kind).value
    for module, name in ((masks, "MAX_EXACT"), (masks, "MAX_PATTERNS"), (leaf_losses, "MAX_EXACT")):
        monkeypatch.setattr(module, name, 0.5)  # not even nothing
    found = [
        tree.bayes_loss(predictor=predictor, seed=seed, samples=1024, **kind) for seed in range(20)
    ]
    free = found[0].standard_error > 1e-12  # without context, the loss is one number
    assert free.any()

    def scores(truth):
        each = torch.stack([(f.value - truth)[free] / f.standard_error[free] for f in found])
        return float(each.mean()), float(each.std())

    limit = 3.3 / (20 * int(free.sum())) ** 0.5 * (3 if free.ndim else 1)  # places are correlated
    mean, spread = scores(exact)
    assert abs(mean) < limit
    assert 0.6 < spread < 1.5
    broken = tree.bayes_loss(**kind, predictor=tree.filtered(0)).value  # of another predictor
    assert abs(scores(broken)[0]) > limit


def test_the_number_of_missing_leaves_is_no_source_of_error():
    """Each missing leaf costs ln 2 here, so only their number varies, and its expectation is known."""
    tree = hltm.symmetric_binary(depth=5, polarity=0.9, seed=0)
    found = tree.bayes_loss(mask=hltm.drop_leaves(0.3), predictor=tree.filtered(0), samples=512)
    assert float(found.value) == pytest.approx(np.log(2), abs=1e-12)
    assert float(found.standard_error) < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "natural", "mask": [7]}, "give one of order, mask and noise, got order and mask"),
        ({"order": [7, 8]}, "order must have each of the 8 leaves once"),
        ({"order": [7] * 8}, "order must have each of the 8 leaves once"),
        ({"context": -1}, "context must be at least 0, got -1"),
        ({"context": 2, "mask": [7]}, "context goes with an order, got it beside mask"),
        ({"mask": hltm.keep_root()}, "redraw nothing, e.g. hltm.drop_leaves.0.3., got keep-root"),
        ({"mask": hltm.drop_leaves(0.0)}, "mask must leave out some leaf"),
        ({"mask": []}, "mask must leave out some leaf"),
        ({"noise": hltm.Flips()}, "noise and its level go together"),
        ({"level": 0.5}, "noise and its level go together"),
        ({"noise": hltm.Flips(), "level": 1.5}, "in .0, 1., got 1.5"),
        ({"samples": 1}, "at least 2 samples, got 1"),
        ({"predictor": hltm.symmetric_binary(depth=2, seed=0)}, "4 leaves, this tree 8"),
        ({"predictor": hltm.symmetric_binary(depth=3, seed=0, members=2)}, "has 2 trees, expected 1"),
        ({"seed": -1}, "seed must be in"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        hltm.symmetric_binary(depth=3, seed=0).bayes_loss(**arguments)


def test_other_types_are_refused():
    tree = hltm.symmetric_binary(depth=3, seed=0)
    with pytest.raises(TypeError, match="predictor must be a LatentTree, got str"):
        tree.bayes_loss(predictor="tree")
    with pytest.raises(TypeError, match=r"noise must be Masking\(\), Flips\(\) or Gaussian\(\)"):
        tree.bayes_loss(noise=hltm.Flips, level=0.5)
    other = hltm.random_tables(hltm.Topology.balanced(depth=3), cardinality=3, seed=0)
    with pytest.raises(ValueError, match="leaf '7' of 3 states where this tree has '7' of 2"):
        tree.bayes_loss(predictor=other)
