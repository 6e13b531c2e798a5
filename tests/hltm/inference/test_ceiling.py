"""Ceilings: no function of the leaves does better, some function does as well, and the spread is right."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from few import few
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import irregular_tree

import hltm
from hltm.inference import ceiling, ceiling_enumerated
from hltm.model.tables import symmetric_table


def enumerated_pair(tree, node, leaves, member=0):
    """`(K, N)` P(node, states of these leaves), by adding up the joint."""
    states, probability = tree.joint()
    probability = probability[member] if tree.stacked else probability
    sizes = [int(tree.tables.cardinality[x]) for x in leaves]
    column = np.ravel_multi_index([states[:, x].numpy() for x in leaves], sizes)
    found = np.zeros((tree.tables.cardinality[node], int(np.prod(sizes))))
    np.add.at(found, (states[:, node].numpy(), column), probability.numpy())
    return found


def seen(tree, node, leaves):
    below = set(tree.topology.descendants(node).tolist())
    return [x for x in tree.leaves if leaves == "all" or x in below]


def maximal_correlation(pair):
    """The second singular value of D^-1/2 P E^-1/2: the definition over functions of both sides."""
    p, q = pair.sum(1), pair.sum(0)
    kept = pair[p > 1e-15][:, q > 1e-15] / np.sqrt(np.outer(p[p > 1e-15], q[q > 1e-15]))
    values = np.linalg.svd(kept, compute_uv=False)
    return values[1] if len(values) > 1 else 0.0


def correlation_of(pair, f, g):
    """corr(f(node), g(leaves)) under a joint."""
    p, q = pair.sum(1), pair.sum(0)
    f, g = f - p @ f, g - q @ g
    deviation = np.sqrt((p @ f**2) * (q @ g**2))
    return 0.0 if deviation < 1e-12 else f @ pair @ g / deviation


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), nodes=st.integers(2, 7), zeros=st.sampled_from([0.0, 0.3]),
    leaves=st.sampled_from(["own", "all"]),
)  # fmt: skip
def test_ceilings_equal_the_definition(seed, nodes, zeros, leaves):
    tree = irregular_tree(seed, nodes=nodes, max_states=3, zeros=zeros)
    found = tree.ceiling(range(nodes), leaves=leaves)
    assert (found.standard_error == 0).all()
    for v in range(nodes):
        expected = maximal_correlation(enumerated_pair(tree, v, seen(tree, v, leaves)))
        assert float(found.value[v]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("leaves", ["own", "all"])
@pytest.mark.parametrize("max_states", [2, 4])
@pytest.mark.parametrize("seed", few(range(4)))
def test_no_function_does_better_and_one_does_as_well(seed, max_states, leaves):
    tree = irregular_tree(seed, nodes=6, max_states=max_states)
    random = np.random.default_rng(seed)
    for v in tree.latents:
        pair = enumerated_pair(tree, v, seen(tree, v, leaves))
        bound = float(tree.ceiling(v, leaves=leaves).value)
        for _ in range(200):
            f, g = random.standard_normal(pair.shape[0]), random.standard_normal(pair.shape[1])
            assert abs(correlation_of(pair, f, g)) <= bound + 1e-9
        # climb: given g the best f is E[g | node], given f the best g is E[f | leaves]
        best = 0.0
        for _ in range(5):
            g = random.standard_normal(pair.shape[1])
            for _ in range(300):
                f = pair @ g / pair.sum(1)
                g = f @ pair / pair.sum(0)
                g = (g - pair.sum(0) @ g) / np.abs(g - pair.sum(0) @ g).max().clip(1e-300)
            best = max(best, correlation_of(pair, f, g))
            assert best <= bound + 1e-9
        assert best == pytest.approx(bound, abs=1e-4)


def test_every_function_of_two_bits_is_tried():
    tree = hltm.symmetric_binary(depth=1, polarity=(0.4, 0.9), seed=3)
    pair = enumerated_pair(tree, 0, [1, 2])
    grid = np.linspace(0, 1, 11)  # correlation does not feel a shift or a scale
    functions = np.stack(np.meshgrid(*[grid] * 4), -1).reshape(-1, 4)
    z = np.array([-1.0, 1.0])
    best = max(abs(correlation_of(pair, z, g)) for g in functions)
    bound = float(tree.ceiling(0).value)
    assert bound - 0.002 < best <= bound + 1e-12


def test_the_binary_ceiling_is_the_papers_formula():
    tree = hltm.symmetric_binary(depth=3, polarity=(0.5, 0.95), seed=1)
    pair = enumerated_pair(tree, 1, seen(tree, 1, "own"))
    z, q = np.array([-1.0, 1.0]), pair.sum(0)
    mean = z @ pair / q
    assert float(tree.ceiling(1).value) == pytest.approx(np.sqrt(q @ mean**2), abs=1e-12)


def test_one_leaf_of_polarity_rho_bounds_by_rho():
    topology = hltm.Topology.from_parents([None, 0])
    table = symmetric_table(torch.tensor(0.37))
    tree = hltm.LatentTree.from_tables(topology, [torch.tensor([0.5, 0.5]), table])
    assert float(tree.ceiling(0).value) == pytest.approx(0.37, abs=1e-7)
    assert float(tree.ceiling(1).value) == pytest.approx(1, abs=1e-12)  # a leaf sees itself


def test_members_and_order_of_nodes():
    trees = irregular_tree(2, nodes=8, members=3)
    nodes = [4, 0, 0, 2]
    for leaves in ("own", "all"):
        found = trees.ceiling(nodes, leaves=leaves).value
        assert found.shape == (3, 4)
        for s in range(3):
            torch.testing.assert_close(found[s], trees[s].ceiling(nodes, leaves=leaves).value)
        whole = trees.ceiling(range(8), leaves=leaves).value
        torch.testing.assert_close(found, whole[:, nodes])


def test_certain_edges_and_nodes_that_never_vary():
    tree = hltm.symmetric_binary(depth=2, polarity=1.0, seed=0)
    for leaves in ("own", "all"):
        torch.testing.assert_close(
            tree.ceiling(range(7), leaves=leaves).value, torch.ones(7, dtype=torch.float64)
        )
    topology = hltm.Topology.from_parents([None, 0, 0])
    table = np.array([[0.9, 0.1], [0.2, 0.8]])
    fixed = hltm.LatentTree.from_tables(topology, [np.array([0.0, 1.0]), table, table])
    assert float(fixed.ceiling(0).value) == 0


@pytest.mark.parametrize("leaves", ["own", "all"])
@pytest.mark.parametrize("max_states", [2, 3])
def test_sampled_ceilings_agree_with_exact_ones(monkeypatch, leaves, max_states):
    """The errors over ten seeds, in units of the standard error, spread by about one."""
    trees = irregular_tree(7, nodes=9, max_states=max_states, members=2)
    latents = trees.latents
    exact = trees.ceiling(latents, leaves=leaves).value
    monkeypatch.setattr(ceiling, "MAX_EXACT", 1)
    scores = []
    for seed in range(10):
        found = trees.ceiling(latents, leaves=leaves, seed=seed, samples=2048)
        assert (found.standard_error > 0).all()
        scores.append((found.value - exact) / found.standard_error)
    scores = torch.stack(scores)
    assert float(scores.abs().max()) < 6
    assert 0.6 < float(scores.square().mean().sqrt()) < 1.6


def test_sampled_ceilings_near_one_are_not_mixed_with_the_constant_function(monkeypatch):
    """Their second eigenvalue is close to the first, which belongs to the constant function."""
    tree = hltm.symmetric_binary(depth=3, polarity=(0.97, 1.0), seed=0)
    exact = tree.ceiling(tree.latents, leaves="all").value
    assert float(exact.min()) > 0.99
    monkeypatch.setattr(ceiling, "MAX_EXACT", 1)
    found = tree.ceiling(tree.latents, leaves="all", samples=4096)
    assert float((found.value - exact).abs().max()) < 1e-3
    assert float(found.standard_error.max()) < 1e-3


def test_sampled_ceilings_do_not_depend_on_chunks(monkeypatch):
    tree = hltm.symmetric_binary(depth=5, seed=0)  # 2^32 leaf states
    kept = tree.ceiling([0, 1, 2, 40], samples=5000)
    assert kept.standard_error[0] > 0
    assert (kept.standard_error[1:] == 0).all()  # 2^16 and fewer are enumerated
    whole = tree.ceiling([0, 5], leaves="all", samples=5000)
    monkeypatch.setattr(ceiling, "CHUNK", 1 << 9)
    monkeypatch.setattr(ceiling, "STORED", 1 << 12)
    torch.testing.assert_close(tree.ceiling([0, 1, 2, 40], samples=5000), kept)
    torch.testing.assert_close(tree.ceiling([0, 5], leaves="all", samples=5000), whole)
    assert float(whole.value[0]) == pytest.approx(float(kept.value[0]), abs=1e-12)  # same samples


@pytest.mark.parametrize(("states", "count"), [(2, 1), (3, 2)])
def test_many_nodes_cost_a_pass_or_two_over_the_samples(monkeypatch, states, count):
    """A pass for every few nodes would make the work quadratic in their number."""
    tree = hltm.balanced(depth=6, cardinality=states, seed=0)
    kept = tree.ceiling(tree.latents, leaves="all", samples=500)
    passes, draw = [], ceiling.sample
    monkeypatch.setattr(ceiling, "STORED", 1 << 10)
    monkeypatch.setattr(ceiling, "HELD", 64 * 63 * states)  # 64 samples at a time
    monkeypatch.setattr(
        ceiling, "sample", lambda *a, **k: (passes.append((k["start"], a[2])), draw(*a, **k))[1]
    )
    torch.testing.assert_close(tree.ceiling(tree.latents, leaves="all", samples=500), kept)
    assert passes == [(start, min(64, 500 - start)) for start in range(0, 500, 64)] * count


def test_likelihoods_are_enumerated_in_blocks_and_given_back(monkeypatch):
    """Irregular trees, in which few nodes have the same tree below them, in blocks of any size."""
    for seed in range(6):
        trees = irregular_tree(seed, nodes=14, max_states=3, zeros=0.3, members=2)
        nodes = [v for v in range(14) if v % 3 != seed % 3]
        whole = trees.ceiling(nodes).value
        with monkeypatch.context() as small:
            small.setattr(ceiling_enumerated, "CHUNK", 7)
            torch.testing.assert_close(trees.ceiling(nodes).value, whole, rtol=0, atol=1e-12)


def test_all_leaves_tell_at_least_as_much_as_ones_own():
    tree = irregular_tree(13, nodes=9, max_states=3)
    own, every = (tree.ceiling(tree.latents, leaves=which).value for which in ("own", "all"))
    assert (every >= own - 1e-9).all()
    assert float((every - own).max()) > 1e-3


def test_the_papers_tree_has_the_ceilings_that_were_published_for_it():
    """Own leaves, depth 5, polarity in [0.7, 1]: means near .929 .900 .882 .872 .871, lowest first."""
    trees = hltm.symmetric_binary(depth=5, polarity=(0.7, 1.0), members=8, seed=0)
    found = trees.ceiling(trees.latents, samples=4096).value
    means = [float(found[:, list(trees.level(level))].mean()) for level in range(1, 6)]
    np.testing.assert_allclose(means, [0.929, 0.900, 0.882, 0.872, 0.871], atol=0.05)


def test_bad_requests_name_the_value():
    tree = hltm.symmetric_binary(depth=1, seed=0)
    with pytest.raises(ValueError, match="must be 'own' or 'all', got 'some'"):
        tree.ceiling(0, leaves="some")
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        tree.ceiling(0, samples=1)


@pytest.mark.parametrize("rare", [1e-200, 1e-12, 0.2])
@pytest.mark.parametrize("leaves", ["own", "all"])
def test_the_ceiling_of_a_rare_state_is_not_lost_in_rounding(rare, leaves):
    noise, prior = Fraction(0.1), [Fraction(rare), 1 - Fraction(rare)]
    row = [[noise, 1 - noise], [1 - noise, noise]]
    tree = hltm.LatentTree.from_parents(
        {"r": None, "a": "r", "b": "r"},
        {"r": [rare, 1 - rare], "a": [[0.1, 0.9], [0.9, 0.1]], "b": [[0.1, 0.9], [0.9, 0.1]]},
    )
    square = Fraction(0)  # Var(P(r = 0 | leaves)) / Var(r = 0)
    for i, j in itertools.product(range(2), repeat=2):
        joint = [p * row[z][i] * row[z][j] for z, p in enumerate(prior)]
        square += sum(joint) * (joint[0] / sum(joint) - prior[0]) ** 2
    square /= prior[0] * prior[1]
    found = tree.ceiling(["r"], leaves=leaves).value[0]
    assert float(found) == pytest.approx(float(square) ** 0.5, rel=1e-6)


def test_states_too_rare_for_the_samples_make_the_error_infinite(monkeypatch):
    table = [[0.99, 0.01], [0.01, 0.99]]
    tree = hltm.LatentTree.from_parents([None] + [0] * 6, [[1e-6, 1 - 1e-6]] + [table] * 6)
    exact = tree.ceiling([0, 1])
    assert exact.value[0] > 0.99
    monkeypatch.setattr(ceiling, "MAX_EXACT", 1)
    few, many = (tree.ceiling([0, 1], samples=samples) for samples in (1000, 1 << 22))
    assert few.standard_error[0] == torch.inf
    assert few.standard_error[1].isfinite()
    assert many.standard_error.isfinite().all()


def test_a_state_of_the_smallest_probability_has_a_ceiling():
    noise = [[0.9, 0.1], [0.1, 0.9]]
    for rare in (5e-324, 1e-310):
        tree = hltm.LatentTree.from_parents([None, 0, 0], [[rare, 1.0], noise, noise])
        for leaves in ("own", "all"):
            value = tree.ceiling([0, 1], leaves=leaves).value
            assert 0 <= value[0] <= 1
            assert 0.99 < value[1] <= 1
