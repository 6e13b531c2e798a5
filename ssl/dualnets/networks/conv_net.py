"""A small convolutional network for small pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dualnets.networks.convolutions import Block, picture_shape
from dualnets.networks.image_network import ImageNetwork
from dualnets.networks.normalizations import Normalization


def conv_net(
    images: Any,
    *,
    widths: Sequence[int] = (32, 64, 80),
    members: int | None = None,
    norm: Normalization | None = None,
    bias: bool = True,
    weight_standardization: bool = False,
    normalize: bool = False,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ImageNetwork:
    """Convolutions of 3x3 with stride 2, each with a norm and a ReLU, and the mean over places.

    With the default widths it has 65 thousand parameters.

    Args:
        images: `(C, H, W)` of a picture, or a data set with this `shape`.
        widths: channels of each convolution.
        members: number of networks; None for one without an S axis.
        norm: normalisation of every convolution's maps before the ReLU; None for none.
        bias: whether channels have biases.
        weight_standardization: whether the weights of a channel are standardised over their inputs (Qiao and
            others, arXiv 1903.10520).
        normalize: whether the output is scaled to length 1.
        seed: of the initial weights, uniform in ±1/sqrt(inputs) as torch.nn.Conv2d's.
        dtype, device: of the weights.

    Raises:
        TypeError, ValueError: images without a shape of three sizes, or settings that do not fit; see
            `ImageNetwork`.

    Example:
        >>> network = conv_net((1, 28, 28), members=4, seed=0)
        >>> pictures = torch.rand(4, 16, 1 * 28 * 28)
        >>> network(pictures).shape
        torch.Size([4, 16, 80])
        >>> {level: tuple(values.shape) for level, values in network.activations(pictures).items()}
        {1: (4, 16, 196, 32), 2: (4, 16, 49, 64), 3: (4, 16, 16, 80)}
    """
    if not hasattr(widths, "__len__"):
        raise TypeError(f"widths must be a sequence such as (32, 64, 80), got {widths!r}")
    if not len(widths):
        raise ValueError(f"widths must be those of 1 convolution or more, got {widths!r}")
    return ImageNetwork(
        shape=picture_shape(images), blocks=[Block(width, stride=2) for width in widths],
        members=members, norm=norm, bias=bias, weight_standardization=weight_standardization,
        normalize=normalize, seed=seed, dtype=dtype, device=device,
    )  # fmt: skip
