"""From a grid to cells, from cells to a run on disk; the only place that discovers experiments."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dualnets._files import read_json, replace_folder, write_json
from dualnets.lab import store as records
from dualnets.lab import workers as processes
from dualnets.lab.experiment import Experiment, Fixed, ProgressListener
from dualnets.lab.fields import stored_form, with_columns

if TYPE_CHECKING:
    import pandas as pd

    from dualnets.lab.stats import Verdict


class Reporter:
    """Hears how a run goes; this one says nothing."""

    def plan(self, cells: Sequence[Mapping[str, Any]], stored: int) -> None:
        """The cells of the run, and how many of them are stored already."""

    def cell_started(self, settings: Mapping[str, Any], steps: int) -> ProgressListener:
        """A cell of so many updates begins; what comes back hears how it goes."""
        return ProgressListener()

    def cell_done(self, settings: Mapping[str, Any], table: pd.DataFrame, seconds: float) -> None:
        """A cell is stored."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        experiment, name: which; `name` follows from the cells.
        folder: where its files are.
        table: the tidy results.
        verdict: what they say.
        reused: whether the run was found finished and nothing was computed.
        command: the command that repeats it.
    """

    experiment: str
    name: str
    folder: Path
    table: pd.DataFrame
    verdict: Verdict
    reused: bool
    command: str


def cells(experiment: Experiment, scale: str, changes: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The settings of every cell of a run, in order, each once.

    Args:
        experiment: its module.
        scale: which of its GRIDS.
        changes: field -> values that replace the grids' own, except where a grid pins the field; a
            cell to which a field says nothing keeps the grid's.

    Raises:
        ValueError: an unknown scale or field, one without values, that every grid pins or that says
            nothing to any cell, or a value that Settings refuses.
    """
    if scale not in experiment.grids:
        raise ValueError(f"unknown scale {scale!r}, expected one of {', '.join(experiment.grids)}")
    known = {item.name for item in fields(experiment.Settings)}
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown setting {name!r}{hint}")
        if not changes[name]:
            raise ValueError(f"{name.replace('_', '-')} needs a value, or several")
        if all(isinstance(grid.get(name), Fixed) for grid in experiment.grids[scale]):
            raise ValueError(cannot_be_set(name))
    found: dict[Any, None] = {}
    heard: set[str] = set()  # changes that say something to some cell
    idle: dict[str, str] = {}  # the others -> of what they are
    for grid in experiment.grids[scale]:
        own = {name: v for name, v in changes.items() if not isinstance(grid.get(name), Fixed)}
        axes = {**grid, **own}
        values = [[v.value] if isinstance(v, Fixed) else list(v) for v in axes.values()]
        for combination in itertools.product(*values):
            chosen = dict(zip(axes, combination, strict=True))
            settings = experiment.Settings(**chosen)
            unused = settings.unused() if own else {}
            heard |= own.keys() - unused.keys()
            silent = own.keys() & unused.keys()
            for name in silent:
                idle.setdefault(name, unused[name])
                del chosen[name]
                if name in grid:
                    chosen[name] = cast("Sequence[Any]", grid[name])[0]
            found.setdefault(experiment.Settings(**chosen) if silent else settings)
    for name in changes:
        if name in idle and name not in heard:
            raise ValueError(
                f"{name.replace('_', '-')} has no effect here: it applies to {idle[name]}"
            )
    return list(found)


def cannot_be_set(name: str) -> str:
    """What is said of a setting that every grid pins."""
    return f"{name.replace('_', '-')} cannot be set: every cell of the experiment has its own"


def cell_name(experiment: Experiment, settings: Any) -> str:
    """A cell's name: the same for the same experiment, RESULT_VERSION and settings."""
    return records.identity(experiment.name, experiment.result_version, stored_form(settings))


def run_name(experiment: Experiment, scale: str, **changes: Any) -> str:
    """The name of a run of a scale, as it stands or with settings as `run` takes them."""
    short = experiment.name
    wanted = cells(experiment, scale, _listed(changes))
    return _run_name(short, [cell_name(experiment, settings) for settings in wanted])


def has_run(experiment: Experiment, scale: str, out: str | Path, **changes: Any) -> bool:
    """Whether a run is finished, of a scale as it stands or with settings as `run` takes them."""
    return records.Store(out, experiment.name).has_run(run_name(experiment, scale, **changes))


def _listed(changes: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: list(v) if isinstance(v, (list, tuple)) else [v] for key, v in changes.items()}


def _run_name(experiment: str, ids: Sequence[str]) -> str:
    """A run's name follows from its cells."""
    return records.identity(experiment, sorted(ids))


def run(
    experiment: Experiment,
    *,
    scale: str = "default",
    device: str = "auto",
    out: str | Path = "runs",
    fresh: bool = False,
    workers: int | None = 1,
    reporter: Reporter | None = None,
    **changes: Any,
) -> Run:
    """Run an experiment and leave its table, figure, page and verdict in `<out>/<name>/<run>/`.

    Cells that are stored are read, not computed; a run that is finished is returned at once. What
    is computed is stored cell by cell, so an interrupted run loses at most the cell it was in.

    Args:
        experiment: what to run; `dualnets.experiments.load` finds it by name.
        scale: `smoke`, `default` or `paper`.
        device: `auto`, `cpu` or `cuda`.
        out: the folder of all results.
        fresh: compute again what is stored.
        workers: processes that compute cells side by side, one thread each; None for one a core. A
            script that asks for more than one needs the usual `if __name__ == "__main__":`.
        reporter: hears of the progress.
        **changes: settings, each one value or a list of values.

    Raises:
        ValueError: before any work: an unknown scale, setting or device, a setting out
            of range.
        OSError: before any work: a folder that cannot be written.
    """
    from hltm.sampling.sample import check_device

    name = experiment.name
    listed = _listed(changes)
    wanted = cells(experiment, scale, listed)
    where = check_device(device)
    if where.type != "cuda" and any(getattr(s, "precision", "") == "bfloat16" for s in wanted):
        raise ValueError(f"bfloat16 is for CUDA, this run is on {where.type}")
    processes.how_many(workers, 1, where.type, scale)  # refuses a count before anything is said
    store = records.Store(out, name)
    store.check_writable()
    ids = [cell_name(experiment, settings) for settings in wanted]
    run_id = _run_name(name, ids)
    command = repeat_command(name, scale, listed)
    reporter = reporter or Reporter()

    if store.has_run(run_id) and not fresh:
        return _stored_run(store, name, run_id, command)
    missing = [
        (cell, settings)
        for cell, settings in zip(ids, wanted, strict=True)
        if fresh or not store.has_cell(cell)
    ]
    with _memory_named():
        for _, settings in missing:
            if hasattr(settings, "check"):  # what only a beginning of the work can tell
                settings.check()
    reporter.plan([asdict(s) for s in wanted], 0 if fresh else sum(map(store.has_cell, ids)))
    count = processes.how_many(workers, len(missing), where.type, scale)
    if count == 1:
        for cell, settings in missing:
            heard = reporter.cell_started(asdict(settings), getattr(settings, "steps", 0))
            compute(experiment, str(out), cell, settings, str(where), heard)
            _report_done(store, cell, settings, reporter)
    elif missing:
        _side_by_side(experiment, str(out), missing, str(where), count, reporter)
    return _finish(experiment, store, run_id, dict(zip(ids, wanted, strict=True)), scale, command)


def _side_by_side(
    experiment: Experiment, out: str, missing: Sequence[tuple[str, Any]], device: str, count: int,
    reporter: Reporter,
) -> None:  # fmt: skip
    """Compute cells in several processes."""
    store = records.Store(out, experiment.name)
    heard: dict[int, ProgressListener] = {}

    def hear(at: int, kind: str, details: tuple[Any, ...]) -> None:
        cell, settings = missing[at]
        if kind == "started":
            steps = getattr(settings, "steps", 0)
            heard[at] = reporter.cell_started(asdict(settings), steps)
        elif kind == "done":
            _report_done(store, cell, settings, reporter)
        else:
            getattr(heard[at], kind)(*details)

    cells = [(experiment, out, cell, settings, device) for cell, settings in missing]
    processes.run(compute, cells, count, hear)


def _report_done(store: records.Store, cell: str, settings: Any, reporter: Reporter) -> None:
    table, manifest = _read_cell(store, cell, settings)
    reporter.cell_done(asdict(settings), table, manifest["seconds"])


def _read_cell(
    store: records.Store, cell: str, settings: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stored cell, with the columns of its settings as they are named today."""
    table, manifest = store.read_cell(cell)
    return with_columns(table, settings), manifest


def compute(
    experiment: Experiment,
    out: str,
    cell: str,
    settings: Any,
    device: str,
    progress: ProgressListener,
) -> None:
    """Compute one cell and store it."""
    import torch

    store = records.Store(out, experiment.name)
    began = time.time()
    chosen = asdict(settings)
    with _memory_named():
        outcome = experiment.run_cell(settings, torch.device(device), progress)
    table = outcome.table
    table.insert(0, "cell", cell)
    table = with_columns(table, settings)
    manifest = {
        "experiment": experiment.name,
        "cell": cell,
        "result_version": experiment.result_version,
        "settings": chosen,
        "device": device,
        "seconds": round(time.time() - began, 3),
        "notes": outcome.notes,
        "versions": records.versions(),
    }
    store.write_cell(cell, table, manifest, outcome.networks)


@contextlib.contextmanager
def _memory_named() -> Iterator[None]:
    """Let what needs more memory than there is be a MemoryError, in one line."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        # torch has no kind of its own for a CPU that has no more memory
        if isinstance(error, torch.OutOfMemoryError) or "allocate" in text:
            asked = re.search(r"allocate ([\d.]+ ?\w+)", text)
            size = f": {asked[1]} at once" if asked else ""
            raise MemoryError(f"a cell needs more memory than there is{size}") from error
        raise


def _finish(
    experiment: Experiment,
    store: records.Store,
    run_name: str,
    wanted: Mapping[str, Any],
    scale: str,
    command: str,
) -> Run:
    """Join the stored cells of a run and write what it leaves."""
    import pandas as pd

    from dualnets.lab import stats as evidence
    from dualnets.lab.report import page
    from dualnets.lab.report import style as figures

    name = experiment.name
    stored = [_read_cell(store, cell, settings) for cell, settings in wanted.items()]
    table = pd.concat([part for part, _ in stored], ignore_index=True)
    table.insert(0, "experiment", name)
    table.insert(1, "run", run_name)
    judged = evidence.pooled(table)
    verdict = experiment.verdict(judged)
    manifest = {
        "experiment": name,
        "run": run_name,
        "scale": scale,
        "command": command,
        "cells": [
            {
                key: made[key]
                for key in ("cell", "settings", "device", "seconds", "notes", "versions")
            }
            for _, made in stored
        ],
        "versions": records.versions(),
    }
    with replace_folder(store.run(run_name)) as folder:
        table.to_parquet(folder / records.RESULTS, index=False)
        write_json(folder / records.VERDICT, verdict.as_dict())
        (folder / records.NETWORKS).mkdir()
        for cell in wanted:
            for file in sorted((store.cell(cell) / records.NETWORKS).iterdir()):
                shutil.copyfile(file, folder / records.NETWORKS / f"{cell}-{file.name}")
        with figures.house_style():
            figures.save(experiment.plot(judged), folder / name)
        summary = experiment.summary_table(judged)
        page.write(folder, experiment, table, summary, verdict, manifest)
        write_json(folder / records.MANIFEST, manifest)
    return Run(name, run_name, store.run(run_name), table, verdict, False, command)


def _stored_run(store: records.Store, name: str, run_name: str, command: str) -> Run:
    """A run that is finished, read back."""
    import pandas as pd

    from dualnets.lab.stats import Verdict

    folder = store.run(run_name)
    found = read_json(folder / records.VERDICT)
    if found["interval"] is not None:
        found["interval"] = tuple(found["interval"])
    table = pd.read_parquet(folder / records.RESULTS)
    return Run(name, run_name, folder, table, Verdict(**found), True, command)


def summary_table(experiment: Experiment, run: Run) -> pd.DataFrame:
    """The experiment's short table of a run, over the trees of all its seeds."""
    from dualnets.lab import stats as evidence

    found: pd.DataFrame = experiment.summary_table(evidence.pooled(run.table))
    return found


def repeat_command(name: str, scale: str, changes: Mapping[str, Sequence[Any]]) -> str:
    """The command line that repeats a run."""
    parts = ["hltm", "run", name.replace("_", "-")]
    if scale != "default":
        parts += ["--scale", scale]
    for key, values in changes.items():
        parts += [f"--{key.replace('_', '-')}", *map(str, values)]
    return shlex.join(parts)


def grid_values(experiment: Experiment, scale: str) -> dict[str, list[list[Any]]]:
    """Field -> the values it takes in each grid of a scale, each list once; for the help text."""
    found: dict[str, list[list[Any]]] = {}
    for item in fields(experiment.Settings):
        default = None if item.default is MISSING else item.default
        for grid in experiment.grids[scale]:
            value = grid.get(item.name, [default])
            shown = [value.value] if isinstance(value, Fixed) else list(value)
            lists = found.setdefault(item.name, [])
            if shown not in lists:
                lists.append(shown)
    return found
