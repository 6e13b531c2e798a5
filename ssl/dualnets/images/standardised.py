"""The numbers of a picture as networks read them: each channel has mean 0 and deviation 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dualnets.images.dataset import LabelledImages


def standardised(images: LabelledImages, pictures: Tensor) -> Tensor:
    """Pictures `(…, C, H, W)` of numbers 0 to 1, each channel by its mean and deviation in the data set."""
    mean, std = (
        torch.tensor(own, dtype=torch.float32, device=pictures.device)[:, None, None]
        for own in (images.mean, images.std)
    )
    return (pictures - mean).div_(std)
