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


class MutualInformation(Metric):
    """Σ P(bin, z) log( P(bin, z) / P(bin) P(z) ) in nats, of activations in bins of equal shares.

    This is the plug-in estimate: for n rows it is too high by about (bins - 1)(K - 1) / 2n, and it
    is lower than the information in the unit itself by what binning loses. A constant unit has 0.
    It has no sign, so `strength` is the same.

    Args:
        bins: of every unit.
        states: K, the largest number of states of a target.
        edges: as in `StreamingHistogram`.

    Raises:
        ValueError: as `StreamingHistogram`.

    Example:
        >>> metric = MutualInformation()
        >>> metric.update(torch.tensor([[3.0, 1.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0, 1]]))
        >>> metric.result().exp()  # one bit
        tensor([[2.]], dtype=torch.float64)
    """

    def __init__(self, bins: int = BINS, states: int = 2, edges: Tensor | None = None) -> None:
        self.sums = StreamingHistogram(bins, states, edges)

    @classmethod
    def for_states(cls, states: int) -> MutualInformation:
        return cls(states=states)

    @classmethod
    def posterior_ceiling(cls, tree: LatentTree, nodes: Sequence[int]) -> LeafInformation:
        return LeafInformation(tree, nodes)

    def result(self) -> Tensor:
        """`(…, U, T)` nats, float64."""
        joint = self.sums.result().movedim(-3, -1) / self.sums.samples  # (…, U, T, K, bins)
        # I(bin; z) = H(bin) + H(z) - H(bin, z)
        terms = [_entropy(joint.sum(-2)), _entropy(joint.sum(-1)), -_entropy(joint.flatten(-2))]
        return torch.stack(terms).sum(0).clamp(min=0)


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
