"""Files of pictures: every format as it is published, on small files; what is damaged is refused by name."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from dualnets.images.files import read_cifar10, read_idx, read_stl10, read_stl10_labels

RANDOM = np.random.default_rng(0)


def written(path, content):
    path.write_bytes(content)
    return path


def idx(array, kind=8):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, kind, array.ndim]) + shape + array.tobytes()


def test_idx_files_plain_and_compressed_have_the_same_pictures(tmp_path):
    pictures = RANDOM.integers(0, 256, (5, 3, 4), np.uint8)
    plain = written(tmp_path / "a", idx(pictures))
    zipped = written(tmp_path / "a.gz", gzip.compress(idx(pictures)))
    for path in (plain, zipped):
        assert np.array_equal(read_idx(path, 3), pictures)
    assert isinstance(read_idx(plain, 3).base, np.memmap)
    labels = pictures[:, 0, 0]
    assert np.array_equal(read_idx(written(tmp_path / "l", idx(labels)), 1), labels)


def test_checksums_are_of_what_is_in_a_file(tmp_path):
    content = idx(np.arange(4, dtype=np.uint8))
    known = f"sha256:{hashlib.sha256(content).hexdigest()}"
    zipped = written(tmp_path / "l.gz", gzip.compress(content))
    assert read_idx(zipped, 1, known).tolist() == [0, 1, 2, 3]
    changed = written(tmp_path / "m", content[:-1] + b"\7")
    with pytest.raises(
        ValueError, match=r"m is damaged or another file: its sha256 is .*checksums=Fal"
    ):
        read_idx(changed, 1, known)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with 00 00 08 03, this one with nothing"),
        (idx(np.zeros((2, 3), np.uint8)), "this one with 00 00 08 02"),
        (idx(np.zeros((2, 3, 1), np.uint8), kind=13), "this one with 00 00 0d 03"),
        (idx(np.zeros((2, 3, 1), np.uint8))[:9], "its header has 16 bytes, the file 9"),
        (idx(np.zeros((2, 3, 1), np.uint8))[:-1], "expected 22 bytes .*, got 21"),
        (idx(np.zeros((2, 3, 1), np.uint8)) + b"\0", "expected 22 bytes .*, got 23"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "expected 79,228,162,458,924,105,"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"bad is damaged or another file: .*{message}"):
        read_idx(written(tmp_path / "bad", content), 3)


def test_a_file_that_cannot_be_decompressed_is_named(tmp_path):
    whole = gzip.compress(idx(RANDOM.integers(0, 256, (9, 9, 9), np.uint8)))
    damaged = bytearray(whole)
    damaged[40] ^= 255
    for content in (b"no gzip", whole[:-20], bytes(damaged)):
        with pytest.raises(ValueError, match=r"bad\.gz is damaged or another file: it cannot be"):
            read_idx(written(tmp_path / "bad.gz", content), 3)
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none", 3)


def test_cifar10_records_are_a_label_and_three_planes(tmp_path):
    pictures, labels = RANDOM.integers(0, 256, (3, 3, 32, 32), np.uint8), [7, 0, 9]
    content = b"".join(
        bytes([k]) + picture.tobytes() for k, picture in zip(labels, pictures, strict=True)
    )
    found, their = read_cifar10(written(tmp_path / "b.bin", content))
    assert np.array_equal(found, pictures)
    assert their.tolist() == labels
    with pytest.raises(ValueError, match=r"records of 3,073 bytes, got 9,218 bytes"):
        read_cifar10(written(tmp_path / "b.bin", content[:-1]))
    with pytest.raises(ValueError, match=r"labels must be in 0..9, got 10"):
        read_cifar10(written(tmp_path / "b.bin", bytes([10]) + content[1:]))
    with pytest.raises(ValueError, match=r"got 0 bytes"):
        read_cifar10(written(tmp_path / "b.bin", b""))


def test_stl10_planes_are_column_by_column(tmp_path):
    pictures = RANDOM.integers(0, 256, (2, 3, 96, 96), np.uint8)
    path = written(tmp_path / "train_X.bin", pictures.transpose(0, 1, 3, 2).tobytes())
    found = read_stl10(path)
    assert np.array_equal(found, pictures)
    assert isinstance(found, np.memmap)  # nothing is read before it is used
    assert read_stl10_labels(written(tmp_path / "y", bytes([1, 10, 3]))).tolist() == [0, 9, 2]
    with pytest.raises(ValueError, match=r"labels must be in 1..10, got 0"):
        read_stl10_labels(written(tmp_path / "y", bytes([1, 0])))
    with pytest.raises(ValueError, match=r"records of 27,648 bytes"):
        read_stl10(written(tmp_path / "short", b"\0" * 100))


def test_no_file_is_written_to(tmp_path):
    path = written(tmp_path / "y", bytes([1, 2]))
    with pytest.raises(ValueError, match="read-only"):
        read_idx(written(tmp_path / "l", idx(np.arange(3, dtype=np.uint8))), 1)[0] = 1
    read_stl10_labels(path)
    assert Path(path).read_bytes() == bytes([1, 2])
