"""Experiments, one file per claim, found by name.

A folder here is a group of experiments; a file in it whose name does not begin with an underscore is
an experiment, and declares it as `EXPERIMENT` (`dualnets.lab.experiment.Experiment`).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from dualnets.lab import results as stored_results
from dualnets.lab import runner
from dualnets.lab.experiment import Experiment, declared_in
from dualnets.lab.reporter import Reporter

if TYPE_CHECKING:
    import pandas as pd

Setting = bool | int | float | str | None


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
    reporter: Reporter | Sequence[Reporter] | None = None,
    only: str | Sequence[str] = (),
    executor: Executor | None = None,
    **changes: Setting | Sequence[Setting],
) -> runner.Run:
    """Run an experiment by its name; the arguments are those of `dualnets.lab.runner.run`.

    Args:
        **changes: settings of the experiment, which `hltm run NAME --help` lists, each one value or several.
    """
    return runner.run(
        load(name), scale=scale, device=device, out=out, fresh=fresh, workers=workers,
        reporter=reporter, executor=executor, only=only, **changes,
    )  # fmt: skip


def results(out: str | Path = "runs", experiment: str | None = None) -> pd.DataFrame:
    """One tidy table over all stored runs, from the oldest to the newest.

    Its columns are `experiment`, `run`, `date` and `scale`; the settings that vary between any of the
    cells; `cell`; and what the tables of the runs have, such as `member`, `step`, `level`, `node`, `metric`
    and `value`. Texts are categories. Settings that are equal in all cells are left out. Of two
    experiments one may lack columns of the other; there they are missing values. A cell that several
    runs share is there once for each of them.

    DuckDB queries the table by its name in Python:

        runs = dualnets.results("runs")
        duckdb.sql('''
            SELECT run, variant, avg(value) AS correlation
            FROM runs WHERE metric = 'correlation' AND experiment = 'losses'
            GROUP BY ALL ORDER BY correlation DESC
        ''')

    Args:
        out: the folder of all results.
        experiment: whose runs, with hyphens or underscores; those of all experiments by default.

    Returns:
        The table; without rows where there are no runs. A damaged run is left out with a warning.

    Raises:
        ValueError: `out` is no folder, or there is neither such an experiment nor a folder of its runs.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as out:
        ...     list(results(out).columns)
        ['experiment', 'run', 'date', 'scale']
    """
    name = experiment and experiment.replace("-", "_")
    if name and not (Path(out) / name).is_dir():
        name = load(name).name
    home = Path(out)
    settings = {each: load(each).Settings for each in names() if (home / each).is_dir()}
    return stored_results.results(out, name, settings)
