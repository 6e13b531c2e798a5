"""Named tuples and data classes of tensors that compare by content and print in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any, TypeVar

import numpy as np

SHOWN = 8  # numbers of a tensor that are printed; of a larger one, the shape is
SHOWN_IN_NOTEBOOKS = 80  # there they take several lines

Result = TypeVar("Result")


def by_content(cls: type[Result]) -> type[Result]:
    """Let a named tuple or a data class of tensors compare by content and print its shapes.

    Two results are equal if they are of one class and their tensors have equal shapes, types and
    entries, those in lists, mappings and data frames too; NaN equals NaN. A tuple of tensors would
    raise an error instead. A field with `repr=False` of a data class is not shown.

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
        if type(self) is not type(other):
            return False
        own, others = _content(self), _content(other)
        return all(_equal(own[name], others[name]) for name in own)

    methods: dict[str, Any] = {
        "__eq__": equal,
        "__ne__": lambda self, other: not equal(self, other),
        "__hash__": lambda self: hash((cls.__name__, *map(_hashed, _content(self).values()))),
        "__repr__": _repr,
        "_repr_html_": _html,
    }
    for name, method in methods.items():
        setattr(cls, name, method)
    return cls


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy()


def _content(self: Any) -> dict[str, Any]:
    """The fields of a named tuple or a data class."""
    if hasattr(self, "_asdict"):
        found: dict[str, Any] = self._asdict()
        return found
    return {field.name: getattr(self, field.name) for field in fields(self)}


def _shown(self: Any) -> dict[str, Any]:
    """The fields that are printed."""
    hidden = () if hasattr(self, "_asdict") else [f.name for f in fields(self) if not f.repr]
    return {name: value for name, value in _content(self).items() if name not in hidden}


def _equal(a: Any, b: Any) -> bool:
    if hasattr(a, "detach") and hasattr(b, "detach"):
        return a.dtype == b.dtype and np.array_equal(_array(a), _array(b), equal_nan=True)
    if type(a) is not type(b) or hasattr(a, "detach"):
        return False
    if isinstance(a, type):  # that of a user's function is made anew each time
        return _name(a) == _name(b)
    if hasattr(a, "equals"):  # a data frame
        return bool(a.equals(b))
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b) or bool(a != a and b != b)


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _hashed(value: Any) -> Any:
    """Shapes and types alone: equal results have equal ones, and they cost nothing."""
    if isinstance(value, type):
        return _name(value)
    if hasattr(value, "shape"):
        return tuple(value.shape), str(getattr(value, "dtype", ""))
    if isinstance(value, list | Mapping):
        return tuple(map(str, value))
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


def _text(value: Any) -> str:
    """One line for a field: the numbers of a short tensor, of longer ones the shape."""
    if hasattr(value, "detach"):
        return _numbers(value) if 0 < value.numel() <= SHOWN else _described(value)
    if hasattr(value, "columns"):
        return f"{len(value)} rows × {len(value.columns)} columns"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_text(value[key])}" for key in value) + "}"
    if isinstance(value, list):
        return repr(value) if len(value) <= SHOWN else f"{len(value)} × {type(value[0]).__name__}"
    return value.__name__ if isinstance(value, type) else repr(value)


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={_text(value)}" for name, value in _shown(self).items())
    return f"{type(self).__name__}({shown})"


def _html(self: Any) -> str:
    """A table for notebooks: one row per field."""
    rows = [(type(self).__name__, "shape", "values")]
    for name, x in _shown(self).items():
        shape, shown = (_described(x), _numbers(x)) if hasattr(x, "detach") else ("", _text(x))
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
