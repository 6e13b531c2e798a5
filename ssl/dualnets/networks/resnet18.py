"""ResNet-18 for small pictures."""

from __future__ import annotations

from typing import Any

import torch

from dualnets._checks import check_whole
from dualnets.networks.convolutions import Block, picture_shape
from dualnets.networks.image_network import ImageNetwork
from dualnets.networks.normalizations import BatchNorm, Normalization


def resnet18(
    images: Any,
    *,
    width: int = 64,
    members: int | None = None,
    norm: Normalization | None = BatchNorm(affine=True),  # noqa: B008, immutable
    bias: bool = False,
    weight_standardization: bool = False,
    normalize: bool = False,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ImageNetwork:
    """ResNet-18 as it is used on pictures of 32x32: a stem of 3x3 without stride or pooling.

    He and others (arXiv 1512.03385): four stages of two blocks of two 3x3 convolutions, with 1, 2, 4 and 8
    times `width` channels, and shortcuts of 1x1 where the shape changes; 11 million weights by default. Level
    1 of its activations is the stem, levels 2..9 are the blocks' sums before their ReLU.

    Args:
        images, members, norm, bias, weight_standardization, normalize, seed, dtype, device: as for
            `conv_net`.
        width: channels of the first stage.

    Raises:
        TypeError, ValueError: as for `conv_net`.

    Example:
        >>> network = resnet18((3, 8, 8), width=8, members=2, seed=0)
        >>> network(torch.rand(2, 5, 3 * 8 * 8)).shape
        torch.Size([2, 5, 64])
    """
    check_whole("width", width, low=1)
    stages = [
        Block(width * 2**stage, stride=2 if stage and not n else 1, convolutions=2, residual=True)
        for stage in range(4)
        for n in range(2)
    ]
    return ImageNetwork(
        shape=picture_shape(images), blocks=[Block(width), *stages],
        members=members, norm=norm, bias=bias, weight_standardization=weight_standardization,
        normalize=normalize, seed=seed, dtype=dtype, device=device,
    )  # fmt: skip
