"""The null of any metric: the same activations against the latents of other rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hltm.probe.metric import Metric
from hltm.probe.null import LAGS, QUANTILE

HELD = 1 << 23  # shifted target indicators held at a time


class ShiftedNull:
    """What a meaningless set of units scores on each target, for any metric.

    Activations meet the targets of other, independent rows, shifted by each of `lags` lags within a
    batch: each shift is one more set of targets for the metric, so all units see the same rows and
    keep their dependence on each other. It asks nothing of the metric but update and strength;
    memory is `lags` times that of the metric.

    Args:
        make: makes a fresh metric.
        lags: pairings, at least 1.

    Raises:
        ValueError: lags below 1; in `update`, a batch with fewer rows than lags.

    Example:
        >>> from hltm.probe.correlation import Correlation
        >>> null = ShiftedNull(Correlation, lags=100)
        >>> generator = torch.Generator().manual_seed(0)
        >>> a = torch.randn(1, 10_000, generator=generator)
        >>> null.update(a, torch.randint(2, (1, 10_000), generator=generator))
        >>> bool(abs(float(null.quantile()) - 1.96 / 100) < 0.006)
        True
    """

    def __init__(self, make: Callable[[], Metric], lags: int = LAGS) -> None:
        if lags < 1:
            raise ValueError(f"lags must be at least 1, got {lags}")
        self.make, self.lags = make, lags
        self.groups: list[Tensor] = []
        self.metrics: list[Metric] = []

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch; activations `(…, U, B)`, target states `(…, T, B)` of other rows."""
        count = activations.shape[-1]
        if count < self.lags:
            raise ValueError(f"a batch needs a row for each of {self.lags} lags, got {count}")
        if not self.groups:
            size = max(HELD // max(targets.numel(), 1), 1)
            self.groups = list(torch.arange(self.lags).split(size))
            self.metrics = [self.make() for _ in self.groups]
        step = count // self.lags
        for group, metric in zip(self.groups, self.metrics, strict=True):
            shifted = torch.stack([targets.roll(int(i) * step, -1) for i in group], dim=-3)
            metric.update(activations, shifted.flatten(-3, -2))  # (…, lags of the group * T, B)

    def quantile(self) -> Tensor:
        """`(…, T)` float64: the 95% point, over lags, of the best strength among the units."""
        return self._strengths().amax(-3).quantile(QUANTILE, dim=-2)

    def unit_quantile(self) -> Tensor:
        """`(…, U)` float64: the 95% point of each unit's best strength among the targets."""
        return self._strengths().amax(-1).quantile(QUANTILE, dim=-1)

    def _strengths(self) -> Tensor:
        """`(…, U, lags, T)`."""
        found = [
            metric.strength().unflatten(-1, (len(group), -1))
            for group, metric in zip(self.groups, self.metrics, strict=True)
        ]
        return torch.cat(found, dim=-2)
