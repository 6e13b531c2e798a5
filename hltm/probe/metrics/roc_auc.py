"""Area under the ROC curve of units for binary latents."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.probe.accumulators.histogram import StreamingHistogram

BINS = 256


class RocAuc:
    """P(unit is larger at z = 1 than at z = 0) + ½ P(equal): the area under the ROC curve.

    From a histogram in bins of equal shares of the first batch, where values in one bin count as
    equal. Exact for units with at most `bins` distinct values, all seen in the first batch;
    otherwise off by at most ½ Σ_b P(b | 1) P(b | 0), about 1 / (2 bins), and in practice by far
    less. A constant unit, or a state that never came, gives ½. Takes `(…, U, B)` activations and
    `(…, T, B)` states 0 and 1; errors are those of `StreamingHistogram`.

    Args:
        bins: of every unit.
        edges: as in `StreamingHistogram`.

    Example:
        >>> metric = RocAuc()
        >>> metric.update(torch.tensor([[3.0, 1.0, 3.0, 2.0]]), torch.tensor([[0, 1, 1, 0]]))
        >>> metric.result()  # of the four pairs one is won, one is a tie
        tensor([[0.3750]], dtype=torch.float64)
    """

    def __init__(self, bins: int = BINS, edges: Tensor | None = None) -> None:
        self.histogram = StreamingHistogram(bins, 2, edges)

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self.histogram.update(activations, targets)

    def result(self) -> Tensor:
        """`(…, U, T)` areas, in [0, 1]."""
        counts = self.histogram.result().movedim(-3, -1)  # (…, U, T, K, bins)
        negative, positive = counts[..., 0, :], counts[..., 1, :]
        below = negative.cumsum(-1) - negative / 2
        pairs = negative.sum(-1) * positive.sum(-1)
        won = (positive * below).sum(-1)
        return torch.where(pairs > 0, won / pairs, torch.full_like(won, 0.5))

    def strength(self) -> Tensor:
        """`(…, U, T)` max(AUC, 1 - AUC), in [½, 1]."""
        area = self.result()
        return torch.maximum(area, 1 - area)
