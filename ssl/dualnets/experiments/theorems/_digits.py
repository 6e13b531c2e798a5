"""Real images for experiments: scikit-learn's digits under crops, blur and noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualnets import theory


def digits() -> theory.DatasetViews | None:
    """Scikit-learn's 1797 digits, 8 x 8, under crops, blur and noise; None without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None
    images = torch.from_numpy(load_digits().images) / 16
    dataset = torch.utils.data.TensorDataset(images)
    return theory.DatasetViews(dataset, crop_blur_and_noise, batched=True)


def crop_blur_and_noise(images: Tensor) -> Tensor:
    """A view of each `(B, 8, 8)` image: moved by up to a pixel each way, blurred or not, noisy."""
    count = len(images)
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(3, (2, count, 1, 1))
    rows = down + torch.arange(8)[:, None]
    columns = right + torch.arange(8)
    moved = padded[torch.arange(count)[:, None, None], rows, columns]
    near = nn.functional.avg_pool2d(moved[:, None], 3, stride=1, padding=1)[:, 0]
    blurred = torch.where(torch.rand(count, 1, 1) < 0.5, near, moved)
    return blurred + 0.1 * torch.randn(images.shape, dtype=images.dtype)
