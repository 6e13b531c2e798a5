"""Names that users give, as text in one line: for terminals, figures, pages and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# of matplotlib's texts: a name with a dollar is no formula, and one with a backslash no TeX
PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}


def visible(text: object) -> str:
    r"""A text in one line: newlines, escapes and other characters that do not print are written out.

    Example:
        >>> print(visible("a\nb"))
        a\nb
    """
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return "".join(shown)


def brief(text: object, width: int = 40) -> str:
    """A text in one line, without its middle where it is longer than `width`.

    Example:
        >>> brief("a_rather_long_name", 9)
        'a_ra…name'
    """
    shown = visible(text)
    half = (width - 1) // 2
    return shown if len(shown) <= width else f"{shown[: width - 1 - half]}…{shown[-half:]}"


def listed(names: Sequence[object], width: int = 120) -> str:
    """Names for an error: as many as fit into `width`, and how many more there are.

    Example:
        >>> listed(["fc1", "fc2", "fc3"], 14)
        "'fc1', 'fc2' and 1 more"
    """
    shown = [f"'{brief(name)}'" for name in names]
    fits = 1
    while fits < len(shown) and len(", ".join(shown[: fits + 1])) <= width:
        fits += 1
    more = len(shown) - fits
    return ", ".join(shown[:fits]) + (f" and {more} more" if more > 0 else "")
