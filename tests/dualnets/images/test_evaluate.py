"""Probes of features against direct computations, what is labelled, and what is refused."""

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets.images import Features, LabelledImages, evaluate, features, load, network_features
from dualnets.images.evaluate import (
    RIDGES,
    balanced_choice,
    last_fifth,
    linear_accuracy,
    neighbour_accuracy,
)
from dualnets.images.rows import fixed_order
from dualnets.networks.conv_net import conv_net
from dualnets.networks.image_network import ImageNetwork

DIGITS = load("digits")


def network(members=2, **changes):
    return conv_net(DIGITS, widths=(6, 8), members=members, seed=1, **changes)


def scores(table, metric, split=0):
    return table.query("metric == @metric and split == @split").value.to_numpy()


def made_up(noise, seed=0, train=300, test=200, units=7, classes=4):
    """Features of four clusters, and their labels."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, units))
    parts = []
    for count in (train, test):
        labels = generator.integers(classes, size=count)
        found = centres[labels] + noise * generator.normal(size=(count, units))
        parts += [torch.from_numpy(found), torch.from_numpy(labels)]
    return Features(*parts)


def ridge_regression(x, y, others, ridge):
    """Predictions, by the normal equations with a column for the bias, which is not penalised."""
    design = np.hstack([x, np.ones((len(x), 1))])
    penalty = ridge * len(x) * np.eye(design.shape[1])
    penalty[-1, -1] = 0
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ y)
    return np.hstack([others, np.ones((len(others), 1))]) @ weights


@pytest.mark.parametrize("count", [40, 300])
def test_the_linear_probe_is_ridge_regression_chosen_on_labelled_pictures(count):
    own = made_up(1.0)
    labelled = torch.arange(count)
    held_out = torch.arange(count) % 5 == 0
    mean, deviation = own.train.mean(0), own.train.std(0, correction=0)
    x, tested = (((part - mean) / deviation).numpy() for part in (own.train[labelled], own.test))
    y = np.eye(4)[own.train_labels[labelled]]
    kept = ~held_out.numpy()
    best = max(
        ((ridge_regression(x[kept], y[kept], x[~kept], ridge).argmax(1) == y[~kept].argmax(1)).mean(), ridge)
        for ridge in RIDGES
    )[1]  # fmt: skip
    expected = (ridge_regression(x, y, tested, best).argmax(1) == own.test_labels.numpy()).mean()
    assert linear_accuracy(own, labelled, 4, held_out) == pytest.approx(expected)
    assert 0.5 < expected < 1
    # labels of test pictures have no part in it, nor have those that are not labelled
    blind = own._replace(train_labels=own.train_labels.clone())
    blind.train_labels[count:] = 0
    assert linear_accuracy(blind, labelled, 4, held_out) == expected


@pytest.mark.parametrize("neighbours", [1, 20, 100])
def test_neighbours_vote_by_their_cosines(neighbours):
    own = made_up(1.5)
    labelled = torch.arange(0, 120, 2)
    known, given = own.train[labelled].numpy(), own.test.numpy()
    right = 0
    for row, wanted in zip(given, own.test_labels, strict=True):
        cosines = known @ row / np.linalg.norm(known, axis=1) / np.linalg.norm(row)
        votes = np.zeros(4)
        for at in np.argsort(-cosines)[:neighbours]:
            votes[own.train_labels[labelled[at]]] += np.exp(cosines[at] / 0.07)
        right += votes.argmax() == wanted
    found = neighbour_accuracy(own, labelled, 4, neighbours, batch=33)
    assert found == pytest.approx(right / len(given))


def test_labelled_pictures_are_balanced_and_differ_between_members_and_splits():
    labels = torch.from_numpy(DIGITS.train.labels)
    chosen = balanced_choice(labels, 100, seed=3, member=1, split=0)
    assert labels[chosen].bincount().tolist() == [10] * 10
    assert labels[chosen[80:]].bincount().tolist() == [2] * 10  # the held-out fifth
    assert chosen.unique().numel() == 100
    again = balanced_choice(labels, 100, seed=3, member=1, split=0)
    assert again.equal(chosen)
    for other in ({"member": 2}, {"split": 1}, {"seed": 4}):
        found = balanced_choice(labels, 100, **({"seed": 3, "member": 1, "split": 0} | other))
        assert not found.equal(chosen)
    everything = balanced_choice(labels, None, seed=3, member=1, split=0)
    assert everything.sort().values.equal(torch.arange(len(labels)))
    rare = torch.tensor([0, 0, 0, 0, 0, 1])
    assert rare[balanced_choice(rare, 4, seed=0, member=0, split=0)].bincount().tolist() == [3, 1]


def test_the_table_has_every_member_split_and_metric():
    table = evaluate(network(), DIGITS, seed=0, splits=2)
    assert list(table.columns) == ["member", "split", "metric", "value", "n"]
    assert (table.n == 500).all()
    found = table.groupby("metric", sort=False).size().to_dict()
    assert found == {
        "linear all": 2, "neighbours all": 2, "linear 100": 4, "neighbours 100": 4, "spread": 2,
        "effective_rank": 2,
    }  # fmt: skip
    assert (scores(table, "linear all") > scores(table, "linear 100")).all()
    assert (scores(table, "linear all") > 0.4).all()  # even untrained
    assert not (scores(table, "linear 100", 0) == scores(table, "linear 100", 1)).all()
    assert table.equals(evaluate(network(), DIGITS, seed=0, splits=2, batch=500))


def test_networks_that_are_equal_differ_by_their_labelled_pictures_alone():
    own = network()
    with torch.no_grad():
        for weight in own.parameters():
            weight[1] = weight[0]
    table = evaluate(own, DIGITS, seed=0, test_samples=300).set_index(["metric", "member"]).value
    for metric in ("linear all", "neighbours all", "spread", "effective_rank"):
        assert table[metric, 0] == pytest.approx(table[metric, 1], abs=0.004)
    assert any(
        table[f"{probe} 100", 0] != table[f"{probe} 100", 1] for probe in ("linear", "neighbours")
    )


def test_a_member_is_worth_the_same_in_any_ensemble_and_batch():
    together = evaluate(network(2), DIGITS, seed=0)
    alone = evaluate(network(None), DIGITS, seed=0, batch=177)
    ours = together.query("member == 0").reset_index(drop=True)
    assert ours.metric.equals(alone.metric)
    np.testing.assert_allclose(ours.value, alone.value, atol=0.005)


def test_features_are_outputs_in_evaluation_of_standardised_pictures():
    own = network(norm=dualnets.BatchNorm())
    own.train()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    evaluate(own, DIGITS, seed=0, labels=(), train_samples=50, test_samples=20)
    assert own.training
    assert all(tensor.equal(before[name]) for name, tensor in own.state_dict().items())
    with torch.no_grad():
        own(torch.randn(2, 40, 64))  # moments for evaluation
    own.eval()
    found = features(own, DIGITS, batch=77, train_samples=9)
    pictures = torch.from_numpy(DIGITS.test.images[:30]).double() / 255
    given = ((pictures - DIGITS.mean[0]) / DIGITS.std[0]).float().flatten(1)
    expected = own(given.expand(2, -1, -1)).detach()
    torch.testing.assert_close(found.test[:, :30], expected, atol=1e-5, rtol=1e-4)
    assert found.test_labels.tolist() == DIGITS.test.labels.tolist()
    chosen = fixed_order(len(DIGITS.train.labels))[:9]
    assert found.train_labels.tolist() == DIGITS.train.labels[chosen].tolist()
    shapes = [tuple(part.shape) for part in features(network(None), DIGITS)]
    assert shapes == [(1297, 8), (1297,), (500, 8), (500,)]


def test_an_untrained_network_stands_beside_the_trained_one():
    before, after = network(), conv_net(DIGITS, widths=(6, 8), members=2, seed=7)
    given = {"seed": 3, "splits": 2, "train_samples": 300, "test_samples": 100}
    table = evaluate(after, DIGITS, initial=before, **given)
    alone = [evaluate(own, DIGITS, **given) for own in (after, before)]
    assert table[list(alone[0].columns)].equals(alone[0])
    assert table.initial.equals(alone[1].value.rename("initial"))
    probes = table.metric.str.contains("all|100")
    gaps = (table.value - table.initial) / (1 - table.initial)
    np.testing.assert_allclose(table.gap_closed[probes], gaps[probes], rtol=1e-12)
    assert table.gap_closed[~probes].isna().all()
    means = hltm.probe.over_members(table, by=["metric"], seed=0).set_index("metric")
    few = table.query("metric == 'linear 100'").groupby("member").value.mean()
    assert means["mean"]["linear 100"] == pytest.approx(few.mean())  # splits, then members


def spy(method, sizes):
    """The method, which also notes the sizes of the batches that it is given."""

    def noted(self, batches):
        sizes.append([leaves.shape[1] for leaves in batches])
        method(self, batches)

    return noted


def test_an_untrained_batchnorm_has_the_same_moments_for_any_batch(monkeypatch):
    own = network(norm=dualnets.BatchNorm())
    own.double()
    found = [features(own, DIGITS, batch=size, train_samples=50) for size in (400, 1000)]
    torch.testing.assert_close(found[0].test, found[1].test, rtol=1e-9, atol=1e-9)
    assert found[0].test.std() > 0.1
    passes = []
    monkeypatch.setattr(network_features, "MEMORY", 0)
    monkeypatch.setattr(ImageNetwork, "take_moments", spy(ImageNetwork.take_moments, passes))
    parts = features(own, DIGITS, batch=400, train_samples=50)
    assert passes == [[400, 400, 200]]
    torch.testing.assert_close(parts.test, found[0].test, rtol=1e-9, atol=1e-9)


def test_pictures_whose_features_say_nothing_are_guessed():
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, size=(n, 8, 8)).astype(np.uint8) for n in (1000, 500)]
    labels = [generator.integers(0, 10, size=n) for n in (1000, 500)]
    made = LabelledImages.from_arrays(
        "noise", (noise[0], labels[0]), (noise[1], labels[1]), map(str, range(10))
    )
    table = evaluate(conv_net(made, widths=(8,), seed=0), made, seed=0)
    accuracies = table[table.metric.str.contains("all|100")].value
    assert (accuracies - 0.1).abs().max() < 0.06  # four deviations of 500 guesses


def test_what_is_held_out_has_a_fifth_of_every_class():
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 10 + [3])
    chosen = labels[balanced_choice(labels, None, seed=0, member=0, split=0)]
    assert chosen[last_fifth(chosen)].bincount(minlength=4).tolist() == [20, 4, 2, 0]
    even = torch.arange(100) % 10  # as often: the end of the whole
    assert last_fifth(even).nonzero()[:, 0].tolist() == list(range(80, 100))
    assert not last_fifth(labels[:4]).any()


def test_classes_of_other_sizes_are_told_apart():
    few = np.random.default_rng(0).random(len(DIGITS.train.labels)) < 0.5
    kept = few | (DIGITS.train.labels < 5)
    made = LabelledImages.from_arrays(
        "halves", (DIGITS.train.images[kept], (DIGITS.train.labels[kept] >= 5).astype(int)),
        (DIGITS.test.images, (DIGITS.test.labels >= 5).astype(int)),
    )  # fmt: skip
    table = evaluate(conv_net(made, members=2, seed=0), made, seed=0, labels=(None,))
    assert table.query("metric == 'linear all'").value.min() > 0.75  # that of one class: 0.47


def test_arrays_in_any_order_of_memory_are_read():
    mirrored = [(part.images[::-1], part.labels[::-1]) for part in (DIGITS.train, DIGITS.test)]
    made = LabelledImages.from_arrays("mirrored", *mirrored)
    copied = LabelledImages.from_arrays("copied", *[tuple(map(np.copy, part)) for part in mirrored])
    found, expected = (evaluate(network(), data, seed=0, labels=(100,)) for data in (made, copied))
    assert found.equals(expected)


def test_a_member_that_is_not_finite_has_nan():
    own = network()
    with torch.no_grad():
        own.weights[0][1] = torch.inf
    table = evaluate(own, DIGITS, seed=0, train_samples=200, test_samples=100)
    assert table.query("member == 1").value.isna().all()
    assert table.query("member == 0").value.notna().all()
    assert (table.n == 100).all()


def test_fewer_pictures_are_the_first_of_a_fixed_order():
    chosen = fixed_order(500)[:60]
    first = LabelledImages.from_arrays(
        "digits", DIGITS.train, tuple(part[chosen] for part in DIGITS.test), DIGITS.classes
    )
    few = evaluate(network(), DIGITS, seed=0, test_samples=60)
    assert few.equals(evaluate(network(), first, seed=0))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": (19,)}, ValueError, r"at least 20 \(two for each of 10 classes\), got 19"),
        ({"labels": (5000,)}, ValueError, "labels must be at most the 1297 training pictures, got 5000"),
        ({"labels": (300,), "train_samples": 200}, ValueError, "at most the 200 training"),
        ({"labels": 100}, TypeError, r"labels must be a tuple such as \(None, 100\), got 100"),
        ({"labels": (None,), "train_samples": 4}, ValueError, "pictures must be at least 5, got 4"),
        (
            {"network": conv_net((1, 4, 16), seed=0)}, ValueError,
            r"the pictures have the shape \(1, 8, 8\), the network reads \(1, 4, 16\)",
        ),
        ({"neighbours": 0}, ValueError, "neighbours must be at least 1, got 0"),
        ({"splits": 1.5}, TypeError, "splits must be a whole number, got 1.5"),
        ({"test_samples": 501}, ValueError, "test_samples must be at most 500, got 501"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"images": "digits"}, TypeError, "images must be such as .*load.* got 'digits'"),
        ({"network": torch.nn.Linear(2, 2)}, TypeError, "network must be such as"),
        ({"network": conv_net((1, 9, 9), seed=0)}, ValueError, "have 64 numbers, the network reads 81"),
        (
            {"initial": network(3)}, ValueError,
            r"initial must have the members \(0, 1\) of the network, got \(0, 1, 2\)",
        ),
        ({"initial": "none"}, TypeError, "initial network must be such as"),
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused(changes, error, message):
    given = {"network": network(), "images": DIGITS, "seed": 0} | changes
    with pytest.raises(error, match=message):
        evaluate(given.pop("network"), given.pop("images"), **given)
