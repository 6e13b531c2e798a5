"""Theorems 3 and 4: both operators against loops, against themselves matrix-free, and their limits."""

import re
import weakref

import numpy as np
import pytest
import torch
from theory_cases import data, module, networks, relative, tree
from torch.utils.data import TensorDataset

import dualnets
import hltm
from dualnets import InfoNCE, Simple, Triplet
from dualnets.theory import (
    DatasetViews,
    Operator,
    TensorEstimate,
    connection,
    covariance_operator,
    enumerate_views,
    loss_slopes,
    pairwise_operator,
    sampled_pairwise_operator,
)
from dualnets.theory.updates.covariance import cross_covariance


def slow_covariance(network, given, layer):
    """V_x[E_aug K], one class of samples after the other."""
    table = given.table()
    k = connection(network, layer, table.leaves).explicit()
    second, mean = 0, 0
    for p, view in zip(table.probability, table.view, strict=True):
        bar = sum(q * one for q, one in zip(view, k, strict=True))
        second, mean = second + p * bar @ bar.T, mean + p * bar
    return second - mean @ mean.T


@pytest.mark.parametrize("augmentation", [hltm.keep_root(), hltm.resample_leaves(0.3)], ids=str)
def test_theorem_3_the_covariance_operator_is_its_definition(augmentation):
    one = tree(2)
    for network in networks(one):
        given = data(one, augmentation)
        for layer in range(1, network.depth + 1):
            operator = covariance_operator(network, given, layer)
            expected = slow_covariance(network, given, layer)
            matrix = operator.matrix().value
            assert relative(matrix, expected) < 1e-12
            assert torch.linalg.eigvalsh(matrix)[0] > -1e-14
            direction = torch.randn(
                operator.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            )
            assert relative(operator.matvec(direction), expected @ direction) < 1e-12
            scipys = operator.linear_operator() @ direction.numpy()
            assert relative(torch.from_numpy(scipys), expected @ direction) < 1e-12


def test_leading_eigenpairs_are_the_matrixs():
    trees = tree(2, members=2)
    for network in networks(trees):
        operator = covariance_operator(network, data(trees, hltm.keep_root()), 1)
        found = operator.leading(2)
        matrix = operator.matrix().value
        values = torch.linalg.eigvalsh(matrix).flip(-1)
        assert (found.values - values[:, :2]).abs().max() < 1e-10 * values.max()
        image = matrix @ found.vectors
        assert (image - found.vectors * found.values[:, None]).abs().max() < 1e-10
        assert found.values.equal(operator.leading(2).values)


def test_estimates_of_the_operator_are_unbiased_and_have_the_right_error():
    one = tree(2)
    (network, _) = networks(one)
    exact = covariance_operator(network, data(one), 1).matrix().value
    scores = []
    direction = torch.arange(12.0, dtype=torch.float64)
    for seed in range(8):
        operator = covariance_operator(network, data(one), 1, batches=12, batch=24, seed=seed)
        found = operator.matrix()
        assert (found.value - found.value.T).abs().max() < 1e-15
        assert relative(operator.matvec(direction), found.value @ direction) < 1e-12
        scores.append(((found.value - exact) / found.standard_error)[found.standard_error > 0])
    z = torch.stack(scores)
    assert z.abs().max() < 6
    assert 0.6 < z.square().mean() < 1.6
    assert z.mean(0).abs().max() < 4.5 / 8**0.5
    # one view for both factors measures V[K], not V_x[E_aug K]: the test notices
    biased = []
    for seed in range(12):
        given = data(one).draw(480, seed=seed)
        part = connection(network, 1, torch.cat([given[0], given[0]]))
        value = Operator([(part, cross_covariance)], exact=False).matrix().value
        biased.append(value)
    miss = (torch.stack(biased).mean(0) - exact).diagonal()
    error = torch.stack(biased).std(0).diagonal() / 12**0.5
    assert (miss / error)[error > 0].max() > 10


def test_operators_of_any_data_set_and_module():
    items = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = DatasetViews(
        TensorDataset(items, torch.zeros(20)),
        lambda x: x + 0.2 * torch.randn(x.shape, dtype=torch.float64),
        batched=True,
    )
    network = module()
    operator = covariance_operator(network, given, "4.weight", batches=4, batch=16, seed=0)
    assert repr(operator) == "Operator(4.weight: 60 x 60, mean of 4 estimates)"
    estimate = TensorEstimate(torch.tensor([3.0, 4.0]), torch.tensor([0.1, 0.25]))
    assert repr(estimate) == "TensorEstimate((2,), norm 5, standard errors up to 0.25)"
    alone = estimate._replace(standard_error=torch.full((2,), torch.nan))
    assert repr(alone) == "TensorEstimate((2,), norm 5, one estimate)"
    matrix = operator.matrix().value
    assert relative(operator.matvec(matrix[0]), matrix @ matrix[0]) < 1e-12
    values = torch.linalg.eigvalsh(matrix).flip(0)
    assert (operator.leading(3).values - values[:3]).abs().max() < 1e-10 * values[0]


def test_sizes_are_shown_and_limited():
    one = tree(2)
    (network, wide) = networks(one)
    operator = covariance_operator(network, data(one), 1)
    assert repr(operator) == "Operator(weights.0: 12 x 12, exact)"
    assert re.fullmatch(
        r"TensorEstimate\(\(12, 12\), norm [\d.]+, exact\)", repr(operator.matrix())
    )
    with pytest.raises(ValueError, match=r"a matrix of 12 x 12 \(1 member\(s\)\) has 144 numbers"):
        operator.matrix(most_entries=143)
    with pytest.raises(ValueError, match=r"count must be in 1..11, got 12"):
        operator.leading(12)
    with pytest.raises(TypeError, match=r"count must be a whole number, got 1\.5"):
        operator.leading(1.5)
    with pytest.raises(ValueError, match="member must be None, got 0"):
        operator.linear_operator(0)
    half = pairwise_operator(wide, data(one), 1, InfoNCE(), branches="anchor").exact
    with pytest.raises(ValueError, match="needs a symmetric operator"):
        half.leading(1)
    with pytest.raises(ValueError, match="batch must be at least 2, got 1"):
        covariance_operator(network, data(one), 1, batches=2, batch=1, seed=0)


def test_however_many_estimates_few_arrays_are_held():
    """The mean and its error are those of all estimates' matrices, none of which is kept."""
    one = tree(2)
    (network, _) = networks(one)
    operator = covariance_operator(network, data(one), 1, batches=6, batch=8, seed=0)
    each = []
    for part in operator.parts:
        alone = Operator([part], exact=False).matrix(most_entries=400)
        assert alone.standard_error.isnan().all()
        each.append(alone.value)
    most, made = 0, []
    column = type(operator.parts[0][0]).column_S

    def counted(self, output):  # how many matrices of estimates live while one is made
        nonlocal most
        most = max(most, sum(ref() is not None for ref in made))
        return column(self, output)

    zeros = torch.zeros

    def remembered(*shape, **settings):
        found = zeros(*shape, **settings)
        if shape[-2:] == (12, 12):
            made.append(weakref.ref(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(operator.parts[0][0]), "column_S", counted)
        patch.setattr(torch, "zeros", remembered)
        found = operator.matrix(most_entries=400)
    assert len(made) == 6
    assert most <= 2
    assert relative(found.value, torch.stack(each).mean(0)) < 1e-13
    assert relative(found.standard_error, torch.stack(each).std(0) / 6**0.5) < 1e-12
    operator.factor = 3.0
    assert relative(operator.on_outputs().value, 3 * operator.on_weight().value / 3) < 1e-12


def test_a_dead_networks_operator_is_zero():
    trees = tree(2, members=2)
    (network, _) = networks(trees)
    with torch.no_grad():
        network.weights[0][1] = -network.weights[0][1].abs()  # never above 0
    operator = covariance_operator(network, data(trees), 1)
    found = operator.leading(2)
    assert found.values[0].min() > 0
    assert found.values[1].equal(torch.zeros(2, dtype=torch.float64))
    assert (found.vectors.mT @ found.vectors - torch.eye(2)).abs().max() < 1e-12
    residual = pairwise_operator(network, data(trees), 1, InfoNCE(0.2))
    assert residual.residual()[0] > 1e-3
    assert residual.residual()[1] == 0
    assert residual.matrix_residual()[1] == 0
    with torch.no_grad():
        network.weights[0][1] = torch.nan
    with pytest.raises(
        ValueError, match=r"weight 'weights.0' of the network must be finite, 12 of 24"
    ):
        covariance_operator(network, data(trees), 1)


def slow_pairwise(network, given, layer, loss):
    """The β-weighted operator and its pair-weighted form, tuple by tuple (H = 1)."""
    table = given.table()
    found = connection(network, layer, table.leaves)
    k, f = found.explicit(), found.outputs
    views, classes = len(f), len(table.probability)
    exact, xi = 0, torch.zeros(classes, classes, dtype=torch.float64)
    together = table.positive_pairs()
    for a in range(views):
        for p in range(views):
            one = f[[a]][None], f[[p]][None]
            for n in range(views):
                beta = loss_slopes(loss, *one, f[[n]][None, None]).repulsion.item()
                weight = together[a, p] * table.marginal[n] * beta
                near, far = k[a] - k[p], k[a] - k[n]
                exact = exact + weight * (far @ far.T - near @ near.T)
                chance = table.view[:, a] * table.view[:, p]
                xi += beta * chance[:, None] * table.view[:, n]
    xi = (xi + xi.T) / 2
    bar = table.over_views(k)
    weighted = 0
    for x in range(classes):
        for y in range(classes):
            chance = table.probability[x] * table.probability[y]
            weighted = weighted + chance * xi[x, y] * (bar[x] - bar[y]) @ (bar[x] - bar[y]).T
    return exact, weighted, xi


@pytest.mark.parametrize("loss", [InfoNCE(0.2), Triplet(0.3, 0.2)], ids=repr)
def test_theorem_4_operators_against_every_tuple(loss):
    one = hltm.symmetric_binary(depth=1, polarity=(0.5, 0.9), seed=0)
    network = dualnets.mlp(one, units=3, layers=2, seed=1, dtype=torch.float64)
    augmentation = hltm.keep_root() if isinstance(loss, InfoNCE) else hltm.resample_leaves(0.3)
    for given in [data(one, augmentation)]:
        exact, weighted, xi = slow_pairwise(network, given, 1, loss)
        found = pairwise_operator(network, given, 1, loss)
        assert relative(found.exact.matrix().value, exact) < 1e-12
        assert relative(found.weighted.matrix().value, weighted) < 1e-12
        assert relative(found.repulsion, xi) < 1e-12
        w = found.exact.weight
        assert relative(found.exact.on_weight().value, exact @ w) < 1e-12
        residual = ((exact - weighted) @ w).norm() / (exact @ w).norm()
        assert float(found.residual()) == pytest.approx(float(residual), rel=1e-9)
        assert float(found.matrix_residual()) == pytest.approx(relative(weighted, exact), rel=1e-9)
        assert residual > 1e-4


def test_theorem_4_is_exact_where_pair_weights_do_not_vary():
    one = tree(2)
    (network, _) = networks(one)
    simple = pairwise_operator(network, data(one), 1, Simple())  # β = 1
    assert simple.residual() < 1e-12
    assert simple.matrix_residual() < 1e-12
    assert (simple.repulsion - 1).abs().max() < 1e-12
    covariance = covariance_operator(network, data(one), 1).matrix().value
    assert relative(simple.exact.matrix().value, 2 * covariance) < 1e-12
    # views that are the sample itself: β does not vary with them, and r_+ = 0 makes it symmetric
    same = pairwise_operator(network, data(one, hltm.keep_level(0)), 1, InfoNCE(0.2))
    assert same.residual() < 1e-12
    assert pairwise_operator(network, data(one), 1, InfoNCE(0.2)).residual() > 1e-2


def test_more_negatives_and_members():
    trees = tree(1, branching=3, members=2)
    network = dualnets.tree_network(trees, units=3, seed=1, dtype=torch.float64)
    given = data(trees)
    loss = InfoNCE(0.2, negatives=3)
    found = pairwise_operator(network, given, 1, loss)
    for m in range(2):
        alone = dualnets.tree_network(trees[m], units=3, seed=1, dtype=torch.float64)
        one = pairwise_operator(alone, data(trees[m]), 1, loss)
        assert relative(found.repulsion[m], one.repulsion) < 1e-12
        assert relative(found.exact.matrix().value[m], one.exact.matrix().value) < 1e-12
        assert float(found.residual()[m]) == pytest.approx(float(one.residual()), rel=1e-9)
    guess = sampled_pairwise_operator(network, given, 1, loss, batches=40, batch=64, seed=3)
    exact, estimate = found.exact.matrix().value, guess.matrix()
    z = ((estimate.value - exact) / estimate.standard_error)[estimate.standard_error > 1e-12]
    assert z.abs().max() < 5
    assert z.square().mean() < 2.5


def test_the_table_and_the_operator_agree_on_outputs():
    one = tree(3)
    (network, _) = networks(one)
    table = enumerate_views(one, hltm.keep_root())
    f = network(table.leaves).detach()
    shared = table.covariance(table.over_views(f))
    top = covariance_operator(network, table, 3).on_outputs().value
    assert np.isclose(float(top @ network.weights[2].detach().flatten()), float(shared.trace()))
