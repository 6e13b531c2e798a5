"""A linear predictor that is not trained but computed from the running correlation of its inputs.

DirectPred (Tian, Chen, Ganguli, arXiv 2102.06810, Section 5) and DirectCopy (Wang, Chen, Du, Tian,
arXiv 2110.04947): in the linear theory of BYOL the eigenspaces of the predictor W_p align with those of
the correlation F of its inputs, so W_p is set to have them from the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dualnets._checks import check_choice, check_number, check_whole
from dualnets._lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

RULES = ("root", "copy")


@dataclass(frozen=True)
class DirectPredictor:
    """W_p computed from F, the moving average of E[f f^T] over the batch's online projections f.

    F <- rate F + (1 - rate) E[f f^T] after every step, over both views; after the first step F is that of
    the first batch, and before it W_p is the identity. Every `every` steps, with F = U diag(s) U^T,

    - `root` (DirectPred): W_p = U diag(sqrt(s_j) + epsilon max_j s_j) U^T;
    - `copy` (DirectCopy): W_p = F + epsilon I.

    Attributes:
        rule: `root` or `copy`.
        rate: decay of the moving average.
        epsilon: regularisation, which keeps small modes of W_p above 0.
        every: number of steps between two computations of W_p.

    Raises:
        TypeError: a value of another type.
        ValueError: an unknown rule, rate outside 0 <= rate < 1, epsilon below 0, or every below 1.

    Example:
        >>> correlation = torch.diag(torch.tensor([4.0, 1.0]))[None]
        >>> DirectPredictor(epsilon=0.25).weight(correlation)[0].diagonal()
        tensor([3., 2.])
        >>> DirectPredictor("copy", epsilon=0.25).weight(correlation)[0].diagonal()
        tensor([4.2500, 1.2500])
    """

    rule: Literal["root", "copy"] = "root"
    rate: float = 0.3
    epsilon: float = 0.1
    every: int = 1

    def __post_init__(self) -> None:
        check_choice("a direct predictor's rule", self.rule, RULES)
        check_number("a direct predictor's rate", self.rate, low=0, below=1)
        check_number("a direct predictor's epsilon", self.epsilon, low=0)
        check_whole("a direct predictor's every", self.every, low=1)

    def init(self, units: int, like: Tensor) -> dict[str, Tensor]:
        """`weight` and `correlation`, `(S, U, U)` each, without gradients.

        Args:
            units: U.
            like: a tensor with S in front that gives dtype and device.
        """
        weight = torch.eye(units, dtype=like.dtype, device=like.device).repeat(len(like), 1, 1)
        return {"weight": weight, "correlation": torch.zeros_like(weight)}

    def __call__(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """`(S, B, U)` predictions of `(S, B, U)` projections."""
        return torch.bmm(inputs, parameters["weight"].transpose(1, 2))

    def after_step(
        self, parameters: dict[str, Tensor], projections: Tensor, step: int
    ) -> dict[str, Tensor]:
        """New `weight` and `correlation` after update `step`, from its `(S, B, U)` projections."""
        projections = projections.to(parameters["weight"].dtype)  # shorter under autocast
        batch = torch.bmm(projections.transpose(1, 2), projections) / projections.shape[1]
        correlation = batch
        if step > 0:
            correlation = self.rate * parameters["correlation"] + (1 - self.rate) * batch
        due = (step + 1) % self.every == 0
        weight = self.weight(correlation) if due else parameters["weight"]
        return {"weight": weight, "correlation": correlation}

    def weight(self, correlation: Tensor) -> Tensor:
        """W_p `(S, U, U)` of correlations `(S, U, U)`; NaN for members whose correlation is not finite."""
        if self.rule == "copy":
            identity = torch.eye(correlation.shape[-1]).to(correlation)
            return correlation + self.epsilon * identity
        finite = torch.isfinite(correlation).all(-1, keepdim=True).all(-2, keepdim=True)
        # torch refuses the whole batch where one member is not finite
        values, vectors = torch.linalg.eigh(torch.where(finite, correlation, 0))
        values = values.clamp(min=0)
        modes = values.sqrt() + self.epsilon * values[:, -1:]  # ascending: the last is the largest
        weight = (vectors * modes[:, None]) @ vectors.transpose(1, 2)
        return torch.where(finite, weight, torch.nan)
