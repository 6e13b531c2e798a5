"""Settings of stored cells, as manifests have them, under the names and with the values of today."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from dualnets.lab.fields import UNCHANGED, Checked


def of_today(stored: Mapping[str, Any], settings: type[Checked]) -> dict[str, Any]:
    """Settings of a stored cell with the names and values of today, and with those added since.

    Example:
        >>> from dualnets.lab.settings import NetworkSettings
        >>> found = of_today({"network": "wrong-tree", "units": 5}, NetworkSettings)
        >>> found["network"], found["units"], found["normalize"]
        ('shuffled-tree', 5, True)
    """
    found = dict(stored)
    for item in fields(settings):
        how = item.metadata.get("stored", UNCHANGED)
        value = found.pop(how.name, item.default) if how.name else item.default
        value = found.setdefault(item.name, None if value is MISSING else value)
        found[item.name] = next((new for new, old in how.values.items() if old == value), value)
    return found


def in_effect(
    stored: Sequence[Mapping[str, Any]], settings: type[Checked] | None
) -> list[dict[str, Any]]:
    """Of every stored cell the settings that have an effect there, as they are named today.

    Args:
        stored: settings of cells.
        settings: of the experiment as it is today; None if there is none, and for cells that it does not
            fit: then all that are not empty count.

    Example:
        >>> from dualnets.lab.settings import NormSettings
        >>> in_effect([{"network_norm": "none", "network_norm_groups": 2}], NormSettings)
        [{'network_norm': 'none', 'network_weight_standardization': False}]
    """
    found = []
    for cell in stored:
        own, unused = dict(cell), set[str]()
        if settings is not None:
            with contextlib.suppress(TypeError, ValueError):
                today = of_today(cell, settings)
                own, unused = today, {*settings(**today).unused()}
        found.append({n: v for n, v in own.items() if n not in unused and v not in (None, "")})
    return found
