"""Area under the ROC curve of units for binary latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling
from hltm.probe.accumulators.histogram import StreamingHistogram
from hltm.probe.metric import Metric
from hltm.tree import LatentTree

BINS = 256
NULL_BINS = 16  # of the null, which holds a histogram per unit, latent and lag


class RocAuc(Metric):
    """P(unit is larger at z = 1 than at z = 0) + ½ P(equal): the area under the ROC curve.

    From a histogram in bins of equal shares of the first batch, where values in one bin count as
    equal. Exact for units with at most `bins` distinct values, all seen in the first batch;
    otherwise off by at most ½ Σ_b P(b | 1) P(b | 0), about 1 / (2 bins), and in practice by far
    less. A constant unit, or a state that never came, gives ½. Targets have states 0 and 1.

    Args:
        bins: of every unit.
        edges: as in `StreamingHistogram`.

    Raises:
        ValueError: as `StreamingHistogram`.

    Example:
        >>> metric = RocAuc()
        >>> metric.update(torch.tensor([[3.0, 1.0, 3.0, 2.0]]), torch.tensor([[0, 1, 1, 0]]))
        >>> metric.result()  # of the four pairs one is won, one is a tie
        tensor([[0.3750]], dtype=torch.float64)
    """

    two_states = True
    strength_range = 0.5, 1.0

    def __init__(self, bins: int = BINS, edges: Tensor | None = None) -> None:
        self.sums = StreamingHistogram(bins, 2, edges)

    @classmethod
    def for_null(cls, states: int) -> RocAuc:
        return cls(NULL_BINS)

    @classmethod
    def posterior_ceiling(cls, tree: LatentTree, nodes: Sequence[int]) -> PosteriorAuc:
        """The area of the posterior itself: no function of the leaves has a larger one."""
        return PosteriorAuc()

    def result(self) -> Tensor:
        """`(…, U, T)` areas in [0, 1], float64."""
        counts = self.sums.result().movedim(-3, -1)  # (…, U, T, K, bins)
        negative, positive = counts[..., 0, :], counts[..., 1, :]
        below = negative.cumsum(-1) - negative / 2
        pairs = negative.sum(-1) * positive.sum(-1)
        won = (positive * below).sum(-1)
        return torch.where(pairs > 0, won / pairs, torch.full_like(won, 0.5))

    def strength(self) -> Tensor:
        """`(…, U, T)` max(AUC, 1 - AUC) in [½, 1], float64."""
        area = self.result()
        return torch.maximum(area, 1 - area)


class PosteriorAuc:
    """The area under the ROC curve of P(latent = 1 | leaves), on the rows that are measured."""

    def __init__(self) -> None:
        self.metric = RocAuc()

    def update(self, posteriors: Tensor, targets: Tensor) -> None:
        """Add a batch: posteriors `(S, T, 2, B)` and states `(S, T, B)`."""
        self.metric.update(posteriors[:, :, 1:2], targets[:, :, None])  # each for its own latent

    def result(self) -> Ceiling:
        """`(S, T)` areas; their standard error is not estimated and NaN."""
        area = self.metric.strength()[..., 0, 0].cpu()
        return Ceiling(area, torch.full_like(area, torch.nan))
