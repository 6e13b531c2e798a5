"""Named tuples of tensors that compare by content and print in one line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, TypeVar

import numpy as np

SHOWN = 8  # numbers of a tensor that are printed; of a larger one, the shape is
SHOWN_IN_NOTEBOOKS = 80  # there they take several lines

Result = TypeVar("Result", bound=tuple[Any, ...])


def by_content(cls: type[Result]) -> type[Result]:
    """Let a named tuple of tensors compare by content and print its shapes.

    Two results are equal if they are of one class and their tensors have equal shapes, types and
    entries; NaN equals NaN. A tuple of tensors would raise an error instead.

    Example:
        >>> import torch
        >>> from typing import NamedTuple
        >>> @by_content
        ... class Found(NamedTuple):
        ...     value: torch.Tensor
        >>> Found(torch.ones(3)) == Found(torch.ones(3)), Found(torch.ones(3)) == Found(torch.ones(4))
        (True, False)
        >>> Found(torch.tensor([1, 2])), Found(torch.ones(3, 50))
        (Found(value=[1, 2]), Found(value=(3, 50) float32))
    """

    def equal(self: Any, other: object) -> bool:
        return type(self) is type(other) and all(map(_equal, self, other))  # type: ignore[call-overload]

    methods: dict[str, Any] = {
        "__eq__": equal,
        "__ne__": lambda self, other: not equal(self, other),
        "__hash__": lambda self: hash((cls.__name__, *map(_hashed, self))),
        "__repr__": _repr,
        "_repr_html_": _html,
    }
    for name, method in methods.items():
        setattr(cls, name, method)
    return cls


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy()


def _equal(a: Any, b: Any) -> bool:
    if not (hasattr(a, "detach") and hasattr(b, "detach")):
        numbers = not hasattr(a, "detach") and not hasattr(b, "detach")
        return numbers and (bool(a == b) or bool(a != a and b != b))
    return a.dtype == b.dtype and np.array_equal(_array(a), _array(b), equal_nan=True)


def _hashed(value: Any) -> Any:
    """Shapes and types alone: equal results have equal ones, and they cost nothing."""
    if hasattr(value, "shape"):
        return tuple(value.shape), str(value.dtype)
    return value if value == value else "nan"  # the hash of NaN is that of its place in memory


def _numbers(value: Any) -> str:
    """The numbers of a short tensor, or the smallest and largest of a long one."""
    array = _array(value)
    if array.size <= SHOWN:
        return np.array2string(array, precision=4, separator=", ", max_line_width=10**6).replace(
            "\n", ""
        )
    finite = array[np.isfinite(array)]
    return f"{finite.min():.4g} … {finite.max():.4g}" if finite.size else "none is finite"


def _described(value: Any) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _repr(self: Any) -> str:
    shown = [
        f"{name}=" + (_numbers(x) if 0 < x.numel() <= SHOWN else _described(x))
        if hasattr(x, "detach")
        else f"{name}={x!r}"
        for name, x in zip(self._fields, self, strict=True)
    ]
    return f"{type(self).__name__}({', '.join(shown)})"


def _html(self: Any) -> str:
    """A table for notebooks: one row per field."""
    rows = [(type(self).__name__, "shape", "values")]
    for name, x in zip(self._fields, self, strict=True):
        shape, shown = (_described(x), _numbers(x)) if hasattr(x, "detach") else ("", repr(x))
        if hasattr(x, "detach") and SHOWN < x.numel() <= SHOWN_IN_NOTEBOOKS:
            shown = np.array2string(_array(x), precision=4, suppress_small=True)
        rows.append((name, shape, shown))
    return table_html(rows)


def table_html(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a table in HTML, the first of them as headings.

    Example:
        >>> table_html([("a",), ("<",)])
        '<table><tr><th>a</th></tr><tr><td style="white-space: pre; text-align: left">&lt;</td></tr></table>'
    """
    tags = ("th", *['td style="white-space: pre; text-align: left"'] * (len(rows) - 1))
    lines = (
        "".join(f"<{tag}>{escape(cell)}</{tag[:2]}>" for cell in row)
        for tag, row in zip(tags, rows, strict=True)
    )
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
