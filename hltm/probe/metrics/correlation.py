"""Correlation of units with binary latents."""

from __future__ import annotations

from torch import Tensor

from hltm.probe.accumulators.checks import check_fit
from hltm.probe.accumulators.correlation import StreamingCorrelation
from hltm.probe.accumulators.units import UnitBatch
from hltm.probe.metric import Metric


class Correlation(StreamingCorrelation, Metric):
    """Pearson correlation of `(…, U, B)` activations with `(…, T, B)` numbers.

    A dead unit has correlation 0. `strength` is |correlation|.

    Raises:
        ValueError: in `update`, as `check_fit` and `check_finite`.

    Example:
        >>> import torch
        >>> metric = Correlation()
        >>> metric.update(torch.tensor([[3.0, 1.0, 3.0, 1.0]]), torch.tensor([[0, 1, 0, 1]]))
        >>> metric.result()
        tensor([[-1.]], dtype=torch.float64)
    """

    two_states = bounded_by_correlation = True
    null = "correlation"
    takes_batches = numbers = True
    strength_range = 0.0, 1.0
    checked = True

    def update(self, activations: Tensor | UnitBatch, targets: Tensor | UnitBatch) -> None:
        check_fit(activations, targets)
        super().update(activations, targets)

    def result(self) -> Tensor:
        """`(…, U, T)` correlations, float64."""
        return self.correlation()
