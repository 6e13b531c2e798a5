"""All that is measured of one layer: metrics with nulls and ceilings, dead units, and details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling, Leaves
from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.units import StreamingUnits
from hltm.probe.batches import Label
from hltm.probe.details import DetailProbe, Details
from hltm.probe.function_metric import FunctionMetric, FunctionNull
from hltm.probe.metric import Metric
from hltm.probe.metrics.matching import Matching, match_units
from hltm.probe.null import NullSet
from hltm.tree import LatentTree

BEHIND = "_post_relu"  # ends the name of the first metric behind the nonlinearity


class Score(NamedTuple):
    """One metric of a layer's U units with T targets; float64 unless stated otherwise.

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
        below_null: `(S, U)` bool, units at or below their own null on every target of theirs.
        factor: `(S, T)` the ceiling of `best` divided by the ceiling of correlations; None for none.
        matched: the one-to-one matching of candidates with targets; None without details.
    """

    kind: type[Metric]
    value: Tensor
    strength: Tensor
    best: Tensor
    unit: Tensor
    null: Tensor
    below_null: Tensor
    factor: Tensor | None
    matched: Matching | None


class LatentCeilings:
    """`tree.ceiling` of all latents, computed when it is read, once for all layers."""

    def __init__(self, tree: LatentTree) -> None:
        self.tree = tree
        self.found: dict[Leaves, Ceiling] = {}

    def of(self, leaves: Leaves, members: int) -> Ceiling:
        """`(S, L)` each; networks of one tree share its ceiling."""
        if leaves not in self.found:
            self.found[leaves] = self.tree.ceiling(self.tree.latents, leaves=leaves)
        parts = self.found[leaves]
        return Ceiling(*(part.reshape(-1, part.shape[-1]).expand(members, -1) for part in parts))


@dataclass(frozen=True, eq=False)
class Layer:
    """What is measured of one layer; tensors lie on the CPU.

    Attributes:
        label: the name that the source gives to the layer.
        nodes: numbers of the T latents that its units are compared with; empty for other targets.
        names, levels: of the T targets.
        candidates: `own block` or `whole layer`: which units may stand for a target.
        blocks: of units; 1 for the whole layer.
        allowed: `(U, T)` bool, the candidates of each target.
        scores: metric -> Score. For a network with `rectify` the first metric is also there behind
            it, as `…_post_relu`.
        dead: `(S, U)` bool, units that never vary as the next layer reads them.
        posterior_ceilings: metric -> its ceiling from exact posteriors on the rows that are measured.
        latent_ceilings: of correlations, for all latents.
        leaves: `own` or `all`, the leaves that ceilings and posteriors are given.
        details: None where they are left out.
        samples: rows.
    """

    label: Label
    nodes: list[int]
    names: list[str]
    levels: list[int]
    candidates: str
    blocks: int
    allowed: Tensor
    scores: dict[str, Score]
    dead: Tensor
    posterior_ceilings: dict[str, Ceiling]
    latent_ceilings: LatentCeilings
    leaves: Leaves
    details: Details | None
    samples: int

    @cached_property
    def correlation_ceiling(self) -> Ceiling:
        """`(S, T)` of `tree.ceiling`, computed when it is first read; NaN for other targets."""
        members = len(self.dead)
        if not self.nodes:
            nothing = torch.full((members, len(self.names)), torch.nan, dtype=torch.float64)
            return Ceiling(nothing, nothing)
        found = self.latent_ceilings.of(self.leaves, members)
        return Ceiling(*(part[:, self.nodes] for part in found))

    @cached_property
    def ceilings(self) -> dict[str, Ceiling]:
        """Metric -> its ceiling and standard error, `(S, T)` each; metrics that have one."""
        found = dict(self.posterior_ceilings)
        for name, score in self.scores.items():
            if score.factor is not None and self.nodes:
                found[name] = Ceiling(*(score.factor * part for part in self.correlation_ceiling))
        return found


class LayerProbe:
    """The accumulators of one layer.

    Args:
        label: the layer's name.
        tree: of the latents.
        nodes: numbers of the latents to compare its units with; empty for other targets.
        names: of the targets.
        own: whether each block of units is compared with targets of its own.
        kinds: name -> metric; the first one chooses the units whose specificity is reported.
        states: K, the largest number of states of a target.
        lags: of the null; 0 for none.
        leaves: `own` or `all`, the leaves that the posteriors are given.
        details: whether to measure the details too.
        ceilings: of all latents.
        members: addresses, for errors.
    """

    def __init__(
        self,
        label: Label,
        tree: LatentTree,
        nodes: Sequence[int],
        names: Sequence[str],
        *,
        own: bool,
        kinds: Mapping[str, type[Metric]],
        states: int,
        lags: int,
        leaves: Leaves,
        details: bool,
        ceilings: LatentCeilings,
        members: Sequence[int],
    ) -> None:
        self.label, self.tree, self.own = label, tree, own
        self.nodes, self.names = list(nodes), list(names)
        self.kinds, self.lags, self.states, self.leaves = dict(kinds), lags, states, leaves
        self.latent_ceilings, self.members = ceilings, members
        self.metrics = {name: kind.for_states(states) for name, kind in kinds.items()}
        self.first = next(iter(kinds))
        self.nulls = _Nulls(kinds, states, lags)
        self.behind: Metric | None = None  # the first metric behind the nonlinearity
        self.behind_nulls = _Nulls({self.first: kinds[self.first]}, states, lags)
        self.read = StreamingUnits()  # of the units as the next layer reads them
        made = {
            name: kind.posterior_ceiling(tree, nodes) if nodes else None
            for name, kind in kinds.items()
        }
        self.ceilings = {name: found for name, found in made.items() if found is not None}
        self.details = DetailProbe(tree, nodes, states) if details else None
        self.samples = self.width = self.blocks = self.targets = 0

    @property
    def reads_posterior(self) -> bool:
        """Whether `update` needs the posterior."""
        return self.details is not None or bool(self.ceilings)

    @property
    def sizes(self) -> tuple[int, int]:
        """Units of the layer, over all members, and pairs of a unit and a target."""
        units = len(self.members) * self.blocks * self.width
        return units, units * self.targets

    def update(
        self,
        values: Tensor,
        rectified: Tensor | None,
        targets: Tensor,
        other: Tensor | None,
        latents: Tensor,
        posterior: Tensor | None,
    ) -> None:
        """Add a batch.

        Args:
            values: `(S, U, B)`, or `(S, V, U, B)` for blocks with targets of their own.
            rectified: the same as the next layer reads them; None where that is not known.
            targets: `(S, T, B)`, or `(S, V, T, B)`; other: the same of other rows.
            latents: `(S, L, B)` states of all latents.
            posterior: `(S, L, K, B)` of all latents.
        """
        a = self._checked(values)
        after = None if rectified is None else self._checked(rectified)
        z = targets.to(a.device)
        self.samples += a.shape[-1]
        self.width, self.targets = a.shape[-2], z.shape[-2]
        self.blocks = a.shape[1] if self.own else 1
        for name, metric in self.metrics.items():
            pairs = self._all_pairs(self.kinds[name])
            metric.update(*(x.flatten(1, -2) if pairs else x for x in (a, z)))
        if after is not None:
            if self.behind is None:
                self.behind = self.kinds[self.first].for_states(self.states)
            self.behind.update(after, z)
        read = a if after is None else after
        self.read.take(read)
        if other is not None:
            self.nulls.update(a, other.to(a.device))
            if after is not None:
                self.behind_nulls.update(after, other.to(a.device))
        if posterior is not None:
            posterior, latents = posterior.to(a.device), latents.to(a.device)
            for ceiling in self.ceilings.values():
                ceiling.update(posterior[:, self.nodes], latents[:, self.nodes])
            if self.details is not None:
                self.details.update(a, z, latents, posterior)

    def _checked(self, values: Tensor) -> Tensor:
        """Activations in single or double precision, which are finite."""
        check_finite(values, self.label)
        return values if values.dtype == torch.float64 else values.float()

    def _all_pairs(self, kind: type[Metric]) -> bool:
        """Whether units of a block are measured with the targets of other blocks as well."""
        return self.own and self.details is not None and not issubclass(kind, FunctionMetric)

    def result(self) -> Layer:
        """The measurements of all rows so far."""
        units, targets = self.blocks * self.width, self.blocks * self.targets
        block_of = [
            torch.arange(n) // size for n, size in ((units, self.width), (targets, self.targets))
        ]
        allowed = block_of[0][:, None] == block_of[1]
        scores = {
            name: self._score(name, metric, self.nulls, allowed)
            for name, metric in self.metrics.items()
        }
        if self.behind is not None:
            behind = self._score(self.first, self.behind, self.behind_nulls, allowed)
            scores[self.first + BEHIND] = behind
        level = self.label if isinstance(self.label, int) else -1
        return Layer(
            label=self.label,
            nodes=self.nodes,
            names=self.names,
            levels=[int(self.tree.topology.level[v]) for v in self.nodes] or [level] * targets,
            candidates="own block" if self.own else "whole layer",
            blocks=self.blocks,
            allowed=allowed,
            scores=scores,
            dead=self.read.dead().flatten(1).cpu(),
            posterior_ceilings={name: found.result() for name, found in self.ceilings.items()},
            latent_ceilings=self.latent_ceilings,
            leaves=self.leaves,
            details=None if self.details is None else self.details.result(scores[self.first].unit),
            samples=self.samples,
        )

    def _score(self, name: str, metric: Metric, nulls: _Nulls, allowed: Tensor) -> Score:
        kind = self.kinds[name]
        value, strength = (self._shaped(name, x) for x in (metric.result(), metric.strength()))
        of_units = strength.shape[-2] in (self.width, len(allowed))
        among = strength
        if strength.ndim == 3 and of_units:
            among = strength.masked_fill(~allowed, -torch.inf)
        best, unit = among.max(-2)
        factor = metric.ceiling_factor()
        if factor is not None:
            full = factor.cpu().expand(strength.shape)
            factor = torch.take_along_dim(full, unit[..., None, :], -2)[..., 0, :].flatten(1)
        if strength.ndim == 4:  # places within blocks
            unit = unit + torch.arange(self.blocks)[:, None] * self.width
        best, unit = best.flatten(1), unit.flatten(1)
        null = torch.full_like(best, torch.nan)
        below = torch.zeros(len(best), len(allowed), dtype=torch.bool)
        if self.lags:
            null = nulls.quantile(name).cpu().flatten(1)
        if self.lags and of_units:
            below = among.amax(-1).flatten(1) <= nulls.unit_quantile(name).cpu().flatten(1)
        matched = None
        if self.details is not None and of_units:
            value, strength = (self._block_diagonal(x, allowed) for x in (value, strength))
            matched = match_units(strength, allowed)
        if not of_units:
            unit = torch.full_like(unit, -1)
        return Score(kind, value, strength, best, unit, null, below, factor, matched)

    def _shaped(self, name: str, found: Tensor) -> Tensor:
        """A metric's numbers on the CPU, if they are as many as they should be, and finite."""
        found = found.double().cpu()
        members, blocks, units, targets = len(self.members), self.blocks, self.width, self.targets
        shape = (members, blocks, units, targets) if self.own else (members, units, targets)
        if self._all_pairs(self.kinds[name]):
            shape = members, blocks * units, blocks * targets
        fits = [shape]
        if issubclass(self.kinds[name], FunctionMetric):
            fits.append((*shape[:-2], 1, targets))
        if tuple(found.shape) not in fits:
            raise ValueError(f"metric {name!r} gave shape {tuple(found.shape)}, expected {shape}")
        wrong = (~found.isfinite()).nonzero()
        if len(wrong):
            place = tuple(wrong[0].tolist())
            raise ValueError(
                f"metric {name!r} gave {float(found[place])} for unit {place[-2]} of layer "
                f"{self.label!r} and target {place[-1]}, expected finite numbers"
            )
        return found

    def _block_diagonal(self, found: Tensor, allowed: Tensor) -> Tensor:
        """`(S, U, T)` of all units and targets; NaN for pairs of different blocks."""
        if found.ndim == 3:
            return found
        full = torch.full((len(found), *allowed.shape), torch.nan, dtype=found.dtype)
        full[:, allowed] = found.flatten(1)
        return full


class _Nulls:
    """The nulls of a layer's metrics; functions, which see all rows at once, have one of their own."""

    def __init__(self, kinds: Mapping[str, type[Metric]], states: int, lags: int) -> None:
        self.functions: dict[str, FunctionNull] = {}
        streamed: dict[str, type[Metric]] = {}
        for name, kind in kinds.items() if lags else ():
            if issubclass(kind, FunctionMetric):
                self.functions[name] = FunctionNull(kind(), lags)
            else:
                streamed[name] = kind
        self.streamed = NullSet(streamed, states, lags) if streamed else None

    def update(self, activations: Tensor, targets: Tensor) -> None:
        for null in self.functions.values():
            null.update(activations, targets)
        if self.streamed is not None:
            self.streamed.update(activations, targets)

    def quantile(self, name: str) -> Tensor:
        """`(…, T)`."""
        if name in self.functions:
            return self.functions[name].quantile()
        assert self.streamed is not None
        return self.streamed.quantile(name)

    def unit_quantile(self, name: str) -> Tensor:
        """`(…, U)`."""
        if name in self.functions:
            return self.functions[name].unit_quantile()
        assert self.streamed is not None
        return self.streamed.unit_quantile(name)
