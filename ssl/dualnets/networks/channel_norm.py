"""The normalisation of a convolution's maps: over the places of a picture, of several members at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dualnets._precision import at_least_float32
from dualnets.networks.norm_layer import NormLayer
from dualnets.networks.normalizations import BatchNorm, GroupNorm, Moments, Normalization


class ChannelNorm(NormLayer):
    """Normalises the maps of convolutions: a channel is a unit, and every place one more sample of it.

    BatchNorm takes moments of each channel over all samples and places; GroupNorm and LayerNorm of each
    sample, over the places and channels of a group. Parameters and running moments are those of `NormLayer`.

    Args:
        norm: its settings.
        members: S.
        channels: C.

    Attributes:
        gain, shift: `(S, 1, C, 1)`; None without `norm.affine`.
        mean, variance, batches: `(S, 1, C, 1)` twice and `(S,)` int64, running; for BatchNorm only.

    Raises:
        ValueError: channels that the norm cannot divide into equal groups of 2 or more.
    """

    def __init__(self, norm: Normalization, *, members: int, channels: int) -> None:
        super().__init__(norm, members=members, blocks=1, units=channels, shared=True)
        self.channels = channels

    def normalize(
        self, maps: Tensor, low: int, gain: Tensor | None, shift: Tensor | None, *, training: bool
    ) -> tuple[Tensor, Moments | None]:
        """Normalised maps of some neighbouring members, and what `update_running` takes of them.

        Args:
            maps: `(B, s * C, H, W)` of s members side by side.
            low: the place of the first of them among the S.
            gain, shift: `(s, 1, C, 1)`, theirs; None for none.
            training: whether BatchNorm uses the batch's own moments rather than the running ones.

        Returns:
            `(B, s * C, H, W)`, and the `(s, 1, C, 1)` moments of a BatchNorm in training, else None.
        """
        norm, given, moments = self.norm, at_least_float32(maps), None
        if gain is not None and shift is not None:
            gain, shift = (at_least_float32(own.flatten()) for own in (gain, shift))
        if not isinstance(norm, BatchNorm):
            each = norm.groups if isinstance(norm, GroupNorm) else 1
            groups = each * maps.shape[1] // self.channels
            found = functional.group_norm(given, groups, gain, shift, norm.epsilon)
        elif training and norm.mean == norm.std == "on":
            found, mean, inverse = torch.native_batch_norm(
                given, gain, shift, None, None, True, 0.0, norm.epsilon
            )
            with torch.no_grad():
                variance = (inverse.square().reciprocal() - norm.epsilon).clamp_min(0)
            moments = Moments(mean, variance)
        else:
            moments = _moments(given)
            found = norm(given, moments if training else self._running_of(moments, low))
            if gain is not None and shift is not None:
                found = found * gain.view(-1, 1, 1) + shift.view(-1, 1, 1)
        record = None if moments is None or not training else self._public(moments)
        return found.to(maps.dtype), record

    def _public(self, moments: Moments) -> Moments:
        """`(s, 1, C, 1)` moments without gradients."""
        return Moments(*(own.detach().view(-1, 1, self.channels, 1) for own in moments))

    def _running_of(self, own: Moments, low: int) -> Moments:
        """The running moments, `(s * C, 1, 1)`, of some members; where there are none, the batch's `own`."""
        part = slice(low, low + own.mean.numel() // self.channels)
        seen = (self.batches[part] > 0).repeat_interleave(self.channels).view(-1, 1, 1)
        kept = (buffer[part].view(-1, 1, 1) for buffer in (self.mean, self.variance))
        return Moments(*(torch.where(seen, k, o) for k, o in zip(kept, own, strict=True)))


def _moments(maps: Tensor) -> Moments:
    """`(1, s * C, 1, 1)`: of every channel over samples and places."""
    mean = maps.mean((0, 2, 3), keepdim=True)
    return Moments(mean, (maps - mean).square().mean((0, 2, 3), keepdim=True))


def pooled(parts: Sequence[tuple[Moments, int]]) -> tuple[Moments, int]:
    """The moments of all values, and their number, of the moments of parts and the number in each.

    The variance is the mean of the parts' variances, each with the square of its mean's distance from the
    mean of all.

    Example:
        >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([6.0])
        >>> pooled([(Moments(own.mean(), own.var(correction=0)), len(own)) for own in (a, b)])
        (Moments(mean=tensor(3.), variance=tensor(4.6667)), 3)
    """
    counts = [count for _, count in parts]
    means, variances = (torch.stack(own) for own in zip(*(own for own, _ in parts), strict=True))
    share = torch.tensor(counts, dtype=means.dtype, device=means.device) / sum(counts)

    def average(values: Tensor) -> Tensor:
        return torch.tensordot(share, values, dims=1)

    mean = average(means)
    return Moments(mean, average(variances + (means - mean).square())), sum(counts)
