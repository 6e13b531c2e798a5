"""Correlation ratio of units with latents of any number of states."""

from __future__ import annotations

import torch
from torch import Tensor

from hltm.probe.accumulators.conditional import Conditional, StreamingConditional
from hltm.probe.metric import Metric


class CorrelationRatio(Metric):
    """η = sqrt( Var(E[unit | z]) / Var(unit) ), in [0, 1], of a unit and a latent z of K `states`.

    It is the best correlation that any function of the state has with the unit, so the maximal
    correlation of `tree.ceiling` bounds it, and for two states it is |correlation|. A dead unit
    has η = 0. It has no sign, so `strength` is the same.

    Raises:
        ValueError: in `update`, as `StreamingConditional`.

    Example:
        >>> metric = CorrelationRatio(states=3)
        >>> metric.update(torch.tensor([[0.0, 9.0, 0.0, 9.0]]), torch.tensor([[0, 1, 2, 1]]))
        >>> metric.result()
        tensor([[1.]], dtype=torch.float64)
    """

    bounded_by_correlation = True
    null = "correlation_ratio"
    takes_batches = True
    strength_range = 0.0, 1.0

    def __init__(self, states: int = 2) -> None:
        self.sums = StreamingConditional(states)

    @classmethod
    def for_states(cls, states: int) -> CorrelationRatio:
        return cls(states)

    def result(self) -> Tensor:
        """`(…, U, T)` correlation ratios, float64."""
        return ratio_square(self.sums.result()).sqrt()

    def dead(self) -> Tensor:
        """`(…, U)` bool: units that never varied by more than rounding."""
        return self.sums.units.dead()


def ratio_square(found: Conditional) -> Tensor:
    """`(…, U, T)` float64 η² from conditional means; 0 for a dead unit."""
    share = found.rows / found.rows.sum(-1, keepdim=True)
    between = torch.einsum("...utk,...tk->...ut", found.mean.square(), share)
    within = found.variance[..., None]
    return torch.where(within == 0, 0.0, between / within).clamp(0, 1)
