"""What becomes of a run whose processes are killed: each fault for real, several times.

`python benchmarks/faults.py --times 5` prints a table: the fault, how often it was tried, and the outcome.
After each, the same command is given again, and its table must equal the undisturbed one, value for value.
Processes are killed at random moments in the middle of the run.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil

FLAGS = "--scale smoke --depth 2 --steps 2000 --members 2 --evaluation-samples 512 --snapshots 3 --seed 0 1"
CELLS = 8
MOST = 600  # seconds for anything
GONE_AFTER = 10  # seconds for the processes of one that was killed


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    """Start the run."""
    command = [
        sys.executable,
        "-m",
        "hltm",
        "run",
        "emergence",
        *FLAGS.split(),
        "--out",
        str(out),
        *more,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status of a run and what it printed as errors."""
    _, errors = run.communicate(timeout=MOST)
    return run.returncode, errors.strip()


def table(out: Path) -> pd.DataFrame:
    """The table of the run."""
    (file,) = out.glob("emergence/*/results.parquet")
    return pd.read_parquet(file)


def wait_for(met: Callable[[], bool], what: str, seconds: float = MOST) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def wait_for_cells(out: Path, count: int, run: subprocess.Popen[str]) -> None:
    """Wait until cells are stored, and then a random part of a second."""
    cells = out / "emergence" / "cells"
    wait_for(lambda: run.poll() is not None or len(list(cells.glob("[!.]*"))) >= count, "cells")
    assert run.poll() is None, finish(run)
    time.sleep(random.random() / 2)


def workers_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that compute cells for a run: copies of the one that has loaded all, or new ones."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            copied = parent is not None and "forkserver" in " ".join(parent.cmdline())
            if copied or "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def check_gone(processes: list[psutil.Process]) -> None:
    """Check that processes end by themselves."""
    _, left = psutil.wait_procs(processes, timeout=GONE_AFTER)
    assert not left, f"still there: {left}"


def kill_main(out: Path) -> str:
    """kill -9 of the main process."""
    run = start(out, "--workers", "2")
    wait_for_cells(out, 2, run)
    workers = workers_of(run)
    assert len(workers) == 2
    begun = time.monotonic()
    run.kill()
    check_gone(workers)
    took = time.monotonic() - begun
    run.communicate()
    return f"its workers are gone after {took:.1f} s"


def terminate_main(out: Path) -> str:
    """SIGTERM of the main process."""
    run = start(out, "--workers", "2")
    wait_for_cells(out, 2, run)
    workers = workers_of(run)
    run.send_signal(signal.SIGTERM)
    status, errors = finish(run)
    check_gone(workers)
    assert (status, errors.count("\n")) == (130, 0), errors
    return f"status {status}: {errors}"


def kill_worker(out: Path) -> str:
    """kill -9 of one of two workers."""
    run = start(out, "--workers", "2")
    wait_for_cells(out, 1, run)
    random.choice(workers_of(run)).kill()
    status, errors = finish(run)
    assert (status, errors) == (0, ""), errors
    return "the run ends well"


def kill_every_worker(out: Path) -> str:
    """kill -9 of every worker as soon as it computes."""
    run = start(out, "--workers", "2")
    while run.poll() is None:
        for worker in workers_of(run):
            with contextlib.suppress(psutil.Error):
                if sum(worker.cpu_times()[:2]) > 0.3:
                    worker.kill()
        time.sleep(0.02)
    status, errors = finish(run)
    assert (status, errors.count("\n")) == (1, 0), (status, errors)
    return f"status {status}: {errors}"


RAISING = """
import importlib, sys
from dualnets import experiments
from dualnets.cli import main
code = importlib.import_module(experiments.load("emergence").code)
original = code.run_cell
def run_cell(settings, *more):
    if (settings.seed, settings.network) == (1, "mlp"):
        raise KeyError("a mistake")
    return original(settings, *more)
code.run_cell = run_cell
sys.exit(main(sys.argv[1:]))
"""


def cell_raises(out: Path) -> str:
    """A cell that raises."""
    command = [sys.executable, "-c", RAISING, "run", "emergence", *FLAGS.split(), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOST)
    status, errors = done.returncode, done.stderr.strip()
    assert (status, errors.count("\n")) == (1, 0), (status, errors)
    stored = len(list((out / "emergence" / "cells").glob("[!.]*")))
    assert 0 < stored < CELLS
    return f"status {status}, {stored} of {CELLS} cells stored: {errors}"


def kill_dask_worker(out: Path) -> str:
    """kill -9 of one of two workers of --cluster local:2."""
    run = start(out, "--cluster", "local:2")
    wait_for_cells(out, 1, run)
    random.choice(workers_of(run)).kill()
    status, errors = finish(run)
    assert (status, errors) == (0, ""), errors
    return "the run ends well"


def kill_main_of_dask(out: Path) -> str:
    """kill -9 of the main process of --cluster local:2."""
    run = start(out, "--cluster", "local:2")
    wait_for_cells(out, 2, run)
    workers = workers_of(run)
    run.kill()
    check_gone(workers)
    run.communicate()
    return "its workers are gone"


@contextlib.contextmanager
def cluster() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler with two workers: its address, and its process."""
    from distributed import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, dask = f"tcp://127.0.0.1:{port}", [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    serve = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    work = [
        "worker",
        address,
        "--nthreads",
        "1",
        "--nworkers",
        "2",
        "--no-dashboard",
        "--death-timeout",
        "60",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        scheduler = subprocess.Popen([*dask, *serve], **quiet)
        workers = subprocess.Popen([*dask, *work, "--local-directory", scratch], **quiet)
        try:
            with Client(address, timeout=MOST, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=MOST)
            yield address, scheduler
        finally:
            for process in (workers, scheduler):
                process.terminate()
                process.wait()


def kill_scheduler(out: Path) -> str:
    """kill -9 of the scheduler of --cluster tcp://…"""
    with cluster() as (address, scheduler):
        run = start(out, "--cluster", address)
        wait_for_cells(out, 2, run)
        scheduler.kill()
        begun = time.monotonic()
        status, errors = finish(run)
        took = time.monotonic() - begun
    assert (status, errors.count("\n")) == (1, 0), (status, errors)
    return f"status {status} after {took:.0f} s: {errors}"


def run_twice(out: Path) -> str:
    """Two identical runs at once."""
    runs = [start(out, "--workers", "2"), start(out, "--workers", "1")]
    for run in runs:
        status, errors = finish(run)
        assert (status, errors) == (0, ""), errors
    return "both end well"


FAULTS = [
    kill_main, terminate_main, kill_worker, kill_every_worker, cell_raises, kill_dask_worker,
    kill_main_of_dask, kill_scheduler, run_twice,
]  # fmt: skip


def undisturbed(home: Path) -> pd.DataFrame:
    """The table of a run that nothing disturbs."""
    status, errors = finish(start(home, "--workers", "1"))
    assert status == 0, errors
    return table(home)


def attempt(fault: Callable[[Path], str], out: Path, expected: pd.DataFrame) -> str:
    """Disturb a run, give its command again, and compare its table; what was seen."""
    seen = fault(out)
    status, errors = finish(start(out, "--workers", "1"))
    assert (status, errors) == (0, ""), errors
    pd.testing.assert_frame_equal(table(out), expected)
    return seen


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of functions here")
    given = parser.parse_args()
    print("| fault | times tried | equal table afterwards | seen |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as home:
        expected = undisturbed(Path(home) / "undisturbed")
        for fault in FAULTS:
            if given.only and fault.__name__ not in given.only:
                continue
            seen, equal = [], 0
            for i in range(given.times):
                random.seed(f"{fault.__name__} {i}")
                try:
                    seen.append(attempt(fault, Path(home) / f"{fault.__name__}-{i}", expected))
                    equal += 1
                except AssertionError as error:
                    seen.append(f"FAILED: {error}")
            what = "; ".join(dict.fromkeys(seen))
            print(f"| {fault.__doc__} | {given.times} | {equal} | {what} |", flush=True)


if __name__ == "__main__":
    main()
