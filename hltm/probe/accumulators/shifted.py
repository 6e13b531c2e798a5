"""Sums of products of units with targets of other rows, at many shifts at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hltm.probe.accumulators.units import StreamingUnits

TILE = 1 << 22  # activations that are transformed at a time


def shifted_products(a: Tensor, z: Tensor, lags: int) -> Tensor:
    """`(…, L, F, G)`: Σ_b a[f, b] z[g, b - l · step] of `(…, F, B)` and `(…, G, B)`, for l < L = lags.

    Rows are counted modulo B, which is a multiple of step and at least `lags` · step. Shifts by whole
    steps are circular convolutions of each of the step subsequences b = q · step + r with the target's,
    so a product of Fourier transforms of length B / step, summed over r by a matrix product, gives them:
    about B / 2 multiplications for all shifts of one pair, where one shift alone has B.

    Example:
        >>> a, z = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        >>> shifted_products(a, z, lags=2)[:, 0, 0]  # shifts by 0 and 2
        tensor([1., 3.])
    """
    step = a.shape[-1] // lags
    length = a.shape[-1] // step
    first, second = (
        torch.fft.rfft(x.unflatten(-1, (length, step)), dim=-2).movedim(-2, -3) for x in (a, z)
    )  # (…, frequency, F or G, step)
    return torch.fft.irfft(first @ second.mT.conj(), n=length, dim=-3)[..., :lags, :, :]


def used_rows(count: int, lags: int) -> int:
    """The largest multiple of the step between shifts that `count` rows hold.

    Example:
        >>> used_rows(8192, lags=200)  # a step of 40
        8160
    """
    step = count // lags
    return count - count % step


def shuffle(count: int) -> Tensor:
    """`(count,)` int64, a random order of rows, always the same for a count.

    Activations whose rows are in some order, say of their size, are much the same after a shift by a few
    rows, so that shifts would not be independent pairings; in a random order they are.
    """
    return torch.from_numpy(np.random.default_rng(count).permutation(count))


class ShiftedCorrelation:
    """Correlations of units with targets of other rows at `lags` shifts within each batch.

    Both are centred within each batch, since a shift within it changes no sum over it, and all sums are
    float64 of units in the scale of `StreamingUnits`, so that numbers of any size neither overflow nor
    vanish. Units do not mix: one that is not finite gives NaN for itself alone.
    Memory is `(…, U, T, lags)`.

    Example:
        >>> sums = ShiftedCorrelation(lags=2)
        >>> sums.update(torch.tensor([[1.0, 2.0, 2.0, 1.0]]), torch.tensor([[0, 1, 1, 0]]))
        >>> sums.correlation()
        tensor([[[ 1., -1.]]], dtype=torch.float64)
    """

    def __init__(self, lags: int) -> None:
        self.lags = lags
        self.samples = 0
        self.units, self.targets = StreamingUnits(checked=False), StreamingUnits(checked=False)
        self.cross = self.square_a = self.square_z = torch.zeros((), dtype=torch.float64)

    @property
    def used(self) -> int:
        return self.units.samples

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch: activations `(…, U, B)`, and targets `(…, T, B)` of other rows; B >= lags."""
        used = used_rows(activations.shape[-1], self.lags)
        batch = self.units.take(activations[..., :used])
        target = self.targets.take(targets[..., :used].double())
        a, z = batch.values, target.values - target.rest[..., None]
        square_a, square_z = (torch.linalg.vector_norm(x, dim=-1).double().square() for x in (a, z))
        self.square_a = self.square_a * batch.power.square() + square_a - used * batch.rest.square()
        self.square_z = self.square_z * target.power.square() + square_z
        z = z.to(a.dtype)  # of sum 0, so that the centre of a need not be exact
        self.samples += activations.shape[-1]
        shape = (*a.shape[:-2], self.lags, a.shape[-2], z.shape[-2])
        if self.cross.ndim == 0:
            self.cross = torch.zeros(shape, dtype=torch.float64, device=a.device)
        power = batch.power[..., :, None] * target.power[..., None, :]
        if bool((power != 1).any()):
            self.cross *= power[..., None, :, :]
        cross = self.cross.view(-1, *shape[-3:])
        for lead, units in tiles(a.shape[:-1], used):
            cross[lead, :, units] += shifted_products(
                a[None].flatten(0, -3)[lead, units],
                z[None].flatten(0, -3)[lead],
                self.lags,
            )

    def correlation(self) -> Tensor:
        """`(…, U, T, lags)` float64; 0 for what never varied.

        Rows that a whole number of steps leaves out count as if they had been used.
        """
        size = self.square_a.clamp(min=0)[..., :, None] * self.square_z[..., None, :]
        constant = self.units.dead()[..., :, None] | self.targets.dead()[..., None, :] | (size == 0)
        scale = size.masked_fill(constant, torch.inf).sqrt()[..., None, :, :]
        return (self.cross / scale).movedim(-3, -1) * (self.used / self.samples) ** 0.5

    def deviation(self) -> tuple[Tensor, Tensor]:
        """Standard deviations over all rows, of the units `(…, U)` and of the targets `(…, T)`."""
        return self.units.variance().sqrt(), self.targets.variance().sqrt()

    def mean(self) -> Tensor:
        """`(…, T)` means of the targets over all rows."""
        return self.targets.mean * self.targets.scale()


def tiles(shape: tuple[int, ...], rows: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the flattened leading axes and of the units of `(…, U)`, of at most `TILE` numbers."""
    units = shape[-1]
    lead = 1
    for size in shape[:-1]:
        lead *= size
    many = max(TILE // max(units * rows, 1), 1)
    few = max(TILE // max(rows, 1), 1)
    for i in range(0, lead, many):
        for u in range(0, units, few if many == 1 else units):
            yield slice(i, i + many), slice(u, u + (few if many == 1 else units))
