"""All that is measured of one layer: its metrics, their nulls, specificity, readout and collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hltm.inference.ceiling import Leaves
from hltm.model.moments import marginals
from hltm.probe.batches import Label
from hltm.probe.metric import Metric, check_finite
from hltm.probe.metrics.cka import LinearCKA
from hltm.probe.metrics.collapse import Collapse, Collapsed
from hltm.probe.metrics.correlation import Correlation
from hltm.probe.metrics.correlation_ratio import CorrelationRatio
from hltm.probe.metrics.linear_probe import LinearProbe, LinearReadout
from hltm.probe.metrics.matching import Matching, match_units
from hltm.probe.metrics.mutual_information import MutualInformation
from hltm.probe.metrics.roc_auc import RocAuc
from hltm.probe.metrics.selectivity import Selectivity
from hltm.probe.metrics.specificity import RivalBaseline, Specific, Specificity
from hltm.probe.shifted_null import ShiftedNull
from hltm.tree import LatentTree

NULL_BINS = 16  # of histograms in the null: it holds one per unit, latent and lag
METRICS: dict[str, Callable[[int, bool], Metric]] = {  # (states, for the null) -> a fresh metric
    "correlation": lambda states, null: Correlation(),
    "correlation_ratio": lambda states, null: CorrelationRatio(states),
    "selectivity": lambda states, null: Selectivity(),
    "roc_auc": lambda states, null: RocAuc(NULL_BINS) if null else RocAuc(),
    "mutual_information": lambda states, null: MutualInformation(states=states),
}
BINARY = ("correlation", "selectivity", "roc_auc")


class Score(NamedTuple):
    """One metric of a layer; float64 unless said otherwise.

    Attributes:
        strength: `(S, U, T)` of every unit with every target; the units of all blocks in a row.
        best: `(S, T)` the largest among a target's candidates, and `unit` `(S, T)` int64 which.
        null: `(S, T)` the 95% point of what meaningless candidates score; NaN where there is none.
        matched: the one-to-one matching of candidates with targets.
        blind: `(S, U)` bool: units below their own null on every target they stand for.
    """

    strength: Tensor
    best: Tensor
    unit: Tensor
    null: Tensor
    matched: Matching
    blind: Tensor


class Layer(NamedTuple):
    """One layer examined; tensors lie on the CPU.

    Attributes:
        label: as the source calls it.
        nodes: T numbers of the latents that it is held against.
        candidates: `own block` or `whole layer`.
        allowed: `(U, T)` bool, the candidates of each target.
        scores: metric -> Score.
        specific: of the best unit of each target by the first metric; its tensors are over all
            latents, of which `nodes` are the targets.
        relay: `(S, L, L)` what the posterior of one of all L latents scores on another.
        readout: linear probes, from a target's block or from the whole layer.
        cka: `(S,)` linear CKA of the layer with the posteriors of all latents.
        collapsed: of the layer as a whole.
        auc_ceiling: `(S, T)` area under the ROC curve of the posterior itself; None unless asked.
        information_ceiling: `(S, T)` nats that the leaves have of a target, on these rows, and its
            standard error; None unless asked.
        n: rows.
    """

    label: Label
    nodes: list[int]
    candidates: str
    allowed: Tensor
    scores: dict[str, Score]
    specific: Specific
    relay: Tensor
    readout: LinearReadout | None
    cka: Tensor
    collapsed: Collapsed
    auc_ceiling: Tensor | None
    information_ceiling: tuple[Tensor, Tensor] | None
    leaves: Leaves
    n: int


class LayerProbe:
    """The accumulators of one layer.

    Args:
        label: of the layer.
        tree: whose latents.
        nodes: numbers of the latents to hold it against.
        own: whether each of them has its own block of units.
        metrics: names in `METRICS`; the first one chooses the units whose specificity is reported.
        lags: of the null; 0 for none.
        leaves: what the posteriors are given.
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
        latents = tree.latents
        self.latents = len(latents)
        states = int(tree.tables.cardinality[list(latents)].max())
        self.label, self.nodes, self.own, self.leaves = label, list(nodes), own, leaves
        self.metrics = {name: METRICS[name](states, False) for name in metrics}
        self.nulls = {
            name: ShiftedNull(lambda make=METRICS[name]: make(states, True), lags)  # type: ignore[misc]
            for name in metrics
            if lags
        }
        self.specificity = Specificity(tree.topology.parent[list(latents)].tolist(), states)
        self.relay = RivalBaseline(states)
        self.probe, self.cka, self.collapse = LinearProbe(states), LinearCKA(), Collapse()
        self.auc = RocAuc() if "roc_auc" in metrics else None
        self.informed = "mutual_information" in metrics
        self.prior = [_entropy(p) for p in marginals(tree.tables)]  # of every node, (S,) or (1,)
        self.doubt = torch.zeros((), dtype=torch.float64)
        self.doubt_square = torch.zeros((), dtype=torch.float64)
        self.n = self.block = 0

    def update(self, values: Tensor, latents: Tensor, other: Tensor, posterior: Tensor) -> None:
        """Add a batch: activations and latents as in `ActivationBatch`, posteriors `(S, L, K, B)`."""
        check_finite(values, self.label)
        a = values if values.dtype == torch.float64 else values.float()
        latents, other, posterior = (x.to(a.device) for x in (latents, other, posterior))
        flat = a.flatten(1, 2) if self.own else a
        z, shifted = latents[:, self.nodes], other[:, self.nodes]
        target = z[:, :, None] if self.own else z
        for metric in self.metrics.values():
            metric.update(flat, z)
        for null in self.nulls.values():
            null.update(a, shifted[:, :, None] if self.own else shifted)
        self.specificity.update(flat, latents)
        self.relay.update(posterior, latents)
        self.probe.update(a, target)
        self.cka.update(flat, posterior.flatten(1, 2))
        self.collapse.update(flat)
        given = posterior[:, self.nodes]
        if self.auc is not None:
            self.auc.update(given[:, :, 1:2], z[:, :, None])
        if self.informed:
            entropy = _entropy(given.transpose(2, 3))  # (S, T, B)
            self.doubt = self.doubt + entropy.sum(-1)
            self.doubt_square = self.doubt_square + entropy.square().sum(-1)
        self.n += a.shape[-1]
        self.block = a.shape[-2]

    def result(self) -> Layer:
        """All that was found."""
        targets = len(self.nodes)
        units = self.block * targets if self.own else self.block
        allowed = torch.ones(units, targets, dtype=torch.bool)
        if self.own:
            allowed = torch.arange(units)[:, None] // self.block == torch.arange(targets)
        scores = {name: self._score(name, allowed) for name in self.metrics}
        specific = self._specific(next(iter(scores.values())).unit)
        information = None
        if self.informed:
            mean = self.doubt / self.n
            spread = (self.doubt_square / self.n - mean.square()).clamp(min=0)
            prior = torch.stack([self.prior[v] for v in self.nodes], dim=-1)
            known = (prior - mean.cpu()).clamp(min=0)
            information = known, (spread / self.n).sqrt().cpu()
        return Layer(
            label=self.label,
            nodes=self.nodes,
            candidates="own block" if self.own else "whole layer",
            allowed=allowed,
            scores=scores,
            specific=specific,
            relay=self.relay.result().cpu(),
            readout=self._readout(),
            cka=self.cka.result().cpu(),
            collapsed=Collapsed(*(part.cpu() for part in self.collapse.result())),
            auc_ceiling=None if self.auc is None else self.auc.strength()[..., 0, 0].cpu(),
            information_ceiling=information,
            leaves=self.leaves,
            n=self.n,
        )

    def _score(self, name: str, allowed: Tensor) -> Score:
        strength = self.metrics[name].strength().cpu()
        among = strength.masked_fill(~allowed, -1)
        best, unit = among.max(-2)
        null = torch.full_like(best, torch.nan)
        blind = torch.zeros(strength.shape[:-1], dtype=torch.bool)
        if name in self.nulls:
            null = self.nulls[name].quantile().cpu()
            each = self.nulls[name].unit_quantile().cpu()
            null, each = (null[..., 0], each.flatten(1, 2)) if self.own else (null, each)
            blind = among.amax(-1) <= each
        return Score(strength, best, unit, null, match_units(strength, allowed), blind)

    def _specific(self, unit: Tensor) -> Specific:
        """Of the units chosen for the targets, among all latents; nothing for the other latents."""
        chosen = torch.full((len(unit), self.latents), -1)
        chosen[:, self.nodes] = unit
        return Specific(*(part.cpu() for part in self.specificity.result(chosen)))

    def _readout(self) -> LinearReadout | None:
        """None where there are too few rows to fit and to test."""
        if min(side.n for side in self.probe.sides) < 2:
            return None
        found = self.probe.result()
        if not self.own:
            return found._replace(correlation=found.correlation.cpu(), r2=found.r2.cpu())
        return found._replace(
            correlation=found.correlation[..., 0].cpu(), r2=found.r2[..., 0].cpu()
        )


def _entropy(probability: Tensor) -> Tensor:
    """Nats, over the last axis."""
    return torch.special.entr(probability).sum(-1)
