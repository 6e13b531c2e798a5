"""The cells of a run are computed, in this process or on an executor, and each is stored when it is done.

A cell that fails does not stop the others. A cell whose process is killed is computed once more. What
would be the same for every cell ends the run at once: an executor that is gone, another version of hltm
on another machine, or a folder that this process does not see.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import asdict, dataclass
from typing import Any

from dualnets.lab import workers
from dualnets.lab.compiling import compiling
from dualnets.lab.computing import compute, read_cell
from dualnets.lab.experiment import Experiment, ProgressListener
from dualnets.lab.reporter import Reporter
from dualnets.lab.store import Store
from dualnets.lab.workers import ExecutorGoneError, LocalProcesses, WorkerDiedError, WorkerError
from hltm._executors import Source, check_version, this_process

ATTEMPTS = 2  # at a cell whose process is killed
CHECK_INTERVAL = 0.2  # seconds between two looks at which cells another executor has started
SWAPPED_AFTER = 2.0  # seconds after which a folder that is replaced is surely there again
VISIBLE_AFTER = 60.0  # seconds after which a file system shows what another machine has written
FAILURES = (MemoryError, OSError, ValueError)  # of a cell, which a user can mend


@dataclass(frozen=True)
class Outcome:
    """What became of a cell, as the process that computed it reports it.

    Attributes:
        host: the machine.
        kind: the name of the error's class; empty if the cell is stored.
        text: of the error.
        details: its traceback.
        fatal: whether every cell would fail there.
    """

    host: str
    kind: str = ""
    text: str = ""
    details: str = ""
    fatal: bool = False


class CellTraceback(Exception):
    """The traceback of another process, which is shown above the error of this one."""


def compute_all(
    experiment: Experiment, out: str, missing: Sequence[tuple[str, Any]], cards: Sequence[str],
    count: int, reporter: Reporter, executor: Executor | None = None,
) -> None:  # fmt: skip
    """Compute and store cells.

    Args:
        experiment: whose cells.
        out: the folder of all results.
        missing: names of cells and their settings.
        cards: the devices that share the cells; with an executor one name, which its processes look up.
        count: of processes of this machine; one is this process.
        reporter: receives the progress.
        executor: computes the cells in place of processes of this machine.

    Raises:
        ValueError, OSError, MemoryError: a cell raised it, and all others are done.
        WorkerError: a cell raised something else, or the executor cannot compute the cells.
        WorkerDiedError: the process of a cell was killed, every time.
        ExecutorGoneError: the executor was shut down, or the connection to its cluster is lost.
    """
    cells = _Cells(experiment, out, missing, reporter)
    if not missing:
        return
    if executor is not None:
        _compute_on(executor, cells, cards[0], queue.SimpleQueue())
    elif count > 1:
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # while the processes start, and then train; what two need, one of them compiles
        given = [settings for _, settings in missing]
        ahead = compiling(given, count, cards, cells.begun)
        with ahead, LocalProcesses(count, cards, inbox.put) as processes:
            _compute_on(processes, cells, cards[0], inbox)
    else:
        for at, (cell, settings) in enumerate(missing):
            cells.start(at)
            listener = cells.listeners[at]
            cells.end(at, _attempt(experiment, out, cell, settings, cards[0], listener))
    cells.raise_failures()


class _Cells:
    """The cells that a run computes: which have started, and which have failed, and why."""

    def __init__(
        self, experiment: Experiment, out: str, missing: Sequence[tuple[str, Any]], reporter: Reporter
    ) -> None:  # fmt: skip
        self.experiment, self.missing, self.reporter = experiment, missing, reporter
        self.store = Store(os.path.abspath(out), experiment.name)
        # of cells that are computed again: what is there before that
        self.before = {cell: self.store.written(cell) for cell, _ in missing}
        self.listeners: dict[int, ProgressListener] = {}
        self.failures: dict[int, Outcome] = {}
        self.steps: dict[int, int] = {}  # updates that the process of a cell has made
        self.reported: dict[tuple[int, str], int] = {}  # the last step of each kind of report
        self.begun = threading.Event()  # a first cell is done

    def start(self, at: int) -> None:
        """A cell is being computed."""
        if at not in self.listeners:
            settings = self.missing[at][1]
            steps = getattr(settings, "steps", 0)
            self.listeners[at] = self.reporter.cell_started(asdict(settings), steps)

    def report(self, at: int, kind: str, details: tuple[Any, ...]) -> None:
        """Pass on the progress of a cell; of one that is computed once more, what was not reported before."""
        self.start(at)
        if kind == "started":
            self.steps[at] = 0
        elif kind == "updated":
            self.steps[at] += details[0]
            if (new := self.steps[at] - self.reported.get((at, kind), 0)) > 0:
                self.reported[at, kind] = self.steps[at]
                self.listeners[at].updated(new)
        elif details[0] > self.reported.get((at, kind), -1):
            self.reported[at, kind] = details[0]
            self.listeners[at].probed(*details)

    def end(self, at: int, outcome: Outcome) -> None:
        """A cell is stored, or has failed."""
        cell, settings = self.missing[at]
        self.begun.set()
        self.start(at)  # which some executors do not say
        if outcome.fatal:
            raise WorkerError(outcome.text)
        if outcome.kind:
            self.failures[at] = outcome
            self.reporter.cell_failed(asdict(settings), outcome.text)
            return
        self._wait_until_visible(cell, outcome.host)
        table, manifest = read_cell(self.store, cell, settings)
        self.reporter.cell_done(asdict(settings), table, manifest["seconds"])

    def _wait_until_visible(self, cell: str, host: str) -> None:
        """Wait for the new folder of a cell, which a file system of several machines may show late."""
        here = socket.gethostname()
        deadline = time.monotonic() + (SWAPPED_AFTER if host == here else VISIBLE_AFTER)
        while self.store.written(cell) in (None, self.before[cell]):
            if time.monotonic() > deadline:
                raise WorkerError(
                    f"{host} has stored a cell in {self.store.cell(cell)}, but {here} does not see it: "
                    "the folder of all results must be the same for every worker"
                )
            time.sleep(CHECK_INTERVAL)

    def raise_failures(self) -> None:
        """Raise an error of the first cell that failed, if one did."""
        if not self.failures:
            return
        at, first = min(self.failures.items())
        count = len(self.failures)
        more = f" ({count:,} of {len(self.missing):,} cells failed)" if count > 1 else ""
        text = f"{self.name(at)}: {first.text}{more}"
        kinds: dict[str, type[Exception]] = {each.__name__: each for each in FAILURES}
        kinds[WorkerDiedError.__name__] = WorkerDiedError
        cause = CellTraceback(f"\n{first.details}") if first.details else None
        raise kinds.get(first.kind, WorkerError)(text) from cause

    def name(self, at: int) -> str:
        """A cell by its settings that differ from those of other cells, and its folder."""
        cell, settings = self.missing[at]
        every = [asdict(each) for _, each in self.missing]
        own: Mapping[str, Any] = asdict(settings)
        varying = [key for key in own if len({str(each[key]) for each in every}) > 1]
        what = ", ".join(f"{key.replace('_', '-')} {own[key]}" for key in varying)
        return f"cell {cell} ({what})" if what else f"cell {cell}"


def _compute_on(
    executor: Executor, cells: _Cells, device: str, inbox: queue.SimpleQueue[Any]
) -> None:
    """Compute cells on an executor; `inbox` receives what they report and the futures that are done."""
    waiting: dict[Future[Outcome], int] = {}
    attempts = [0] * len(cells.missing)

    def submit(at: int) -> None:
        cell, settings = cells.missing[at]
        out = str(cells.store.home.parent)
        task = this_process(), cells.experiment, out, cell, settings, device, at
        try:
            future = executor.submit(_compute_elsewhere, *task)
        except (
            Exception
        ) as error:  # a pool that is broken, an executor that was shut down, or any other
            reason = str(error) or type(error).__name__
            raise ExecutorGoneError(f"the executor takes no more cells: {reason}") from error
        attempts[at] += 1
        waiting[future] = at
        future.add_done_callback(inbox.put)

    try:
        for at in range(len(cells.missing)):
            submit(at)
        while waiting:
            try:
                found = inbox.get(timeout=CHECK_INTERVAL)
            except queue.Empty:
                for future, at in waiting.items():
                    if future.running() and not isinstance(executor, LocalProcesses):
                        cells.start(at)
                continue
            if not isinstance(found, Future):
                cells.report(*found)
                continue
            at = waiting.pop(found)
            if (outcome := _outcome(found, attempts[at])) is None:
                submit(at)
            else:
                cells.end(at, outcome)
    finally:
        for future in waiting:
            future.cancel()


def _outcome(future: Future[Outcome], attempts: int) -> Outcome | None:
    """What became of a cell; None if its process died and it may be tried again."""
    try:
        return future.result()
    except CancelledError as error:
        text = "the executor dropped a cell: it was shut down, or its connection is lost"
        raise ExecutorGoneError(text) from error
    except Exception as error:
        # Dask has tried again itself, several times, before it raises this
        killed = type(error).__name__ == "KilledWorker"
        if not killed and not isinstance(error, BrokenExecutor):
            kind = type(error).__name__
            raise WorkerError(f"the executor cannot compute a cell: {kind}: {error}") from error
        if attempts < ATTEMPTS and not killed:
            return None
        text = "its process died every time that it was computed; was there enough memory?"
        return Outcome("", WorkerDiedError.__name__, text)


def _compute_elsewhere(
    source: Source, experiment: Experiment, out: str, cell: str, settings: Any, device: str,
    at: int,
) -> Outcome:  # fmt: skip
    """Compute a cell in the process of an executor."""
    try:
        check_version(source)
    except ValueError as error:
        return Outcome(socket.gethostname(), WorkerError.__name__, str(error), fatal=True)
    workers.report((at, "started", ()))
    card = workers.own_card()
    # neither one of `LocalProcesses`, which have set it, nor a thread of the process that waits
    if card is None and this_process() != source:
        import torch

        torch.set_num_threads(1)
    return _attempt(experiment, out, cell, settings, card or device, _Sender(at))


class _Sender(ProgressListener):
    """Sends a cell's progress to the process that waits for it."""

    def __init__(self, at: int) -> None:
        self.at = at

    def updated(self, steps: int) -> None:
        workers.report((self.at, "updated", (steps,)))

    def probed(self, step: int, found: Mapping[int, float] | Mapping[str, float]) -> None:
        workers.report((self.at, "probed", (step, dict(found))))


def _attempt(
    experiment: Experiment, out: str, cell: str, settings: Any, device: str, listener: ProgressListener
) -> Outcome:  # fmt: skip
    """Compute a cell, and describe an error in words, which need no class of its own elsewhere."""
    host = socket.gethostname()
    try:
        compute(experiment, out, cell, settings, device, listener)
    except (Exception, SystemExit) as error:  # a cell cannot end the process of others
        name = type(error).__name__
        kind = next((each.__name__ for each in FAILURES if isinstance(error, each)), "")
        text = str(error) if kind and str(error) else f"{name}: {error}".rstrip(": ")
        return Outcome(host, kind or name, text, traceback.format_exc())
    return Outcome(host)
