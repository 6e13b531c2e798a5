"""hltm sample by several processes or a cluster, and folders that are joined."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from exports import content

from dualnets.cli import main
from dualnets.lab import clusters

ROWS = ["--depth", "2", "--rows-per-shard", "100"]


def sample(*arguments):
    return main(["sample", *map(str, arguments)])


@pytest.mark.usefixtures("quick_processes")
def test_processes_write_the_same_files(tmp_path):
    assert sample("-n", 300, *ROWS, tmp_path / "one") == 0
    assert sample("-n", 300, *ROWS, tmp_path / "two", "--workers", 2) == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_cluster_writes_the_same_files(tmp_path, monkeypatch, real):
    pytest.importorskip("distributed")
    tasks = []

    class Threads(ThreadPoolExecutor):
        def submit(self, fn, /, *args):
            tasks.append(args)
            return super().submit(fn, *args)

    if not real:
        monkeypatch.setattr(clusters, "connected", lambda text: Threads(1))
    assert sample("-n", 300, *ROWS, tmp_path / "one") == 0
    assert sample("-n", 300, *ROWS, tmp_path / "two", "--cluster", "local:1") == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(tasks) == (0 if real else 3)


def test_folders_are_joined(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "a [bold]folder with  blanks"
    for name, start, rows in (("whole", 0, 300), ("b", 100, 200), ("a", 0, 100)):
        assert sample("-n", rows, "--start", start, *ROWS, tmp_path / name) == 0
    capsys.readouterr()
    assert sample("--join", tmp_path / "b", tmp_path / "a", "--out", out) == 0
    said = capsys.readouterr().out
    assert said.startswith("300 rows in 3 npz files")
    assert str(out) in said
    assert content(out) == content(tmp_path / "whole")
    assert sample("--verify", out) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--join", "--out", "new"], "--join needs a value"),
        (["--join", "none", "--out", "new"], "none holds no exported data"),
        (["--join", "none"], "--out"),
        (["-n", "5", "new", "--workers", "0"], "workers must be at least 1, got 0"),
        (["-n", "5", "new", "--cluster", "local:0"], "cluster must be local:N"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sample(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert words in said.err
    assert list(tmp_path.iterdir()) == []
