"""Optimisers whose rates may differ per member; frozen settings, pure updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: w <- w - lr g.

    Attributes:
        lr: the learning rate, or one per member: a sweep over rates is one ensemble.
    """

    lr: float | Sequence[float] = 0.1

    def __post_init__(self) -> None:
        for rate in self.lr if isinstance(self.lr, Sequence) else [self.lr]:
            if not rate > 0 or rate == float("inf"):
                raise ValueError(f"a learning rate must be above 0 and finite, got {rate}")

    def check(self, members: int) -> None:
        """Raise ValueError unless the rates fit this many members."""
        if isinstance(self.lr, Sequence) and len(self.lr) != members:
            raise ValueError(
                f"expected {members} learning rates, one per member, got {len(self.lr)}"
            )

    @torch.no_grad()
    def update(self, parameters: list[Tensor], gradients: list[Tensor], alive: Tensor) -> None:
        """Change the parameters, `(S, …)` each, in place; members that are not alive stay as they are.

        Args:
            parameters, gradients: the same shapes.
            alive: `(S,)` bool.
        """
        rate = torch.as_tensor(self.lr, dtype=parameters[0].dtype, device=alive.device)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            per_member = rate.expand(len(alive)).view(-1, *[1] * (parameter.ndim - 1))
            moved = parameter - per_member * gradient
            # a frozen member's gradient may be NaN, and 0 * NaN is NaN: choose, do not multiply
            parameter.copy_(torch.where(alive.view(per_member.shape), moved, parameter))
