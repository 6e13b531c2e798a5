"""Cells are computed, one after the other or in parallel, and each is stored as soon as it is done."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dualnets.lab import workers
from dualnets.lab.experiment import Experiment, ProgressListener
from dualnets.lab.fields import with_columns
from dualnets.lab.reporter import Reporter
from dualnets.lab.store import Store, now, versions

if TYPE_CHECKING:
    import pandas as pd
    import torch


def compute_all(
    experiment: Experiment, out: str, missing: Sequence[tuple[str, Any]], cards: Sequence[str],
    count: int, reporter: Reporter,
) -> None:  # fmt: skip
    """Compute and store cells.

    Args:
        experiment: whose cells.
        out: the folder of all results.
        missing: names of cells and their settings.
        cards: the devices that share the cells.
        count: of processes; one is this process.
        reporter: receives the progress.
    """
    if count > 1:
        _compute_in_parallel(experiment, out, missing, cards, count, reporter)
        return
    store = Store(out, experiment.name)
    for cell, settings in missing:
        listener = reporter.cell_started(asdict(settings), getattr(settings, "steps", 0))
        compute(experiment, out, cell, settings, cards[0], listener)
        _report_done(store, cell, settings, reporter)


def _compute_in_parallel(
    experiment: Experiment, out: str, missing: Sequence[tuple[str, Any]], cards: Sequence[str],
    count: int, reporter: Reporter,
) -> None:  # fmt: skip
    """Compute cells in several processes and pass their progress on to the reporter."""
    store = Store(out, experiment.name)
    listeners: dict[int, ProgressListener] = {}
    begun = threading.Event()  # a first cell is done
    over = threading.Event()  # nothing is left to do

    def on_event(at: int, kind: str, details: tuple[Any, ...]) -> None:
        cell, settings = missing[at]
        if kind == "started":
            steps = getattr(settings, "steps", 0)
            listeners[at] = reporter.cell_started(asdict(settings), steps)
        elif kind == "done":
            begun.set()
            _report_done(store, cell, settings, reporter)
        else:
            getattr(listeners[at], kind)(*details)

    if cards == ["cpu"]:
        # while the other processes start, and then train; what two need, one of them compiles
        given = [settings for _, settings in missing]
        wanted = given, count, begun, over
        threading.Thread(target=_compile_kernels, args=wanted, daemon=True).start()
    tasks = [(experiment, out, cell, settings) for cell, settings in missing]
    try:
        workers.run(compute, tasks, count, on_event, cards)
    finally:
        over.set()
        begun.set()


def _compile_kernels(
    given: Sequence[Any], count: int, begun: threading.Event, over: threading.Event
) -> None:
    """Compile what cells will run, where their settings know it; for the first `count` of them at once.

    What is wrong with settings, the process that computes the cell says.
    """
    for at, settings in enumerate(given):
        if at >= count:
            begun.wait()
        if over.is_set():
            return
        if hasattr(settings, "compile_kernels"):
            with contextlib.suppress(Exception):
                settings.compile_kernels()


def _report_done(store: Store, cell: str, settings: Any, reporter: Reporter) -> None:
    table, manifest = read_cell(store, cell, settings)
    reporter.cell_done(asdict(settings), table, manifest["seconds"])


def read_cell(store: Store, cell: str, settings: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stored cell, with the columns of its settings as they are named today."""
    table, manifest = store.read_cell(cell)
    return with_columns(table, settings), manifest


def compute(
    experiment: Experiment, out: str, cell: str, settings: Any, device: str, progress: ProgressListener
) -> None:  # fmt: skip
    """Compute one cell and store it; all arguments can be pickled, to be sent to another process."""
    import torch

    start, cpu_start = time.perf_counter(), time.process_time()
    chosen = asdict(settings)
    where = torch.device(device)
    several = where.type in ("cuda", "xpu") and where.index is not None
    current = getattr(torch, where.type).device(where) if several else contextlib.nullcontext()
    # some kernels run on the current card, whatever they are given
    with name_memory_errors(), current:
        result = experiment.run_cell(settings, where, progress)
    table = result.table
    table.insert(0, "cell", cell)
    table = with_columns(table, settings)
    manifest = {
        "experiment": experiment.name,
        "cell": cell,
        "result_version": experiment.result_version,
        "settings": chosen,
        "device": device,
        "date": now(),
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_seconds": round(time.process_time() - cpu_start, 3),
        "peak_memory": _peak_memory(where),
        "notes": result.notes,
        "versions": versions(),
    }
    Store(out, experiment.name).write_cell(cell, table, manifest, result.networks)


def _peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has had so far, on a card those of the card; None if not known."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@contextlib.contextmanager
def name_memory_errors() -> Iterator[None]:
    """Turn every error about memory into a MemoryError with one line of text."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        import torch

        text = str(error)
        # on a CPU torch raises a plain RuntimeError, which only its text distinguishes
        if isinstance(error, torch.OutOfMemoryError) or "allocate" in text:
            requested = re.search(r"allocate ([\d.]+ ?\w+)", text)
            size = f": {requested[1]} at once" if requested else ""
            raise MemoryError(f"a cell needs more memory than there is{size}") from error
        raise
