"""Posteriors and evidence against enumeration and against pgmpy; gradients, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import agreeing, enumerated, irregular_tree, some_leaves

import hltm
from hltm.inference.posterior import posterior, torch_posterior
from hltm.model.tables import Tables


def check(tree, leaves, dtype=torch.float64, tolerance=1e-10):
    post = tree.posterior(leaves, dtype=dtype)
    assert post.marginals.dtype == post.log_evidence.dtype == dtype
    for b, row in enumerate(leaves.tolist()):
        marginals, log_evidence, _ = enumerated(tree, row)
        np.testing.assert_allclose(post.marginals[b], marginals, atol=tolerance)
        np.testing.assert_allclose(post.log_evidence[b], log_evidence, atol=tolerance)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6), nodes=st.integers(2, 7), zeros=st.sampled_from([0.0, 0.3]),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
)  # fmt: skip
def test_posteriors_equal_enumeration(seed, nodes, zeros, missing):
    tree = irregular_tree(seed, nodes=nodes, zeros=zeros)
    check(tree, some_leaves(tree, 6, seed, missing))


@pytest.mark.parametrize("seed", range(3))
def test_single_precision_equals_enumeration(seed):
    tree = irregular_tree(seed)
    check(tree, some_leaves(tree, 6, seed), torch.float32, 2e-6)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), zeros=st.sampled_from([0.0, 0.3]))
def test_own_leaves_equal_enumeration_of_the_subtree(seed, zeros):
    tree = irregular_tree(seed, nodes=6, zeros=zeros)
    leaves = some_leaves(tree, 4, seed)
    post = tree.posterior(leaves, given="own")
    for v in range(6):
        below = np.isin(list(tree.leaves), tree.topology.descendants(v))
        for b in range(4):
            row = np.where(below, leaves[b], -1)
            marginals, log_evidence, _ = enumerated(tree, row)
            np.testing.assert_allclose(post.marginals[b, v], marginals[v], atol=1e-10)
            np.testing.assert_allclose(post.log_evidence[b, v], log_evidence, atol=1e-10)


@pytest.mark.parametrize("given_leaves", ["all", "own"])
@pytest.mark.parametrize("seed", range(8))
def test_the_kernel_equals_torch(seed, given_leaves):
    trees = irregular_tree(seed, nodes=12, max_states=5, members=3, zeros=0.2)
    leaves = some_leaves(trees, 300, seed)
    leaves[:, ::7] = leaves[:, ::7].flip(0)  # members' rows swapped: some cannot occur
    nodes = np.array([0, 11, 3, 3, 7])
    own, leaves_SXB = given_leaves == "own", leaves.transpose(1, 2)
    fast = posterior(trees.tables, leaves_SXB, nodes, own=own)
    slow = torch_posterior(trees.tables, leaves_SXB, np.unique(nodes), torch.float64, own=own)
    places = torch.as_tensor(np.unique(nodes, return_inverse=True)[1])
    evidence = slow.log_evidence[:, places] if own else slow.log_evidence
    torch.testing.assert_close(fast.log_evidence, evidence, atol=1e-11, rtol=0)
    torch.testing.assert_close(
        fast.marginals, slow.marginals[:, places], atol=1e-11, rtol=0, equal_nan=True
    )


def test_a_rows_answer_does_not_depend_on_the_rows_beside_it():
    trees = irregular_tree(2, nodes=15, max_states=3, members=2)
    leaves = some_leaves(trees, 400, 1)
    whole = trees.posterior(leaves)
    for part in (slice(0, 1), slice(100, 131), slice(255, 400)):
        alone = trees.posterior(leaves[:, part])
        assert alone.marginals.equal(whole.marginals[:, part])
        assert alone.log_evidence.equal(whole.log_evidence[:, part])
    for s in range(2):
        assert trees[s].posterior(leaves[s]).marginals.equal(whole.marginals[s])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        many = trees.posterior(leaves.repeat(1, 50, 1))  # enough rows for a second thread
    finally:
        torch.set_num_threads(threads)
    assert many.marginals.equal(whole.marginals.repeat(1, 50, 1, 1))


# pgmpy's own modules warn of each other
@pytest.mark.filterwarnings("ignore::FutureWarning:pgmpy", "ignore::DeprecationWarning")
def test_pgmpy_agrees_on_irregular_trees():
    pgmpy_models = pytest.importorskip("pgmpy.models")
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import BeliefPropagation, VariableElimination

    for seed in range(3):
        tree = irregular_tree(seed, nodes=9)
        parent = tree.topology.parent
        model = pgmpy_models.DiscreteBayesianNetwork(
            [(str(parent[v]), str(v)) for v in range(1, 9)]
        )
        for v in range(9):
            table = tree.tables.of(v)[0].T.numpy()
            above = [str(parent[v])] if v else []
            sizes = [int(tree.tables.cardinality[parent[v]])] if v else []
            model.add_cpds(TabularCPD(str(v), len(table), table, above, sizes))
        row = some_leaves(tree, 1, seed, missing=0.3)[0]
        evidence = {
            str(v): int(x) for v, x in zip(tree.leaves, row.tolist(), strict=True) if x >= 0
        }
        post = tree.posterior(row[None])
        for infer in (VariableElimination(model), BeliefPropagation(model)):
            for v in range(9):
                if str(v) in evidence:
                    continue
                theirs = infer.query([str(v)], evidence, show_progress=False).values
                np.testing.assert_allclose(post.marginals[0, v, : len(theirs)], theirs, atol=1e-10)
        best = tree.most_likely(row[None]).states[0].tolist()
        hidden = [str(v) for v in range(9) if str(v) not in evidence]
        theirs = VariableElimination(model).map_query(hidden, evidence, show_progress=False)
        assert {v: int(theirs[v]) for v in hidden} == {v: best[int(v)] for v in hidden}


def impossible_tree():
    table = torch.eye(2, dtype=torch.float64)
    topology = hltm.Topology.from_parents([None, 0, 0])
    return hltm.LatentTree.from_tables(topology, [torch.tensor([0.5, 0.5]), table, table])


def test_leaves_that_cannot_occur():
    tree = impossible_tree()
    leaves = torch.tensor([[0, 1], [1, 1], [0, -1]])
    post = tree.posterior(leaves)
    assert post.log_evidence.tolist() == [-math.inf, math.log(0.5), math.log(0.5)]
    assert post.marginals[0].isnan().all()
    assert post.marginals[1:, :, 1].tolist() == [[1, 1, 1], [0, 0, 0]]
    own = tree.posterior(leaves, given="own")
    assert own.log_evidence[0].tolist() == [-math.inf, math.log(0.5), math.log(0.5)]
    best = tree.most_likely(leaves)
    assert best.states.tolist() == [[-1, -1, -1], [1, 1, 1], [0, 0, 0]]
    assert best.log_probability[0] == -math.inf
    drawn = tree.posterior_samples(leaves, 2, seed=0)
    assert drawn[:, 0].eq(-1).all()
    assert drawn[:, 1:].tolist() == [[[1, 1, 1], [0, 0, 0]]] * 2


def leaning(tree):
    """The same tree with tables that require a gradient."""
    flat = tree.tables.flat.clone().requires_grad_()
    tables = Tables(tree.topology, tree.tables.cardinality, flat)
    return hltm.LatentTree(tables, tree.members, tree.stacked), flat


@pytest.mark.parametrize("zeros", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_the_evidence_equal_the_enumerations(seed, zeros):
    """d log P(x) / dT is the sum over joint states of their products without that factor, over P(x)."""
    plain = irregular_tree(seed, nodes=6, max_states=3, members=2, zeros=zeros)
    leaves = some_leaves(plain, 5, seed)
    tree, flat = leaning(plain)
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)
    (tree.posterior(leaves).log_evidence * weight).sum().backward()
    twin, twin_flat = leaning(plain)
    states, probability = twin.joint()  # itself a product of table entries, so differentiable
    total = 0
    for s in range(2):
        for b in range(5):
            agree = torch.from_numpy(agreeing(states, tree.leaves, leaves[s, b]))
            total = total + weight[b] * probability[s, agree].sum().log()
    total.backward()
    torch.testing.assert_close(flat.grad, twin_flat.grad, atol=1e-9, rtol=1e-9)


def test_impossible_rows_do_not_spoil_the_gradient_of_others():
    tree, flat = leaning(impossible_tree())
    post = tree.posterior(torch.tensor([[0, 1], [1, 1]]))
    assert post.log_evidence[0] == -math.inf
    assert post.marginals[0].isnan().all()
    post.log_evidence.masked_fill(post.log_evidence.isinf(), 0).sum().backward()
    # P(1, 1) = sum over z of P(z) P(1 | z)^2, of which only z = 1 is possible
    assert flat.grad[0].tolist() == [0, 2, 0, 0, 0, 1, 0, 0, 0, 1]


def test_gradients_pass_finite_differences():
    plain = irregular_tree(8, nodes=7, max_states=3)
    leaves = some_leaves(plain, 4, 1)

    def evidence(flat, given):
        tables = Tables(plain.topology, plain.tables.cardinality, flat)
        return hltm.LatentTree(tables).posterior(leaves, given=given).log_evidence

    flat = plain.tables.flat.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evidence(x, "all"), flat, atol=1e-7)
    assert torch.autograd.gradcheck(lambda x: evidence(x, "own"), flat, atol=1e-7)


def test_marginals_are_differentiable_too_and_the_values_stay():
    plain = irregular_tree(8, nodes=9, max_states=3, members=2)
    leaves = some_leaves(plain, 50, 1)
    tree, flat = leaning(plain)
    post = tree.posterior(leaves, nodes=[3, 0])
    torch.testing.assert_close(post.marginals.detach(), plain.posterior(leaves, nodes=[3, 0])[0])
    post.marginals[..., 0].sum().backward()
    assert flat.grad.isfinite().all()
    assert float(flat.grad.abs().sum()) > 0


def test_climbing_the_gradient_raises_the_evidence():
    truth = hltm.symmetric_binary(depth=2, polarity=0.8, signs="positive", seed=0)
    leaves = truth.sample(200, seed=1).leaves
    logits = torch.zeros(truth.tables.flat.shape, dtype=torch.float64)
    logits += 0.1 * torch.sin(torch.arange(logits.numel()))  # break the symmetry
    logits.requires_grad_()
    history = []
    for _ in range(15):
        flat = logits.unflatten(1, (-1, 2)).softmax(-1).flatten(1)
        tables = Tables(truth.topology, truth.tables.cardinality, flat)
        loss = -hltm.LatentTree(tables).posterior(leaves).log_evidence.mean()
        (slope,) = torch.autograd.grad(loss, logits)
        logits = (logits - 5 * slope).detach().requires_grad_()
        history.append(float(loss.detach()))
    best = -float(truth.posterior(leaves).log_evidence.mean())
    assert history[0] - best > 0.4
    assert history[-1] - best < 0.15


def test_states_of_many_kinds():
    topology = hltm.Topology.from_parents([None, 0, 0])
    wide = np.full((2, 300), 1 / 300)
    tree = hltm.LatentTree.from_tables(topology, [np.array([0.3, 0.7]), wide, wide[:, :2] * 150])
    leaves = tree.sample(20, seed=0).leaves
    assert leaves.dtype == torch.int32
    post = tree.posterior(leaves)
    np.testing.assert_allclose(post.log_evidence, np.log(1 / 300 / 2))
    assert post.marginals.shape == (20, 3, 300)
    for dtype in (torch.int8, torch.int32, torch.int64):
        binary = hltm.symmetric_binary(depth=2, seed=0)
        found = binary.posterior(torch.tensor([[0, 1, -1, 1]], dtype=dtype))
        torch.testing.assert_close(
            found.marginals, binary.posterior(torch.tensor([[0, 1, -1, 1]])).marginals
        )


def test_bad_requests_name_the_value():
    tree = irregular_tree(0, nodes=6, max_states=2)
    count = len(tree.leaves)
    good = torch.zeros(3, count, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"leaves have shape \(3, {count + 1}\), expected"):
        tree.posterior(torch.zeros(3, count + 1, dtype=torch.int64))
    for dtype in (torch.int64, torch.uint8):
        bad = good.to(dtype, copy=True)
        bad[1, 1] = 7
        with pytest.raises(ValueError, match=r"has state 7, expected 0\.\.1, or -1 if missing"):
            tree.posterior(bad)
    with pytest.raises(ValueError, match="has state -2"):
        tree.most_likely(good - 2)
    with pytest.raises(ValueError, match=r"dtype torch\.float32, expected integer"):
        tree.posterior(good.float())
    with pytest.raises(ValueError, match=r"float32 or torch\.float64, got torch\.int64"):
        tree.posterior(good, dtype=torch.int64)
    with pytest.raises(ValueError, match="'all' or 'own', got 'mine'"):
        tree.posterior(good, given="mine")
    with pytest.raises(ValueError, match="no rows"):
        tree.posterior(good[:0])
    with pytest.raises(ValueError, match="got 0 from number 0"):
        tree.posterior_samples(good, 0, seed=0)
    with pytest.raises(ValueError, match=r"seed must be in 0\.\."):
        tree.posterior_samples(good, 1, seed=-1)
    with pytest.raises(ValueError, match=r"rows must lie in"):
        tree.posterior_samples(good, 1, seed=0, start=-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same_answers():
    trees = irregular_tree(3, nodes=20, max_states=4, members=2, zeros=0.1)
    leaves = some_leaves(trees, 500, 1)
    there = leaves.to("cuda")
    for given_leaves in ("all", "own"):
        here, found = (trees.posterior(x, given=given_leaves) for x in (leaves, there))
        torch.testing.assert_close(found.marginals.cpu(), here.marginals, atol=1e-11, rtol=0)
        torch.testing.assert_close(found.log_evidence.cpu(), here.log_evidence, atol=1e-10, rtol=0)
    assert trees.most_likely(there).states.cpu().equal(trees.most_likely(leaves).states)
    here, found = (trees.posterior_samples(x, 2, seed=0) for x in (leaves, there))
    assert found.cpu().equal(here)
