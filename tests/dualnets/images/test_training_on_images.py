"""Training on pictures: every method, members in any parts, spans of any length, checkpoints."""

import numpy as np
import pytest
import torch

import dualnets
import hltm
from dualnets import BYOL, BatchNorm, SimCLR, Supervised, TeacherStudent
from dualnets.images import LabelledImages, load, parse_views
from dualnets.images import rows as image_rows
from dualnets.methods import discover
from dualnets.methods._leaf_prediction import LeafPrediction
from dualnets.networks.conv_net import conv_net
from dualnets.networks.image_network import ImageNetwork
from dualnets.training import ensemble, memory, steps, trajectory

DIGITS = load("digits")
AUGMENT = parse_views("default")
GIVEN = {"moco": {"queue": 32}, "pirl": {"negatives": 7}, "swav": {"prototypes": 6}}


def network(members=2, **changes):
    return conv_net(DIGITS, members=members, **({"widths": (4, 6), "seed": 1} | changes))


def method_of(name):
    if name == "teacher-student":
        return TeacherStudent(network(seed=3))
    if name == "supervised":
        return Supervised("label")
    return discover()[name](**GIVEN.get(name, {}))


def train(method, net=None, images=DIGITS, **changes):
    given = {
        "augment": AUGMENT, "steps": 3, "batch": 8, "seed": 2, "samples": 40,
        "optimizer": dualnets.SGD(0.05, momentum=0.9),
    }  # fmt: skip
    return dualnets.train(net or network(), method, images, **(given | changes))


def numbers(snapshot):
    """All that was trained, as one row per member."""
    named = [*snapshot.network.parameters(), *snapshot.network.buffers(), *snapshot.state.values()]
    return torch.cat([each.detach().flatten(1).double() for each in named if each.ndim > 1], dim=1)


OF_LEAVES = {name for name, kind in discover().items() if issubclass(kind, LeafPrediction)}


@pytest.mark.parametrize("name", sorted(OF_LEAVES))
def test_methods_that_predict_leaves_refuse_pictures(name):
    with pytest.raises(ValueError, match="predicted from data of trees, got LabelledImages"):
        train(discover()[name]())


@pytest.mark.parametrize("name", sorted({*discover()} - OF_LEAVES))
def test_every_method_trains_on_pictures(name):
    before = network(norm=BatchNorm())
    final = train(method_of(name), before)
    assert final.losses.isfinite().all()
    assert (final.frozen_at < 0).all()
    moved = zip(before.parameters(), final.network.parameters(), strict=True)
    assert all(not own.equal(other) for own, other in moved if own.ndim > 3)


def test_labels_are_learned():
    final = train(
        Supervised("label"), network(widths=(8, 16), norm=BatchNorm()), steps=60, batch=20,
        augment=parse_views("none"), optimizer=dualnets.SGD(0.3, momentum=0.9),
    )  # fmt: skip
    assert (final.losses < 1).all()  # log 10 = 2.3 is that of a guess


def test_a_member_is_the_same_in_an_ensemble_and_alone():
    together = numbers(train(BYOL(), network(3)))
    alone = numbers(train(BYOL(), network(None)))
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)


def test_parts_spans_and_threads_change_no_bit(monkeypatch):
    together = numbers(train(BYOL(), network(3)))
    monkeypatch.setattr(ImageNetwork, "members_per_part", 1)
    torch.testing.assert_close(numbers(train(BYOL(), network(3))), together, rtol=1e-5, atol=1e-6)
    expected = numbers(train(BYOL(), network(3)))
    assert ensemble.members_per_part(network(3), 3, 3) == 1
    monkeypatch.setattr(image_rows, "DRAWN_BYTES", 1)
    assert numbers(train(BYOL(), network(3))).equal(expected)
    monkeypatch.setattr(trajectory, "STEPS_AT_ONCE", 2)
    given = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert numbers(train(BYOL(), network(3))).equal(expected)
    finally:
        torch.set_num_threads(given)


def test_steps_on_images_are_not_recorded(monkeypatch):
    """A recording would cost seconds and is for block networks alone."""
    monkeypatch.setattr(steps, "WORTH_RECORDING", 1)
    monkeypatch.setattr(steps, "Recording", lambda *_: pytest.fail("a step was recorded"))
    assert train(BYOL()).losses.isfinite().all()


def run(checkpoints, images=DIGITS, augment=AUGMENT):
    """Nine steps, with snapshots at 4 and 9."""
    return dualnets.trajectory(
        network(), SimCLR(), images, augment=augment, steps=9, batch=8, seed=2, samples=40,
        optimizer=dualnets.SGD(0.05, momentum=0.9), snapshots=[4, 9], checkpoints=checkpoints,
    )  # fmt: skip


def test_a_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    kept = dualnets.Checkpoints(tmp_path, every=4)
    started = run(kept)
    assert next(started).step == 4
    started.close()
    assert kept.steps() == [0, 4]
    *_, final = run(kept)
    assert numbers(final).equal(numbers(train(SimCLR(), steps=9)))
    shuffled = DIGITS.train._replace(labels=np.roll(DIGITS.train.labels, 1))
    other = LabelledImages.from_arrays("digits", shuffled, DIGITS.test)
    with pytest.raises(ValueError, match="another training: there images is digits"):
        next(run(kept, other))
    with pytest.raises(ValueError, match="another training: there augment is default"):
        next(run(kept, augment=parse_views("flip")))


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (1 << 20, r"the network's weights\.16 .*: lower width or the number of members"),
        (1 << 24, "a step keeps for its backward pass, .*: lower batch or width"),
    ],
)
def test_memory_that_is_not_there_is_told_in_words_of_pictures(there, message, monkeypatch):
    monkeypatch.setattr(memory, "memory_of", lambda device: there)
    deep = dualnets.resnet18(DIGITS, width=8, members=2, seed=0)
    with pytest.raises(MemoryError, match=message):
        train(SimCLR(), deep, batch=200, samples=None, members_at_once=1)


TREE = hltm.symmetric_binary(depth=6, seed=0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: train(Supervised("root")), ValueError, "of pictures is 'label', got 'root'"),
        (
            lambda: train(
                Supervised("label"), dualnets.tree_network(TREE, units=2, seed=0), TREE,
                augment=hltm.keep_root(),
            ),
            ValueError, "targets must be 'root', 'latents', .* got 'label'",
        ),
        (
            lambda: train(SimCLR(), conv_net((1, 9, 9), seed=0)), ValueError,
            "the data have 64 numbers in a picture, the network reads 81",
        ),
        (
            lambda: train(SimCLR(), conv_net((1, 4, 16), seed=0)), ValueError,
            r"the pictures have the shape \(1, 8, 8\), the network reads \(1, 4, 16\)",
        ),
        (
            lambda: train(SimCLR(), conv_net((1, 8, 8), seed=0), TREE, augment=hltm.keep_root()),
            ValueError, r"reads pictures of the shape \(1, 8, 8\), the data are LatentTree\(127 nodes",
        ),
        (lambda: train(SimCLR(), images="digits"), TypeError, r"source must be .* or dualnets\.images"),
        (lambda: train(SimCLR(), images=TREE), TypeError, "augment must be an Augmentation, e.g. hltm"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
