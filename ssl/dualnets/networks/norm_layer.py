"""The normalisation of one hidden layer, with its gain and shift, and running moments for evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualnets.networks.normalizations import BatchNorm, Moments, Normalization


class NormLayer(nn.Module):
    """Normalises the pre-activations of every block of every member.

    BatchNorm takes moments of each unit of each block; where blocks share their weights, of each unit over
    all blocks and samples, as a convolution's are over places. Its running moments are updated at every batch
    as `Head.update_running_stats` describes. In evaluation they replace the batch's own; a network that has
    been trained on no batch has none and uses the moments of the batch at hand.

    Args:
        norm: its settings.
        members: S.
        blocks: V.
        units: per block.
        shared: whether the blocks have one gain, shift and statistic per unit.

    Attributes:
        gain, shift: `(S, V, U, 1)`, V = 1 where shared; None without `norm.affine`.
        mean, variance, batches: `(S, V, U, 1)` twice and `(S,)` int64, running; for BatchNorm only.

    Raises:
        ValueError: units that the norm cannot divide into equal groups of 2 or more.
    """

    gain: Tensor | None
    shift: Tensor | None
    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(
        self, norm: Normalization, *, members: int, blocks: int, units: int, shared: bool
    ) -> None:
        super().__init__()
        self.norm, self.shared = norm, shared
        shape = (members, 1 if shared else blocks, units, 1)
        self.register_parameter("gain", nn.Parameter(torch.ones(shape)) if norm.affine else None)
        self.register_parameter("shift", nn.Parameter(torch.zeros(shape)) if norm.affine else None)
        if isinstance(norm, BatchNorm):
            self.register_buffer("mean", torch.zeros(shape))
            self.register_buffer("variance", torch.ones(shape))
            self.register_buffer("batches", torch.zeros(members, dtype=torch.int64))
        norm.check_units(units)

    def extra_repr(self) -> str:
        return repr(self.norm)

    def forward(self, values: Tensor, *, training: bool) -> Tensor:
        """Normalised pre-activations.

        Args:
            values: `(S, V, U, B)`.
            training: whether BatchNorm uses the batch's own moments and updates the running ones.

        Returns:
            `(S, V, U, B)`.

        Raises:
            ValueError: BatchNorm in training on a single sample, which has no variance.
        """
        if not isinstance(self.norm, BatchNorm):
            values = self.norm(values)
        elif training:
            moments, count = self._moments(values)
            self.update_running(moments, count)
            values = self.norm(values, moments)
        else:
            values = self.norm(values, self._running(values))
        if self.gain is not None and self.shift is not None:
            values = values * self.gain + self.shift
        return values

    def _moments(self, values: Tensor) -> tuple[Moments, int]:
        """`(S, V, U, 1)` moments of a batch, and the number of values behind each."""
        if not self.shared:
            return BatchNorm.moments(values), values.shape[-1]
        pooled = values.transpose(1, 2).flatten(2)[:, None]  # (S, 1, U, V * B)
        return BatchNorm.moments(pooled), pooled.shape[-1]

    @torch.no_grad()
    def update_running(self, moments: Moments, count: int) -> None:
        """Move the running moments towards those of a batch.

        Args:
            moments: `(S, V, U, 1)`.
            count: number of values behind each.

        Raises:
            ValueError: a single value, which has no variance.
        """
        assert isinstance(self.norm, BatchNorm)
        if count < 2:
            raise ValueError("a BatchNorm in training needs at least 2 samples, got 1")
        self.batches += 1
        step = (1 / self.batches.to(self.mean.dtype)).clamp_min(self.norm.momentum)
        step = step.view(-1, 1, 1, 1)
        unbiased = moments.variance * (count / (count - 1))
        for running, new in ((self.mean, moments.mean), (self.variance, unbiased)):
            running += step * (new.to(running.dtype) - running)

    def _running(self, values: Tensor) -> Moments:
        """The running moments; for members trained on no batch, the moments of the batch at hand."""
        own, _ = self._moments(values)
        seen = (self.batches > 0).view(-1, 1, 1, 1)
        return Moments(
            torch.where(seen, self.mean, own.mean), torch.where(seen, self.variance, own.variance)
        )
