"""Dask clusters: the same values as without; what cannot be is one clear error."""

import importlib.util
import logging
import os
import signal
import time
from contextlib import nullcontext

import pytest
from cells_elsewhere import EXPERIMENT, Settings, cells_of

from dualnets.cli import main
from dualnets.lab import clusters, runner
from dualnets.lab.clusters import check_cluster, connected
from dualnets.lab.reporter import Reporter
from dualnets.lab.scheduling import compute_all
from dualnets.lab.store import Store
from dualnets.lab.workers import ExecutorGoneError, WorkerDiedError


@pytest.mark.parametrize(
    "text",
    [
        "local", "local:", "local:0", "local:-1", "local:2x", "local: 2", "local:²", "udp://a:1", "tcp://",
        "tcp://a", "tcp://a:", "tcp://a:0", "tcp://a:65536", "tcp://a b:1", "a:8786", "TCP://a:1", "[red]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["run", "emergence"], ["claims", "--scale", "smoke"]])
def test_a_text_that_names_no_cluster_is_refused_in_one_line(text, command, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path / "new"), "--cluster", text]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(
        "hltm: cluster must be local:N with N workers on this machine, e.g. "
    )
    assert said.err.endswith(f"e.g. tcp://10.0.0.1:8786, got {text!r}\n")
    assert not (tmp_path / "new").exists()


def test_what_names_a_cluster():
    pytest.importorskip("distributed")
    assert check_cluster("local:12") == 12
    for address in ("tcp://a.b-c:8786", "tls://10.0.0.1:1", "tcp://[::1]:65535"):
        assert check_cluster(address) == address


def test_processes_and_a_cluster_are_refused_together(capsys):
    pytest.importorskip("distributed")
    assert main(["run", "emergence", "--cluster", "local:2", "--workers", "3"]) == 2
    assert capsys.readouterr().err == "hltm: --workers 3 has no effect with --cluster local:2\n"


def test_without_dask_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["run", "emergence", "--cluster", "local:2"]) == 2
    said = capsys.readouterr().err
    assert said == "hltm: cluster local:2 needs Dask: python -m pip install distributed\n"


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch, capsys, tmp_path):
    pytest.importorskip("distributed")
    monkeypatch.setattr("dualnets.lab.clusters.WAIT", 1)
    arguments = ["run", "emergence", "--cluster", "tcp://127.0.0.1:9", "--out", str(tmp_path)]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said == "hltm: no Dask scheduler answers at tcp://127.0.0.1:9 within 1 seconds\n"


def test_claims_are_run_on_the_cluster_until_it_is_gone(monkeypatch, tmp_path, capsys):
    pytest.importorskip("distributed")
    executor, calls = object(), []

    def run(experiment, *, executor, **given):
        calls.append(executor)
        raise ExecutorGoneError("the executor takes no more cells: closed")

    monkeypatch.setattr(clusters, "connected", lambda text: nullcontext(executor))
    monkeypatch.setattr(runner, "run", run)
    assert main(["claims", "--scale", "smoke", "--cluster", "local:2", "--out", str(tmp_path)]) == 1
    assert calls == [executor]
    assert capsys.readouterr().err == (
        "hltm: the executor takes no more cells: closed. Finished cells are stored, and the same command "
        "continues from there\n"
    )


def test_a_scheduler_without_workers_is_said_to_have_none(monkeypatch, capsys):
    distributed = pytest.importorskip("distributed")

    class Client(nullcontext):
        workers = {}  # noqa: RUF012

        def __init__(self, *where, **given):
            super().__init__(self)

        def scheduler_info(self):
            return {"workers": self.workers}

        def get_executor(self, pure):
            return "an executor"

    monkeypatch.setattr(distributed, "Client", Client)
    for workers, said in (
        ({}, "hltm: tcp://a:1 has no workers yet; the work waits for one\n"),
        ({"w": 1}, ""),
    ):
        Client.workers = workers
        with connected("tcp://a:1") as executor:
            assert executor == "an executor"
            # what they log of a lost connection is tracebacks
            assert logging.getLogger("tornado.application").disabled
            assert logging.getLogger("distributed.client").disabled
        assert not logging.getLogger("tornado.application").disabled
        assert capsys.readouterr().err == said


def test_a_cluster_that_is_interrupted_while_it_starts_is_closed(monkeypatch, ctrl_c):
    distributed = pytest.importorskip("distributed")
    events = []

    class Cluster:
        def __init__(self, **given):
            time.sleep(0.5)  # so that the other thread waits
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
            events.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

        def close(self):
            events.append("closed")

    monkeypatch.setattr(distributed, "LocalCluster", Cluster)
    with pytest.raises(KeyboardInterrupt), connected("local:1"):
        events.append("connected")
    assert events == [True, "closed"]  # and its processes do not receive Ctrl-C


@pytest.mark.slow
@pytest.mark.parametrize("dying", [False, True])
def test_cells_on_a_cluster(tmp_path, dying):
    """The same values as in this process; a worker that dies is replaced, and twice is enough."""
    pytest.importorskip("distributed")
    mark = tmp_path / "mark"
    mark.mkdir()
    fine = cells_of(*map(Settings, range(2)), *[Settings(3, "die_once", str(mark))] * dying)
    deadly = cells_of(*[Settings(4, "die")] * dying)
    here, there = (Store(tmp_path / name, EXPERIMENT.name) for name in ("here", "there"))
    with connected("local:1") as executor:
        compute_all(EXPERIMENT, str(there.home.parent), fine, ["cpu"], 1, Reporter(), executor)
        with (
            pytest.raises(WorkerDiedError, match=r"its process died every time")
            if dying
            else nullcontext()
        ):
            compute_all(
                EXPERIMENT, str(there.home.parent), deadly, ["cpu"], 1, Reporter(), executor
            )
    compute_all(EXPERIMENT, str(here.home.parent), fine, ["cpu"], 1, Reporter())
    for cell, _ in fine:
        assert here.read_cell(cell)[0].equals(there.read_cell(cell)[0])
    assert not any(there.has_cell(cell) for cell, _ in deadly)
