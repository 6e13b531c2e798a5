"""All that is measured of one layer: metrics, nulls, ceilings, specificity, readout and collapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling, Leaves
from hltm.probe.accumulators.checks import check_finite
from hltm.probe.batches import Label
from hltm.probe.metrics import METRICS
from hltm.probe.metrics.cka import LinearCKA
from hltm.probe.metrics.collapse import Collapse, Collapsed
from hltm.probe.metrics.linear_probe import LinearProbe, LinearReadout
from hltm.probe.metrics.matching import Matching, match_units
from hltm.probe.metrics.specificity import RivalBaseline, Specific, Specificity
from hltm.probe.null import NullSet
from hltm.tree import LatentTree


class Score(NamedTuple):
    """One metric of a layer's U units with T latents; float64 unless stated otherwise.

    Attributes:
        strength: `(S, U, T)` of every unit with every target; units of different blocks follow each
            other on the axis U.
        best: `(S, T)` the largest strength among a target's candidates.
        unit: `(S, T)` int64, the unit that has it.
        null: `(S, T)` the 95% point of the best strength of meaningless candidates; NaN without lags.
        matched: the one-to-one matching of candidates with targets.
        below_null: `(S, U)` bool, units at or below their own null on every target of theirs.
    """

    strength: Tensor
    best: Tensor
    unit: Tensor
    null: Tensor
    matched: Matching
    below_null: Tensor


class Layer(NamedTuple):
    """What is measured of one layer; tensors lie on the CPU.

    Attributes:
        label: the name that the source gives to the layer.
        nodes: numbers of the T latents that its units are compared with.
        candidates: `own block` or `whole layer`: which units may stand for a latent.
        allowed: `(U, T)` bool, the candidates of each target.
        scores: metric -> Score.
        ceilings: metric -> its ceiling and standard error, `(S, T)` each; metrics that have one.
        correlation_ceiling: that of `tree.ceiling`, `(S, T)`.
        specific: of the best unit of each target by the first metric; its tensors are over all L
            latents of the tree, and `nodes` are the targets' places.
        rival_baseline: `(S, L, L)` what the posterior of one latent scores on another.
        readout: linear probes on a target's block or on the whole layer; None for too few rows.
        cka: `(S,)` linear CKA of the layer with the posteriors of all latents.
        collapsed: spread, effective rank and dead units of the layer as a whole.
        leaves: `own` or `all`, the leaves that ceilings and posteriors are given.
    """

    label: Label
    nodes: list[int]
    candidates: str
    allowed: Tensor
    scores: dict[str, Score]
    ceilings: dict[str, Ceiling]
    correlation_ceiling: Ceiling
    specific: Specific
    rival_baseline: Tensor
    readout: LinearReadout | None
    cka: Tensor
    collapsed: Collapsed
    leaves: Leaves
    samples: int


class LayerProbe:
    """The accumulators of one layer.

    Args:
        nodes: numbers of the latents to compare its units with.
        own: whether each of these latents has its own block of units.
        metrics: names in `METRICS`; the first one chooses the units whose specificity is reported.
        lags: of the null; 0 for none.
        leaves: `own` or `all`, the leaves that the posteriors are given.
    """

    def __init__(
        self,
        label: Label,
        tree: LatentTree,
        nodes: Sequence[int],
        *,
        own: bool,
        metrics: Sequence[str],
        lags: int,
        leaves: Leaves,
    ) -> None:
        latents = list(tree.latents)
        states = int(tree.tables.cardinality[latents].max())
        self.label, self.tree, self.nodes = label, tree, list(nodes)
        self.own, self.leaves = own, leaves
        kinds = {name: METRICS[name] for name in metrics}
        self.metrics = {name: kind.for_states(states) for name, kind in kinds.items()}
        self.nulls = NullSet(kinds, states, lags) if lags else None
        made = {name: kind.posterior_ceiling(tree, nodes) for name, kind in kinds.items()}
        self.ceilings = {name: ceiling for name, ceiling in made.items() if ceiling is not None}
        self.specificity = Specificity(tree.topology.parent[latents].tolist(), states)
        self.rival_baseline = RivalBaseline(states)
        self.probe, self.cka, self.collapse = LinearProbe(states), LinearCKA(), Collapse()
        self.samples = self.width = 0  # units of the layer, or of a block

    def update(self, values: Tensor, latents: Tensor, other: Tensor, posterior: Tensor) -> None:
        """Add a batch: activations and latents as in `ActivationBatch`, posteriors `(S, L, K, B)`."""
        check_finite(values, self.label)
        a = values if values.dtype == torch.float64 else values.float()
        latents, other, posterior = (x.to(a.device) for x in (latents, other, posterior))
        flat = a.flatten(1, 2) if self.own else a  # (S, U of all blocks, B)
        z, shifted = latents[:, self.nodes], other[:, self.nodes]
        # a block (S, V, U, B) meets its own latent (S, V, 1, B) alone
        target, shifted = (x[:, :, None] if self.own else x for x in (z, shifted))
        for metric in self.metrics.values():
            metric.update(flat, z)
        if self.nulls is not None:
            self.nulls.update(a, shifted)
        for ceiling in self.ceilings.values():
            ceiling.update(posterior[:, self.nodes], z)
        self.specificity.update(flat, latents)
        self.rival_baseline.update(posterior, latents)
        self.probe.update(a, target)
        self.cka.update(flat, posterior.flatten(1, 2))
        self.collapse.update(flat)
        self.samples += a.shape[-1]
        self.width = a.shape[-2]

    def result(self) -> Layer:
        """The measurements of all rows so far."""
        targets = len(self.nodes)
        units = self.width * targets if self.own else self.width
        allowed = torch.ones(units, targets, dtype=torch.bool)
        if self.own:
            allowed = torch.arange(units)[:, None] // self.width == torch.arange(targets)
        scores = {name: self._score(name, allowed) for name in self.metrics}
        first = next(iter(scores.values()))
        bound = self.tree.ceiling(self.nodes, leaves=self.leaves)
        shape = first.best.shape  # networks of one tree share its ceiling
        bound = Ceiling(*(part.reshape(-1, targets).expand(shape) for part in bound))
        ceilings = {name: bound for name in scores if METRICS[name].bounded_by_correlation}
        return Layer(
            label=self.label,
            nodes=self.nodes,
            candidates="own block" if self.own else "whole layer",
            allowed=allowed,
            scores=scores,
            ceilings=ceilings | {name: found.result() for name, found in self.ceilings.items()},
            correlation_ceiling=bound,
            specific=self._specific(first.unit),
            rival_baseline=self.rival_baseline.result().cpu(),
            readout=self._readout(),
            cka=self.cka.result().cpu(),
            collapsed=Collapsed(*(part.cpu() for part in self.collapse.result())),
            leaves=self.leaves,
            samples=self.samples,
        )

    def _score(self, name: str, allowed: Tensor) -> Score:
        strength = self.metrics[name].strength().cpu()
        among = strength.masked_fill(~allowed, -1)
        best, unit = among.max(-2)
        null = torch.full_like(best, torch.nan)
        below = torch.zeros(strength.shape[:-1], dtype=torch.bool)
        if self.nulls is not None:
            null = self.nulls.quantile(name).cpu()
            each = self.nulls.unit_quantile(name).cpu()
            null, each = (null[..., 0], each.flatten(1, 2)) if self.own else (null, each)
            below = among.amax(-1) <= each
        return Score(strength, best, unit, null, match_units(strength, allowed), below)

    def _specific(self, unit: Tensor) -> Specific:
        """Of the units chosen for the targets, among all latents; the other latents have no unit."""
        chosen = torch.full((len(unit), len(self.tree.latents)), -1)
        chosen[:, self.nodes] = unit
        return Specific(*(part.cpu() for part in self.specificity.result(chosen)))

    def _readout(self) -> LinearReadout | None:
        """None where there are too few rows to fit and to test."""
        if min(side.samples for side in self.probe.sides) < 2:
            return None
        found = self.probe.result()
        only = (..., 0) if self.own else ...  # a block has one target
        return found._replace(correlation=found.correlation[only].cpu(), r2=found.r2[only].cpu())
