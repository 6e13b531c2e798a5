"""What a meaningless unit scores: the same activations against the latents of other, independent rows.

Activations are paired with targets of rows from a stream of their own, shifted by each of `lags` lags.
Any dependence that remains is chance. All units see the same shifted rows, so their dependence on each
other is kept, and with it the chance that the best of them scores.

`NullSet` has the nulls of several metrics. A metric says in one line how its null is computed, by the
class attribute `null`, one of `KINDS`; any other goes through `MetricNull`, at the cost of one copy of the
metric's sums for each lag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from hltm.probe.accumulators.cells import mid_ranks
from hltm.probe.accumulators.chosen_rows import ChosenRows
from hltm.probe.accumulators.histogram import BUFFER
from hltm.probe.accumulators.shifted import ShiftedCorrelation, shuffle
from hltm.probe.information_null import shifted_information
from hltm.probe.metric import Metric

LAGS = 200  # pairings with other rows that make the null
QUANTILE = 0.95
HELD = 1 << 23  # shifted targets held at a time
#: how a metric's null is computed, where it is not by `MetricNull`
KINDS = ("correlation", "signed_correlation", "selectivity", "correlation_ratio", "ranks", "cells")


def upper_point(values: Tensor, dim: int) -> Tensor:
    """The 95% point of n values: the smallest that at most 5% of n + 1 exchangeable ones exceed.

    A further value that is exchangeable with these n is among the k largest of the n + 1 in at most
    k / (n + 1) of all cases, ties or not; so it is above the k-th largest of the n, k = ⌊0.05 (n + 1)⌋, in
    no more than 5%. Where n < 19 no value is exceeded that rarely, and this is the largest.

    Example:
        >>> upper_point(torch.arange(1.0, 200.0), dim=0)
        tensor(190.)
    """
    count = values.shape[dim]
    largest = max(int((1 - QUANTILE) * (count + 1) + 1e-9), 1)
    return values.kthvalue(count + 1 - largest, dim=dim).values


class NullSet:
    """The nulls of several metrics of the same units and targets.

    Metrics that are linear in the activations share one set of shifted sums (`ShiftedCorrelation`), and
    the area under the ROC curve has one of the ranks within blocks of `BUFFER` rows, so neither depends
    on how rows are batched. The null of mutual information is of up to `BUFFER` rows, all of them or a
    random choice, and is scaled to the number of all rows, as information at small dependence is.
    Memory is `(…, U, T, lags)` for each set of sums and `(…, U, 2 BUFFER)` rows.

    Args:
        kinds: name -> metric.
        states: K, the largest number of states of a target.
        lags: pairings with other rows, at least 1.

    Raises:
        ValueError: lags below 1; in `quantile` and `unit_quantile`, fewer rows than lags.

    Example:
        >>> from hltm.probe import Correlation
        >>> nulls = NullSet({"correlation": Correlation}, states=2, lags=199)
        >>> generator = torch.Generator().manual_seed(0)
        >>> a = torch.randn(1, 10_000, generator=generator)
        >>> nulls.update(a, torch.randint(2, (1, 10_000), generator=generator))
        >>> bool(abs(float(nulls.quantile("correlation")) - 1.96 / 100) < 0.006)
        True
    """

    def __init__(
        self, kinds: Mapping[str, type[Metric]], states: int = 2, lags: int = LAGS
    ) -> None:
        if lags < 1:
            raise ValueError(f"lags must be at least 1, got {lags}")
        self.states, self.lags, self.samples = states, lags, 0
        # a subclass of a metric is another metric: it says itself how its null is computed
        self.kinds = {name: vars(kind).get("null") for name, kind in kinds.items()}
        self.generic = {
            name: MetricNull(partial(kinds[name].for_states, states), lags)
            for name, null in self.kinds.items()
            if null not in KINDS
        }
        asked = set(self.kinds.values())
        self.sums: dict[str, ShiftedCorrelation] = {}
        if asked & {"correlation", "signed_correlation", "selectivity"} or (
            "correlation_ratio" in asked and states == 2
        ):
            self.sums["numbers"] = ShiftedCorrelation(lags)
        if "correlation_ratio" in asked and states > 2:
            self.sums["states"] = ShiftedCorrelation(lags)
        if "ranks" in asked:
            self.sums["ranks"] = ShiftedCorrelation(lags)
        self.chosen = ChosenRows() if asked & {"ranks", "cells"} else None
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.found: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch: activations `(…, U, B)` and targets `(…, T, B)` of other rows."""
        a = activations.detach()
        a = a.to(torch.promote_types(a.dtype, torch.float32))
        self.found = {}
        self.samples += a.shape[-1]
        for null in self.generic.values():
            null.update(a, targets)
        if self.chosen is not None:
            self.chosen.update(a, targets)
        if not self.sums:
            return
        self.waiting.append((a.clone(), targets.clone()))
        least = BUFFER + 2 * self.lags  # what is left over must be enough to be shifted
        if sum(z.shape[-1] for _, z in self.waiting) >= least:
            a, z = self._waiting()
            while a.shape[-1] >= least:
                self._add(a[..., :BUFFER], z[..., :BUFFER])
                a, z = a[..., BUFFER:], z[..., BUFFER:]
            self.waiting = [(a, z)]

    def quantile(self, name: str) -> Tensor:
        """`(…, T)` float64: the 95% point, over lags, of the best strength among the units."""
        if name in self.generic:
            return self.generic[name].quantile()
        return upper_point(self._best(name)[0], -1)

    def unit_quantile(self, name: str) -> Tensor:
        """`(…, U)` float64: the 95% point, over lags, of each unit's best strength among the targets."""
        if name in self.generic:
            return self.generic[name].unit_quantile()
        return upper_point(self._best(name)[1], -1)

    def _waiting(self) -> tuple[Tensor, Tensor]:
        a, z = (torch.cat(parts, -1) for parts in zip(*self.waiting, strict=True))
        return a, z

    def _add(self, activations: Tensor, targets: Tensor) -> None:
        """Add a block of rows to the shifted sums."""
        order = shuffle(activations.shape[-1]).to(activations.device)
        activations = activations.gather(-1, order.expand(activations.shape))
        for name, sums in self.sums.items():
            a, z = activations, targets
            if name == "ranks":
                a = _ranks(a)
            if name == "states":
                every = torch.arange(1, self.states, device=z.device)[:, None]
                z = (z[..., None, :] == every).flatten(-3, -2)
            sums.update(a, z)

    def _best(self, name: str) -> tuple[Tensor, Tensor]:
        """The best strength of a target `(…, T, lags)` and of a unit `(…, U, lags)`."""
        if name not in self.found:
            if self.samples < self.lags:
                raise ValueError(f"{self.lags} lags need as many rows, got {self.samples}")
            if self.waiting:
                self._add(*self._waiting())
                self.waiting = []
            if self.kinds[name] == "cells":
                assert self.chosen is not None
                a, z = self.chosen.rows()
                self.found[name] = shifted_information(a, z, self.states, self.lags, self.samples)
            else:
                strength = self._strength(name)
                self.found[name] = strength.amax(-3), strength.amax(-2)
        return self.found[name]

    def _strength(self, name: str) -> Tensor:
        """`(…, U, T, lags)` of a metric that is computed from shifted correlations."""
        kind = self.kinds[name]
        if kind == "correlation_ratio" and self.states > 2:
            return _ratio(self.sums["states"], self.states)
        sums = self.sums["ranks" if kind == "ranks" else "numbers"]
        found = sums.correlation()
        if kind == "signed_correlation":  # where a negative one counts as below 0
            return found
        found = found.abs()
        if kind in ("correlation", "correlation_ratio"):
            return found
        unit, target = sums.deviation()
        if kind == "ranks" and self.samples > BUFFER:
            # ranks within blocks are not those among all rows
            assert self.chosen is not None
            unit = _ranks(self.chosen.rows()[0]).std(-1, correction=0)
        unit, target = unit[..., :, None, None], target[..., None, :, None]
        # of two states: the difference of a unit's means is its covariance with the state over the
        # variance of the state, and the area is ½ more than that of its ranks as shares of all rows
        slope = torch.where(target > 0, found * unit / target, torch.zeros_like(found))
        return 0.5 + slope if kind == "ranks" else slope / 2


class MetricNull:
    """The null of any metric: what a meaningless set of units scores on each target.

    Each shift is one more set of targets for the metric, which needs nothing but `update` and
    `strength`; memory is `lags` times that of the metric.

    Args:
        make: a new metric.
        lags: pairings with other rows, at least 1.

    Raises:
        ValueError: lags below 1; in `update`, a batch with fewer rows than lags.

    Example:
        >>> from hltm.probe import Correlation
        >>> null = MetricNull(Correlation, lags=199)
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
        place = shuffle(count).argsort().to(targets.device)  # of a row in the random order
        for group, metric in zip(self.groups, self.metrics, strict=True):
            shifted = torch.stack([targets[..., (place - i * step) % count] for i in group], dim=-3)
            metric.update(activations, shifted.flatten(-3, -2))  # (…, lags of the group · T, B)

    def quantile(self) -> Tensor:
        """`(…, T)` float64: the 95% point, over lags, of the best strength among the units."""
        return upper_point(self._strengths().amax(-3), -2)

    def unit_quantile(self) -> Tensor:
        """`(…, U)` float64: the 95% point, over lags, of each unit's best strength among the targets."""
        return upper_point(self._strengths().amax(-1), -1)

    def _strengths(self) -> Tensor:
        """`(…, U, lags, T)`."""
        found = [
            metric.strength().unflatten(-1, (len(group), -1))
            for group, metric in zip(self.groups, self.metrics, strict=True)
        ]
        return torch.cat(found, dim=-2)


def _ranks(activations: Tensor) -> Tensor:
    """`(…, U, B)` float64 mid-ranks as shares of the rows, around 0; NaN where a unit is not finite."""
    share = mid_ranks(activations).to(activations.device).double() / (2 * activations.shape[-1])
    return share.masked_fill(~activations.isfinite().all(-1, keepdim=True), torch.nan)


def _ratio(sums: ShiftedCorrelation, states: int) -> Tensor:
    """`(…, U, T, lags)` correlation ratios, from correlations with the indicators of states 1 .. K - 1.

    η² = Σ_k C_k² / p_k, with C_k the covariance of the unit, in its own scale, with the indicator of
    state k; all of them sum to 0.
    """
    found = sums.correlation().unflatten(-2, (-1, states - 1))  # (…, U, T, K - 1, lags)
    spread, mean = (
        x.unflatten(-1, (-1, states - 1))[..., None, :, :, None]
        for x in (sums.deviation()[1], sums.mean())
    )
    found = found * spread
    share = torch.cat([1 - mean.sum(-2, keepdim=True), mean], -2)
    found = torch.cat([-found.sum(-2, keepdim=True), found], -2)
    # a state that never came has covariance 0
    square = (found.square() / share.clamp(min=1e-12)).masked_fill(share < 1e-12, 0.0).sum(-2)
    return square.clamp(0, 1).sqrt()
