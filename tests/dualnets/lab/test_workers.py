"""Processes of this machine: reports in order, one that dies takes no other's task, and none is left."""

import json
import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor

import pandas as pd
import pytest
import torch
from cells_elsewhere import die, fail, meet, report, write_number
from tiny_runs import blank_figures, tiny_run

from dualnets.lab import workers
from dualnets.lab.compiling import compile_kernels
from dualnets.lab.workers import LocalProcesses

pytestmark = pytest.mark.usefixtures("quick_processes")


def test_reports_come_in_order_before_a_task_is_done():
    names, reports = ["a", "bb", "ccc", "dddd"], []
    with LocalProcesses(2, on_report=reports.append) as processes:
        for done in [processes.submit(report, name) for name in names]:
            name = done.result()
            assert [n for own, n in list(reports) if own == name] == [len(name), -len(name)]
    assert len(reports) == 2 * len(names)


def test_a_process_that_dies_takes_no_other_task_with_it():
    with LocalProcesses(1) as processes:
        tasks = [processes.submit(die, None) for _ in range(2)] + [processes.submit(len, "abc")]
        for task in tasks[:2]:
            with pytest.raises(BrokenExecutor):
                task.result()
        assert tasks[2].result() == 3
        with pytest.raises(KeyError, match="no such luck"):
            processes.submit(fail, None).result()
    with pytest.raises(RuntimeError, match="after shutdown"):
        processes.submit(len, "abc")


def test_a_process_that_is_killed_while_it_has_no_task_costs_none():
    with LocalProcesses(1) as processes:
        number = processes.submit(os.getpid).result()
        os.kill(number, signal.SIGKILL)
        deadline = time.monotonic() + 100
        while os.path.exists(f"/proc/{number}") and time.monotonic() < deadline:
            time.sleep(0.02)
        (pool,) = processes._pools
        while not pool._broken:  # which a thread of it sees a moment later
            time.sleep(0.02)
        assert processes.submit(len, "abc").result() == 3


def test_ctrl_c_reaches_no_process_that_computes():
    """Not even before it has begun: its mask is inherited."""
    with LocalProcesses(1) as processes:
        masked = processes.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in masked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_block_that_ends_by_an_error_ends_its_processes_at_once(tmp_path):
    tasks = []

    def interrupted():
        with LocalProcesses(2) as processes:
            tasks.extend(processes.submit(write_number, tmp_path) for _ in range(3))
            while len(list(tmp_path.iterdir())) < 2:
                assert not any(task.done() for task in tasks)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(task.done() for task in tasks)
    assert not any(os.path.exists(f"/proc/{file.stem}") for file in tmp_path.iterdir())


def test_a_run_has_the_same_results_whatever_the_workers_and_cards(stored, tmp_path, monkeypatch):
    """The CPU by two of its names stands in for two cards."""
    monkeypatch.setattr(workers, "cards_of", lambda device: ["cpu", "cpu:0"])
    with blank_figures("emergence"):
        parallel = tiny_run(tmp_path, workers=2)
    manifest = json.loads((parallel.folder / "manifest.json").read_text())
    assert {cell["device"] for cell in manifest["cells"]} <= {"cpu", "cpu:0"}
    tables = [parallel.table, stored[0].table.copy()]  # other tests read the second, too
    # gap closed divides by what is left to the ceiling, where there may be little: rounding grows in it
    gaps = [table.pop("gap_closed") for table in tables]
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-5)
    pd.testing.assert_series_equal(*gaps, check_exact=False, atol=1e-4)


def test_the_number_of_workers():
    cores = min(os.cpu_count(), workers.MAX_WORKERS)
    cards = ["cuda:0", "cuda:1", "cuda:2"]
    assert workers.worker_count(None, 100, ["cpu"], "default") == cores
    assert workers.worker_count(None, 1, ["cpu"], "default") == 1
    assert workers.worker_count(None, 100, ["cpu"], "smoke") == 1
    assert workers.worker_count(4, 0, ["cpu"], "default") == 1
    assert workers.worker_count(None, 100, cards, "default") == 3
    assert workers.worker_count(None, 2, cards, "default") == 2
    assert workers.worker_count(None, 100, ["cuda:1"], "default") == 1
    assert workers.worker_count(6, 100, cards, "default") == 6
    with pytest.raises(ValueError, match="at least 1, got -1"):
        workers.worker_count(-1, 3, ["cpu"], "default")


def test_cuda_without_a_number_is_all_cards(monkeypatch):
    cuda = torch.device("cuda")
    for count, expected in ((0, ["cuda"]), (1, ["cuda"]), (2, ["cuda:0", "cuda:1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert workers.cards_of(cuda) == expected
    assert workers.cards_of(torch.device("cuda:1")) == ["cuda:1"]
    assert workers.cards_of(torch.device("mps")) == ["mps"]


def test_every_card_takes_tasks(tmp_path):
    cards = ["cpu", "cuda:1"]  # the first lets the processes be copies, which start in a moment
    with LocalProcesses(2, cards) as processes:
        assert sorted(processes.map(meet, [tmp_path] * 2)) == cards
    assert workers.own_card() is None  # this process has none


def test_compiling_ahead_ends_with_the_run_and_leaves_errors_to_the_cells():
    class Settings:
        compiled = 0

        def compile_kernels(self):
            Settings.compiled += 1
            raise ValueError("refused")

    begun, over = threading.Event(), threading.Event()
    compile_kernels([Settings()] * 2, 2, begun, over)
    assert Settings.compiled == 2
    ahead = threading.Thread(target=compile_kernels, args=([Settings()] * 3, 2, begun, over))
    ahead.start()  # the third waits for a first cell
    over.set()  # as when a cell fails
    begun.set()
    ahead.join()
    assert Settings.compiled <= 4
