"""Streaming second moments of two sets of features together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PairMoments(NamedTuple):
    """Means and covariances; all float64.

    Attributes:
        mean_x, mean_y: `(…, X)` and `(…, Y)`.
        xx, xy, yy: `(…, X, X)`, `(…, X, Y)` and `(…, Y, Y)`, divided by the number of rows.
        samples: rows.
    """

    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    samples: int


class StreamingMoments:
    """Means and covariances of `(…, X, B)` with `(…, Y, B)`, batch by batch, on the device.

    Merged in float64 (Chan, Golub and LeVeque 1983). Leading axes are equal or broadcast.

    Example:
        >>> moments = StreamingMoments()
        >>> moments.update(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]))
        >>> moments.update(torch.tensor([[5.0]]), torch.tensor([[2.0]]))
        >>> moments.result().xy
        tensor([[1.3333]], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self.samples = 0

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch of any real dtypes."""
        count = x.shape[-1]
        kind = torch.promote_types(x.dtype, torch.float32)
        both = [part.to(kind) for part in (x, y)]
        means = [part.mean(-1, keepdim=True) for part in both]
        a, b = (part - mean for part, mean in zip(both, means, strict=True))
        squares = [part.double() for part in (a @ a.mT, a @ b.mT, b @ b.mT)]
        mean_x, mean_y = (mean[..., 0].double() for mean in means)
        if self.samples == 0:
            self.mean_x, self.mean_y, self.squares, self.samples = mean_x, mean_y, squares, count
            return
        dx, dy = mean_x - self.mean_x, mean_y - self.mean_y
        weight = self.samples * count / (self.samples + count)
        pairs = ((dx, dx), (dx, dy), (dy, dy))
        self.squares = [
            old + new + weight * p[..., :, None] * q[..., None, :]
            for old, new, (p, q) in zip(self.squares, squares, pairs, strict=True)
        ]
        self.mean_x = self.mean_x + dx * count / (self.samples + count)
        self.mean_y = self.mean_y + dy * count / (self.samples + count)
        self.samples += count

    def result(self) -> PairMoments:
        """Means and covariances of all rows so far."""
        xx, xy, yy = (part / self.samples for part in self.squares)
        return PairMoments(self.mean_x, self.mean_y, xx, xy, yy, self.samples)
