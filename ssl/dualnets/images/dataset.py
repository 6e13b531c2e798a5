"""Pictures with labels: a training part, a test part, and the numbers that standardise them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from hltm._names import brief

MOST_LEVELS = 10_000  # pictures of which mean and deviation are taken
MOST_HASHED = 1_024  # pictures of each part that the digest reads
Array = np.ndarray


class Pictures(NamedTuple):
    """Pictures and their labels.

    Attributes:
        images: `(N, C, H, W)` uint8, an array or a memory map.
        labels: `(N,)` int64, 0 .. number of classes - 1.
    """

    images: Array
    labels: Array


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A data set of pictures, made by `load` or by `from_arrays`.

    Attributes:
        name: of the data set.
        train, test: the pictures to train on, and those to test on.
        classes: the name of each label.
        unlabelled: `(N, C, H, W)` uint8 more training pictures, without labels; None where there are none.

    Example:
        >>> from dualnets.images import load
        >>> digits = load("digits")
        >>> digits
        LabelledImages(digits: 1,297 training and 500 test pictures of 1x8x8, 10 classes)
        >>> digits.shape, digits.inputs
        ((1, 8, 8), 64)
    """

    name: str
    train: Pictures
    test: Pictures
    classes: tuple[str, ...]
    unlabelled: Array | None = None

    @classmethod
    def from_arrays(
        cls,
        name: str,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        classes: Sequence[str] | None = None,
        unlabelled: Any = None,
    ) -> LabelledImages:
        """A data set of arrays; uint8 pictures are not copied.

        Args:
            name: of the data set, for tables and figures.
            train, test: pictures, `(N, C, H, W)` or, in grey, `(N, H, W)` uint8, and `(N,)` integer labels.
            classes: the name of each label; by default its number, and then every class must be there.
            unlabelled: more training pictures, without labels.

        Raises:
            TypeError: pictures that are not uint8, or labels that are not integers.
            ValueError: no pictures, shapes that do not fit, channels that come last, or a label without a
                class.

        Example:
            >>> import numpy as np
            >>> images, labels = np.zeros((6, 4, 4), np.uint8), np.array([0, 1, 2, 0, 1, 2])
            >>> LabelledImages.from_arrays("mine", (images, labels), (images[:3], labels[:3]))
            LabelledImages(mine: 6 training and 3 test pictures of 1x4x4, 3 classes)
        """
        parts = {}
        for part, given in (("train", train), ("test", test)):
            if not isinstance(given, tuple | list) or len(given) != 2:
                raise TypeError(f"{part} must be (images, labels), got a {type(given).__name__}")
            parts[part] = _checked(part, *given)
        shape = parts["train"].images.shape[1:]
        more = None if unlabelled is None else _pictures("unlabelled", unlabelled)
        others = {"test": parts["test"].images} | ({} if more is None else {"unlabelled": more})
        for part, images in others.items():
            if images.shape[1:] != shape:
                raise ValueError(
                    f"{part} pictures must have the shape of the training pictures, {_by(shape)}, got "
                    f"{_by(images.shape[1:])}"
                )
        found = 1 + max(int(pictures.labels.max()) for pictures in parts.values())
        if classes is None:
            there = set().union(*(np.unique(own.labels).tolist() for own in parts.values()))
            if len(there) < found:
                raise ValueError(
                    f"without names of classes, labels must be 0 .. number of classes - 1, each of them "
                    f"there, got {len(there)} labels up to {found - 1}"
                )
        names = tuple(map(str, range(found) if classes is None else classes))
        if len(names) < found:
            raise ValueError(f"label {found - 1} has no name among {len(names)} classes")
        return cls(name, parts["train"], parts["test"], names, more)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), the shape of a picture."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def inputs(self) -> int:
        """C*H*W, the numbers of a picture."""
        channels, height, width = self.shape
        return channels * height * width

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of the content: of all labels, and of pictures evenly spaced."""
        found = hashlib.sha256(repr(self.classes).encode())
        for part in (self.train, self.test):
            found.update(repr(part.images.shape).encode())
            found.update(np.ascontiguousarray(part.labels).data)
            found.update(_spaced(part.images, MOST_HASHED).data)
        return found.hexdigest()[:32]

    def target_classes(self, targets: Any) -> list[int]:
        """The number of classes of the only target that pictures have, `label`.

        Raises:
            ValueError: any other target.
        """
        if targets not in ("label", ("label",)):
            raise ValueError(f"the only target of pictures is 'label', got {targets!r}")
        return [len(self.classes)]

    def rows(
        self,
        *,
        members: tuple[int, ...],
        augment: Any,
        batch: int,
        seed: int,
        stacked: bool,
        device: Any,
        samples: int | None,
    ) -> Any:
        """The training pictures as `dualnets.train` reads them; see `dualnets.images.rows.image_rows`."""
        from dualnets.images.rows import image_rows  # which imports torch

        return image_rows(
            self, augment=augment, samples=samples, members=members, batch=batch, seed=seed,
            stacked=stacked, device=device,
        )  # fmt: skip

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Of each channel of the training pictures, in units where white is 1.

        Large data sets: of 10,000 pictures, evenly spaced; so is `std`.
        """
        return tuple((self._levels.mean((0, 2, 3), dtype=np.float64) / 255).tolist())

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, as `mean`; 1 for a channel that is constant."""
        found = self._levels.std((0, 2, 3), dtype=np.float64) / 255
        return tuple(np.where(found > 0, found, 1.0).tolist())

    @property
    def _levels(self) -> Array:
        return _spaced(self.train.images, MOST_LEVELS)

    def __repr__(self) -> str:
        return (
            f"LabelledImages({brief(self.name)}: {len(self.train.labels):,} training and "
            f"{len(self.test.labels):,} test pictures of {_by(self.shape)}, {len(self.classes)} classes)"
        )


def _spaced(images: Array, most: int) -> Array:
    """At most so many pictures, evenly spaced, in memory."""
    return np.ascontiguousarray(images[:: -(-len(images) // most)])


def _checked(part: str, images: Any, labels: Any) -> Pictures:
    found, given = _pictures(part, images), np.asarray(labels)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{part} labels must be integers, got {given.dtype}")
    if given.shape != (len(found),):
        raise ValueError(
            f"{part} labels must have the shape ({len(found)},), one for each picture, got {given.shape}"
        )
    labels = given.astype(np.int64)
    if labels.min() < 0:  # so is what is too large for int64
        raise ValueError(f"{part} labels must be int64 of at least 0, got {given[labels.argmin()]}")
    return Pictures(found, labels)


def _pictures(part: str, images: Any) -> Array:
    """`(N, C, H, W)` uint8; a memory map stays one."""
    found = images if isinstance(images, np.ndarray) else np.asarray(images)
    if found.dtype != np.uint8:
        raise TypeError(f"{part} pictures must be uint8, 0 black and 255 white, got {found.dtype}")
    if found.ndim not in (3, 4) or not found.size:
        raise ValueError(
            f"{part} pictures must have the shape (N, C, H, W) or (N, H, W), got {found.shape}"
        )
    if found.ndim == 4 and found.shape[3] in (1, 3, 4) and found.shape[1] > 4:
        raise ValueError(
            f"{part} pictures must have the shape (N, C, H, W), got {found.shape}, whose channels come "
            "last: move them by .transpose(0, 3, 1, 2)"
        )
    return found if found.ndim == 4 else found[:, None]


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
