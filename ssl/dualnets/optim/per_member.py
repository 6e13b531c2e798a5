"""Rates that are one number for all members, or one number per member, so that a sweep is one ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any

from dualnets._checks import check_number
from dualnets._lazy import torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    PerMember = float | Sequence[float] | np.ndarray | Tensor
else:  # as it is kept: a number, or a tuple of numbers
    PerMember = float | tuple[float, ...]


@dataclass(frozen=True)
class Group:
    """Rates of a group of parameters; each is one number, or one per member.

    Attributes:
        lr: factor of the optimiser's learning rate.
        weight_decay: weight decay of this group; None for the optimiser's.

    Raises:
        TypeError: a rate that is not a number.
        ValueError: a rate below 0 or not finite.
    """

    lr: PerMember = 1.0
    weight_decay: PerMember | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_rates(name, given, at_least_0))

    def of_members(self, low: int, high: int) -> Group:
        """The same rates for members low..high-1."""
        return Group(
            *(rates_of_members(rates, low, high) for rates in (self.lr, self.weight_decay))
        )


def check_rates(name: str, value: Any, check: Callable[[str, Any], Any]) -> Any:
    """A number, or one per member as a tuple.

    Args:
        name: the name that an error shows.
        value: a number, or numbers in a sequence, a numpy array or a tensor `(S,)`.
        check: (name, number) -> the number; raises an error where it is out of range.

    Raises:
        TypeError: a value that is neither.
        ValueError: a number that `check` refuses, no number at all, or more than one axis.

    Example:
        >>> import numpy as np
        >>> check_rates("lr", np.array([0.1, 0.5]), lambda name, rate: check_number(name, rate, low=0))
        (0.1, 0.5)
    """
    given = value
    if hasattr(given, "tolist"):  # a numpy array or a tensor, whose classes are not imported here
        given = given.tolist()
    if isinstance(given, bool | str | bytes) or not isinstance(given, Real | Sequence):
        raise TypeError(f"{name} must be a number, or one per member, got {value!r}")
    if isinstance(given, Real):
        return check(name, given)
    if not given:
        raise ValueError(f"{name} must be a number, or one per member, got none")
    if isinstance(given[0], list):
        raise ValueError(f"{name} must be a number, or one per member, got {value!r}")
    return tuple(check(name, rate) for rate in given)


def at_least_0(name: str, rate: Any) -> Any:
    """The rate, checked to be at least 0 and finite."""
    return check_number(name, rate, low=0)


def between_0_and_1(name: str, rate: Any) -> Any:
    """The rate, checked to be in 0..1."""
    return check_number(name, rate, low=0, high=1)


def broadcast_rates(rates: PerMember | None, like: Tensor) -> Any:
    """Rates that broadcast over `like`: a number unchanged, one per member as `(S, 1, …)`.

    The tensor is made once per dtype and device, since copying to a GPU in every step would block.
    """
    if not isinstance(rates, tuple):
        return rates
    return broadcast(_tensor(rates, like.dtype, like.device), like)


def rates_of_members(rates: Any, low: int, high: int) -> Any:
    """The rates of members low..high-1; a number or None is returned unchanged."""
    return rates[low:high] if isinstance(rates, tuple) else rates


def check_count(what: str, rates: Any, members: int) -> None:
    """Raise ValueError unless there is one rate for all, or one per member."""
    if isinstance(rates, tuple) and len(rates) != members:
        raise ValueError(f"expected {members} {what}, one per member, got {len(rates)}")


@lru_cache(maxsize=256)
def _tensor(rates: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(rates, dtype=dtype, device=device)


def broadcast(per_member: Tensor, parameter: Tensor) -> Tensor:
    """`(S,)` as `(S, 1, …)`, to broadcast over a parameter."""
    return per_member.view(-1, *[1] * (parameter.ndim - 1))
