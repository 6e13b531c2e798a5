"""Losses that are made of another loss: with an additional term, or with its weights held fixed.

Symbols are those of `dualnets.methods.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualnets._checks import check_number
from dualnets.methods._plain import distance
from dualnets.methods.losses.anchors import InfoNCE
from dualnets.methods.losses.loss import LOSSES, Loss
from dualnets.methods.losses.pair_weights import PairWeighted, weighted_gap
from dualnets.methods.losses.weighted import GivenWeights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IntraPair:
    """Another loss with an additional attraction within pairs, L + β r_+, β of either sign.

    As in the code of arXiv 2010.00578: where a loss's pair weights are given, they are those of the
    additional term, too, Σ_k w_k ((1 + β) r_+ - r_k). For the simple loss the update through both branches
    is then 2 Cov_x[Kbar, fbar] - 2 β E_x Cov_aug[K, f]: the operator of Theorem 3, less β times the
    variance within samples (docs/theory.md, Equation 3.10). It has no pair weights, since its slopes do not
    sum to 0.

    Attributes:
        criterion: the other loss.
        weight: β.

    Raises:
        ValueError: a weight that is not finite, or something else than a loss.

    Example:
        >>> import dualnets, torch
        >>> outputs = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
        >>> IntraPair(dualnets.Simple(), weight=0.5)(outputs[0], outputs[1], outputs[2][:, None]).shape
        torch.Size([2])
    """

    criterion: Loss
    weight: float

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
        if isinstance(self.criterion, type) or not hasattr(self.criterion, "negatives"):
            raise ValueError(f"criterion must be a loss, got {self.criterion}")

    @property
    def negatives(self) -> int:
        """H of the other loss."""
        return self.criterion.negatives

    @property
    def original(self) -> bool:
        """Whether the other loss needs the outputs of the samples without augmentation."""
        return getattr(self.criterion, "original", False)

    def __call__(
        self, anchor: Tensor, positive: Tensor, negatives: Tensor, *samples: Tensor
    ) -> Tensor:
        if isinstance(self.criterion, GivenWeights):
            pairs = self.criterion.pairs(anchor, positive, negatives, *samples)  # type: ignore[attr-defined]
            return weighted_gap(pairs._replace(near=(1 + self.weight) * pairs.near))
        found = self.criterion(anchor, positive, negatives, *samples)
        return found + self.weight * distance(anchor, positive).mean(-1)


@LOSSES.register("detached")
@dataclass(frozen=True)
class Detached:
    """Σ_k β_k (r_+ - r_k) with the pair weights of another loss held fixed: it has the same gradient.

    Attributes:
        criterion: the other loss.

    Raises:
        ValueError: a loss that has no pair weights.

    Example:
        >>> import dualnets, torch
        >>> outputs = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
        >>> loss = Detached(dualnets.InfoNCE(temperature=0.5))
        >>> loss(outputs[0], outputs[1], outputs[2][:, None]).shape
        torch.Size([2])
    """

    criterion: PairWeighted = InfoNCE()  # noqa: RUF009, frozen

    def __post_init__(self) -> None:
        if isinstance(self.criterion, type) or not hasattr(self.criterion, "pairs"):
            raise ValueError(f"criterion must be a loss with pair weights, got {self.criterion}")
        if getattr(self.criterion, "original", False):
            raise ValueError(f"criterion must have pair weights of views, got {self.criterion}")

    @property
    def negatives(self) -> int:
        """H of the other loss."""
        return self.criterion.negatives

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        return weighted_gap(self.criterion.pairs(anchor, positive, negatives))
