"""What a meaningless unit scores: the same activations against the latents of other, independent rows.

Activations of a batch are paired with targets of rows from a stream of their own, shifted by each of
`lags` lags within the batch. Any dependence that remains is chance. All units see the same shifted
rows, so their dependence on each other is kept, and with it the chance that the best of them scores.

`CorrelationNull` is for the correlation, with one Fourier transform per batch. `MetricNull` is for any
metric, at the cost of one copy of the metric's sums for each lag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from hltm.probe.metric import Metric

LAGS = 200  # pairings with other rows that make the null
QUANTILE = 0.95
HELD = 1 << 23  # shifted targets held at a time


class CorrelationNull:
    """The null of the best |correlation| among U units with each of T targets.

    Args:
        lags: pairings with other rows, at least 1.

    Example:
        >>> null = CorrelationNull(lags=100)
        >>> generator = torch.Generator().manual_seed(0)
        >>> a = torch.randn(1, 10_000, generator=generator)
        >>> null.update(a, torch.randint(2, (1, 10_000), generator=generator))
        >>> bool(abs(float(null.quantile()) - 1.96 / 100) < 0.006)
        True
    """

    def __init__(self, lags: int = LAGS) -> None:
        self.lags = lags
        # sums over batches: products (…, U, T, lags) and squares (…, U), (…, T)
        self.cross = self.square_a = self.square_z = torch.zeros((), dtype=torch.float64)

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch: activations `(…, U, B)` and targets `(…, T, B)` of other rows."""
        a = activations - activations.mean(-1, keepdim=True)
        z = targets.to(a.dtype)
        z = z - z.mean(-1, keepdim=True)
        count = a.shape[-1]
        # the inner products with targets at every circular shift are a convolution: a product of
        # Fourier transforms
        spectrum = torch.fft.rfft(a)[..., :, None, :] * torch.fft.rfft(z).conj()[..., None, :, :]
        shifted = torch.fft.irfft(spectrum, n=count)  # (…, U, T, B)
        step = max(count // self.lags, 1)
        lags = torch.arange(self.lags, device=a.device) * step % count
        self.cross = self.cross + shifted[..., lags].double()
        self.square_a = self.square_a + a.square().sum(-1).double()
        self.square_z = self.square_z + z.square().sum(-1).double()

    def quantile(self, *, signed: bool = False) -> Tensor:
        """`(…, T)` float64: the 95% point, over lags, of the best |correlation| among the units.

        Args:
            signed: of the best correlation, where a negative one counts as below 0.
        """
        scale = (self.square_a[..., :, None] * self.square_z[..., None, :]).sqrt()[..., None]
        products = self.cross if signed else self.cross.abs()
        score = torch.where(scale > 0, products / scale, torch.zeros_like(scale))
        return score.amax(-3).quantile(QUANTILE, dim=-1)


class MetricNull:
    """The null of any metric: what a meaningless set of units scores on each target.

    Each shift is one more set of targets for the metric, which needs nothing but `update` and
    `strength`; memory is `lags` times that of the metric.

    Args:
        lags: pairings with other rows, at least 1.

    Raises:
        ValueError: lags below 1; in `update`, a batch with fewer rows than lags.

    Example:
        >>> from hltm.probe import Correlation
        >>> null = MetricNull(Correlation, lags=100)
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
        # lags are grouped so that the shifted targets of a group fit in HELD; one metric per group
        self.groups: list[Tensor] = []
        self.metrics: list[Metric] = []

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch: activations `(…, U, B)` and target states `(…, T, B)` of other rows."""
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
            metric.update(activations, shifted.flatten(-3, -2))  # (…, lags of the group · T, B)

    def quantile(self) -> Tensor:
        """`(…, T)` float64: the 95% point, over lags, of the best strength among the units."""
        return self._strengths().amax(-3).quantile(QUANTILE, dim=-2)

    def unit_quantile(self) -> Tensor:
        """`(…, U)` float64: the 95% point, over lags, of each unit's best strength among the targets."""
        return self._strengths().amax(-1).quantile(QUANTILE, dim=-1)

    def _strengths(self) -> Tensor:
        """`(…, U, lags, T)`."""
        found = [
            metric.strength().unflatten(-1, (len(group), -1))
            for group, metric in zip(self.groups, self.metrics, strict=True)
        ]
        return torch.cat(found, dim=-2)


class NullSet:
    """The nulls of several metrics of the same activations and targets.

    Args:
        kinds: name -> metric.
        states: K, the largest number of states of a target.
        lags: pairings with other rows, at least 1.
    """

    def __init__(self, kinds: Mapping[str, type[Metric]], states: int, lags: int = LAGS) -> None:
        self.nulls = {k: MetricNull(partial(m.for_null, states), lags) for k, m in kinds.items()}

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch: activations `(…, U, B)` and targets `(…, T, B)` of other rows."""
        for null in self.nulls.values():
            null.update(activations, targets)

    def quantile(self, name: str) -> Tensor:
        """`(…, T)` float64: the 95% point, over lags, of the best strength among the units."""
        return self.nulls[name].quantile()

    def unit_quantile(self, name: str) -> Tensor:
        """`(…, U)` float64: the same, of each unit's best strength among the targets."""
        return self.nulls[name].unit_quantile()
