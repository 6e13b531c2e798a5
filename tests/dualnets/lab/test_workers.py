"""Cells in parallel: the same results as one after the other, failures reported, no process left."""

import os
import signal

import pandas as pd
import pytest
from tiny_runs import blank_figures, tiny_run

from dualnets.lab import workers
from dualnets.lab.experiment import ProgressListener


def report(name: str, progress: ProgressListener) -> None:
    """Work that reports the length of its name as steps."""
    progress.updated(len(name))
    progress.probed(3, {1: 0.5})


def fail(name: str, progress: ProgressListener) -> None:
    """Work that fails."""
    raise {"refused": ValueError, "failed": KeyError}[name]("no such luck")


def die(name: str, progress: ProgressListener) -> None:
    """Work whose process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_cell_is_done_and_reported():
    events = []
    cells = [("a",), ("bb",), ("ccc",)]
    workers.run(report, cells, 2, lambda at, kind, details: events.append((at, kind, details)))
    for at, (name,) in enumerate(cells):
        own = [(kind, details) for where, kind, details in events if where == at]
        assert own == [
            ("started", ()),
            ("updated", (len(name),)),
            ("probed", (3, {1: 0.5})),
            ("done", ()),
        ]


@pytest.mark.parametrize(
    ("work", "name", "error", "words"),
    [
        (fail, "refused", ValueError, "^no such luck$"),
        (fail, "failed", workers.WorkerError, "KeyError: 'no such luck'"),
        (die, "", workers.WorkerDiedError, "exit status -9"),
    ],
)
def test_a_cell_that_fails_ends_the_run_and_says_why(work, name, error, words):
    with pytest.raises(error, match=words):
        workers.run(work, [(name,)], 1, lambda *_: None)


def test_a_run_has_the_same_results_whatever_the_workers(stored, tmp_path):
    with blank_figures("emergence"):
        parallel = tiny_run(tmp_path, workers=2)
    tables = [parallel.table, stored[0].table]
    # gap closed divides by what is left to the ceiling, where there may be little: rounding grows in it
    gaps = [table.pop("gap_closed") for table in tables]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-5)
    pd.testing.assert_series_equal(*gaps, check_exact=False, atol=1e-4)


def test_the_number_of_workers():
    cores = min(os.cpu_count(), workers.MAX_WORKERS)
    assert workers.worker_count(None, 100, "cpu", "default") == cores
    assert workers.worker_count(None, 1, "cpu", "default") == 1
    assert workers.worker_count(None, 100, "cpu", "smoke") == 1
    assert workers.worker_count(4, 0, "cpu", "default") == 1
    with pytest.raises(ValueError, match="at least 1, got -1"):
        workers.worker_count(-1, 3, "cpu", "default")
