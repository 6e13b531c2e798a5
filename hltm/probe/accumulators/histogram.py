"""Streaming histograms of units given the state of each target."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_finite, check_pair, one_hot

HELD = 1 << 23  # indicators of bins held at a time


class StreamingHistogram:
    """Counts of (bin of a unit, state of a target), in bins fixed by the first batch.

    A unit's bins hold equal shares of its first batch; equal values always share a bin. A unit with
    at most `bins` distinct values in its first batch gets a bin for each of them, so that no
    difference between them is lost. Memory is `(…, U, bins, T, K)` float64.

    Args:
        bins: of every unit, at least 2.
        states: K, the largest number of states of a target.
        edges: `(…, U, bins - 1)`, ascending, instead of those from the first batch; bin i holds
            edge i - 1 <= value < edge i.

    Raises:
        ValueError: fewer than 2 bins or states; in `update`, as `check_pair` and `one_hot`.

    Example:
        >>> histogram = StreamingHistogram(bins=2)
        >>> histogram.update(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0, 0, 1, 0]]))
        >>> histogram.result().squeeze()  # bins by states
        tensor([[2., 0.],
                [1., 1.]], dtype=torch.float64)
    """

    def __init__(self, bins: int, states: int = 2, edges: Tensor | None = None) -> None:
        if bins < 2 or states < 2:
            raise ValueError(f"bins and states must be at least 2, got {bins} and {states}")
        self.bins, self.states, self.edges = bins, states, edges
        self.samples, self.counts = 0, torch.zeros(())

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        a = check_pair(activations, targets).contiguous()
        if self.edges is None:
            self.edges = equal_shares(a, self.bins)
        place = torch.searchsorted(self.edges.to(a).contiguous(), a, right=True)
        every = torch.arange(self.bins, device=a.device)[:, None]
        rows = max(HELD // (self.bins * a[..., 0].numel()), 1)
        for bin_of, states in zip(place.split(rows, -1), targets.split(rows, -1), strict=True):
            inside = (bin_of[..., None, :] == every).float().flatten(-3, -2)  # (…, U * bins, B)
            # sums of zeros and ones are exact in float32 up to 2^24 rows at a time
            counts = (inside @ one_hot(states, self.states).transpose(-1, -2)).double()
            self.counts = self.counts + counts
            self.samples += bin_of.shape[-1]

    def result(self) -> Tensor:
        """`(…, U, bins, T, K)` float64 counts."""
        return self.counts.unflatten(-1, (-1, self.states)).unflatten(-3, (-1, self.bins))


def equal_shares(activations: Tensor, bins: int) -> Tensor:
    """`(…, U, bins - 1)` edges between bins of equal shares of `(…, U, B)` activations.

    Where a unit has at most `bins` distinct values, the edges are those values; repeated edges make
    empty bins.
    """
    check_finite(activations)
    ordered = activations.sort(-1).values
    count = ordered.shape[-1]
    cut = torch.arange(1, bins, device=ordered.device) * count // bins
    shares = ordered[..., cut.clamp(max=count - 1)]
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    rank = fresh.cumsum(-1) - 1  # 0 for the smallest distinct value
    # the edge below distinct value i stands at place i - 1; values beyond the last place are dropped
    distinct = ordered[..., -1:].expand(*ordered.shape[:-1], bins).clone()
    distinct.scatter_(-1, rank.clamp(max=bins - 1), ordered)
    few = rank[..., -1:] < bins
    return torch.where(few, distinct[..., 1:], shares)
