"""What is measured of a layer besides its metrics: specificity, linear probe, CKA and collapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hltm._results import by_content
from hltm.probe.accumulators.units import UnitBatch
from hltm.probe.metrics.cka import LinearCKA
from hltm.probe.metrics.collapse import Collapse, Collapsed
from hltm.probe.metrics.linear_probe import LinearProbe, LinearReadout
from hltm.probe.metrics.specificity import LAGS, RivalBaseline, Specific, Specificity
from hltm.tree import LatentTree


@by_content
class Details(NamedTuple):
    """What is measured of one layer besides its metrics; tensors lie on the CPU.

    Attributes:
        specific: of the best unit of each target by the first metric; its tensors are over all L
            latents of the tree, and `Layer.nodes` are the targets' places.
        rival_baseline: `(S, L, L)` what the posterior of one latent scores on another.
        readout: linear probes on a target's block or on the whole layer; None for too few rows.
        cka: `(S,)` linear CKA of the layer with the posteriors of all latents, and cka_null: its 95%
            point for a layer that knows nothing.
        collapsed: spread and effective rank of the layer as a whole.
    """

    specific: Specific
    rival_baseline: Tensor
    readout: LinearReadout | None
    cka: Tensor
    cka_null: Tensor
    collapsed: Collapsed


class DetailProbe:
    """The accumulators of the details of one layer.

    Args:
        tree: of the latents.
        nodes: numbers of the latents that its units are compared with.
        states: K, the largest number of states of a latent.
        lags: of the nulls; 0 for none.
        rival_baseline: of the posteriors, with all batches; layers share it, so it is not updated here.
    """

    def __init__(
        self,
        tree: LatentTree,
        nodes: Sequence[int],
        states: int,
        lags: int,
        rival_baseline: RivalBaseline,
    ) -> None:
        self.nodes, self.latents = list(nodes), list(tree.latents)
        parents = tree.topology.parent[self.latents].tolist()
        self.specificity = Specificity(parents, states, min(lags, LAGS))
        self.rival_baseline = rival_baseline
        self.probe, self.cka, self.collapse = LinearProbe(states), LinearCKA(), Collapse()

    def update(
        self,
        activations: Tensor,
        batch: UnitBatch,
        targets: Tensor,
        latents: Tensor,
        posterior: Tensor,
    ) -> None:
        """Add a batch.

        Args:
            activations: `(S, U, B)`, or `(S, V, U, B)` where each latent has its own block.
            batch: the same, the units of all blocks together, centred and scaled.
            targets: `(S, T, B)`, or `(S, V, 1, B)` of the same.
            latents: `(S, L, B)` states of all latents.
            posterior: `(S, L, K, B)` given the leaves.
        """
        self.specificity.update(batch, latents)
        self.probe.update(activations, targets, batch)
        self.cka.update(batch, posterior.flatten(1, 2))
        self.collapse.update(batch)

    def result(self, unit: Tensor, allowed: Tensor) -> Details:
        """The details of all rows so far.

        Args:
            unit: `(S, T)` the units chosen for the targets.
            allowed: `(U, T)` bool, among which units.
        """
        chosen = torch.full((len(unit), len(self.latents)), -1)  # other latents have no unit
        chosen[:, self.nodes] = unit
        among = torch.zeros(len(allowed), len(self.latents), dtype=torch.bool)
        among[:, self.nodes] = allowed
        return Details(
            Specific(*(part.cpu() for part in self.specificity.result(chosen, among))),
            self.rival_baseline.result().cpu(),
            self._readout(),
            self.cka.result().cpu(),
            self.cka.null().cpu(),
            Collapsed(*(part.cpu() for part in self.collapse.result())),
        )

    def _readout(self) -> LinearReadout | None:
        """`(S, T)`; None where there are too few rows to fit and to test."""
        if not self.probe.enough:
            return None
        found = self.probe.result()
        parts = (found.correlation, found.null, found.r2)
        correlation, null, r2 = (part.cpu().flatten(1) for part in parts)
        return found._replace(correlation=correlation, null=null, r2=r2)
