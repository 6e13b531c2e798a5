"""What tells cells of one variant apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def free_settings(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that differ between cells of one variant."""
    seen: dict[tuple[Any, str], set[str]] = {}
    for cell in cells:
        for name, value in cell.items():
            seen.setdefault((cell["variant"], name), set()).add(str(value))
    return list(dict.fromkeys(name for (_, name), values in seen.items() if len(values) > 1))
