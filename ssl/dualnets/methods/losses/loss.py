"""What a loss is, the words that select losses, and the checks of their settings."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

from dualnets._checks import check_number, check_whole
from dualnets._options import Registry

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """A contrastive loss; `negatives` is H, the number of fresh negatives per anchor.

    A loss whose attribute `original` is true is also given the outputs of the samples without augmentation,
    `(S, B, U)`, as a fourth argument.
    """

    @property
    def negatives(self) -> int: ...

    def __call__(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """`(S,)` from anchor and positive `(S, B, U)` and negatives `(S, H, B, U)`."""


LOSSES: Registry[type[Any]] = Registry()


class CheckedLoss:
    """Checks the settings of a loss, which have the same meaning in every loss that has them."""

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self) if item.init):  # type: ignore[arg-type]
            if name in ("temperature", "epsilon"):
                check_number(name, getattr(self, name), above=0)
            elif name == "negatives":
                check_whole(name, getattr(self, name), low=1, unit="per anchor")
            elif name == "margin":
                check_number(name, getattr(self, name))
