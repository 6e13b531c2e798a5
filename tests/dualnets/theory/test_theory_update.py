"""Theorems 1 and 3 and Equation 3.3: predicted updates against autograd; wrong ones are noticed."""

import pytest
import torch
from few import few
from theory_cases import data, module, networks, relative, tree
from torch import nn
from torch.utils.data import TensorDataset

import dualnets
import hltm
from dualnets import Detached, InfoNCE, NTXent, Simple, SpectralContrastive, Triplet
from dualnets.theory import (
    DatasetViews,
    TreeViews,
    ViewTable,
    actual_update,
    connection,
    pair_update,
    predicted_update,
)
from dualnets.theory.updates.views import exact_table

LOSSES = [Simple(), Triplet(0.3, 0.2), InfoNCE(0.2), InfoNCE(0.3, negatives=2)]


@pytest.mark.parametrize("branches", few(["anchor", "both"]))
def test_theorem_1_is_autograds_gradient_of_a_pair(branches):
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


@pytest.mark.parametrize(
    ("loss", "augmentation"),
    [
        *((loss, hltm.resample_leaves(0.4)) for loss in LOSSES),
        (LOSSES[0], hltm.keep_root()),
        *(pytest.param(loss, hltm.keep_root(), marks=pytest.mark.slow) for loss in LOSSES[1:]),
    ],
    ids=str,
)
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


def test_theorem_3_in_deeper_and_wider_trees():
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


def test_a_wrong_distribution_or_pairing_is_noticed():
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


ANY = [*LOSSES[1:], NTXent(0.3), dualnets.BatchwiseNCE(0.5), Detached(NTXent(0.3))]


@pytest.mark.parametrize("loss", ANY, ids=repr)
def test_estimates_of_any_loss_equal_autograd_on_the_same_batches(loss):
    trees = tree(2, members=2)
    for network in networks(trees):
        common = (network, data(trees), 1, loss)
        sampled = {"batches": 3, "batch": 8, "seed": 5}
        actual = actual_update(*common, **sampled)
        found = predicted_update(*common, **sampled)
        assert relative(found.value, actual.value) < 1e-12
        assert relative(found.standard_error, actual.standard_error) < 1e-10
        operator = predicted_update(*common, **sampled, form="operator")
        assert relative(operator.value, actual.value) < 1e-12


@pytest.mark.parametrize("branches", ["both", "anchor"])
def test_theorem_3_an_estimate_is_autograds_of_the_covariance_of_two_views(branches):
    """Σ (f1 - mean)·(f2 - mean) / (n - 1) of a batch's views, whose gradient the estimate must be."""
    trees = tree(2, members=2)
    for network in networks(trees):
        each = []
        for i in range(3):
            first, second = (network(view) for view in data(trees).draw(8, seed=5, start=8 * i))
            centred = [part - part.mean(1, keepdim=True) for part in (first, second)]
            total = (centred[0] * centred[1]).sum() / 7
            each.append(torch.autograd.grad(total, network.weights[0])[0].flatten(1))
        expected = torch.stack(each) * (1 if branches == "both" else 0.5)
        found = predicted_update(network, data(trees), 1, Simple(), branches=branches,
                                 batches=3, batch=8, seed=5)  # fmt: skip
        assert relative(found.value, expected.mean(0)) < 1e-12
        assert relative(found.standard_error, expected.std(0) / 3**0.5) < 1e-10
        other = predicted_update(network, data(trees), 1, Simple(), branches=branches,
                                 batches=3, batch=8, seed=6)  # fmt: skip
        assert relative(other.value, expected.mean(0)) > 1e-2  # other samples


@pytest.mark.parametrize(
    ("update", "loss"),
    [
        (predicted_update, InfoNCE(0.2)),
        (actual_update, InfoNCE(0.2)),
        pytest.param(predicted_update, Simple(), marks=pytest.mark.slow),
        pytest.param(actual_update, Simple(), marks=pytest.mark.slow),
    ],
)
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
    with pytest.raises(ValueError, match=r"256 views and 2 negative.* make 4294967296 terms"):
        predicted_update(network, given, 1, InfoNCE(0.2, negatives=2))
    with pytest.raises(ValueError, match="NTXent is a loss of whole batches"):
        predicted_update(network, given, 1, NTXent())
    with pytest.raises(ValueError, match="every view is an anchor of NTXent"):
        predicted_update(network, given, 1, NTXent(), branches="anchor", batches=2, seed=0)
    with pytest.raises(ValueError, match="form must be one of outputs, operator, got 'matrix'"):
        predicted_update(network, given, 1, Simple(), form="matrix")
    with pytest.raises(ValueError, match="a table holds expectations"):
        predicted_update(network, given.table(), 1, Simple(), batches=2, seed=0)
    with pytest.raises(ValueError, match="needs a seed"):
        predicted_update(network, given, 1, Simple(), batches=2)
    with pytest.raises(ValueError, match="makes leaves missing"):
        TreeViews(one, hltm.drop_leaves(0.5))
    with pytest.raises(ValueError, match="2 trees do not fit a network without members"):
        predicted_update(network, data(tree(3, members=2), hltm.keep_root()), 1, Simple())


def biased_pair(seed=0):
    """Linear-ReLU-Linear with biases, and the two inputs of one pair."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        return network, *torch.randn(2, 1, 4, dtype=torch.float64)


def test_theorem_1_as_an_operator_is_exact_or_an_error():
    """It equals the form with f or is an error, also for one pair and for the same pair many times."""
    for seed in range(6):
        network, first, second = biased_pair(seed)
        for rows in (1, 4):
            pair = first.expand(rows, 4), second.expand(rows, 4)
            expected = pair_update(network, "0.weight", *pair)
            parts = [connection(network, "0.weight", inputs) for inputs in pair]
            outputs = [part.transposed(part.weight) for part in parts]
            apart = (outputs[0] - outputs[1]) / rows
            wrong = parts[0].summed(apart) - parts[1].summed(apart)
            if relative(wrong, expected) > 1e-6:
                with pytest.raises(ValueError, match="beyond a constant"):
                    pair_update(network, "0.weight", *pair, form="operator")
            top = pair_update(network, "2.weight", *pair, form="operator")  # a bias on top cancels
            assert relative(top, pair_update(network, "2.weight", *pair)) < 1e-12
        assert relative(wrong, expected) > 1e-2
    with pytest.raises(ValueError, match="at the one distinct sample"):
        pair_update(network, "0.weight", first, first, form="operator")


def test_losses_of_inner_products_are_refused_where_slopes_are_needed_and_only_there():
    one = tree(2)
    (network, _) = networks(one)
    sampled = {"batches": 2, "batch": 8, "seed": 0}
    for how in ({}, sampled):
        with pytest.raises(
            ValueError,
            match="SpectralContrastive is not a loss of distances: its value changes when",
        ):
            predicted_update(network, data(one), 1, SpectralContrastive(), **how)
        actual = actual_update(network, data(one), 1, SpectralContrastive(), **how).value
        assert actual.norm() > 0.01


def test_detached_losses_have_the_updates_of_their_own():
    one = tree(2)
    (network, _) = networks(one)
    same = [predicted_update(network, data(one), 1, loss).value
            for loss in (InfoNCE(0.2), Detached(InfoNCE(0.2)))]  # fmt: skip
    assert relative(*same) < 1e-12
    with pytest.raises(ValueError, match=r"Detached NTXent is a loss of whole batches.*batches=…"):
        predicted_update(network, data(one), 1, Detached(NTXent()))
    with pytest.raises(ValueError, match="every view is an anchor of NTXent"):
        predicted_update(network, data(one), 1, Detached(NTXent()), branches="anchor", batches=2,
                         seed=0)  # fmt: skip


@pytest.mark.parametrize("update", [predicted_update, actual_update])
@pytest.mark.parametrize(
    "sampled", [{}, {"batches": 2, "batch": 8, "seed": 0}], ids=["exact", "sampled"]
)
def test_what_is_no_loss_no_data_or_no_network_is_named(update, sampled):
    one = tree(2)
    (network, _) = networks(one)
    for loss, words in (
        ("infonce", r"got the name 'infonce': give InfoNCE\(\)"),
        (InfoNCE, "got the class InfoNCE: call it"),
        (nn.MSELoss(), r"a function of anchor, positive and negatives .* got MSELoss\(\)"),
    ):
        with pytest.raises(TypeError, match=words):
            update(network, data(one), 1, loss, **sampled)
    for given, words in (
        (torch.zeros(3, 4), "or a ViewTable, got Tensor"),
        (one, r"got LatentTree: give TreeViews\(tree, augmentation\)"),
        (TensorDataset(torch.zeros(3, 4)), r"give DatasetViews\(dataset, transform\)"),
    ):
        with pytest.raises(TypeError, match=words):
            update(network, given, 1, InfoNCE(), **sampled)
    with pytest.raises(TypeError, match="network must be a torch module, got str"):
        update("mlp", data(one), 1, InfoNCE(), **sampled)
    several = data(tree(2, members=3))
    plain = nn.Sequential(nn.Linear(4, 3))
    for some in (network, plain):
        name = 1 if some is network else "0.weight"
        with pytest.raises(ValueError, match="3 trees do not fit a network without members"):
            update(some, several, name, InfoNCE(), **sampled)
    with pytest.raises(ValueError, match="branches must be one of both, anchor, got 'second'"):
        update(network, data(one), 1, InfoNCE(), branches="second", **sampled)


def test_bad_pairs_and_data_sets_are_named():
    network, first, second = biased_pair()
    with pytest.raises(ValueError, match="branches must be one of both, anchor, got 'second'"):
        pair_update(network, "0.weight", first, second, branches="second")
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) and \(1, 4\), expected as many samples"):
        pair_update(network, "0.weight", first.expand(3, 4), second)
    with pytest.raises(TypeError, match=r"batches must be a whole number, got 2.5"):
        predicted_update(network, data(tree(2)), "0.weight", Simple(), batches=2.5, seed=0)
    with pytest.raises(
        TypeError,
        match=r"hltm\.keep_root\(\), got 'keep-root', .*: hltm.sampling.augment.parse makes one",
    ):
        TreeViews(tree(2), "keep-root")
    with pytest.raises(TypeError, match="expected trees, got str"):
        TreeViews("tree", hltm.keep_root())
    with pytest.raises(TypeError, match=r"expected a data set with items and a length, .* got int"):
        DatasetViews(3, lambda x: x)
    with pytest.raises(TypeError, match="transform must be a function of one item, got 'noise'"):
        DatasetViews(torch.eye(3), "noise")
    with pytest.raises(TypeError, match="transform must give a tensor, got float"):
        DatasetViews(torch.eye(3), lambda x: 0.5).draw(2, seed=0)
    with pytest.raises(TypeError, match=r"a tensor with 2 rows, got \(1, 3\)"):
        DatasetViews(torch.eye(3), lambda x: x[:1], batched=True).draw(2, seed=0)


def test_updates_of_a_network_that_reads_tokens():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(2, 3)
            self.top = nn.Linear(12, 2, bias=False)

        def forward(self, leaves):
            return self.top(self.embedding(leaves).flatten(1).relu())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Words()
    one = tree(2)
    for name in ("embedding.weight", "top.weight"):
        for how in ({}, {"batches": 2, "batch": 8, "seed": 0}):
            actual = actual_update(network, data(one), name, InfoNCE(0.3), **how).value
            for form in ("outputs", "operator"):
                found = predicted_update(network, data(one), name, InfoNCE(0.3), form=form, **how)
                assert relative(found.value, actual) < 1e-12
