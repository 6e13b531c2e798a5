"""A run that several test files read; it is computed once."""

import contextlib
import io
import shutil
import signal

import pytest
from tiny_runs import FLAGS, tiny_run

from dualnets.cli import main


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A finished tiny run, what the command printed, and the folder of its results: do not change it."""
    out = tmp_path_factory.mktemp("stored")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "80")
        assert main(["run", "emergence", "--scale", "smoke", "--out", str(out), *FLAGS]) == 0
    run = tiny_run(out)
    assert run.reused
    return run, printed.getvalue(), out


@pytest.fixture
def copied_run(stored, tmp_path):
    """The stored run, and a copy of its folder of results, to be changed."""
    shutil.copytree(stored[2], tmp_path, dirs_exist_ok=True)
    return stored[0], tmp_path


@pytest.fixture
def ctrl_c():
    """SIGINT raises KeyboardInterrupt; processes in the background of a shell begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def quick_processes(monkeypatch):
    """Processes that compute start in a moment: they are copies of one that has loaded the libraries."""
    from dualnets.lab import workers

    # each test has an environment of its own, by the name that pytest writes there
    monkeypatch.setattr(workers, "_surroundings", lambda: {"": "here"})
    monkeypatch.setattr(workers, "_started_with", {})
    workers.load(["dualnets.lab.loaded", "cells_elsewhere"])
