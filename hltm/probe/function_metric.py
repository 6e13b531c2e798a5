"""A plain function of a user's as a metric, and its null."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import check_pair
from hltm.probe.accumulators.shifted import shuffle
from hltm.probe.metric import Metric
from hltm.probe.null import LAGS, upper_point

Function = Callable[[Tensor, Tensor], Any]  # activations (B, U), states (B, T) -> (U, T) or (T,)


class FunctionMetric(Metric):
    """A function of all rows of a layer as a metric; it keeps the activations that it is given.

    `function_metric` makes the subclass of a function.
    """

    numbers = True
    label: ClassVar[str]
    function: ClassVar[Function]

    def __init__(self) -> None:
        self.activations: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.found: Tensor | None = None

    def update(self, activations: Tensor, targets: Tensor) -> None:
        self.found = None
        self.activations.append(check_pair(activations, targets))
        self.targets.append(targets if targets.is_floating_point() else targets.long())

    def result(self) -> Tensor:
        """`(…, U, T)` float64; `(…, 1, T)` for a function of all units together."""
        if self.found is None:
            self.found = self.apply(torch.cat(self.activations, -1), torch.cat(self.targets, -1))
        return self.found

    def apply(self, activations: Tensor, targets: Tensor) -> Tensor:
        """The same of given `(…, U, B)` activations and `(…, T, B)` targets."""
        a, z = (x.reshape(-1, *x.shape[-2:]) for x in (activations, targets))
        found = [self._of_one(mine.T, its.T) for mine, its in zip(a, z, strict=True)]
        return torch.stack(found).reshape(*activations.shape[:-2], -1, targets.shape[-2])

    def _of_one(self, activations: Tensor, states: Tensor) -> Tensor:
        """The function's result for one member, or one block of a member."""
        given = type(self).function(activations, states)
        found = torch.as_tensor(given, dtype=torch.float64, device=activations.device)
        units, targets = activations.shape[-1], states.shape[-1]
        if tuple(found.shape) not in ((units, targets), (targets,)):
            raise ValueError(
                f"metric {self.label!r} gave shape {tuple(found.shape)} for {units} units and "
                f"{targets} latents, expected {(units, targets)}, or {(targets,)} of all units together"
            )
        return found if found.ndim == 2 else found[None]


def function_metric(name: str, function: Function) -> type[FunctionMetric]:
    """A plain function as a metric.

    Args:
        name: in the table and in errors.
        function: from activations `(B, U)` and states `(B, T)` of all rows of one member to `(U, T)`
            numbers, of which more is better (give the size of a number whose sign does not matter),
            or to `(T,)`, one number per latent for all units together. Where latents have a block of
            units each, it is called once for each block. It is called again for each lag of the null.

    Raises:
        ValueError: in `result`, a result of another shape.
    """
    return type(name, (FunctionMetric,), {"label": name, "function": staticmethod(function)})


class FunctionNull:
    """The null of a function: it is called for every lag, with the targets of other rows shifted.

    Args:
        metric: of the function, without rows.
        lags: pairings with other rows, at least 1.
    """

    def __init__(self, metric: FunctionMetric, lags: int = LAGS) -> None:
        self.metric, self.lags = metric, lags
        self.strengths: Tensor | None = None

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch: activations `(…, U, B)` and target states `(…, T, B)` of other rows."""
        self.metric.update(activations, targets)

    def quantile(self) -> Tensor:
        """`(…, T)` float64: the 95% point, over lags, of the best strength among the units."""
        return upper_point(self._strengths().amax(-2), 0)

    def unit_quantile(self) -> Tensor:
        """`(…, U)` float64: the 95% point, over lags, of each unit's best strength among the targets."""
        return upper_point(self._strengths().amax(-1), 0)

    def _strengths(self) -> Tensor:
        """`(lags, …, U, T)`."""
        if self.strengths is None:
            a, z = torch.cat(self.metric.activations, -1), torch.cat(self.metric.targets, -1)
            a = a[..., shuffle(a.shape[-1]).to(a.device)]  # as all nulls have it
            step = a.shape[-1] // self.lags
            found = (self.metric.apply(a, z.roll(lag * step, -1)) for lag in range(self.lags))
            self.strengths = torch.stack(list(found))
        return self.strengths
