"""Operations on the numbers of each pixel: light, colour, grey, solarisation and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dualnets._checks import check_number
from dualnets._lazy import torch
from dualnets.images.operations.operation import OPERATIONS, Draws, Operation

if TYPE_CHECKING:
    from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
MOST = 10  # of a strength and a saturation: beyond it pictures are black and white
EXACT = 1 << 16  # sums of multiples of 1 / EXACT are the same in any order


@OPERATIONS.register("light")
@dataclass(frozen=True)
class Light(Operation):
    """Brightness, then contrast: factors uniform in 1 - strength..1 + strength.

    The brightness multiplies every number, the contrast its difference from the picture's mean (of its
    greys). Numbers are cut to 0..1 after each.

    Attributes:
        strength: of both, 0..10; below 0 a factor is cut to 0.
        probability: of a change.

    Raises:
        TypeError, ValueError: strength is no number in 0..10, or probability none in 0..1.
    """

    strength: float
    probability: float = 1.0
    word: ClassVar[str] = "light"
    address: ClassVar[int] = 4

    def __post_init__(self) -> None:
        check_number("light's strength", self.strength, low=0, high=MOST)
        super().__post_init__()

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        applied = draws.coin(2, self.probability)
        brightness, contrast = (
            torch.where(applied, _factor(draws, at, self.strength), 1.0) for at in (0, 1)
        )
        bright = (pictures * brightness).clamp_(0, 1)
        mean = _mean(_grey(bright))
        return torch.addcmul(mean * (1 - contrast), bright, contrast).clamp_(0, 1)


@OPERATIONS.register("colour")
@dataclass(frozen=True)
class Colour(Operation):
    """Saturation, then hue, of pictures of three channels.

    The saturation multiplies the difference from grey by a factor uniform in 1 - saturation..1 + saturation;
    the hue turns by a part of the circle of colours that is uniform in -hue..hue.

    Attributes:
        saturation: largest change of the factor, 0..10.
        hue: largest turn, 0..0.5, where 0.5 is half of the circle.
        probability: of a change.

    Raises:
        TypeError, ValueError: saturation is no number in 0..10, hue none in 0..0.5, or probability none in
            0..1.
    """

    saturation: float = 0.4
    hue: float = 0.1
    probability: float = 1.0
    word: ClassVar[str] = "colour"
    address: ClassVar[int] = 5

    def __post_init__(self) -> None:
        check_number("colour's saturation", self.saturation, low=0, high=MOST)
        check_number("colour's hue", self.hue, low=0, high=0.5)
        super().__post_init__()

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        factor = _factor(draws, 0, self.saturation)
        vivid = torch.lerp(_grey(pictures), pictures, factor).clamp_(0, 1)
        turned = _turned(vivid, draws.between(1, -self.hue, self.hue)) if self.hue else vivid
        return torch.where(draws.coin(2, self.probability), turned, pictures)

    def in_grey(self) -> None:
        return None


@OPERATIONS.register("jitter")
@dataclass(frozen=True)
class Jitter(Operation):
    """Light and colour under one coin: the colour jitter of SimCLR and BYOL, in this order.

    Attributes:
        strength: as that of `light`.
        saturation: as that of `colour`.
        hue: as that of `colour`.
        probability: of a change.

    Raises:
        TypeError, ValueError: as `light` and `colour`.
    """

    strength: float
    saturation: float
    hue: float
    probability: float = 0.8
    word: ClassVar[str] = "jitter"
    address: ClassVar[int] = 6

    def __post_init__(self) -> None:
        check_number("jitter's strength", self.strength, low=0, high=MOST)
        check_number("jitter's saturation", self.saturation, low=0, high=MOST)
        check_number("jitter's hue", self.hue, low=0, high=0.5)
        super().__post_init__()

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        one = draws.uniforms
        # of four numbers two must serve twice: the coin's, where it is thrown, is uniform again
        coin = one[:, 0] / self.probability if self.probability else one[:, 0]
        light = torch.stack([coin, one[:, 1], torch.zeros_like(coin)], dim=-1)
        colour = torch.stack([one[:, 2], one[:, 3], torch.zeros_like(coin)], dim=-1)
        changed = Light(self.strength)(pictures, draws._replace(uniforms=light.clamp(max=1)))
        changed = Colour(self.saturation, self.hue)(changed, draws._replace(uniforms=colour))
        return torch.where(draws.coin(0, self.probability), changed, pictures)

    def in_grey(self) -> Light:
        return Light(self.strength, self.probability)


@OPERATIONS.register("grey")
@dataclass(frozen=True)
class Grey(Operation):
    """Without colour, of pictures of three channels: 0.299 red + 0.587 green + 0.114 blue in each.

    Attributes:
        probability: of grey.

    Raises:
        TypeError, ValueError: no number in 0..1.
    """

    probability: float = 0.2
    word: ClassVar[str] = "grey"
    address: ClassVar[int] = 7

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        return torch.where(draws.coin(0, self.probability), _grey(pictures), pictures)

    def in_grey(self) -> None:
        return None


@OPERATIONS.register("solarise")
@dataclass(frozen=True)
class Solarise(Operation):
    """Numbers from 0.5 on inverted, x to 1 - x (BYOL, arXiv 2006.07733, Appendix B).

    Attributes:
        probability: of a change.

    Raises:
        TypeError, ValueError: no number in 0..1.
    """

    probability: float = 0.2
    word: ClassVar[str] = "solarise"
    address: ClassVar[int] = 8

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        coin = draws.coin(0, self.probability)
        return torch.where(coin & (pictures >= 0.5), 1 - pictures, pictures)


@OPERATIONS.register("noise")
@dataclass(frozen=True)
class Noise(Operation):
    """Independent normal noise in every number, then cut to 0..1.

    Attributes:
        std: of the noise, above 0 and at most 1.

    Raises:
        TypeError, ValueError: std is no number in 0 < std <= 1.
    """

    std: float
    word: ClassVar[str] = "noise"
    address: ClassVar[int] = 9

    def __post_init__(self) -> None:
        check_number("noise's std", self.std, above=0, high=1)

    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        drawn = draws.normals(pictures.shape[1:].numel()).view_as(pictures)
        return torch.add(pictures, drawn, alpha=self.std).clamp_(0, 1)


def _factor(draws: Draws, at: int, strength: float) -> Tensor:
    return draws.between(at, max(1 - strength, 0), 1 + strength)


def _grey(pictures: Tensor) -> Tensor:
    """`(N, 1, H, W)`."""
    if pictures.shape[1] != 3:
        return pictures[:, :1]
    red, green, blue = pictures.split(1, dim=1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def _mean(grey: Tensor) -> Tensor:
    """`(N, 1, 1, 1)` means of `(N, 1, H, W)`, whose bits do not depend on how many pictures there are."""
    total = (grey * EXACT).to(torch.int32).sum((1, 2, 3), keepdim=True)
    return total.to(grey.dtype) / (EXACT * grey.shape[1:].numel())


def _turned(pictures: Tensor, turn: Tensor) -> Tensor:
    """Pictures with another hue, by a part of the circle of colours `(N, 1, 1, 1)`.

    In a sixth of the circle one channel has the largest number, one the smallest, and the third goes from the
    one to the other (the hexagonal model of hue of HSV).
    """
    red, green, blue = pictures.split(1, dim=1)
    top, low = pictures.amax(1, keepdim=True), pictures.amin(1, keepdim=True)
    chroma = top - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        top == red, (green - blue) / safe,
        torch.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )  # fmt: skip
    hue = hue + 6 * turn  # in sixths of the circle
    place = torch.tensor([5.0, 3.0, 1.0], device=pictures.device)[:, None, None] + hue
    place = place - (place / 6).floor_().mul_(6)  # `remainder` takes ten times as long
    return top - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)
