"""Distances of anchors to their positives and negatives, and the weights β of these pairs.

Symbols are those of `dualnets.methods.losses`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from dualnets._lazy import torch
from dualnets.methods._plain import distance
from dualnets.methods.losses.loss import Loss

if TYPE_CHECKING:
    from torch import Tensor


class Pairs(NamedTuple):
    """Distances of N anchors to their positives and negatives, and the pair weights.

    Attributes:
        near: `(S, 1, N)` r_+.
        far: `(S, H, N)` r_k.
        beta: `(S, H, N)` β_k = -∂L/∂r_k of an anchor's own loss, without gradient.
    """

    near: Tensor
    far: Tensor
    beta: Tensor


class PairWeighted(Loss, Protocol):
    """A loss of distances, which can return its pair weights."""

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        """Distances and weights; the loss's gradient is that of their `weighted_gap`."""


def weighted_gap(pairs: Pairs) -> Tensor:
    """`(S,)` the mean over anchors of Σ_k β_k (r_+ - r_k), the weights held fixed."""
    return (pairs.beta * (pairs.near - pairs.far)).sum(1).mean(-1)


def distances(anchor: Tensor, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """r_+ `(S, 1, B)` and r_k `(S, H, B)`."""
    return distance(anchor, positive)[:, None], distance(anchor[:, None], negatives)


def softmax_pairs(near: Tensor, far: Tensor, temperature: float, margin: float = 0.0) -> Pairs:
    """Of -τ log of the positive's share: β_k is negative k's share, exp(-r_k/τ) over the sum of all."""
    logits = -torch.cat([near + margin, far], dim=1).detach() / temperature
    return Pairs(near, far, logits.softmax(dim=1)[:, 1:])
