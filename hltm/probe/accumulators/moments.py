"""Streaming second moments of two sets of features together."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from hltm.probe.accumulators.units import StreamingUnits, UnitBatch


class PairMoments(NamedTuple):
    """Means and covariances; all float64.

    Attributes:
        mean_x, mean_y: `(…, X)` and `(…, Y)`.
        xx, xy, yy: `(…, X, X)`, `(…, X, Y)` and `(…, Y, Y)`, divided by the number of rows. With lags, xy
            is `(1 + lags, …, X, Y)`.
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

    Sums are float64, of features that `StreamingUnits` (`x` and `y`) has centred and scaled. Leading
    axes are equal or broadcast. Finite numbers are not required: a feature with one that is not has NaN.

    Args:
        lags: how many further `xy` pair x with y of other rows of the same batch, at equal distances: what
            is found where the two have nothing to do with each other. All but `xy` is the same for them.

    Raises:
        ValueError: in `update`, no real numbers, or unequal numbers of rows.

    Example:
        >>> moments = StreamingMoments()
        >>> moments.update(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]))
        >>> moments.update(torch.tensor([[5.0]]), torch.tensor([[2.0]]))
        >>> moments.result().xy
        tensor([[1.3333]], dtype=torch.float64)
    """

    def __init__(self, lags: int = 0) -> None:
        self.x, self.y = (StreamingUnits(checked=False) for _ in range(2))
        self.squares: list[Tensor | float] = [0.0, 0.0, 0.0]
        self.shifted: list[Tensor | float] = [0.0] * lags

    @property
    def samples(self) -> int:
        return self.y.samples

    def update(self, x: Tensor | UnitBatch, y: Tensor) -> None:
        """Add a batch of any real dtypes."""
        a = x if isinstance(x, UnitBatch) else self.x.take(x)
        self.x = a.owner(self.x)
        b = self.y.take(y)
        pairs = (a, a), (a, b), (b, b)
        self.squares = [p.cross(q, old) for old, (p, q) in zip(self.squares, pairs, strict=True)]
        rows, sets = y.shape[-1], 1 + len(self.shifted)
        for lag, old in enumerate(self.shifted, start=1):
            others = replace(b, values=b.values.roll(lag * rows // sets, -1))
            self.shifted[lag - 1] = a.cross(others, old)

    def result(self, *, scaled: bool = False) -> PairMoments:
        """Means and covariances of all rows so far.

        Args:
            scaled: in units of `x.scale()` and `y.scale()`, powers of two near the largest value of
                every feature. Otherwise covariances of float64 features beyond 1e±150 overflow.
        """
        scales = [
            torch.ones_like(side.mean) if scaled else side.scale() for side in (self.x, self.y)
        ]
        pairs, (xx, xy, yy) = ((0, 0), (0, 1), (1, 1)), self.squares
        if self.shifted:
            xy = torch.stack([torch.as_tensor(part) for part in (xy, *self.shifted)])
        xx, xy, yy = (
            part / self.samples * scales[i][..., :, None] * scales[j][..., None, :]
            for part, (i, j) in zip((xx, xy, yy), pairs, strict=True)
        )
        mean_x, mean_y = self.x.mean * scales[0], self.y.mean * scales[1]
        return PairMoments(mean_x, mean_y, xx, xy, yy, self.samples)
