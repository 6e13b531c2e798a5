"""What a meaningless unit scores: the same activations against the latents of other rows."""

from __future__ import annotations

import torch
from torch import Tensor

LAGS = 200  # how many pairings with other rows make the null
QUANTILE = 0.95


class StreamingNull:
    """The null of the best |correlation| among U units with each of T targets.

    Activations are paired with targets of other, independent rows: those of a stream of its own,
    shifted by each of `lags` lags within a batch. All units see the same shifted rows, so their
    dependence on each other is kept. All shifts of a batch come from one Fourier transform.
    """

    def __init__(self, lags: int = LAGS) -> None:
        self.lags = lags
        self.cross: Tensor | None = None
        self.square_a: Tensor | float = 0.0
        self.square_z: Tensor | float = 0.0

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch; activations `(..., U, B)`, targets `(..., T, B)` of other rows."""
        a = activations - activations.mean(-1, keepdim=True)
        z = targets.to(a.dtype)
        z = z - z.mean(-1, keepdim=True)
        self.square_a = self.square_a + a.square().sum(-1).double()
        self.square_z = self.square_z + z.square().sum(-1).double()
        count = a.shape[-1]
        spectrum = torch.fft.rfft(a)[..., :, None, :] * torch.fft.rfft(z).conj()[..., None, :, :]
        shifted = torch.fft.irfft(
            spectrum, n=count
        )  # (..., U, T, B): the cross products of all lags
        step = max(count // self.lags, 1)
        lags = torch.arange(self.lags, device=a.device) * step % count
        cross = shifted[..., lags].double()
        self.cross = cross if self.cross is None else self.cross + cross

    def quantile(self) -> Tensor:
        """`(..., T)` float64: the 95% point, over lags, of the best |correlation| among the units."""
        assert self.cross is not None
        assert isinstance(self.square_a, Tensor)
        assert isinstance(self.square_z, Tensor)
        scale = (self.square_a[..., :, None] * self.square_z[..., None, :]).sqrt()[..., None]
        score = torch.where(scale > 0, self.cross.abs() / scale, torch.zeros_like(scale))
        return score.amax(-3).quantile(QUANTILE, dim=-1)
