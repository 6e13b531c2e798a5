"""Losses whose pair weights are given as a function of distance and held fixed, not derived.

Symbols are those of `dualnets.methods.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dualnets._lazy import torch
from dualnets._options import option
from dualnets._precision import at_least_float32
from dualnets.methods._plain import distance
from dualnets.methods.losses.loss import LOSSES, CheckedLoss
from dualnets.methods.losses.pair_weights import Pairs, distances, weighted_gap

if TYPE_CHECKING:
    from torch import Tensor


class GivenWeights:
    """Marks losses Σ_k w_k (r_+ - r_k) whose weights w_k are given, not derived, and held fixed."""


@LOSSES.register("exponential")
@dataclass(frozen=True)
class ExponentialWeights(CheckedLoss, GivenWeights):
    """Σ_k w_k (r_+ - r_k) with w_k = exp(-r_k / τ) held fixed: near negatives have the largest weights.

    A loss defined by its covariance operator (docs/theory.md, Section 3): its pair weights are given,
    not derived. Unbounded below where outputs are not normalised.

    Attributes:
        temperature: τ of the loss.
        negatives: number of fresh negatives per anchor.
    """

    temperature: float = 0.1
    negatives: int = 1

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.pairs(anchor, positive, negatives))

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = distances(anchor, positive, negatives)
        return Pairs(near, far, (-far.detach() / self.temperature).exp())


@LOSSES.register("inverse-distance")
@dataclass(frozen=True)
class InverseDistanceWeights(CheckedLoss, GivenWeights):
    """Σ_k w_k (r_+ - r_k) with w_k = 1 / (r_k + epsilon) held fixed; else as `ExponentialWeights`.

    Attributes:
        epsilon: number added to the distance whose inverse is the weight.
        negatives: number of fresh negatives per anchor.
    """

    epsilon: float = option(0.1, flag="distance_epsilon")
    negatives: int = 1

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.pairs(anchor, positive, negatives))

    def pairs(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Pairs:
        near, far = distances(anchor, positive, negatives)
        return Pairs(near, far, (far.detach() + self.epsilon).reciprocal())


@LOSSES.register("covariance")
@dataclass(frozen=True)
class CovarianceObjective(CheckedLoss, GivenWeights):
    """mean_k w_k (r_+ - r_k) with w_k = 1 / (1 + exp(r_k / τ)) held fixed, over the batch's other views.

    w_k is InfoNCE's pair weight of one negative at r_+ = 0. As in the code of arXiv 2010.00578 (there over
    τ), the 2B views are the anchors and the 2B - 2 views of other samples are an anchor's negatives. With
    weights of the samples without augmentation, w_k = 1 / (1 + exp(r(x, x_k) / τ)) neither varies with the
    views nor is asymmetric, and the covariance operator of Theorem 4 is exact (docs/theory.md, Equation 3.6).

    Attributes:
        temperature: τ of the weights.
        weights_from: what the distances in the weights are between, the views or the samples without
            augmentation.
    """

    temperature: float = 0.1
    weights_from: Literal["views", "samples"] = "views"
    negatives: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights_from not in ("views", "samples"):
            raise ValueError(f"weights_from must be views or samples, got {self.weights_from!r}")

    @property
    def original(self) -> bool:
        """Whether it needs the outputs of the samples without augmentation."""
        return self.weights_from == "samples"

    def __call__(
        self, anchor: Tensor, positive: Tensor, negatives: Tensor, samples: Tensor | None = None
    ) -> Tensor:
        return weighted_gap(self.pairs(anchor, positive, negatives, samples))

    def pairs(
        self, anchor: Tensor, positive: Tensor, negatives: Tensor, samples: Tensor | None = None
    ) -> Pairs:
        """Distances and weights of 2B anchors and all 2B views; those of its own sample have weight 0."""
        outputs = torch.cat([anchor, positive], dim=1)
        size, count = anchor.shape[1], outputs.shape[1]
        far = _all_distances(outputs)
        compared = far
        if self.original:
            assert samples is not None
            compared = _all_distances(samples.detach()).repeat(1, 2, 2)
        place = torch.arange(size, device=outputs.device).repeat(2)
        own = place[:, None] == place
        weights = torch.sigmoid(-compared.detach() / self.temperature).masked_fill(own, 0)
        near = distance(outputs, outputs.roll(size, 1))[:, None]
        return Pairs(near, far, weights / max(count - 2, 1))


def _all_distances(outputs: Tensor) -> Tensor:
    """`(S, N, N)` r of all pairs of `(S, N, U)`, in float32 at least."""
    from hltm._devices import has_float64  # loads torch, which help does without

    # of squares in one product: in float64 and around the mean, as in `plain_ntxent`
    kind = at_least_float32(outputs).dtype
    given = outputs.double() if has_float64(outputs.device) else outputs.to(kind)
    given = given - given.mean(1, keepdim=True).detach()
    square = given.square().sum(-1) / 2
    found = torch.baddbmm(square[:, :, None] + square[:, None], given, given.mT, alpha=-1)
    return found.to(kind)
