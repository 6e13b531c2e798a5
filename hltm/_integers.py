"""Integers of any type, of Python, numpy or torch, as arguments."""

from __future__ import annotations

from operator import index
from typing import Any


def as_integer(name: str, value: Any, least: int | None = None) -> int:
    """An integer of any type as an int.

    Raises:
        TypeError: not an integer; a bool is none.
        ValueError: below the least.

    Example:
        >>> import numpy as np
        >>> as_integer("depth", np.uint8(3), least=1)
        3
        >>> as_integer("depth", 2.0)
        Traceback (most recent call last):
        TypeError: depth must be an integer, got 2.0
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r:.100}")
    found = index(value)
    if least is not None and found < least:
        raise ValueError(f"{name} must be at least {least}, got {found}")
    return found
