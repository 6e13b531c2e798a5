"""Readers of the files in which data sets of pictures are published; what is damaged is refused by name.

IDX (MNIST and its successors), the binary version of CIFAR-10, and the binaries of STL-10. Files that are
not compressed are memory-mapped, so that of a large one only what is used is read.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np

from hltm._names import visible

Array = np.ndarray
CHECKED_BYTES = 1 << 28  # larger files are not read only to check them
IDX_UINT8 = 8  # the third byte of an IDX file: what its numbers are
CIFAR_SHAPE = (3, 32, 32)
STL_SHAPE = (3, 96, 96)


def read_idx(path: Path, dimensions: int, checksum: str | None = None) -> Array:
    """The uint8 numbers of an IDX file, plain or compressed by gzip (`.gz`).

    The format: two zero bytes, the type of the numbers, the number of dimensions, the size of each as 32
    bits, highest byte first; then the numbers, the last dimension varying fastest.

    Args:
        path: of the file.
        dimensions: 1 of labels, 3 of pictures `(N, H, W)`.
        checksum: `algorithm:digits` of the file without compression; None if it is not to be checked.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged or truncated, of another format, or with another checksum.
    """
    whole = _unzipped(path) if path.suffix == ".gz" else _mapped(path)
    start = 4 + 4 * dimensions
    expected = bytes([0, 0, IDX_UINT8, dimensions])
    begin = whole[:start].tobytes()
    if begin[:4] == expected and len(begin) < start:
        raise _damaged(path, f"its header has {start} bytes, the file {len(begin)}")
    if begin[:4] != expected:
        raise _damaged(
            path,
            f"an IDX file of uint8 in {dimensions} dimensions begins with {expected.hex(' ')}, this one "
            f"with {begin[:4].hex(' ') or 'nothing'}",
        )
    shape = struct.unpack(f">{dimensions}I", begin[4:])
    _check_size(path, len(whole), start + int(np.prod(shape, dtype=object)))
    _check_sum(path, whole, checksum)
    return whole[start:].reshape(shape)


def read_cifar10(path: Path, checksum: str | None = None) -> tuple[Array, Array]:
    """`(N, 3, 32, 32)` uint8 pictures and `(N,)` uint8 labels of a batch of CIFAR-10's binary version.

    Each record is a label and then the red, the green and the blue plane.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, a label above 9, or another checksum.
    """
    whole = _mapped(path)
    record = 1 + int(np.prod(CIFAR_SHAPE))
    records = _records(path, whole, record, checksum)
    labels = records[:, 0]
    _check_labels(path, labels, 0, 9)
    return records[:, 1:].reshape(-1, *CIFAR_SHAPE), labels


def read_stl10(path: Path, checksum: str | None = None) -> Array:
    """`(N, 3, 96, 96)` uint8 pictures of a file of STL-10, which has each plane column by column.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, or another checksum.
    """
    whole = _mapped(path)
    columns = _records(path, whole, int(np.prod(STL_SHAPE)), checksum)
    return columns.reshape(-1, *STL_SHAPE).transpose(0, 1, 3, 2)


def read_stl10_labels(path: Path, checksum: str | None = None) -> Array:
    """`(N,)` uint8 labels from 0 of a file of STL-10, which counts them from 1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a label outside 1..10, or another checksum.
    """
    whole = _records(path, _mapped(path), 1, checksum)[:, 0]
    _check_labels(path, whole, 1, 10)
    return whole - np.uint8(1)


def _records(path: Path, whole: Array, size: int, checksum: str | None) -> Array:
    """`(N, size)` records of a file that has nothing else."""
    count, rest = divmod(len(whole), size)
    if rest or not count:
        raise _damaged(path, f"expected records of {size:,} bytes, got {len(whole):,} bytes")
    _check_sum(path, whole, checksum)
    return whole.reshape(count, size)


def _mapped(path: Path) -> Array:
    if not path.stat().st_size:  # numpy maps no empty file
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r")


def _unzipped(path: Path) -> Array:
    try:
        with gzip.open(path) as file:
            return np.frombuffer(file.read(), np.uint8)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, f"it cannot be decompressed: {error}") from None


def _check_size(path: Path, size: int, expected: int) -> None:
    if size != expected:
        raise _damaged(path, f"expected {expected:,} bytes (uncompressed), got {size:,}")


def _check_labels(path: Path, labels: Array, low: int, high: int) -> None:
    wrong = labels[(labels < low) | (labels > high)]
    if wrong.size:
        raise _damaged(path, f"labels must be in {low}..{high}, got {wrong[0]}")


def _check_sum(path: Path, whole: Array, checksum: str | None) -> None:
    if checksum is None or whole.size > CHECKED_BYTES:
        return
    algorithm, _, digits = checksum.partition(":")
    found = hashlib.new(algorithm, whole.data, usedforsecurity=False).hexdigest()
    if found != digits:
        raise _damaged(
            path,
            f"its {algorithm} is {found}, that of the published file {digits}; "
            "dualnets.images.load(…, checksums=False) reads it",
        )


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{visible(path)} is damaged or another file: {why}")
