"""Data sets of pictures: found where they may lie, refused with what to put where, made of arrays."""

import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from test_image_files import idx

from dualnets.images import LabelledImages, known, load

DEBIAN = known.KNOWN["fashion-mnist"].packaged[0]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("HLTM_DATA", raising=False)


def fashion_files(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for prefix, count in (("train", 6), ("t10k", 4)):
        images = np.full((count, 28, 28), 7, np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8)))
    return folder


def test_the_digits_are_split_once_and_for_all():
    digits = load()
    assert digits.shape == (1, 8, 8)
    assert digits.inputs == 64
    assert [part.images.dtype for part in (digits.train, digits.test)] == [np.uint8] * 2
    assert (len(digits.train.labels), len(digits.test.labels)) == (1297, 500)
    assert digits.train.images.max() == 255
    # every class is in both parts about as often as it should be
    assert np.bincount(digits.test.labels).min() > 35
    from sklearn.datasets import load_digits

    both = np.concatenate([digits.train.images, digits.test.images])[:, 0]
    drawn = load_digits()
    assert np.array_equal(
        np.sort(both.sum((1, 2))), np.sort(np.rint(drawn.images * 255 / 16).sum((1, 2)))
    )
    # frozen: a published number is of this split
    assert digits.digest == "aef3f7d23f4168881000b01b4588a566"
    assert pickle.loads(pickle.dumps(digits)).digest == digits.digest


def test_mean_and_deviation_are_of_the_training_pictures():
    digits = load()
    levels = digits.train.images / 255
    assert digits.mean == pytest.approx((levels.mean(),))
    assert digits.std == pytest.approx((levels.std(),))
    black = np.zeros((3, 2, 4, 4), np.uint8)
    constant = LabelledImages.from_arrays("c", (black, [0, 1, 2]), (black, [0, 1, 2]))
    assert constant.mean == (0, 0)
    assert constant.std == (1, 1)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_found_where_debian_puts_it():
    fashion = load("fashion-mnist")
    assert fashion.train.images.shape == (60_000, 1, 28, 28)
    assert np.bincount(fashion.test.labels).tolist() == [1000] * 10
    assert fashion.mean == pytest.approx((0.286,), abs=2e-3)  # as published
    assert fashion.std == pytest.approx((0.353,), abs=2e-3)


@pytest.mark.parametrize("inside", ["", "fashion-mnist"])
def test_a_folder_may_hold_the_files_or_a_subfolder_of_them(tmp_path, monkeypatch, inside):
    fashion_files(tmp_path / "data" / inside)
    for folder in (tmp_path / "data", str(tmp_path / "data")):
        found = load("fashion-mnist", folder, checksums=False)
        assert found.test.labels.tolist() == [0, 1, 2, 3]
    monkeypatch.setenv("HLTM_DATA", str(tmp_path / "data"))
    assert load("fashion-mnist", checksums=False).digest == found.digest
    with pytest.raises(ValueError, match="its sha256 is"):
        load("fashion-mnist")
    # a folder that is given is the only one
    with pytest.raises(FileNotFoundError, match=f"not found in {tmp_path}/other: put "):
        load("fashion-mnist", tmp_path / "other")


def test_cifar10_joins_its_batches(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for at, file in enumerate(known.KNOWN["cifar10"].checksums):
        (folder / file).write_bytes((bytes([at]) + bytes([at]) * 3072) * (1 + (at == 2)))
    found = load("cifar10", tmp_path, checksums=False)
    assert found.train.labels.tolist() == [0, 1, 2, 2, 3, 4]
    assert found.train.images[:, 2, 31, 31].tolist() == [0, 1, 2, 2, 3, 4]
    assert found.test.labels.tolist() == [5]
    assert found.classes[9] == "truck"


def test_stl10_has_pictures_without_labels_where_their_file_is(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}_X.bin").write_bytes(bytes(2 * 27_648))
        (tmp_path / f"{part}_y.bin").write_bytes(bytes([3, 1]))
    assert load("stl10", tmp_path, checksums=False).unlabelled is None
    (tmp_path / "unlabeled_X.bin").write_bytes(bytes(3 * 27_648))
    found = load("stl10", tmp_path, checksums=False)
    assert found.unlabelled.shape == (3, 3, 96, 96)
    assert isinstance(found.unlabelled, np.memmap)
    assert isinstance(found.train.images, np.memmap)
    assert found.train.labels.tolist() == [2, 0]


def test_absent_files_are_refused_with_what_to_put_where(tmp_path):
    with pytest.raises(FileNotFoundError) as absent:
        load("fashion-mnist", tmp_path)
    assert str(absent.value) == (
        f"fashion-mnist is not found in {tmp_path}: put train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        f"t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (or .gz) into {tmp_path}/fashion-mnist, or install "
        "Debian's dataset-fashion-mnist"
    )
    expected = (
        r"test_batch.bin of cifar-10-binary.tar.gz into a folder, and name the folder by --da"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        load("cifar10")
    (tmp_path / "train_X.bin").touch()
    with pytest.raises(FileNotFoundError) as partly:
        load("stl10", tmp_path)
    assert str(partly.value) == (
        "stl10 is not complete: put train_y.bin, test_X.bin, test_y.bin of stl10_binary.tar.gz into "
        f"{tmp_path}"
    )
    with pytest.raises(NotADirectoryError, match=r"are in a folder, which .*train_X.bin is not"):
        load("cifar10", tmp_path / "train_X.bin")


def test_other_arguments_are_refused():
    with pytest.raises(
        ValueError, match=r"one of digits, fashion-mnist, cifar10, stl10, got 'mnist'"
    ):
        load("mnist")
    with pytest.raises(TypeError, match="checksums must be True or False"):
        load("digits", checksums="no")
    with pytest.raises(ValueError, match="is a URL"):
        load("cifar10", "s3://bucket/data")


def test_without_scikit_learn_the_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(FileNotFoundError) as found:
        load()
    assert str(found.value) == (
        "digits are not found: they come with scikit-learn, which is not installed: pip install "
        "scikit-learn"
    )


def test_arrays_of_ones_own():
    grey, labels = np.arange(96, dtype=np.uint8).reshape(6, 4, 4), [0, 1, 2, 0, 1, 2]
    mine = LabelledImages.from_arrays(
        "mine", (grey, labels), (grey[:2], np.array([1, 0], np.uint8))
    )
    assert mine.shape == (1, 4, 4)
    assert np.shares_memory(mine.train.images, grey)
    assert mine.train.labels.dtype == mine.test.labels.dtype == np.int64
    assert mine.classes == ("0", "1", "2")
    named = LabelledImages.from_arrays("mine", (grey, labels), (grey, labels), ["a", "b", "c", "d"])
    assert named.classes == ("a", "b", "c", "d")


@pytest.mark.parametrize("change", ["picture", "label", "test", "class"])
def test_the_digest_is_of_the_content(change):
    def made(wanted):
        images, labels, other = (
            np.zeros((3, 1, 2, 2), np.uint8),
            np.zeros(3, int),
            np.ones((2, 1, 2, 2)),
        )
        other = other.astype(np.uint8)
        images[1] = wanted == "picture"
        labels[0] = wanted == "label"
        other[0] = 5 if wanted == "test" else 1
        classes = ["a", "c" if wanted == "class" else "b"]
        return LabelledImages.from_arrays("x", (images, labels), (other, [0, 1]), classes).digest

    assert made(None) == made(None)
    assert made(change) != made(None)


@pytest.mark.parametrize(
    ("train", "test", "classes", "error", "message"),
    [
        ((np.zeros((2, 4, 4)), [0, 1]), None, None, TypeError, "must be uint8, .* got float64"),
        ((np.zeros((2, 4), np.uint8), [0, 1]), None, None, ValueError, r"\(N, H, W\), got \(2, 4\)"),
        ((np.zeros((2, 6, 6, 3), np.uint8), [0, 1]), None, None, ValueError, r"transpose\(0, 3, 1, 2\)"),
        ((np.zeros((0, 4, 4), np.uint8), []), None, None, ValueError, r"got \(0, 4, 4\)"),
        ((np.zeros((2, 4, 4), np.uint8), [0.0, 1]), None, None, TypeError, "labels must be integers"),
        ((np.zeros((2, 4, 4), np.uint8), [0]), None, None, ValueError, r"shape \(2,\), .* got \(1,\)"),
        ((np.zeros((2, 4, 4), np.uint8), [0, -1]), None, None, ValueError, "at least 0, got -1"),
        (
            (np.zeros((2, 4, 4), np.uint8), np.array([0, 1 << 63], np.uint64)), None, None,
            ValueError, "must be int64 of at least 0, got 9223372036854775808",
        ),
        ((np.zeros((2, 4, 4), np.uint8), [0, 3]), None, "abc", ValueError, "label 3 has no name among 3"),
        ((np.zeros((2, 4, 4), np.uint8), [0, 3]), None, None, ValueError, "there, got 3 labels up to 3"),
        (None, (np.zeros((2, 4, 5), np.uint8), [0, 1]), None, ValueError, "1x4x4, got 1x4x5"),
        (np.zeros((2, 4, 4), np.uint8), None, None, TypeError, r"must be \(images, labels\), got a ndarray"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_pictures_are_refused(train, test, classes, error, message):
    good = np.zeros((2, 4, 4), np.uint8), [0, 1]
    with pytest.raises(error, match=message):
        LabelledImages.from_arrays(
            "x", good if train is None else train, good if test is None else test, classes
        )


def test_published_checksums_are_well_formed():
    for each in known.KNOWN.values():
        for text in each.checksums.values():
            algorithm, digits = text.split(":")
            assert len(bytes.fromhex(digits)) == hashlib.new(algorithm).digest_size
