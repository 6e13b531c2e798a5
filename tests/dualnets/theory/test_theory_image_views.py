"""Pictures as a source of views: addresses, finite sets against sums written out, updates of a ConvNet."""

import itertools

import numpy as np
import pytest
import torch

import dualnets
from dualnets import images, theory
from dualnets.training.memory import take

PICTURES, SIDE = 40, 6


def mine(channels=1):
    """A data set whose every picture is known by its upper left pixel."""
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (PICTURES, channels, SIDE, SIDE), dtype=np.uint8)
    pictures[:, 0, 0, 0] = np.arange(PICTURES)
    labels = np.arange(PICTURES) % 2
    return images.LabelledImages.from_arrays("mine", (pictures, labels), (pictures, labels))


def source(views="crop:0.5+light:0.4", channels=1):
    return theory.ImageViews(mine(channels), images.parse_views(views))


def numbers_of(data, view):
    """The numbers of pictures without augmentation, by their upper left pixel."""
    pixel = view.double()[..., 0] * data.images.std[0] + data.images.mean[0]
    return (pixel * 255).round().long()


def network(members=None, **settings):
    made = dualnets.conv_net(
        (1, SIDE, SIDE), widths=(4, 6), members=members, bias=False, seed=3, **settings
    )
    return made.double()


@pytest.mark.parametrize("channels", [1, 3])
def test_without_augmentation_a_view_is_the_standardised_picture(channels):
    data = source("none", channels)
    first, second = data.draw(30, seed=1)
    assert first.equal(second)
    assert (first.shape, first.dtype) == ((30, channels * SIDE * SIDE), torch.float32)
    chosen = torch.from_numpy(data.images.train.images)[numbers_of(data, first)].double() / 255
    expected = [(chosen[:, c] - data.images.mean[c]) / data.images.std[c] for c in range(channels)]
    assert torch.allclose(first.double(), torch.stack(expected, 1).flatten(1), atol=1e-6)


def test_every_sample_has_its_address():
    data = source()
    whole = data.draw(20, seed=1, count=3)
    for part, at in ((data.draw(8, seed=1, start=5), 5), (data.draw(1, seed=1, start=19), 19)):
        assert all(
            own.equal(all_[at : at + len(own)]) for own, all_ in zip(part, whole, strict=False)
        )
    assert not whole[0].equal(whole[1])
    for other in ({"seed": 2}, {"seed": 1, "negatives": True}, {"seed": 1, "start": 20}):
        assert not whole[0].equal(data.draw(20, **other)[0])


def test_members_have_samples_of_their_own_alone_and_together():
    data = source()
    together = data.for_members((0, 1, 2)).draw(10, seed=1)
    assert together[0].shape == (3, 10, SIDE * SIDE)
    assert data.for_members((2,)).draw(10, seed=1)[1].equal(together[1][2:])
    assert data.draw(10, seed=1)[0].equal(together[0][0])
    plain = source("none").for_members((0, 1)).draw(10, seed=1)[0]
    assert not numbers_of(data, plain[0]).equal(numbers_of(data, plain[1]))


def test_pictures_are_drawn_uniformly():
    data = source("none")
    for negatives in (False, True):
        drawn = data.draw(8000, seed=1, count=1, negatives=negatives)[0]
        counts = torch.bincount(numbers_of(data, drawn), minlength=PICTURES).double()
        expected = 8000 / PICTURES
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert len(counts) == PICTURES
        assert 12 < chi_square < 79  # p = 1e-3 on either side, of 39 degrees of freedom


def test_a_finite_set_has_different_pictures_and_views_that_approach_them():
    data, plain = source(), source("none").table(7, 1, seed=2)
    pictures = numbers_of(data, plain.leaves)
    assert len(set(pictures.tolist())) == 7
    usual, near = (data.table(7, 3, seed=2, strength=s) for s in (1.0, 0.25))
    assert (usual.leaves.shape, usual.leaves.dtype) == ((21, SIDE * SIDE), torch.float64)
    moved = usual.leaves.unflatten(0, (7, 3)) - plain.leaves[:, None]
    assert (moved.flatten(1).norm(dim=1) > 0.1).all()
    quarter = near.leaves.unflatten(0, (7, 3)) - plain.leaves[:, None]
    assert torch.allclose(quarter, moved / 4, atol=1e-6)
    assert not data.table(7, 3, seed=2, member=1).leaves.equal(usual.leaves)
    assert data.table(7, 3, seed=2).leaves.equal(usual.leaves)


def test_a_finite_table_is_the_distribution_written_out():
    views = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    table = theory.finite_views(views)
    pairs = torch.zeros(6, 6, dtype=torch.float64)
    for i, a, b in itertools.product(range(3), range(2), range(2)):
        pairs[2 * i + a, 2 * i + b] += 1 / 12
    assert torch.allclose(table.positive_pairs(), pairs)
    assert torch.allclose(table.marginal, torch.full((6,), 1 / 6, dtype=torch.float64))
    assert torch.allclose(table.over_views(table.leaves), views.mean(1))
    centred = views.mean(1) - views.mean((0, 1))
    assert torch.allclose(table.covariance(table.over_views(table.leaves)), centred.T @ centred / 3)
    assert table.classes.flatten().tolist() == [0, 1, 2]


LOSSES = [dualnets.Simple(), dualnets.InfoNCE(temperature=0.2), dualnets.Triplet(temperature=0.2)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_updates_of_a_finite_set_are_sums_over_its_pairs(loss):
    """Theorem 3 and Equation 3.3 on a ConvNet, against the mean loss written out and autograd."""
    own, table = network(), source().table(3, 2, seed=1)
    views = table.leaves.unflatten(0, (3, 2))
    total, count = 0.0, 0
    for i, a, b, j, k in itertools.product(range(3), range(2), range(2), range(3), range(2)):
        x = own(torch.stack([views[i, a], views[i, b], views[j, k]]))[:, None]
        total = total + loss(x[None, 0], x[None, 1], x[None, None, 2]).sum()
        count += 1
    for layer in (1, 2):
        (gradient,) = torch.autograd.grad(total / count, own.weights[layer - 1], retain_graph=True)
        for form in ("outputs", "operator"):
            found = theory.predicted_update(own, table, layer, loss, form=form).value
            assert torch.allclose(found, -gradient.flatten(), rtol=1e-9, atol=1e-15)
        actual = theory.actual_update(own, table, layer, loss).value
        assert torch.allclose(actual, -gradient.flatten(), rtol=1e-9, atol=1e-15)


def test_estimates_read_the_same_batches_and_every_member_its_own():
    own, data, how = network(members=2), source(), {"batches": 3, "batch": 8, "seed": 5}
    for loss in (dualnets.NTXent(temperature=0.2), dualnets.InfoNCE(temperature=0.2)):
        predicted = theory.predicted_update(own, data, 2, loss, **how).value
        actual = theory.actual_update(own, data, 2, loss, **how).value
        assert torch.allclose(predicted, actual, rtol=1e-9)
        alone = theory.actual_update(take(own, 1, 2), data, 2, loss, **how).value
        assert torch.allclose(alone, actual[1:], rtol=1e-9)


def test_the_covariance_operator_estimated_from_views():
    data, own = source("light:0.4"), network()
    exact = theory.covariance_operator(own, data.table(PICTURES, 24, seed=1), 2).on_outputs().value
    found = theory.covariance_operator(own, data, 2, batches=60, batch=100, seed=2).on_outputs()
    error = found.standard_error.norm()
    assert error < 0.1 * exact.norm()
    assert (found.value - exact).norm() < 2 * error
    assert (found.value / 2 - exact).norm() > 4 * error  # a wrong one is told apart


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: theory.ImageViews("digits", images.parse_views("none")), TypeError, "images"),
        (lambda: theory.ImageViews(mine(), "crop:0.5"), TypeError, "augment"),
        (lambda: source("flip+grey"), ValueError, "grey needs pictures of 3 channels"),
        (lambda: source().draw(0, seed=1), ValueError, "samples must be"),
        (lambda: source().draw(3, seed=-1), ValueError, "seed must be"),
        (lambda: source().table(1, 2, seed=1), ValueError, "samples must be"),
        (lambda: source().table(41, 2, seed=1), ValueError, "at most the 40 pictures there are, got 41"),
        (lambda: source().table(4, 0, seed=1), ValueError, "views must be"),
        (lambda: source().table(4, 2, seed=1, strength=-1), ValueError, "strength must be"),
        (lambda: theory.finite_views([1.0]), TypeError, "must be a tensor, got list"),
        (lambda: theory.finite_views(torch.zeros(1, 3)), ValueError, "at least 2 samples"),
        (lambda: theory.finite_views(torch.zeros(5000, 2)), ValueError, "entries, expected at most"),
        (lambda: theory.covariance_operator(network(), source(), 1), ValueError, r"or give its table\("),
        (lambda: theory.covariance_operator(network(), mine(), 1), TypeError,
         r"give ImageViews\(images, augmentation\)"),
    ],
)  # fmt: skip
def test_errors_name_what_was_given(make, error, text):
    with pytest.raises(error, match=text):
        make()
