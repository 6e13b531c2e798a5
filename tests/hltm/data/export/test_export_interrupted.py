"""An export that was interrupted, at any moment, is continued by the same call."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from exports import SETTINGS, TREE, content

import hltm
from hltm.data.export import recipe

KILLED = """
import os, signal, sys
import hltm
from hltm.data.export import recipe
recipe.PIECE_ROWS = 64
tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
def progress(done, total):
    if done > 400:  # inside the second file
        os.kill(os.getpid(), signal.SIGKILL)
hltm.export(tree, sys.argv[1], 1000, seed=5, start=77, views=2, augment=hltm.resample_leaves(0.4),
            rows_per_shard=300, format=sys.argv[2], progress=progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "huggingface"])
def test_a_killed_export_ends_up_the_same_to_the_last_byte(tmp_path, monkeypatch, kind):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = subprocess.run([sys.executable, "-c", KILLED, str(killed), kind], check=False)
    assert done.returncode == -signal.SIGKILL
    left = sorted(path.name for path in (killed / "data").iterdir())
    assert any(name.endswith(".partial") for name in left) == (kind != "npz")
    with pytest.raises(ValueError, match="is not finished: 1 of 4 files are written"):
        hltm.load(killed)
    first = next(path for path in (killed / "data").iterdir() if path.name.startswith("00000"))
    before = first.stat().st_ino, first.stat().st_mtime_ns

    monkeypatch.setattr(recipe, "PIECE_ROWS", 64)
    calls = []
    arguments = {**SETTINGS, "format": kind}
    hltm.export(TREE, killed, 1000, progress=lambda *now: calls.append(now), **arguments)
    hltm.export(TREE, whole, 1000, **arguments)
    assert calls[0] == (300, 1000)
    assert calls[-1] == (1000, 1000)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == before
    assert content(killed) == content(whole)
    assert hltm.verify(killed).ok


class Killed(BaseException):
    """Ends a call at once; with unlink switched off it leaves behind what a kill would."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_there_is_no_moment_at_which_a_kill_does_harm(tmp_path, monkeypatch, when):
    settings = {"seed": 1, "rows_per_shard": 50, "format": "huggingface"}
    monkeypatch.setattr(os, "fsync", lambda _: None)  # dozens of exports need not reach the disk
    hltm.export(TREE, tmp_path / "whole", 100, **settings)
    expected = content(tmp_path / "whole")
    for moment in range(100):
        out, passed = tmp_path / f"killed-{moment}", 0

        def watched(name, function, moment=moment):
            def step(*arguments, **more):
                nonlocal passed
                passed += 1
                if passed > moment and when == "before":
                    raise Killed(name)
                found = function(*arguments, **more)
                if passed > moment:
                    raise Killed(name)
                return found

            return step

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", watched("fsync", os.fsync))
            for name in ("replace", "mkdir", "write_text"):
                patch.setattr(Path, name, watched(name, getattr(Path, name)))
            patch.setattr(Path, "unlink", lambda *_, **more: None)
            try:
                hltm.export(TREE, out, 100, **settings)
            except Killed:
                pass
            else:
                break
        hltm.export(TREE, out, 100, **settings)
        assert content(out) == expected, moment
    assert 20 < moment < 99


def test_a_finished_export_is_not_written_again(tmp_path):
    hltm.export(TREE, tmp_path / "out", 1000, **SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    calls = []
    hltm.export(TREE, tmp_path / "out", 1000, progress=lambda *now: calls.append(now), **SETTINGS)
    assert calls == [(1000, 1000)]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_a_file_that_went_missing_is_written_again(tmp_path):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, **SETTINGS)
    before = content(out)
    (out / "data/00002-of-00004.npz").unlink()
    hltm.export(TREE, out, 1000, **SETTINGS)
    assert content(out) == before


def test_two_processes_do_not_write_one_folder(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="another process is writing to"):
        hltm.export(TREE, tmp_path, 10, seed=0)
    os.close(handle)
    hltm.export(TREE, tmp_path, 10, seed=0)
