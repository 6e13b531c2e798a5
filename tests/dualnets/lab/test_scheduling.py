"""Cells on any executor: the same values; what fails is named, and the others go on."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from cells_elsewhere import EXPERIMENT, Settings, cells_of

import dualnets
from dualnets.lab import scheduling
from dualnets.lab.experiment import ProgressListener
from dualnets.lab.reporter import Reporter
from dualnets.lab.scheduling import compute_all
from dualnets.lab.store import Store
from dualnets.lab.workers import ExecutorGoneError, WorkerDiedError, WorkerError
from hltm._executors import this_process

pytestmark = pytest.mark.usefixtures("quick_processes")


class Kept(Reporter):
    """Keeps what it is told, by seed."""

    def __init__(self):
        self.events = []

    def cell_started(self, settings, steps):
        listener = ProgressListener()
        listener.updated = lambda n: self.events.append((settings["seed"], "updated", n))
        listener.probed = lambda *found: self.events.append((settings["seed"], "probed", found))
        self.events.append((settings["seed"], "started", steps))
        return listener

    def cell_done(self, settings, table, seconds):
        self.events.append((settings["seed"], "done", table["value"].tolist()))

    def cell_failed(self, settings, reason):
        self.events.append((settings["seed"], "failed", reason))

    def of(self, seed):
        return [event for own, *event in self.events if own == seed]


class AtOnce(Executor):
    """An executor that computes where and when a task is submitted."""

    def submit(self, fn, /, *args):
        future = Future()
        future.set_result(fn(*args))
        return future


def compute(folder, missing, count=1, executor=None):
    """Compute cells; what the reporter heard, the error, and the seeds that are stored."""
    kept, error = Kept(), None
    try:
        compute_all(EXPERIMENT, str(folder), missing, ["cpu"], count, kept, executor)
    except Exception as raised:
        error = raised
    store = Store(folder, EXPERIMENT.name)
    return kept, error, [own.seed for cell, own in missing if store.has_cell(cell)]


@pytest.mark.parametrize("count", [1, 2])
def test_every_cell_is_reported_and_stored(tmp_path, count):
    kept, error, stored = compute(tmp_path, cells_of(*map(Settings, range(4))), count)
    assert error is None
    assert stored == [0, 1, 2, 3]
    for seed in stored:
        assert kept.of(seed) == [
            ["started", 3], ["updated", 3], ["probed", (3, {1: 0.5})], ["done", [seed / 3]],
        ]  # fmt: skip


@pytest.mark.parametrize("kind", ["at once", "threads", "processes"])
def test_any_executor_computes_the_cells(tmp_path, kind):
    executor = {
        "at once": AtOnce,
        "threads": lambda: ThreadPoolExecutor(2),
        "processes": lambda: ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")),
    }[kind]()
    with executor:
        kept, error, stored = compute(tmp_path, cells_of(*map(Settings, range(3))), 1, executor)
    assert error is None
    assert stored == [0, 1, 2]
    for seed in stored:
        assert kept.of(seed) == [["started", 3], ["done", [seed / 3]]]


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("refuse", ValueError, "no such luck"),
        ("fail", WorkerError, "KeyError: 'no such luck'"),
        ("fail_oddly", WorkerError, "OfItsOwnError: no such luck"),
        ("leave", WorkerError, "SystemExit: no such luck"),
        ("say_nothing", ValueError, "ValueError"),
    ],
)
def test_a_cell_that_raises_is_named_and_the_others_go_on(tmp_path, fault, kind, words):
    missing = cells_of(Settings(0), Settings(1, fault), Settings(2), Settings(3, fault))
    kept, error, stored = compute(tmp_path, missing, 2 if fault in ("fail_oddly", "leave") else 1)
    assert stored == [0, 2]
    assert type(error) is kind
    text = f"cell {missing[1][0]} (seed 1, fault {fault}): {words} (2 of 4 cells failed)"
    assert str(error) == text
    assert "cells_elsewhere.py" in str(error.__cause__)  # its traceback
    assert kept.of(3)[-1] == ["failed", words]


def test_a_cell_whose_process_dies_is_computed_once_more(tmp_path):
    (tmp_path / "mark").mkdir()
    missing = cells_of(Settings(0), Settings(1, "die_once", str(tmp_path / "mark")), Settings(2))
    kept, error, stored = compute(tmp_path, missing, 2)
    assert error is None
    assert stored == [0, 1, 2]
    # its updates count once
    assert kept.of(1) == [
        ["started", 3],
        ["updated", 3],
        ["probed", (3, {1: 0.5})],
        ["done", [1 / 3]],
    ]


def test_a_cell_whose_process_dies_twice_is_named_and_the_others_go_on(tmp_path):
    missing = cells_of(Settings(0, "die"), *map(Settings, range(1, 5)))
    _, error, stored = compute(tmp_path, missing, 2)
    assert stored == [1, 2, 3, 4]
    assert type(error) is WorkerDiedError
    assert str(error).startswith(
        f"cell {missing[0][0]} (seed 0, fault die): its process died every"
    )


def test_an_executor_that_is_gone_ends_the_run(tmp_path):
    cells = cells_of(*map(Settings, range(3)))
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as broken:
        _, error, _ = compute(tmp_path, cells_of(Settings(0, "die")), 1, broken)
    assert type(error) is ExecutorGoneError
    assert str(error).startswith("the executor takes no more cells: ")
    _, error, stored = compute(tmp_path, cells, 1, broken)  # which has been shut down
    assert type(error) is ExecutorGoneError
    assert stored == []

    class Dropping(AtOnce):
        def submit(self, fn, /, *args):
            future = super().submit(fn, *args) if args[-1] == 0 else Future()
            future.cancel()
            return future

    class Full(AtOnce):
        def submit(self, fn, /, *args):
            raise MemoryError

    _, error, _ = compute(tmp_path, cells, 1, Full())
    assert type(error) is ExecutorGoneError
    assert str(error) == "the executor takes no more cells: MemoryError"

    _, error, stored = compute(tmp_path, cells, 1, Dropping())
    assert "the executor dropped a cell" in str(error)
    assert stored == [0]


def test_a_worker_with_another_version_ends_the_run(tmp_path, monkeypatch):
    own = this_process()
    other = own._replace(version="0.0.1", host="otherhost")
    monkeypatch.setattr(scheduling, "this_process", lambda: other)
    _, error, stored = compute(tmp_path, cells_of(Settings(0), Settings(1)), 1, AtOnce())
    assert type(error) is WorkerError
    assert str(error) == (
        f"{own.host} has hltm {own.version}, and otherhost has hltm 0.0.1: both need one version"
    )
    assert stored == []


def test_an_executor_that_starts_nothing_is_left_by_ctrl_c(tmp_path, ctrl_c):
    futures = []

    class Waiting(AtOnce):
        def submit(self, fn, /, *args):
            futures.append(Future())
            return futures[-1]

    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path, cells_of(Settings(0), Settings(1)), 1, Waiting())
    assert [future.cancelled() for future in futures] == [True, True]


@pytest.mark.parametrize("older", [False, True])
def test_a_worker_that_stores_cells_elsewhere_ends_the_run(tmp_path, monkeypatch, older):
    """Also where there is an older cell, which is computed again."""
    cells = cells_of(Settings(0))
    if older:
        compute(tmp_path / "here", cells)

    def computed(experiment, out, *rest):
        return original(experiment, str(tmp_path / "elsewhere"), *rest)

    original = scheduling.compute
    monkeypatch.setattr(scheduling, "compute", computed)
    monkeypatch.setattr(scheduling, "SWAPPED_AFTER", 0.0)
    _, error, stored = compute(tmp_path / "here", cells, 1, AtOnce())
    assert type(error) is WorkerError
    assert "does not see it: the folder of all results must be the same" in str(error)
    assert cells[0][0] in str(error)
    assert stored == [0] * older


def test_a_folder_that_another_machine_shows_late_is_waited_for(tmp_path, monkeypatch):
    looks = []
    seen = Store.written
    monkeypatch.setattr(
        Store, "written", lambda *own: looks.append(own) or (seen(*own) if len(looks) > 3 else None)
    )
    _, error, stored = compute(tmp_path, cells_of(Settings(0)), 1, AtOnce())
    assert error is None
    assert stored == [0]
    assert len(looks) == 4  # once before the work


def test_a_relative_folder_is_that_of_this_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, error, stored = compute(
        "runs", cells_of(Settings(0, "move_away"), Settings(1, "move_away")), 2
    )
    assert error is None
    assert stored == [0, 1]


@pytest.mark.parametrize("wrong", ["local:2", 2])
def test_what_is_no_executor_is_refused_before_any_work(tmp_path, wrong):
    with pytest.raises(
        TypeError, match=f"must be a concurrent.futures.Executor, got {type(wrong).__name__}"
    ):
        dualnets.run("emergence", out=tmp_path / "new", executor=wrong)
    assert not (tmp_path / "new").exists()


def test_the_device_of_an_executor_may_be_missing_here(tmp_path):
    """Its name is checked before any work, and whether it is there where a cell is computed."""
    with pytest.raises(ValueError, match="unknown device 'tpu0'"):
        dualnets.run("emergence", out=tmp_path, device="tpu0", executor=AtOnce())
    missing = cells_of(Settings(0))
    with pytest.raises(ValueError, match=r"there is no device 'cuda:99'"):
        compute_all(EXPERIMENT, str(tmp_path), missing, ["cuda:99"], 1, Reporter(), AtOnce())
