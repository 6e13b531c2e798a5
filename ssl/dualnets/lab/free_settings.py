"""What distinguishes cells: the settings that differ between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def free_settings(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that differ between cells of one variant."""
    seen: dict[tuple[Any, str], set[str]] = {}
    for cell in cells:
        for name, value in cell.items():
            seen.setdefault((str(cell.get("variant")), name), set()).add(str(value))
    return list(dict.fromkeys(name for (_, name), values in seen.items() if len(values) > 1))


def shown_settings(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that differ between cells, where a variant's name stands for those that make it.

    Example:
        >>> shown_settings([{"variant": "a", "units": 2, "lr": 1}, {"variant": "b", "units": 9, "lr": 1}])
        ['variant']
    """
    names = list(dict.fromkeys(name for cell in cells for name in cell))
    varying = [n for n in names if len({str(cell.get(n)) for cell in cells}) > 1]
    if "variant" not in varying:
        return varying
    free = free_settings(cells)
    return [name for name in varying if name == "variant" or name in free]
