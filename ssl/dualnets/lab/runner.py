"""From an experiment to a run on disk: cells that are not stored are computed, and all are joined."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnets._checksums import FILES, with_checksums
from dualnets._files import replace_folder, write_json
from dualnets._memory_errors import name_memory_errors
from dualnets.lab import grids
from dualnets.lab import workers as worker_processes
from dualnets.lab.computing import read_cell
from dualnets.lab.experiment import Experiment
from dualnets.lab.fields import with_columns
from dualnets.lab.grids import cell_name, cells, name_of_cells, run_name, value_lists
from dualnets.lab.manifests import DamagedError
from dualnets.lab.reporter import Reporter, as_reporter
from dualnets.lab.scheduling import compute_all
from dualnets.lab.store import (
    MANIFEST,
    NETWORKS,
    RESULTS,
    VERDICT,
    Store,
    now,
    versions,
    write_table,
)
from hltm._executors import check_executor

if TYPE_CHECKING:
    import pandas as pd

    from dualnets.lab.verdicts import Verdict


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        experiment, name: of which experiment, and its own name, which follows from its cells.
        folder: where its files are.
        table: the tidy results.
        verdicts: whether each claim holds.
        reused: whether the run was found finished and nothing was computed.
        command: the command that repeats it.
    """

    experiment: str
    name: str
    folder: Path
    table: pd.DataFrame
    verdicts: list[Verdict]
    reused: bool
    command: str


def has_run(experiment: Experiment, scale: str, out: str | Path, **changes: Any) -> bool:
    """Whether a run is finished and undamaged, of a scale or with settings of its own, as for `run`."""
    store, name = Store(out, experiment.name), run_name(experiment, scale, **changes)
    return store.has_run(name) and not _damage(store.check_run, name)


def run(
    experiment: Experiment,
    *,
    scale: str = "default",
    device: str = "auto",
    out: str | Path = "runs",
    fresh: bool = False,
    workers: int | None = 1,
    reporter: Reporter | Sequence[Reporter] | None = None,
    only: str | Sequence[str] = (),
    executor: Executor | None = None,
    **changes: Any,
) -> Run:
    """Run an experiment and leave its table, figure, page and verdicts in `<out>/<name>/<run>/`.

    Cells that are stored are read, not computed; a run that is finished is returned at once, also from a
    folder that cannot be written to. A run or a cell whose files have changed since they were written, or
    are missing, is set aside, and made again. Every
    cell is stored as soon as it is computed, so an interrupted run loses at most the cells that were
    being computed.

    Args:
        experiment: what to run; `dualnets.experiments.load` finds it by name.
        scale: `smoke`, `default`, `paper`, or `long` or `fashion` where an experiment has it.
        device: `auto`, which is CUDA or else the CPU, `cpu`, `cuda`, `mps` or `xpu`; `cuda` and `xpu`
            are all cards of the machine, which share the cells among as many workers, `cuda:1` is one.
        out: the folder of all results.
        fresh: whether to compute again what is stored.
        workers: processes that compute cells in parallel; None for one per core, with one thread
            each, or one per card. A script that asks for more than one needs the usual
            `if __name__ == "__main__":`.
        reporter: receives the progress; several do as a list.
        only: names of variants, of an experiment that has them: the others are not run, and every
            verdict is open.
        executor: computes the cells in place of `workers`: any `concurrent.futures.Executor`, e.g. Dask's
            `Client(…).get_executor()`. Its processes must have this version of hltm and see the folder
            `out`; `device` is looked up where a cell is computed, with one thread in other processes. It
            is not shut down. Progress is per cell; Dask does not report that a cell has started before
            it is done.
        **changes: settings, each one value or a list of values. A rule belongs to the settings of its
            scales: with any of one's own but other seeds, which are more trees, every verdict is open.

    Raises:
        ValueError: before any work: an unknown scale, variant, setting or device, a setting out of
            range, or one without effect.
        OSError: before any work: a folder that cannot be written to.
        TypeError: before any work: no executor.
        ValueError, OSError, MemoryError: a cell raised it; the text names the cell by its settings. All
            other cells are computed and stored, as they are with the next two.
        WorkerError: a cell raised something else; or an executor cannot compute cells, as with another
            version of hltm.
        WorkerDiedError: the process of a cell was killed, twice.
        ExecutorGoneError: the executor was shut down, or the connection to its cluster is lost.
    """
    # 1. Check everything that can be checked before work begins.
    reporter, listed = as_reporter(reporter), value_lists(changes)
    kept = [only] if isinstance(only, str) else list(dict.fromkeys(only))
    wanted = cells(experiment, scale, listed, kept)
    store = Store(out, experiment.name)
    named = {cell_name(experiment, settings): settings for settings in wanted}
    check_executor(executor)
    unstored = sum(fresh or not store.has_cell(cell) for cell in named)
    several = (
        executor is None and worker_processes.worker_count(workers, unstored, ["cpu"], scale) > 1
    )
    if device in ("auto", "cpu") and several:
        worker_processes.load(["dualnets.lab.loaded", experiment.code])

    # loads torch, as the process that was started does meanwhile
    from hltm._devices import check_device, device_named

    # the processes of an executor may have devices that this machine has not
    elsewhere = "cuda" if device == "auto" else device
    where = check_device(device) if executor is None else device_named(elsewhere)
    if where.type != "cuda" and any(getattr(s, "precision", "") == "bfloat16" for s in wanted):
        raise ValueError(f"bfloat16 is for CUDA, this run is on {where.type}")
    cards = [device] if executor is not None else worker_processes.cards_of(where)
    worker_processes.worker_count(workers, 1, cards, scale)  # checks `workers`

    # 2. Look up what is stored; what is damaged is set aside, and made again.
    run_id = name_of_cells(experiment, named)
    command = grids.repeat_command(experiment.name, scale, listed, kept)
    if store.has_run(run_id) and not fresh:
        damage = _damage(store.check_run, run_id)
        if not damage:
            run = _stored_run(store, experiment.name, run_id, named, command)
            reporter.run_done(run)
            return run
        store.check_writable()
        reporter.damaged(store.run(run_id), damage)
        store.set_aside(store.run(run_id))
    store.check_writable()
    with store.in_use():
        for place in (store.run(run_id), store.cell(""), *map(store.cell, named)):
            if misplaced := store.misplaced(place):
                reporter.damaged(place, misplaced)
                store.set_aside(place)
        for cell in named:
            if not fresh and store.has_cell(cell) and (damage := _damage(store.check_cell, cell)):
                reporter.damaged(store.cell(cell), damage)
                store.set_aside(store.cell(cell))
        missing = [(cell, own) for cell, own in named.items() if fresh or not store.has_cell(cell)]
        with name_memory_errors():
            for _, settings in missing:
                if hasattr(settings, "check"):  # what shows only when training starts
                    settings.check()

        # 3. Compute what is missing, one cell after the other or in parallel.
        reporter.plan([asdict(s) for s in wanted], len(wanted) - len(missing))
        count = worker_processes.worker_count(workers, len(missing), cards, scale)
        compute_all(experiment, str(out), missing, cards, count, reporter, executor)

        # 4. Join the cells and write the files of the run.
        own = grids.own_settings(experiment, scale, listed, run_id, kept)
        run = _finish(experiment, store, run_id, named, scale, command, own)
    reporter.run_done(run)
    return run


def _damage(check: Callable[[str], None], name: str) -> str:
    """Why a stored run or cell is damaged; empty if it is not."""
    try:
        check(name)
    except DamagedError as error:
        return str(error)
    return ""


def _finish(
    experiment: Experiment, store: Store, run_id: str, wanted: Mapping[str, Any], scale: str, command: str,
    own: str,
) -> Run:  # fmt: skip
    """Join the stored cells of a run and write its files; `wanted`: cell -> its settings."""
    from dualnets.lab.report import page, style
    from dualnets.lab.stats import pooled

    name = experiment.name
    stored = [read_cell(store, cell, settings) for cell, settings in wanted.items()]
    table = _joined([part for part, _ in stored], name, run_id)
    of_all_seeds = pooled(table)
    verdicts = experiment.verdicts(of_all_seeds, own)
    of_a_cell = (
        "cell",
        "settings",
        "device",
        "date",
        "seconds",
        "cpu_seconds",
        "peak_memory",
        "notes",
        "versions",
    )  # date and peak memory are missing from cells of earlier versions
    manifest = {
        "experiment": name,
        "run": run_id,
        "scale": scale,
        "command": command,
        "date": now(),
        "cells": [{key: its[key] for key in of_a_cell if key in its} for _, its in stored],
        "versions": versions(),
    }
    with replace_folder(store.run(run_id)) as folder:
        write_table(folder / RESULTS, table)
        write_json(folder / VERDICT, [verdict.as_dict() for verdict in verdicts])
        (folder / NETWORKS).mkdir()
        for cell, (_, its) in zip(wanted, stored, strict=True):
            for file in sorted((store.cell(cell) / NETWORKS).glob("*.safetensors")):
                # what someone else put there is not of the cell; earlier versions have no checksums
                if f"{NETWORKS}/{file.name}" in its.get(FILES, (f"{NETWORKS}/{file.name}",)):
                    shutil.copyfile(file, folder / NETWORKS / f"{cell}-{file.name}")
        style.save(experiment.plot(of_all_seeds), folder / name)
        summary = experiment.summary_table(of_all_seeds)
        page.write(folder, experiment, table, summary, verdicts, manifest)
        files = (file for file in folder.rglob("*") if file.is_file())
        manifest["files"] = sorted(file.relative_to(folder).as_posix() for file in files)
        write_json(
            folder / MANIFEST, with_checksums(folder, manifest)
        )  # last: a run with a manifest is finished
    return Run(name, run_id, store.run(run_id), table, verdicts, False, command)


def _joined(parts: Sequence[pd.DataFrame], name: str, run_id: str) -> pd.DataFrame:
    """The table of a run from those of its cells."""
    import pandas as pd

    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "experiment", name)
    table.insert(1, "run", run_id)
    return table


def _stored_run(
    store: Store, name: str, run_id: str, wanted: Mapping[str, Any], command: str
) -> Run:
    """A run that is finished, read back, with the columns of its settings as they are named today."""
    from dualnets.lab.verdicts import Verdict

    stored, found = store.read_run(run_id)
    stored = stored.drop(columns=["experiment", "run"])
    parts = [with_columns(stored[stored["cell"] == cell], own) for cell, own in wanted.items()]
    table = _joined(parts, name, run_id)
    verdicts = [Verdict.of_dict(values) for values in found]
    return Run(name, run_id, store.run(run_id), table, verdicts, True, command)


def summary_table(experiment: Experiment, run: Run) -> pd.DataFrame:
    """The experiment's short table of a run, over the trees of all its seeds."""
    from dualnets.lab.stats import pooled

    return experiment.summary_table(pooled(run.table))
