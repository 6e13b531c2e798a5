"""Experiments, one file per claim, found by name.

A folder here is a group of experiments; a file in it whose name does not begin with an underscore is
an experiment, and declares it as `EXPERIMENT` (`dualnets.lab.experiment.Experiment`).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from concurrent.futures import Executor
from pathlib import Path

from dualnets.lab import runner
from dualnets.lab.computing import Reporter
from dualnets.lab.experiment import Experiment, declared_in


@functools.cache
def _modules() -> dict[str, str]:
    """Name of an experiment -> its module."""
    found = {}
    for group in pkgutil.iter_modules(__path__, f"{__name__}."):
        if group.ispkg:
            for item in pkgutil.iter_modules(importlib.import_module(group.name).__path__):
                if not item.name.startswith("_"):
                    found[item.name] = f"{group.name}.{item.name}"
    return dict(sorted(found.items()))


def names() -> list[str]:
    """The names of all experiments, sorted.

    Example:
        >>> "byol_batchnorm" in names()
        True
    """
    return list(_modules())


def load(name: str) -> Experiment:
    """An experiment by its name, with hyphens or underscores.

    Raises:
        ValueError: there is no such experiment.

    Example:
        >>> load("byol-batchnorm").name
        'byol_batchnorm'
    """
    module = name.replace("-", "_")
    if module not in _modules():
        flags = {each: each.replace("_", "-") for each in names()}
        near = difflib.get_close_matches(module, flags, n=1)
        hint = f" (did you mean {flags[near[0]]}?)" if near else ""
        known = ", ".join(flags.values())
        raise ValueError(f"unknown experiment {name!r}{hint}; there are: {known}")
    return declared_in(_modules()[module])


def run(
    name: str,
    *,
    scale: str = "default",
    device: str = "auto",
    out: str | Path = "runs",
    fresh: bool = False,
    workers: int | None = 1,
    reporter: Reporter | None = None,
    executor: Executor | None = None,
    **changes: object,
) -> runner.Run:
    """Run an experiment by its name; the arguments are those of `dualnets.lab.runner.run`."""
    return runner.run(
        load(name), scale=scale, device=device, out=out, fresh=fresh, workers=workers,
        reporter=reporter, executor=executor, **changes,
    )  # fmt: skip
