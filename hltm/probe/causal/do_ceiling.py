"""The largest standardised effect, selectivity and difference of both that any function of leaves can have.

Let r_s(x) = P(x | do(z = s)) / P(x) for leaves x. The effect of a function a of the leaves is the
covariance of a(x) with r_s'(x) - r_s(x), because E[a | do(z = s)] = E[r_s a]; so |effect| / sd(a) is at
most the standard deviation of r_s' - r_s (Cauchy and Schwarz), which a = r_s' - r_s reaches. Given the
latent's own leaves alone r_s is P(z = s | x) / P(z = s), so the best function is the exact posterior. Where
do(z = s) gives leaves that cannot occur otherwise, there is no bound. The selectivity has the same bound with
P(z = s | x) / P(z = s) for any leaves x, and what is confounded with the difference of the two ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling
from hltm.inference.posterior import posterior
from hltm.model.intervene import intervene
from hltm.probe.causal.contrasts import ContrastSums, largest, pairs_of
from hltm.tree import LatentTree

KINDS = ("effect", "selectivity", "confounded")


class DoCeiling:
    """The ceiling for one latent, and what the exact posterior of its parent makes of the same rows.

    Args:
        node: number of the latent z.
        states: of z, two or more.
        own: whether functions are given the leaves below z only.
    """

    def __init__(self, tree: LatentTree, node: int, states: Sequence[int], *, own: bool) -> None:
        self.tree, self.node, self.states, self.samples = tree, node, list(states), 0
        below = np.isin(np.array(tree.leaves), tree.topology.descendants(node))
        self.hidden = torch.from_numpy(~below) if own else torch.zeros(len(below), dtype=torch.bool)
        name = tree.topology.names[node]
        self.tables = [intervene(tree.tables, {name: s}, stacked=tree.stacked) for s in self.states]
        self.parent = int(tree.topology.parent[node])
        nothing = torch.full((1, len(below), 1), -1)
        prior = posterior(tree.tables, nothing, np.array([node])).marginals[:, 0, self.states]
        self.prior = prior.masked_fill(prior <= 0, torch.nan)  # (S or 1, K, 1)
        self.parent_sums = ContrastSums()
        self.sums = self.moments = torch.zeros((), dtype=torch.float64)
        self.outside: Tensor | bool = False

    def update(self, leaves: Tensor, counterfactual: Sequence[Tensor]) -> None:
        """Add leaves `(S, B, X)` of a batch, and those under do(z = s) for each state."""
        seen, before, known = self._evidence(self.tree.tables, leaves)
        ratios = [(self._evidence(tables, leaves)[2] - known).exp() for tables in self.tables]
        do = torch.stack(ratios, 1)  # (S, K, B)
        observed = seen[:, self.states] / self.prior.to(seen.device)
        a, b = pairs_of(len(self.states)).unbind(1)
        ratio = torch.stack([do, observed, observed - do])
        square = (ratio[:, :, b] - ratio[:, :, a]).square()  # (3, S, P, B)
        sums = torch.stack([square.sum(-1), square.square().sum(-1)], -1)
        changes = []
        for made in counterfactual:
            _, belief, evidence = self._evidence(self.tree.tables, made)
            self.outside = self.outside | evidence.isneginf().any(-1).cpu()
            if self.parent >= 0:
                # the posterior says nothing of leaves that it excludes
                changes.append((belief - before).nan_to_num(nan=0.0))  # (S, K of the parent, B)
        self.sums = self.sums + sums.cpu()
        self.samples += leaves.shape[1]
        if self.parent >= 0:
            self.parent_sums.update(torch.stack(changes, 2))
            moments = torch.stack([before.sum(-1), before.square().sum(-1)], -1)
            self.moments = self.moments + moments.cpu()

    def result(self, kind: str = "effect") -> Ceiling:
        """`(S,)` the largest over pairs of states, and its standard error, for one of KINDS."""
        mean, square = (self.sums[KINDS.index(kind)] / self.samples).unbind(-1)
        best, place = largest(mean)
        best = best.masked_fill(best < 1e-24, 0.0)  # the ratios are equal but for rounding
        variance = square.gather(-1, place[:, None])[:, 0] - best.square()
        value = best.sqrt()
        error = (variance.clamp(min=0) / self.samples).sqrt() / (2 * value.clamp(min=1e-300))
        error = error.masked_fill(value == 0, 0.0)
        outside = torch.as_tensor(self.outside).expand(value.shape)
        if kind == "selectivity":
            return Ceiling(value, error)
        return Ceiling(value.masked_fill(outside, torch.inf), error.masked_fill(outside, 0.0))

    def parent_effect(self) -> Tensor:
        """`(S,)` the largest standardised effect on the parent's exact posterior; NaN for the root."""
        if self.parent < 0:
            return torch.full((self.sums.shape[1],), torch.nan, dtype=torch.float64)
        mean, square = (self.moments / self.samples).unbind(-1)
        spread = (square - mean.square()).clamp(min=0).sqrt()
        effect = self.parent_sums.result().value.abs().cpu()
        some = spread > 1e-9
        return torch.where(some, effect / spread.where(some, torch.ones_like(spread)), 0.0).amax(-1)

    def _evidence(self, tables: Any, leaves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posteriors of the latent and of its parent `(S, K, B)`, and log P(leaves) `(S, B)`."""
        given = leaves.transpose(1, 2).to(torch.int64)
        given = given.masked_fill(self.hidden.to(given.device)[:, None], -1)
        found = posterior(tables, given, np.array([self.node, max(self.parent, 0)]))
        return found.marginals[:, 0], found.marginals[:, 1], found.log_evidence
