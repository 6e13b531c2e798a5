"""Metrics of one layer's units with their targets: the best unit of each target, beside its null."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hltm._results import by_content
from hltm.probe.accumulators.units import StreamingUnits, UnitBatch
from hltm.probe.function_metric import FunctionMetric, FunctionNull
from hltm.probe.metric import Metric
from hltm.probe.metrics.matching import Matching, match_units
from hltm.probe.null import NullSet


@by_content
class Score(NamedTuple):
    """One metric of a layer's U units with T targets, in `Layer.scores`; float64 unless stated otherwise.

    Attributes:
        kind: the metric.
        value: `(S, U, T)` of every unit with every target, with its sign; units of different blocks
            follow each other on the axis U. Where blocks are measured without details, each with its
            own targets alone, it is `(S, V, U, T)` of a block's units and targets. NaN for a pair
            that is not measured. A function of all units together has one unit here.
        strength: the same shape, without the sign, so that more is better.
        best: `(S, T)` the largest strength among a target's candidates; blocks follow each other.
        unit: `(S, T)` int64, the unit that has it; -1 for a function of all units together.
        null: `(S, T)` the 95% point of the best strength of meaningless candidates; NaN without lags.
        units_below_null: `(S, U)` bool, units whose strength is at or below their own null, the 95%
            point of a meaningless unit's best strength, on every target of theirs; all False without lags.
        factor: `(S, T)` the ceiling of `best` divided by the ceiling of correlations; None for none.
        matched: the one-to-one matching of candidates with targets; None without details.
    """

    kind: type[Metric]
    value: Tensor
    strength: Tensor
    best: Tensor
    unit: Tensor
    null: Tensor
    units_below_null: Tensor
    factor: Tensor | None
    matched: Matching | None

    @property
    def below_null(self) -> Tensor:
        """`(S, T)` bool, targets whose `best` is at or below `null`; all False without lags."""
        return self.best <= self.null


class Candidates(NamedTuple):
    """Which units of a layer are compared with which targets.

    Attributes:
        members: S.
        blocks: V blocks of units with targets of their own; 0 for a layer that all targets share.
        units, targets: of a block, or of the layer.
    """

    members: int
    blocks: int
    units: int
    targets: int

    @property
    def allowed(self) -> Tensor:
        """`(U, T)` bool, which units may stand for which target."""
        blocks = max(self.blocks, 1)
        block_of = [torch.arange(blocks).repeat_interleave(n) for n in (self.units, self.targets)]
        return block_of[0][:, None] == block_of[1]

    def block_diagonal(self, found: Tensor) -> Tensor:
        """`(S, U, T)` of all units and targets from `(S, V, U, T)`; NaN for pairs of different blocks."""
        if found.ndim == 3:
            return found
        allowed = self.allowed
        full = torch.full((self.members, *allowed.shape), torch.nan, dtype=found.dtype)
        full[:, allowed] = found.flatten(1)
        return full


class MetricSet:
    """The accumulators of several metrics of the same units, and of their nulls.

    Args:
        kinds: name -> metric.
        states: K, the largest number of states of a target.
        lags: of the null; 0 for none.
        pairs: whether units of a block are measured with the targets of other blocks as well.
    """

    def __init__(
        self, kinds: Mapping[str, type[Metric]], states: int, lags: int, *, pairs: bool
    ) -> None:
        self.kinds, self.lags, self.pairs = dict(kinds), lags, pairs
        self.metrics = {name: kind.for_states(states) for name, kind in kinds.items()}
        streamed = {k: v for k, v in kinds.items() if not issubclass(v, FunctionMetric)}
        self.units = StreamingUnits(checked=False)
        self.null = NullSet(streamed, states, lags) if lags and streamed else None
        self.functions = {
            name: FunctionNull(kind(), lags)
            for name, kind in kinds.items()
            if lags and issubclass(kind, FunctionMetric)
        }

    def take(self, activations: Tensor) -> UnitBatch:
        """Activations centred and scaled, those of all blocks together where `pairs`."""
        return self.units.take(activations.flatten(1, -2) if self.pairs else activations)

    @property
    def numbers(self) -> bool:
        """Whether `update` reads targets as numbers, centred and scaled."""
        return any(map(_shares_numbers, self.metrics.values()))

    def update(
        self,
        activations: Tensor,
        batch: UnitBatch,
        targets: Tensor,
        numbers: UnitBatch | None,
        other: Tensor | None,
    ) -> None:
        """Add a batch.

        Args:
            activations: `(S, U, B)` or `(S, V, U, B)`.
            batch: the same, from `take`.
            targets: `(S, T, B)` or `(S, V, T, B)`; other: the same of other rows.
            numbers: targets centred and scaled, as `batch`, where `numbers` says so.
        """
        a, z = activations, targets
        if self.pairs:
            a, z = a.flatten(1, -2), z.flatten(1, -2)
        for metric in self.metrics.values():
            if isinstance(metric, FunctionMetric):
                metric.update(activations, targets)
            elif _shares_numbers(metric):
                metric.update(batch, numbers)
            else:
                metric.update(batch if _shares(metric) else a, z)
        if other is not None:
            if self.null is not None:
                self.null.update(activations, other)
            for function in self.functions.values():
                function.update(activations, other)

    def _of_all_pairs(self, name: str) -> bool:
        return self.pairs and not issubclass(self.kinds[name], FunctionMetric)

    def score(self, name: str, among: Candidates, *, matched: bool) -> Score:
        """The measurements of one metric, of all rows so far."""
        metric = self.metrics[name]
        value, strength = (
            self._checked(name, found, among) for found in (metric.result(), metric.strength())
        )
        allowed = among.allowed
        each = strength.shape[-2] in (among.units, len(allowed))  # or all units together
        blocks = strength.ndim == 4
        candidates = strength if blocks or not each else strength.masked_fill(~allowed, -torch.inf)
        best, unit = candidates.max(-2)
        factor = metric.ceiling_factor()
        if factor is not None:
            full = factor.cpu().expand(strength.shape)
            factor = torch.take_along_dim(full, unit[..., None, :], -2)[..., 0, :].flatten(1)
        if blocks:  # places within blocks
            unit = unit + torch.arange(among.blocks)[:, None] * among.units
        best, unit = best.flatten(1), unit.flatten(1)
        null = torch.full_like(best, torch.nan)
        below = torch.zeros(among.members, len(allowed), dtype=torch.bool)
        if self.lags:
            of_target, of_unit = self._quantiles(name)
            null = of_target().cpu().flatten(1)
            if each:
                below = candidates.amax(-1).flatten(1) <= of_unit().cpu().flatten(1)
        matching = None
        if matched and each:
            value, strength = map(among.block_diagonal, (value, strength))
            matching = match_units(strength, allowed)
        unit = unit if each else torch.full_like(unit, -1)
        return Score(metric.__class__, value, strength, best, unit, null, below, factor, matching)

    def _quantiles(self, name: str) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """What computes the null of every target `(…, T)`, and that of every unit `(…, U)`."""
        if name in self.functions:
            function = self.functions[name]
            return function.quantile, function.unit_quantile
        assert self.null is not None
        return partial(self.null.quantile, name), partial(self.null.unit_quantile, name)

    def _checked(self, name: str, found: Tensor, among: Candidates) -> Tensor:
        """A metric's numbers on the CPU, if they are as many as they should be, and finite."""
        found = found.double().cpu()
        members, blocks, units, targets = among
        shape: Sequence[int] = (members, units, targets)
        if blocks:
            shape = (members, blocks, units, targets)
            if self._of_all_pairs(name):
                shape = (members, blocks * units, blocks * targets)
        fits = [tuple(shape)]
        if issubclass(self.kinds[name], FunctionMetric):
            fits.append((*shape[:-2], 1, targets))
        if tuple(found.shape) not in fits:
            raise ValueError(f"metric {name!r} gave shape {tuple(found.shape)}, expected {shape}")
        wrong = (~found.isfinite()).nonzero()
        if len(wrong):
            place = tuple(wrong[0].tolist())
            raise ValueError(
                f"metric {name!r} gave {float(found[place])} for unit {place[-2]} and target "
                f"{place[-1]}, expected finite numbers"
            )
        return found


def _shares(metric: Metric) -> bool:
    """Whether it takes a `UnitBatch`; a subclass must say so again, since it may read activations."""
    return bool(vars(metric.__class__).get("takes_batches", False))


def _shares_numbers(metric: Metric) -> bool:
    """Whether it takes targets as a `UnitBatch` too."""
    return _shares(metric) and metric.numbers
