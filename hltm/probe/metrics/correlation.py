"""Correlation of units with binary targets."""

from __future__ import annotations

from torch import Tensor

from hltm.probe.accumulators.correlation import StreamingCorrelation
from hltm.probe.metric import check_pair


class Correlation(StreamingCorrelation):
    """Pearson correlation of `(…, U, B)` activations with `(…, T, B)` numbers, as a metric.

    A constant unit has correlation 0. Errors are those of `check_pair`.

    Example:
        >>> import torch
        >>> metric = Correlation()
        >>> metric.update(torch.tensor([[3.0, 1.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0, 1]]))
        >>> metric.result()
        tensor([[-1.]], dtype=torch.float64)
    """

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        check_pair(activations, targets)
        a = activations if activations.is_floating_point() else activations.float()
        super().update(a, targets)

    def result(self) -> Tensor:
        """`(…, U, T)` correlations."""
        return self.correlation()

    def strength(self) -> Tensor:
        """`(…, U, T)` |correlation|."""
        return self.correlation().abs()
