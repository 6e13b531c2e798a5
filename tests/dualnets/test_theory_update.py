"""Predicted updates against autograd, to machine precision where exact; and that wrong ones are told."""

import pytest
import torch
from theory_cases import data, module, networks, tree
from torch.utils.data import TensorDataset

import dualnets
import hltm
from dualnets import InfoNCE, NTXent, Simple, Triplet
from dualnets.theory import (
    DatasetViews,
    TreeViews,
    ViewTable,
    actual_update,
    pair_update,
    predicted_update,
)
from dualnets.theory.views import exact_table

LOSSES = [Simple(), Triplet(0.3, 0.2), InfoNCE(0.2), InfoNCE(0.3, negatives=2)]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("branches", ["both", "anchor"])
def test_one_pair(branches):
    one = tree(3)
    first, second = (one.sample(5, seed=seed).leaves for seed in (1, 2))
    for settings in ({}, {"bias": True}, {"normalize": True}):
        for network in networks(one, **settings):
            for layer in range(1, network.depth + 1):
                a, b = network(first), network(second)
                b = b if branches == "both" else b.detach()
                r = (a - b).square().sum(-1).mean() / 2
                expected = torch.autograd.grad(r, network.weights[layer - 1])[0].flatten()
                found = pair_update(network, layer, first, second, branches=branches)
                assert relative(found, expected) < 1e-13
                if settings and (layer < network.depth or "normalize" in settings):
                    with pytest.raises(ValueError, match="needs Kᵀ w = f"):
                        pair_update(network, layer, first, second, form="operator")
                else:
                    found = pair_update(
                        network, layer, first, second, branches=branches, form="operator"
                    )
                    assert relative(found, expected) < 1e-13
                other = pair_update(network, layer, first, second.roll(1, 0), branches=branches)
                assert relative(other, expected) > 1e-2  # wrong pairs


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("augmentation", [hltm.keep_root(), hltm.resample_leaves(0.4)], ids=str)
def test_the_populations_update_is_the_predicted_one(loss, augmentation):
    depth, branching = (2, 2) if loss.negatives == 1 else (1, 3)  # X^(2 + H) terms
    trees = tree(depth, branching, members=2)
    for network in networks(trees):
        for layer in {1, network.depth}:
            for branches in ("both", "anchor"):
                common = (network, data(trees, augmentation), layer, loss)
                actual = actual_update(*common, branches=branches).value
                for form in ("outputs", "operator"):
                    found = predicted_update(*common, branches=branches, form=form)
                    assert relative(found.value, actual) < 1e-12
                    assert found.standard_error.abs().max() == 0


def test_deeper_and_wider_trees_with_the_simple_loss():
    for depth, branching in ((3, 2), (2, 3)):
        one = tree(depth, branching)
        for network in networks(one, units=4):
            for layer in (1, network.depth):
                common = (network, data(one, hltm.keep_root()), layer, Simple())
                actual = actual_update(*common).value
                for form in ("outputs", "operator"):
                    found = predicted_update(*common, form=form).value
                    assert relative(found, actual) < 1e-12


def test_irregular_trees_and_shared_weights():
    ternary = hltm.random_tree(nodes=8, cardinality=(2, 3), seed=3)  # edges skip levels
    shapes = [
        dualnets.tree_network(ternary, units=6, seed=1, dtype=torch.float64),
        dualnets.conv_tree(tree(2), units=3, seed=1, dtype=torch.float64),
    ]
    for one, network in zip((ternary, tree(2)), shapes, strict=True):
        for layer in range(1, network.depth + 1):
            for loss in (Simple(), InfoNCE(0.2)):
                common = (network, data(one), layer, loss)
                actual = actual_update(*common).value
                assert relative(predicted_update(*common).value, actual) < 1e-12
    with pytest.raises(ValueError, match="edges of the tree that skip the layer"):
        predicted_update(shapes[0], data(ternary), 1, Simple(), form="operator")
    top = predicted_update(shapes[0], data(ternary), shapes[0].depth, Simple())
    found = predicted_update(shapes[0], data(ternary), shapes[0].depth, Simple(), form="operator")
    assert relative(found.value, top.value) < 1e-12  # every path crosses the top layer


def test_biases_and_normalised_outputs_keep_the_form_with_f_and_lose_the_operators():
    one = tree(2)
    for settings in ({"bias": True}, {"normalize": True}):
        for network in networks(one, **settings):
            for loss in (Simple(), InfoNCE(0.2)):
                common = (network, data(one), 1, loss)
                actual = actual_update(*common).value
                assert relative(predicted_update(*common).value, actual) < 1e-12
                with pytest.raises(ValueError, match=r"Use the form with f \(form='outputs'\)"):
                    predicted_update(*common, form="operator")


def test_a_wrong_distribution_or_pairing_is_told():
    one = tree(2)
    (network, _) = networks(one)
    table = exact_table(data(one))
    actual = actual_update(network, table, 1, InfoNCE(0.2)).value
    shuffled = ViewTable(*table[:4], table.view.roll(1, -2))  # views of other samples
    skewed = ViewTable(*table[:3], table.probability.roll(1, -1), table.view)
    for wrong in (shuffled, skewed):
        found = predicted_update(network, wrong, 1, InfoNCE(0.2)).value
        assert relative(found, actual) > 1e-2
    other = predicted_update(network, table, 1, InfoNCE(0.5)).value
    assert relative(other, actual) > 1e-2


def test_blocks_are_parts_of_the_layer():
    one = tree(3)
    (network, _) = networks(one)
    given = data(one, hltm.keep_root())
    whole = predicted_update(network, given, 1, Simple()).value
    for v in range(4):
        for form in ("outputs", "operator"):
            part = predicted_update(network, given, 1, Simple(), block=v, form=form).value
            assert relative(part, whole.view(4, -1)[v]) < 1e-13
    assert relative(
        actual_update(network, given, 1, Simple(), block=2).value, whole.view(4, -1)[2]
    ) < 1e-12  # fmt: skip


@pytest.mark.parametrize("loss", [*LOSSES, NTXent(0.3), dualnets.BatchwiseNCE(0.5)], ids=repr)
def test_estimates_of_any_loss_equal_autograd_on_the_same_batches(loss):
    trees = tree(2, members=2)
    for network in networks(trees):
        common = (network, data(trees), 1, loss)
        sampled = {"batches": 3, "batch": 8, "seed": 5}
        actual = actual_update(*common, **sampled)
        found = predicted_update(*common, **sampled)
        if isinstance(loss, Simple):  # estimated from pairs of views, not from the negatives drawn
            continue
        assert relative(found.value, actual.value) < 1e-12
        assert relative(found.standard_error, actual.standard_error) < 1e-10
        operator = predicted_update(*common, **sampled, form="operator")
        assert relative(operator.value, actual.value) < 1e-12


@pytest.mark.parametrize("loss", [Simple(), InfoNCE(0.2)], ids=repr)
@pytest.mark.parametrize("update", [predicted_update, actual_update])
def test_estimates_lie_within_their_errors_of_the_population(loss, update):
    one = tree(2)
    (_, network) = networks(one)
    exact = predicted_update(network, data(one), 3, loss).value
    scores = []
    for seed in range(8):
        found = update(network, data(one), 3, loss, batches=10, batch=64, seed=seed)
        often = exact.abs() > 0.1 * exact.abs().max()  # rare units make few batches vary
        scores.append(((found.value - exact) / found.standard_error)[often])
        assert found.standard_error.norm() < 2 * exact.norm()
    z = torch.stack(scores)
    assert z.abs().max() < 6
    assert 0.6 < z.square().mean() < 1.6
    assert z.mean(0).abs().max() < 4.5 / 8**0.5


def test_any_data_set_and_any_module():
    items = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = DatasetViews(
        TensorDataset(items), lambda x: x + 0.3 * torch.randn(4, dtype=torch.float64)
    )
    network = module()
    sampled = {"batches": 12, "batch": 32, "seed": 1}
    for name in ("1.weight", "6.weight"):
        found = predicted_update(network, noisy, name, InfoNCE(0.5), **sampled)
        actual = actual_update(network, noisy, name, InfoNCE(0.5), **sampled)
        assert relative(found.value, actual.value) < 1e-12
        simple = predicted_update(network, noisy, name, Simple(), **sampled, form="operator")
        drawn = actual_update(network, noisy, name, Simple(), **{**sampled, "seed": 2})
        error = (simple.standard_error.square() + drawn.standard_error.square()).sqrt()
        assert ((simple.value - drawn.value) / error).square().mean() < 2
    with pytest.raises(ValueError, match="DatasetViews cannot be enumerated"):
        predicted_update(network, noisy, "1.weight", Simple())


def test_what_cannot_be_computed_is_refused():
    one = tree(3)
    (network, _) = networks(one)
    given = TreeViews(one, hltm.keep_root())
    with pytest.raises(ValueError, match=r"256 views and 2 negative.* are 4294967296 terms"):
        predicted_update(network, given, 1, InfoNCE(0.2, negatives=2))
    with pytest.raises(ValueError, match="NTXent is a loss of whole batches"):
        predicted_update(network, given, 1, NTXent())
    with pytest.raises(ValueError, match="every view is an anchor of NTXent"):
        predicted_update(network, given, 1, NTXent(), branches="anchor", batches=2, seed=0)
    with pytest.raises(ValueError, match="form must be 'outputs' or 'operator', got 'matrix'"):
        predicted_update(network, given, 1, Simple(), form="matrix")
    with pytest.raises(ValueError, match="a table holds expectations"):
        predicted_update(network, given.table(), 1, Simple(), batches=2, seed=0)
    with pytest.raises(ValueError, match="needs a seed"):
        predicted_update(network, given, 1, Simple(), batches=2)
    with pytest.raises(ValueError, match="misses leaves"):
        TreeViews(one, hltm.drop_leaves(0.5))
    with pytest.raises(ValueError, match="2 trees do not fit a network without members"):
        predicted_update(network, data(tree(3, members=2), hltm.keep_root()), 1, Simple())
