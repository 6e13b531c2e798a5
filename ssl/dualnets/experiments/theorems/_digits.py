"""Real images for experiments: scikit-learn's digits under crops, blur and noise."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from dualnets import theory
from hltm.sampling.philox import check_seed


def digits() -> theory.DatasetViews | None:
    """Scikit-learn's 1797 digits, 8 x 8, under crops, blur and noise; None without scikit-learn."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError:
        return None
    images = torch.from_numpy(load_digits().images) / 16
    return AllAtOnce(torch.utils.data.TensorDataset(images), crop_blur_and_noise, batched=True)


class AllAtOnce(theory.DatasetViews):
    """Views of a data set that is one tensor: the draws of `DatasetViews`, without a loop over items."""

    def draw(
        self, samples: int, *, seed: int, start: int = 0, count: int = 2, negatives: bool = False
    ) -> list[Tensor]:
        """See `DatasetViews.draw`."""
        (items,) = cast(torch.utils.data.TensorDataset, self.dataset).tensors
        random = np.random.default_rng([check_seed(seed), start, int(negatives)])
        together = items[torch.from_numpy(random.integers(len(items), size=samples))]
        with torch.random.fork_rng():
            torch.manual_seed(int(random.integers(2**63)))
            return [self.transform(together) for _ in range(count)]


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
