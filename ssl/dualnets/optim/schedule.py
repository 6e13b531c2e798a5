"""The schedule of a learning rate: a linear rise, then a constant or a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dualnets._checks import check_choice, check_number, check_whole
from dualnets._lazy import torch
from dualnets._options import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate at every update.

    Attributes:
        kind: schedule of the learning rate: constant, or cosine: from 1 to `final` along half a cosine.
        warm_up: number of first updates during which the rate rises linearly from 0.
        final: value at which a cosine schedule ends, as a share of the learning rate.

    Raises:
        TypeError: warm_up is not a whole number, or final is not a number.
        ValueError: an unknown kind, warm_up below 0, or final outside 0..1.

    Example:
        >>> [round(Schedule("cosine", warm_up=2).factor(step, 6), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """

    kind: Literal["constant", "cosine"] = option("constant", flag="schedule")
    warm_up: int = 0
    final: float = option(0.0, flag="final_rate", applies_to={"kind": ("cosine",)})

    def __post_init__(self) -> None:
        check_choice("a schedule", self.kind, ("constant", "cosine"))
        check_whole("warm_up", self.warm_up, low=0, unit="steps")
        check_number("final", self.final, low=0, high=1)

    def factor(self, step: int | Tensor, steps: int) -> Any:
        """The factor at update number `step`, counted from 0, of `steps` updates.

        A float for a number; for a tensor `()` a tensor, without a decision that depends on its value.
        """
        if not isinstance(step, int):
            rising = (step + 1) / max(self.warm_up, 1)
            return torch.where(step < self.warm_up, rising, self._after_warm_up(step, steps))
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        return self._after_warm_up(step, steps)

    def _after_warm_up(self, step: int | Tensor, steps: int) -> Any:
        if self.kind == "constant":
            return 1.0
        share = (step - self.warm_up) / max(steps - self.warm_up, 1)
        angle = math.pi * share
        cosine = math.cos(angle) if isinstance(angle, float) else torch.cos(angle)
        return self.final + (1 - self.final) * (1 + cosine) / 2
