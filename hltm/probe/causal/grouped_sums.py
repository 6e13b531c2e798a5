"""Sums over rows in groups, so that any function of sums has a standard error by the jackknife."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

GROUPS = 20  # of rows; each is left out once


class Estimated(NamedTuple):
    """A number of every member and its standard error, `(S,)` float64 each."""

    value: Tensor
    standard_error: Tensor


class GroupedSums:
    """Sums of F numbers per row, in groups of rows, batch by batch.

    A statistic is a function of the sums `(…, F)` that does not change when all of them are scaled. Its
    standard error is that of the jackknife over groups (Efron and Tibshirani 1993, "An Introduction
    to the Bootstrap", Chapter 11): sqrt( (G - 1) / G · Σ_g (θ without g - their mean)² ).

    Example:
        >>> sums = GroupedSums()
        >>> x = torch.arange(100.0).view(1, 100)
        >>> sums.update(torch.stack([x, torch.ones(1, 100)], -1))
        >>> mean = sums.estimate(lambda f: f[..., 0] / f[..., 1])
        >>> float(mean.value)
        49.5
    """

    def __init__(self) -> None:
        self.samples = 0
        self.sums = torch.zeros((), dtype=torch.float64)

    def update(self, numbers: Tensor) -> None:
        """Add a batch `(S, B, F)`; row i of all rows is in group i mod GROUPS."""
        members, rows, count = numbers.shape
        group = torch.arange(self.samples, self.samples + rows, device=numbers.device) % GROUPS
        sums = numbers.new_zeros(members, GROUPS, count, dtype=torch.float64)
        self.sums = self.sums + sums.index_add_(1, group, numbers.double()).cpu()
        self.samples += rows

    def estimate(self, statistic: Callable[[Tensor], Tensor]) -> Estimated:
        """The statistic of all rows, and its standard error."""
        total = self.sums.sum(1)
        without = statistic(total[:, None] - self.sums)  # (S, G)
        spread = (without - without.mean(1, keepdim=True)).square().sum(1)
        return Estimated(statistic(total), ((GROUPS - 1) / GROUPS * spread).sqrt())
