"""Operations that compute a pixel from pixels at other places: crop, shift, flip and blur.

All but the flip are rows @ picture @ columns^T with a small matrix of weights for each picture and axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dualnets._checks import check_number, check_whole
from dualnets._lazy import torch
from dualnets.images.operations.operation import OPERATIONS, Draws, Operation

if TYPE_CHECKING:
    from torch import Tensor

RATIO = math.log(4 / 3)  # of a crop's sides: between 3/4 and 4/3, as published
BLUR = (0.1, 2.0)  # deviations in pixels, as published
SHARP = 1e-3  # a deviation in pixels at which a Gaussian is one pixel
NOTHING, LEAST = 1e-9, -21.0  # weights of a Gaussian below this are 0, e^-21 among them


@OPERATIONS.register("crop")
@dataclass(frozen=True)
class Crop(Operation):
    """A random part of the picture, resized to the whole by bilinear interpolation.

    Its area is uniform in scale..1 of the picture's, the logarithm of its width over its height, each as a
    share of the picture's, uniform between those of 3/4 and 4/3 (a side longer than the picture's is cut to
    it), its place uniform.
    Szegedy et al. (arXiv 1409.4842); SimCLR and BYOL take a scale of 0.08.

    Attributes:
        scale: smallest share of the area, above 0 and at most 1.

    Raises:
        TypeError, ValueError: scale is no number in 0 < scale <= 1.
    """

    scale: float
    word: ClassVar[str] = "crop"
    address: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_number("crop's scale", self.scale, above=0, high=1)

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        area = draws.between(0, self.scale, 1)
        stretch = torch.exp(draws.between(1, -RATIO, RATIO) / 2)
        sides = [(area.sqrt() / stretch).clamp(max=1), (area.sqrt() * stretch).clamp(max=1)]
        matrices = []
        for at, (side, size) in enumerate(zip(sides, pictures.shape[-2:], strict=True)):
            start = draws.between(2 + at, 0, 1) * (1 - side)
            place = torch.arange(size, device=pictures.device)[:, None]  # (size, 1), of the result
            source = (start + (place + 0.5) / size * side) * size - 0.5
            # weights 1 - |distance| of the two nearest pixels, `(N, 1, size, size)`
            matrices.append(_hat(source.clamp(0, size - 1)))
        return _resampled(pictures, *matrices)


@OPERATIONS.register("shift")
@dataclass(frozen=True)
class Shift(Operation):
    """Moved by whole pixels, uniform in -pixels..pixels each way; what comes in is black.

    Attributes:
        pixels: the most in a direction, at least 1 and less than the shorter side.

    Raises:
        TypeError, ValueError: pixels is no whole number of at least 1.
    """

    pixels: int
    word: ClassVar[str] = "shift"
    address: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_whole("shift's pixels", self.pixels, low=1)

    def check_shape(self, shape: Sequence[int]) -> None:
        side = min(shape[1:])
        if self.pixels >= side:
            raise ValueError(
                f"shift's pixels must be below {side}, the shorter side of these pictures, got {self.pixels}"
            )

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        matrices = []
        for at, size in enumerate(pictures.shape[-2:]):
            moved = draws.between(at, -self.pixels, self.pixels + 1).floor()
            matrices.append(_hat(torch.arange(size, device=pictures.device)[:, None] + moved))
        return _resampled(pictures, *matrices)


@OPERATIONS.register("flip")
@dataclass(frozen=True)
class Flip(Operation):
    """Left and right exchanged.

    Attributes:
        probability: of a flip.

    Raises:
        TypeError, ValueError: no number in 0..1.
    """

    probability: float = 0.5
    word: ClassVar[str] = "flip"
    address: ClassVar[int] = 2

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        return torch.where(draws.coin(0, self.probability), pictures.flip(-1), pictures)


@OPERATIONS.register("blur")
@dataclass(frozen=True)
class Blur(Operation):
    """A Gaussian blur whose standard deviation is uniform in 0.1..2 pixels.

    Of pictures smaller than 32 pixels it is at most a sixteenth of the shorter side. Weights of pixels
    outside the picture are shared among the others.

    Attributes:
        probability: of a blur.

    Raises:
        TypeError, ValueError: no number in 0..1.
    """

    probability: float = 0.5
    word: ClassVar[str] = "blur"
    address: ClassVar[int] = 3

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        low, high = BLUR
        drawn = draws.between(1, low, max(low, min(high, min(pictures.shape[-2:]) / 16)))
        deviation = torch.where(draws.coin(0, self.probability), drawn, SHARP)
        matrices = []
        for size in pictures.shape[-2:]:
            place = torch.arange(size, device=pictures.device)
            exponent = (place[:, None] - place) ** 2 * (-0.5 / deviation**2)
            # numbers that underflow are slow; far below the precision of the sum they are 0
            weights = torch.nn.functional.threshold(exponent.clamp(min=LEAST).exp_(), NOTHING, 0.0)
            matrices.append(weights / weights.sum(-1, keepdim=True))
        return _resampled(pictures, *matrices)


def _hat(source: Tensor) -> Tensor:
    """`(N, 1, I, J)` weights max(1 - |distance|, 0) of pixels j for places `(N, 1, I, 1)`."""
    pixels = torch.arange(source.shape[-2], device=source.device)
    return (source - pixels).abs_().neg_().add_(1).clamp_(min=0)


def _resampled(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ picture @ columns^T for matrices `(N, 1, H, H)` and `(N, 1, W, W)`.

    For small pictures these products take a fraction of the time of `grid_sample`.
    """
    wide = torch.bmm(pictures.flatten(1, 2), columns[:, 0].transpose(1, 2)).view_as(pictures)
    return torch.matmul(rows, wide)
