"""Area under the ROC curve of units for binary latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling
from hltm.probe.accumulators.histogram import StreamingHistogram
from hltm.probe.metric import Metric
from hltm.tree import LatentTree

BINS = 512


class RocAuc(Metric):
    """P(unit is larger at z = 1 than at z = 0) + ½ P(equal): the area under the ROC curve.

    Exact up to 8,192 rows, and for units with at most `bins` distinct values; beyond, up to `bound`. It
    does not depend on how rows are batched. A constant unit, or a state that never came, gives ½.
    Targets have states 0 and 1.

    Args:
        bins: of every unit, for more than 8,192 rows; at least 512 are made.

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
    null = "ranks"

    def __init__(self, bins: int = BINS) -> None:
        self.sums = StreamingHistogram(bins, 2)

    def result(self) -> Tensor:
        """`(…, U, T)` areas in [0, 1], float64."""
        won, rows = self.sums.rank_sums()[..., 1], self.sums.rows
        pairs = (2 * rows.prod(-1))[..., None, :]
        return torch.where(pairs > 0, 0.5 + won / pairs, torch.full_like(won, 0.5))

    def bound(self) -> Tensor:
        """`(…, U, T)` float64: the area is no further than this from that of all rows.

        ½ Σ_c P(c | 1) P(c | 0) over the cells c of several values, whose order is not known, and the
        shares of rows of either state that may be in a wrong cell (`StreamingHistogram.uncertain`). It
        is about 1 / 1000 where the first 8,192 rows are like the others.
        """
        several, moved = self.sums.uncertain()
        rows = self.sums.rows.clamp(min=1)
        share = several / rows[..., None, None, :, :]
        ties = share.prod(-1).sum(-2) / 2
        return (ties + (moved / rows[..., None, :, :]).sum(-1)).clamp(max=1)

    @classmethod
    def posterior_ceiling(cls, tree: LatentTree, nodes: Sequence[int]) -> PosteriorAuc:
        """The area of the posterior itself: no function of the leaves has a larger one."""
        return PosteriorAuc()

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
