"""What every metric of units and latents has in common, and what it declares about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from hltm.inference.ceiling import Ceiling
from hltm.tree import LatentTree


class PosteriorCeiling(Protocol):
    """The best value of a metric, estimated from exact posteriors on the rows that are measured.

    `update` takes a batch of posteriors `(S, T, K, B)` and target states `(S, T, B)`; `result` gives
    the ceiling and its standard error, `(S, T)` float64 each.
    """

    def update(self, posteriors: Tensor, targets: Tensor) -> None: ...

    def result(self) -> Ceiling: ...


class Metric(ABC):
    """A number for every pair of a unit and a target, accumulated over batches in constant memory.

    A metric is one file in `hltm.probe.metrics` with one subclass of this class: `METRICS` finds it
    under the file's name. A subclass of yours is given as it is: `measure(…, metrics=[Covariance])`.
    Both are then in the table with a null, and in the matching and the heatmap.

    Attributes:
        sums: the accumulator that `update` hands its batches to; a metric may override `update`.
        two_states: whether it is defined for latents of two states only.
        bounded_by_correlation: whether `tree.ceiling`, the ceiling of correlations, is its ceiling.
        strength_range: the strength of a unit that knows nothing, and the largest possible strength;
            None where that has no bound.
        no_ceiling: a few words for the table where the metric has no ceiling.
        null: how its null is computed, one of `hltm.probe.null.KINDS`; "shifts" for any metric. A
            subclass that does not say it again has "shifts".
        takes_batches: whether `update` takes a `UnitBatch` in place of activations, so that metrics share
            what they have in common, and one of targets if it is for `numbers`; said again by a
            subclass, as `null` is.
        numbers: whether targets may be real numbers rather than states.

    Example:
        >>> import torch
        >>> class Covariance(Metric):
        ...     rows = 0
        ...     def update(self, activations, targets):
        ...         centred = targets.float() - targets.float().mean(-1, keepdim=True)
        ...         self.sum = activations @ centred.mT  # of a single batch
        ...         self.rows = activations.shape[-1]
        ...     def result(self):
        ...         return self.sum.double() / self.rows
        >>> metric = Covariance()
        >>> metric.update(torch.tensor([[1.0, 3.0]]), torch.tensor([[0, 1]]))
        >>> metric.strength()
        tensor([[0.5000]], dtype=torch.float64)
    """

    sums: Any
    two_states: ClassVar[bool] = False
    bounded_by_correlation: ClassVar[bool] = False
    strength_range: ClassVar[tuple[float, float | None]] = (0.0, None)
    no_ceiling: ClassVar[str] = "no ceiling is known of this metric"
    null: ClassVar[str] = "shifts"
    takes_batches: ClassVar[bool] = False
    numbers: ClassVar[bool] = False

    @classmethod
    def for_states(cls, states: int) -> Metric:
        """A new metric of latents with at most this many states K."""
        return cls()

    @classmethod
    def posterior_ceiling(cls, tree: LatentTree, nodes: Sequence[int]) -> PosteriorCeiling | None:
        """The accumulator of its ceiling on these latents; None where exact posteriors give none."""
        return None

    def update(self, activations: Any, targets: Any) -> None:
        """Add a batch: activations `(…, U, B)` and target states `(…, T, B)`, equal leading axes.

        Raises:
            ValueError: shapes that do not fit, or activations that are not finite.
        """
        self.sums.update(activations, targets)

    @abstractmethod
    def result(self) -> Tensor:
        """`(…, U, T)` float64."""

    def strength(self) -> Tensor:
        """`(…, U, T)` float64: the result without its sign, so that more is better."""
        return self.result()

    def ceiling_factor(self) -> Tensor | None:
        """`(…, U, T)` a unit's ceiling divided by the ceiling of correlations; None for no ceiling."""
        return torch.ones((), dtype=torch.float64) if self.bounded_by_correlation else None
