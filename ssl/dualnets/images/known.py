"""The data sets known by name: of which files they are, where these are found, and what is in them.

Nothing is downloaded. A data set whose files are absent is refused with what to put where.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dualnets._checks import check_choice, check_switch
from dualnets.images.dataset import LabelledImages
from dualnets.images.files import read_cifar10, read_idx, read_stl10, read_stl10_labels
from hltm._names import visible
from hltm._paths import local_path

VARIABLE = "HLTM_DATA"  # of the environment: a folder of data sets
DIGITS_SEED, DIGITS_TEST = 0, 500  # the split of the digits into training and test pictures
ANIMALS_AND_VEHICLES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

Reader = Callable[[Callable[[str], Path], Mapping[str, str]], dict[str, Any]]


@dataclass(frozen=True)
class KnownImages:
    """A data set that `load` knows.

    Attributes:
        contents: what the pictures show, in a line.
        classes: the name of each label.
        read: from the path of a file by name, and the checksums of all files, to the arguments of
            `LabelledImages.from_arrays`.
        checksums: file -> `algorithm:digits`; of compressed files, of what is in them. Empty for a data
            set that needs no file.
        optional: files that may be absent.
        published: the file that people publish it as.
        archive: the folder that this unpacks into.
        packaged: where a package of a system puts it, and the package.
        compressed: whether a file may have `.gz` behind its name.
    """

    contents: str
    classes: tuple[str, ...]
    read: Reader
    checksums: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    published: str = ""
    archive: str = ""
    packaged: tuple[Path, str] | None = None
    compressed: bool = False

    def path(self, folder: Path, file: str) -> Path:
        """Where a file of the data set lies in a folder: the plain one, or the compressed one."""
        plain = folder / file
        zipped = folder / f"{file}.gz"
        return zipped if self.compressed and not plain.is_file() and zipped.is_file() else plain

    def missing(self, folder: Path) -> list[str]:
        """The files that a folder lacks."""
        needed = (file for file in self.checksums if file not in self.optional)
        return [file for file in needed if not self.path(folder, file).is_file()]


def load(
    name: str = "digits", folder: str | os.PathLike[str] | None = None, *, checksums: bool = True
) -> LabelledImages:
    """A data set of pictures that lies on this machine; nothing is downloaded.

    Its files are looked for in `folder`, else in the folder that the environment variable HLTM_DATA names,
    else where a package of the system puts them; there, in a subfolder of the data set's name, in that of its
    published archive, or in the folder itself. The digits come with scikit-learn.

    Args:
        name: `digits`: 1,797 handwritten digits, 8x8, of which 500 are for tests, a fixed random choice;
            `fashion-mnist`: 70,000 pictures of clothes, 28x28 (IDX files, plain or .gz); `cifar10`:
            60,000 of animals and vehicles, 3x32x32 (the binary version); `stl10`: 13,000 of the same,
            3x96x96, and 100,000 without labels if `unlabeled_X.bin` is there; memory-mapped.
        folder: where the files are.
        checksums: whether files of up to 256 MiB must be those that were published.

    Raises:
        FileNotFoundError: files are absent; the text says what to put where, or what to install.
        NotADirectoryError: `folder`, or what HLTM_DATA names, is no folder.
        TypeError: checksums is not True or False.
        ValueError: an unknown name, or a file that is damaged or another one.

    Example:
        >>> load().train.images.shape
        (1297, 1, 8, 8)
    """
    check_choice("a data set of images", name, tuple(KNOWN))
    check = check_switch("checksums", checksums)
    known = KNOWN[name]
    home = found_in(name, folder) if known.checksums else Path()
    made = known.read(lambda file: known.path(home, file), known.checksums if check else {})
    return LabelledImages.from_arrays(name, classes=known.classes, **made)


def found_in(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder in which all files of a data set are; for the arguments and errors of `load`."""
    known = KNOWN[name]
    given = folder if folder is not None else os.environ.get(VARIABLE) or None
    homes = [] if given is None else [local_path(given)]
    if homes and homes[0].exists() and not homes[0].is_dir():
        raise NotADirectoryError(
            f"data sets of images are in a folder, which {visible(homes[0])} is not"
        )
    places = [home / sub for home in homes for sub in filter(None, (name, known.archive))] + homes
    if folder is None and known.packaged:
        places.append(known.packaged[0])
    for place in places:
        if not known.missing(place):
            return place
    needed = [file for file in known.checksums if file not in known.optional]
    place = min(places, key=lambda each: len(known.missing(each)), default=Path())
    files = known.missing(place) if places else needed
    state, target = "found", f"a folder, and name the folder by --data, folder= or {VARIABLE}"
    if 0 < len(files) < len(needed):
        state, target = "complete", visible(place)
    elif homes:
        state, target = f"found in {visible(homes[0])}", visible(homes[0] / name)
    raise FileNotFoundError(
        f"{name} is not {state}: put {', '.join(files)}{' (or .gz)' * known.compressed}"
        f"{known.published and f' of {known.published}'} into {target}"
        + (f", or install Debian's {known.packaged[1]}" if known.packaged else "")
    )


def _digits(path: Callable[[str], Path], checksums: Mapping[str, str]) -> dict[str, Any]:
    from hltm.sampling.philox import Stream, uniform  # which imports torch

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FileNotFoundError(
            "digits are not found: they come with scikit-learn, which is not installed: "
            "pip install scikit-learn"
        ) from error
    found = load_digits()
    keys = uniform(
        len(found.target), seed=DIGITS_SEED, stream=Stream.PERMUTATION, members=(0,), node=0
    )
    order = np.argsort(keys[0].numpy(), kind="stable")
    images = np.rint(found.images[order] * (255 / 16)).astype(np.uint8)
    labels, cut = found.target[order], len(order) - DIGITS_TEST
    return {"train": (images[:cut], labels[:cut]), "test": (images[cut:], labels[cut:])}


def _idx(path: Callable[[str], Path], checksums: Mapping[str, str]) -> dict[str, Any]:
    def part(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        files = (f"{prefix}-images-idx3-ubyte", 3), (f"{prefix}-labels-idx1-ubyte", 1)
        images, labels = (read_idx(path(file), d, checksums.get(file)) for file, d in files)
        return images, labels

    return {"train": part("train"), "test": part("t10k")}


def _cifar10(path: Callable[[str], Path], checksums: Mapping[str, str]) -> dict[str, Any]:
    def read(file: str) -> tuple[np.ndarray, np.ndarray]:
        return read_cifar10(path(file), checksums.get(file))

    images, labels = zip(*(read(f"data_batch_{i}.bin") for i in range(1, 6)), strict=True)
    return {
        "train": (np.concatenate(images), np.concatenate(labels)),
        "test": read("test_batch.bin"),
    }


def _stl10(path: Callable[[str], Path], checksums: Mapping[str, str]) -> dict[str, Any]:
    def part(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = f"{prefix}_X.bin", f"{prefix}_y.bin"
        return (
            read_stl10(path(images), checksums.get(images)),
            read_stl10_labels(path(labels), checksums.get(labels)),
        )

    more = path("unlabeled_X.bin")
    unlabelled = read_stl10(more, checksums.get(more.name)) if more.is_file() else None
    return {"train": part("train"), "test": part("test"), "unlabelled": unlabelled}


KNOWN: dict[str, KnownImages] = {
    "digits": KnownImages(
        "1,797 handwritten digits, 1x8x8, 10 classes",
        tuple("0123456789"),
        _digits,
    ),
    "fashion-mnist": KnownImages(
        "70,000 pictures of clothes, 1x28x28, 10 classes",
        (
            "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
            "ankle boot",
        ),
        _idx,
        checksums={
            "train-images-idx3-ubyte":
                "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte":
                "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte":
                "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte":
                "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        packaged=(Path("/usr/share/datasets/fashion-mnist"), "dataset-fashion-mnist"),
        compressed=True,
    ),
    "cifar10": KnownImages(
        "60,000 pictures of animals and vehicles, 3x32x32, 10 classes",
        ANIMALS_AND_VEHICLES,
        _cifar10,
        checksums={
            "data_batch_1.bin": "sha1:aadd24acce27caa71bf4b10992e9e7b2d74c2540",
            "data_batch_2.bin": "sha1:c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
            "data_batch_3.bin": "sha1:1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
            "data_batch_4.bin": "sha1:aab85764eb3584312d3c7f65fd2fd016e36a258e",
            "data_batch_5.bin": "sha1:26e2849e66a845b7f1e4614ae70f4889ae604628",
            "test_batch.bin": "sha1:67eb016db431130d61cd03c7ad570b013799c88c",
        },
        published="cifar-10-binary.tar.gz",
        archive="cifar-10-batches-bin",
    ),
    "stl10": KnownImages(
        "13,000 pictures of animals and vehicles, 3x96x96, 10 classes",
        ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        _stl10,
        checksums={
            "train_X.bin": "md5:918c2871b30a85fa023e0c44e0bee87f",
            "train_y.bin": "md5:5a34089d4802c674881badbb80307741",
            "test_X.bin": "md5:7f263ba9f9e0b06b93213547f721ac82",
            "test_y.bin": "md5:36f9794fa4beb8a2c72628de14fa638e",
            "unlabeled_X.bin": "md5:5242ba1fed5e4be9e1e742405eb56ca4",
        },
        optional=("unlabeled_X.bin",),
        published="stl10_binary.tar.gz",
        archive="stl10_binary",
    ),
}  # fmt: skip
