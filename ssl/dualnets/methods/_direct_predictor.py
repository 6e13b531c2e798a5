"""A predictor that is not trained but set from the running correlation of what it reads.

DirectPred (Tian, Chen, Ganguli, arXiv 2102.06810, Section 5) and DirectCopy (Wang, Chen, Du, Tian,
arXiv 2110.04947): in the linear theory of BYOL the eigenspaces of the predictor align with those of
the correlation F of its inputs, so W_p is set there at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dualnets._checks import check_choice, check_number, check_whole

RULES = ("root", "copy")


@dataclass(frozen=True)
class DirectPredictor:
    """W_p set from F, the moving average of E[f f^T] over the batch's online projections f.

    F <- rate F + (1 - rate) E[f f^T] after every step, over both views; the first batch's own to
    begin with, before which W_p is the identity. Every `every` steps, with F = U diag(s) U^T,

    - `root` (DirectPred): W_p = U diag(sqrt(s_j) + epsilon max_j s_j) U^T;
    - `copy` (DirectCopy): W_p = F + epsilon I.

    Attributes:
        rule: `root` or `copy`.
        rate: of the moving average, how slowly it forgets.
        epsilon: what keeps small modes from being forgotten.
        every: how many steps between two settings of W_p.

    Raises:
        TypeError: a value of another kind.
        ValueError: a rule of another name, rate outside 0 <= rate < 1, epsilon below 0, or every
            below 1.

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
            like: a tensor with S in front, for dtype and device.
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
        projections = projections.to(parameters["weight"].dtype)  # autocast has made them short
        seen = torch.bmm(projections.transpose(1, 2), projections) / projections.shape[1]
        correlation = seen
        if step > 0:
            correlation = self.rate * parameters["correlation"] + (1 - self.rate) * seen
        due = (step + 1) % self.every == 0
        weight = self.weight(correlation) if due else parameters["weight"]
        return {"weight": weight, "correlation": correlation}

    def weight(self, correlation: Tensor) -> Tensor:
        """W_p `(S, U, U)` of correlations `(S, U, U)`; that of a member that is not finite is NaN."""
        if self.rule == "copy":
            identity = torch.eye(correlation.shape[-1]).to(correlation)
            return correlation + self.epsilon * identity
        finite = torch.isfinite(correlation).all(-1, keepdim=True).all(-2, keepdim=True)
        # one diverged member would stop the decomposition of all
        values, vectors = torch.linalg.eigh(torch.where(finite, correlation, 0))
        values = values.clamp(min=0)
        modes = values.sqrt() + self.epsilon * values[:, -1:]  # ascending: the last is the largest
        weight = (vectors * modes[:, None]) @ vectors.transpose(1, 2)
        return torch.where(finite, weight, torch.nan)
