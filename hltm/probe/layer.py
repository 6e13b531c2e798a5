"""All that is measured of one layer: metrics with nulls and ceilings, dead units, and details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from hltm._results import by_content
from hltm.inference.ceiling import Ceiling, Leaves
from hltm.probe.accumulators.checks import check_finite
from hltm.probe.accumulators.units import StreamingUnits, UnitBatch
from hltm.probe.batches import Label
from hltm.probe.details import DetailProbe, Details
from hltm.probe.metric import Metric
from hltm.probe.metrics.partial_ceiling import partial_ceiling
from hltm.probe.metrics.specificity import RivalBaseline
from hltm.probe.score import Candidates, MetricSet, Score
from hltm.tree import LatentTree

BEHIND = "_post_relu"  # ends the name of the first metric behind the nonlinearity


class LatentCeilings:
    """Ceilings of all latents, computed when they are read, once for all layers."""

    def __init__(self, tree: LatentTree) -> None:
        self.tree = tree
        self.found: dict[tuple[str, Leaves], Ceiling] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LatentCeilings) and self.tree == other.tree

    def __hash__(self) -> int:
        return hash(self.tree)

    def correlation(self, leaves: Leaves, members: int) -> Ceiling:
        """`(S, L)` each, of `tree.ceiling`."""
        return self._of("correlation", leaves, members)

    def partial(self, leaves: Leaves, members: int) -> Ceiling:
        """`(S, L)` each, of the partial correlation given the parent."""
        return self._of("partial", leaves, members)

    def _of(self, kind: str, leaves: Leaves, members: int) -> Ceiling:
        if (kind, leaves) not in self.found:
            self.found[kind, leaves] = (
                self.tree.ceiling(self.tree.latents, leaves=leaves)
                if kind == "correlation"
                else partial_ceiling(self.tree, leaves=leaves)
            )
        parts = self.found[kind, leaves]  # networks of one tree share its ceiling
        return Ceiling(*(part.reshape(-1, part.shape[-1]).expand(members, -1) for part in parts))


@by_content
@dataclass(frozen=True, eq=False)
class Layer:
    """What is measured of one layer, from `probe_layers`; tensors lie on the CPU.

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
    latent_ceilings: LatentCeilings = field(repr=False)
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
        found = self.latent_ceilings.correlation(self.leaves, members)
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
        details: what the posteriors score on other latents, for the details; None leaves them out.
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
        details: RivalBaseline | None,
        ceilings: LatentCeilings,
        members: Sequence[int],
    ) -> None:
        self.label, self.tree, self.own = label, tree, own
        self.nodes, self.names = list(nodes), list(names)
        self.kinds, self.lags, self.states, self.leaves = dict(kinds), lags, states, leaves
        self.latent_ceilings, self.members = ceilings, members
        self.first = next(iter(kinds))
        self.before = MetricSet(kinds, states, lags, pairs=own and details is not None)
        self.targets = StreamingUnits(checked=False)
        self.behind: MetricSet | None = None  # the first metric behind the nonlinearity
        made = {
            name: kind.posterior_ceiling(tree, nodes) if nodes else None
            for name, kind in kinds.items()
        }
        self.ceilings = {name: found for name, found in made.items() if found is not None}
        self.details = None if details is None else DetailProbe(tree, nodes, states, lags, details)
        self.samples, self.among = 0, Candidates(len(members), 0, 0, 0)

    @property
    def reads_posterior(self) -> bool:
        """Whether `update` needs the posterior."""
        return self.details is not None or bool(self.ceilings)

    @property
    def sizes(self) -> tuple[int, int]:
        """Units of the layer, over all members, and pairs of a unit and a target."""
        members, blocks, units, targets = self.among
        units *= members * max(blocks, 1)
        return units, units * targets

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
        # sums over rows, of which there are many, take several times as long across the memory
        a, after = values.contiguous(), None if rectified is None else rectified.contiguous()
        z = targets.to(a.device)
        shifted = None if other is None else other.to(a.device)
        self.samples += a.shape[-1]
        blocks = a.shape[1] if self.own else 0
        self.among = Candidates(len(a), blocks, a.shape[-2], z.shape[-2])
        batch = self._taken(self.before, a)
        numbers = self._numbers(z, batch)
        self.before.update(a, batch, z, numbers, shifted)
        if after is not None:
            if self.behind is None:
                one = {self.first: self.kinds[self.first]}
                lags = self.lags if self.details is not None else 0
                self.behind = MetricSet(one, self.states, lags, pairs=self.before.pairs)
            self.behind.update(after, self._taken(self.behind, after), z, numbers, shifted)
        if posterior is not None:
            posterior, latents = posterior.to(a.device), latents.to(a.device)
            for ceiling in self.ceilings.values():
                ceiling.update(posterior[:, self.nodes], latents[:, self.nodes])
            if self.details is not None:
                self.details.update(a, batch, z, latents, posterior)

    def _numbers(self, targets: Tensor, batch: UnitBatch) -> UnitBatch | None:
        """Targets centred and scaled, where a metric reads them so."""
        if not self.before.numbers:
            return None
        z = targets.flatten(1, -2) if self.before.pairs else targets
        # states are small integers: they need no wider products than the activations
        return self.targets.take(z if z.dtype == torch.float64 else z.to(batch.values.dtype))

    def _taken(self, metrics: MetricSet, activations: Tensor) -> UnitBatch:
        """Activations as a set of metrics shares them, if all of them are finite."""
        batch = metrics.take(activations)
        if not bool((batch.units.high - batch.units.low).isfinite().all()):
            check_finite(activations, self.label, self.members)
        return batch

    def _details(self, unit: Tensor) -> Details | None:
        """Those of the units chosen for the targets."""
        return None if self.details is None else self.details.result(unit, self.among.allowed)

    def result(self) -> Layer:
        """The measurements of all rows so far."""
        matched = self.details is not None
        scores = {name: self.before.score(name, self.among, matched=matched) for name in self.kinds}
        if self.behind is not None:
            score = self.behind.score(self.first, self.among, matched=matched)
            if self.details is None:
                score = score._replace(null=scores[self.first].null)
            scores[self.first + BEHIND] = score
        level = self.label if isinstance(self.label, int) else -1
        return Layer(
            label=self.label,
            nodes=self.nodes,
            names=self.names,
            levels=[int(self.tree.topology.level[v]) for v in self.nodes]
            or [level] * len(self.names),
            candidates="own block" if self.own else "whole layer",
            blocks=max(self.among.blocks, 1),
            allowed=self.among.allowed,
            scores=scores,
            dead=(self.behind or self.before).units.dead().flatten(1).cpu(),
            posterior_ceilings={name: found.result() for name, found in self.ceilings.items()},
            latent_ceilings=self.latent_ceilings,
            leaves=self.leaves,
            details=self._details(scores[self.first].unit),
            samples=self.samples,
        )
