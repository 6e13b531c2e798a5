"""Streaming correlations of units with targets."""

from __future__ import annotations

import torch
from torch import Tensor

DEAD = 1e-10  # variance below this share of the mean square: a unit that does not vary


class StreamingCorrelation:
    """Correlations of `(…, U, B)` activations with `(…, T, B)` targets, batch by batch.

    Batches are merged in float64 by the formula of Chan, Golub and LeVeque (1983), so a large mean
    does not cancel a small variance. Leading axes are kept; they must be the same for both. Nothing
    is checked here: an activation that is not finite gives NaN (`Correlation` raises).

    Example:
        >>> x = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
        >>> tracker = StreamingCorrelation()
        >>> tracker.update(x[:, :2], -x[:, :2])
        >>> tracker.update(x[:, 2:], -x[:, 2:])
        >>> tracker.correlation()
        tensor([[-1.]], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self.samples = 0

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch: activations `(…, U, B)` of a real dtype, targets `(…, T, B)` of any."""
        count = activations.shape[-1]
        a, z = activations, targets.to(activations.dtype)
        mean_a, mean_z = a.mean(-1), z.mean(-1)
        a, z = a - mean_a[..., None], z - mean_z[..., None]
        squares = [torch.linalg.vector_norm(x, dim=-1).double().square() for x in (a, z)]
        batch = (mean_a.double(), mean_z.double(), *squares, (a @ z.transpose(-1, -2)).double())
        if self.samples == 0:
            self.mean_a, self.mean_z, self.square_a, self.square_z, self.cross = batch
            self.samples = count
            return
        da, dz = batch[0] - self.mean_a, batch[1] - self.mean_z
        weight = self.samples * count / (self.samples + count)
        self.square_a += batch[2] + weight * da.square()
        self.square_z += batch[3] + weight * dz.square()
        self.cross += batch[4] + weight * da[..., :, None] * dz[..., None, :]
        self.mean_a += da * count / (self.samples + count)
        self.mean_z += dz * count / (self.samples + count)
        self.samples += count

    def dead(self) -> Tensor:
        """`(…, U)` bool: units that never varied."""
        return self.square_a <= DEAD * self.samples * self.mean_a.square()

    def strength(self) -> Tensor:
        """`(…, U, T)` float64 |correlation|."""
        return self.correlation().abs()

    def correlation(self) -> Tensor:
        """`(…, U, T)` float64 correlations; 0 for what never varied."""
        scale = (self.square_a[..., :, None] * self.square_z[..., None, :]).sqrt()
        found = torch.where(scale > 0, self.cross / scale, torch.zeros_like(scale))
        return found.masked_fill(self.dead()[..., None], 0.0).clamp(-1, 1)
