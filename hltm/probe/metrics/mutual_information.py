"""Mutual information of binned units with latents."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.probe.accumulators.histogram import StreamingHistogram

BINS = 16


class MutualInformation:
    """Σ P(bin, z) log( P(bin, z) / P(bin) P(z) ) in nats, of activations in bins of equal shares.

    The plug-in estimate: it is too high by about (bins - 1)(K - 1) / 2n, and lower than what the
    unit itself tells by what binning loses. A constant unit has 0. Takes `(…, U, B)` activations
    and `(…, T, B)` states; errors are those of `StreamingHistogram`.

    Args:
        bins: of every unit.
        states: K, the largest number of states of a target.
        edges: as in `StreamingHistogram`.

    Example:
        >>> metric = MutualInformation()
        >>> metric.update(torch.tensor([[3.0, 1.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0, 1]]))
        >>> metric.result().exp()  # one bit
        tensor([[2.]], dtype=torch.float64)
    """

    def __init__(self, bins: int = BINS, states: int = 2, edges: Tensor | None = None) -> None:
        self.histogram = StreamingHistogram(bins, states, edges)

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self.histogram.update(activations, targets)

    def result(self) -> Tensor:
        """`(…, U, T)` nats."""
        joint = self.histogram.result().movedim(-3, -1) / self.histogram.n  # (…, U, T, K, bins)
        terms = [_entropy(joint.sum(-2)), _entropy(joint.sum(-1)), -_entropy(joint.flatten(-2))]
        return torch.stack(terms).sum(0).clamp(min=0)

    def strength(self) -> Tensor:
        """`(…, U, T)` the same: it has no sign."""
        return self.result()


def _entropy(probability: Tensor) -> Tensor:
    """Nats, over the last axis."""
    return torch.special.entr(probability).sum(-1)
