"""The shapes of convolutional networks: pictures, blocks, and the convolutions of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dualnets._checks import check_whole


@dataclass(frozen=True)
class Block:
    """Convolutions of 3x3 one behind the other, the first of them with the stride; each has its norm.

    Attributes:
        channels: C of every convolution.
        stride: of the first one.
        convolutions: their number.
        residual: whether the block's input is added before the last ReLU; where it has another shape, through
            a convolution of 1x1 with the stride and a norm (He and others, arXiv 1512.03385, option B).
    """

    channels: int
    stride: int = 1
    convolutions: int = 1
    residual: bool = False

    def __post_init__(self) -> None:
        check_whole("channels", self.channels, low=1)

    def projects(self, channels: int) -> bool:
        """Whether an input of so many channels is added through a convolution."""
        return self.residual and (self.stride > 1 or channels != self.channels)


class Convolution(NamedTuple):
    """The shape of one convolution; padding keeps the centre of the first window on the first place."""

    inputs: int
    channels: int
    size: int
    stride: int


def picture_shape(images: Any) -> tuple[int, int, int]:
    """`(C, H, W)` of a triple, or of what has such a `shape`.

    Raises:
        TypeError, ValueError: any other value, or a size below 1.

    Example:
        >>> picture_shape((3, 32, 32))
        (3, 32, 32)
        >>> picture_shape((28, 28))
        Traceback (most recent call last):
        ValueError: images must have a shape (C, H, W), got (28, 28)
    """
    given = getattr(images, "shape", images)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(
            f"images must be (C, H, W) or a data set of such a shape, got {images!r:.80}"
        )
    if len(given) != 3:
        raise ValueError(f"images must have a shape (C, H, W), got {tuple(given)}")
    channels, height, width = (check_whole("a size of images", size, low=1) for size in given)
    return channels, height, width


def convolutions(channels: int, blocks: Sequence[Block]) -> Iterator[Convolution]:
    """The convolutions of all blocks in the order of computation."""
    for block in blocks:
        below = channels
        for n in range(block.convolutions):
            yield Convolution(channels, block.channels, 3, 1 if n else block.stride)
            channels = block.channels
        if block.projects(below):
            yield Convolution(below, channels, 1, block.stride)
