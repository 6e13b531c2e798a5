"""Experiments, one file per claim, discovered.

Each has CLAIM (a sentence), PLACE (where the paper makes it), RESULT_VERSION (raised when its
numbers would change), Settings (a frozen dataclass of scalars and names: one ensemble), GRIDS
(scale -> list of {field: values}), `run_cell(settings, device, progress) -> Outcome`,
`summary_table(table)`, `plot(table) -> figure` and `verdict(table)`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from dualnets.lab import runner
from dualnets.lab.experiment import Experiment, of_module


@functools.cache
def _modules() -> dict[str, str]:
    """Name of an experiment -> its module."""
    groups = [item for item in pkgutil.iter_modules(__path__, f"{__name__}.") if item.ispkg]
    found = {}
    for group in groups:
        for item in pkgutil.iter_modules(importlib.import_module(group.name).__path__):
            if not item.name.startswith("_"):
                found[item.name] = f"{group.name}.{item.name}"
    return dict(sorted(found.items()))


def names() -> list[str]:
    """The experiments there are."""
    return list(_modules())


def shown_name(name: str) -> str:
    """An experiment's name as the command line has it."""
    return name.replace("_", "-")


def load(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        ValueError: there is none of this name.
    """
    module = name.replace("-", "_")
    if module not in names():
        near = difflib.get_close_matches(module, names(), n=1)
        hint = f" (did you mean {shown_name(near[0])}?)" if near else ""
        there = ", ".join(shown_name(known) for known in names())
        raise ValueError(f"unknown experiment {name!r}{hint}; there are: {there}")
    found = importlib.import_module(_modules()[module])
    return found.EXPERIMENT if hasattr(found, "EXPERIMENT") else of_module(found)


def run(
    name: str,
    *,
    scale: str = "default",
    device: str = "auto",
    out: str | Path = "runs",
    fresh: bool = False,
    workers: int | None = 1,
    reporter: runner.Reporter | None = None,
    **changes: Any,
) -> runner.Run:
    """Run an experiment by its name; the arguments are those of `dualnets.lab.runner.run`."""
    return runner.run(
        load(name),
        scale=scale,
        device=device,
        out=out,
        fresh=fresh,
        workers=workers,
        reporter=reporter,
        **changes,
    )
