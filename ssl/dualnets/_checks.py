"""Checks of single values at the border: one error each, with the value and what was expected.

A value of a wrong type raises TypeError, a value of the right type that is not allowed ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, get_args

Bound = float | None


def check_number(
    name: str,
    value: Any,
    *,
    above: Bound = None,
    low: Bound = None,
    high: Bound = None,
    below: Bound = None,
    limit: bool = True,
) -> Any:
    """A finite number within bounds, as Python's own.

    Args:
        name: the name that an error shows.
        value: any value.
        above, low: the number is greater than, or at least this.
        below, high: the number is less than, or at most this.
        limit: whether infinity is refused where there is no upper bound.

    Raises:
        TypeError: a value that is not a number.
        ValueError: a number outside the bounds, or not finite.

    Example:
        >>> check_number("momentum", 1.5, low=0, high=1)
        Traceback (most recent call last):
        ValueError: momentum must be in 0..1, got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number: Any = value.item() if hasattr(value, "item") else value  # numpy's as Python's own
    fits = (
        (above is None or number > above)
        and (low is None or number >= low)
        and (high is None or number <= high)
        and (below is None or number < below)
    )
    if fits and not math.isnan(number) and (math.isfinite(number) or not limit):
        return number
    shown = name.split()[-1]
    if high is not None and low is None:
        wanted = f"in {above} < {shown} <= {high}"
    elif high is not None:
        wanted = f"in {low}..{high}"
    elif below is not None:
        wanted = f"in {low} <= {shown} < {below}"
    else:
        ends = [f"above {above}"] * (above is not None) + [f"at least {low}"] * (low is not None)
        wanted = " and ".join(ends + ["finite"] * limit)
    raise ValueError(f"{name} must be {wanted}, got {number}")


def check_whole(name: str, value: Any, *, low: int, unit: str = "") -> int:
    """A whole number of at least `low`, as Python's own; an error shows `unit` behind `low`.

    Raises:
        TypeError: a value that is not a whole number, such as 3.0.
        ValueError: a number below `low`.

    Example:
        >>> check_whole("steps", 3.0, low=0)
        Traceback (most recent call last):
        TypeError: steps must be a whole number, got 3.0
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}{unit and ' '}{unit}, got {value}")
    return int(value)


def check_switch(name: str, value: Any) -> bool:
    """True or False; values that merely count as one of them are refused.

    Raises:
        TypeError: any other value, such as 0 or 'no'.
    """
    # by name, since numpy, which has a type of its own, is not imported here
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_choice(name: str, value: Any, known: Sequence[str]) -> str:
    """One of some words.

    Raises:
        ValueError: any other value.

    Example:
        >>> check_choice("target", "slow", ("ema", "online"))
        Traceback (most recent call last):
        ValueError: target must be one of ema, online, got 'slow'
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def check_network(name: str, value: Any) -> None:
    """A network with the interface of `dualnets.networks`.

    Raises:
        TypeError: a torch module without it, or any other value.
    """
    names = ("members", "stacked", "inputs")
    if isinstance(value, type) or not all(hasattr(value, name) for name in names):
        raise TypeError(
            f"{name} must be such as dualnets.tree_network(trees, units=5, seed=1), got a "
            f"{getattr(value, '__name__', type(value).__name__)}; "
            + (
                "its .network is one"
                if hasattr(value, "network")
                else "dualnets.TorchEnsemble makes one of any torch module"
            )
        )


def check_tree(value: Any) -> None:
    """A tree, or an ensemble of trees, to build a network on.

    Raises:
        TypeError: any other value, such as pictures.
    """
    if not hasattr(value, "topology"):
        hint = "; networks on pictures are dualnets.conv_net and dualnets.resnet18"
        raise TypeError(
            f"tree must be such as hltm.symmetric_binary(depth=3, seed=0), got {type(value).__name__}"
            + hint * hasattr(value, "shape")
        )


def check_kind(name: str, value: Any, kind: Any, example: str) -> None:
    """An instance of a class or of a union of classes, as `example` shows.

    Raises:
        TypeError: any other value, such as a name or the class itself.

    Example:
        >>> check_kind("method", "simclr", dict, "dualnets.SimCLR()")
        Traceback (most recent call last):
        TypeError: method must be such as dualnets.SimCLR(), got 'simclr'
    """
    if not isinstance(value, get_args(kind) or kind):
        shown = repr(value)
        shown = shown if len(shown) <= 80 and "\n" not in shown else f"a {type(value).__name__}"
        raise TypeError(f"{name} must be such as {example}, got {shown}")
