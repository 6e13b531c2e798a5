"""Mutual information of binned units with latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling
from hltm.model.moments import marginals
from hltm.probe.accumulators.histogram import StreamingHistogram
from hltm.probe.metric import Metric
from hltm.tree import LatentTree

BINS = 16
ROUNDING = 1e-14  # nats that rounding alone leaves


class MutualInformation(Metric):
    """Σ P(cell, z) log( P(cell, z) / P(cell) P(z) ) in nats, of a unit in cells and a latent z.

    A value that comes often has a cell of its own, such as the exact 0 of a ReLU, and so has every value
    of a unit that has no more than `bins`; the other rows are in cells of equal shares
    (`StreamingHistogram`). So a unit that is on in few rows keeps the information of on or off and of how
    much it is on. Up to 8,192 rows the number does not depend on the order of rows at all; beyond, as
    far as the edges of cells do.

    This is the plug-in estimate: for n rows it is too high by about (cells - 1)(K - 1) / 2n, and it
    is lower than the information in the unit itself by what the cells lose. The bias is not subtracted
    (Miller and Madow 1955): it is the same in the null, and a unit that is the latent would get more
    than the latent's entropy. A constant unit has 0. It has no sign, so `strength` is the same.

    Args:
        bins: of every unit.
        states: K, the largest number of states of a target.

    Raises:
        ValueError: as `StreamingHistogram`.

    Example:
        >>> metric = MutualInformation()
        >>> metric.update(torch.tensor([[3.0, 1.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0, 1]]))
        >>> metric.result().exp()  # one bit
        tensor([[2.]], dtype=torch.float64)
    """

    null = "cells"

    def __init__(self, bins: int = BINS, states: int = 2) -> None:
        self.sums = StreamingHistogram(bins, states)

    @classmethod
    def for_states(cls, states: int) -> MutualInformation:
        return cls(states=states)

    @classmethod
    def posterior_ceiling(cls, tree: LatentTree, nodes: Sequence[int]) -> LeafInformation:
        return LeafInformation(tree, nodes)

    def result(self) -> Tensor:
        """`(…, U, T)` nats, float64."""
        joint = self.sums.result().movedim(-3, -1) / self.sums.samples  # (…, U, T, K, cells)
        # I(cell; z) = H(cell) + H(z) - H(cell, z)
        terms = [_entropy(joint.sum(-2)), _entropy(joint.sum(-1)), -_entropy(joint.flatten(-2))]
        found = torch.stack(terms).sum(0).clamp(min=0)
        return found.masked_fill(found < ROUNDING, 0.0)


class LeafInformation:
    """I(latent; leaves) = H(latent) - E[ H(latent | leaves) ], in nats: the ceiling of any unit.

    The prior's entropy is exact; the posterior's is averaged over the rows that are measured.
    """

    def __init__(self, tree: LatentTree, nodes: Sequence[int]) -> None:
        prior = marginals(tree.tables)  # of every node (S, K); S is 1 for networks of one tree
        self.prior = torch.stack([_entropy(prior[v]) for v in nodes], dim=-1)
        self.sum = self.square = torch.zeros((), dtype=torch.float64)
        self.samples = 0

    def update(self, posteriors: Tensor, targets: Tensor) -> None:
        """Add a batch of posteriors `(S, T, K, B)`; the states themselves are not needed."""
        entropy = _entropy(posteriors.transpose(2, 3))  # (S, T, B)
        self.sum = self.sum + entropy.sum(-1)
        self.square = self.square + entropy.square().sum(-1)
        self.samples += posteriors.shape[-1]

    def result(self) -> Ceiling:
        """`(S, T)` nats and their standard error."""
        mean = self.sum / self.samples
        variance = (self.square / self.samples - mean.square()).clamp(min=0)
        value = (self.prior - mean.cpu()).clamp(min=0)
        return Ceiling(value, (variance / self.samples).sqrt().cpu())


def _entropy(probability: Tensor) -> Tensor:
    """Nats, over the last axis."""
    return torch.special.entr(probability).sum(-1)
