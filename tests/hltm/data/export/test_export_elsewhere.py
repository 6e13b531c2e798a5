"""Exports by the processes of an executor, and folders that were made apart."""

import json
import os
import shutil
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import pairwise

import pytest
from exports import FORMATS, SETTINGS, TREE, content
from few import few
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hltm
from hltm.data.export import write

STACKED = hltm.symmetric_binary(depth=2, members=2, seed=3)


class AtOnce(Executor):
    """An executor that computes where and when a task is submitted."""

    def submit(self, fn, /, *args):
        future = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def part(home, name, low, high, tree=TREE, **changes):
    """Rows of a data set in a folder of their own."""
    hltm.export(tree, home / name, high - low, **(SETTINGS | {"start": low} | changes))
    return home / name


@pytest.mark.parametrize("kind", FORMATS)
def test_an_executor_writes_the_same_files_to_the_last_byte(tmp_path, kind):
    hltm.export(STACKED, tmp_path / "one", 700, **SETTINGS, format=kind)
    calls = []
    with ThreadPoolExecutor(3) as pool:
        data = hltm.export(
            STACKED, tmp_path / "two", 700, **SETTINGS, format=kind, executor=pool,
            progress=lambda *now: calls.append(now),
        )  # fmt: skip
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert len(data) == 700
    assert calls[0] == (0, 1400)
    assert calls[-1] == (1400, 1400)
    assert len(calls) == 1 + 2 * 3
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_what_an_executor_did_not_write_is_one_error_and_the_same_call_continues(tmp_path):
    class Dying(AtOnce):
        left = 2

        def submit(self, fn, /, *args):
            self.left -= 1
            if self.left >= 0:
                return super().submit(fn, *args)
            future = Future()
            future.set_exception(RuntimeError("a process died"))
            return future

    with pytest.raises(
        OSError, match=r"of-00004.npz was not written: RuntimeError: a process died"
    ):
        hltm.export(TREE, tmp_path / "out", 1000, **SETTINGS, executor=Dying())
    with ThreadPoolExecutor(1) as closed:
        pass
    with pytest.raises(OSError, match="the executor takes no more files: cannot schedule new"):
        hltm.export(TREE, tmp_path / "out", 1000, **SETTINGS, executor=closed)
    hltm.export(TREE, tmp_path / "out", 1000, **SETTINGS, executor=AtOnce())
    hltm.export(TREE, tmp_path / "whole", 1000, **SETTINGS)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_executor_elsewhere_is_refused_in_words(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match=r"must be a concurrent.futures.Executor, got int"):
        hltm.export(TREE, tmp_path / "new", 10, seed=0, executor=2)
    assert not (tmp_path / "new").exists()

    class Elsewhere(AtOnce):
        def submit(self, fn, asking, home, *rest):
            shutil.copytree(home, tmp_path / "elsewhere", dirs_exist_ok=True)
            return super().submit(fn, asking, tmp_path / "elsewhere", *rest)

    with pytest.raises(OSError, match=r"is not in .*new here: all must see the same folder"):
        hltm.export(TREE, tmp_path / "new", 10, seed=0, executor=Elsewhere())
    other = write.this_process()._replace(version="0.0.1", host="otherhost")
    monkeypatch.setattr(write, "this_process", lambda: other)
    with pytest.raises(ValueError, match=r"otherhost has hltm 0\.0\.1: both need one version"):
        hltm.export(TREE, tmp_path / "newer", 10, seed=0, executor=AtOnce())


@pytest.mark.parametrize("kind", few(FORMATS))
@pytest.mark.parametrize("tree", [TREE, STACKED], ids=["one", "stacked"])
def test_folders_made_apart_join_to_the_last_byte(tmp_path, kind, tree):
    parts = [
        part(tmp_path, str(low), low, high, tree, format=kind)
        for low, high in ((677, 1077), (77, 377), (377, 677))
    ]
    joined = hltm.join(parts, tmp_path / "joined")
    part(tmp_path, "whole", 77, 1077, tree, format=kind)
    assert content(tmp_path / "joined") == content(tmp_path / "whole")
    assert len(joined) == 1000
    assert hltm.verify(tmp_path / "joined").ok
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "joined").rglob("*")}
    hltm.join(parts, tmp_path / "joined")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "joined").rglob("*")}


def test_files_are_copied_where_they_can_be(tmp_path, monkeypatch):
    parts = [part(tmp_path, "a", 0, 600), part(tmp_path, "b", 600, 1000)]
    uneven = [part(tmp_path, "c", 0, 500), part(tmp_path, "d", 500, 1000)]
    drawn = []
    original = write.write_shard
    monkeypatch.setattr(
        write, "write_shard", lambda path, recipe, shard, *rest: drawn.append(shard.rows)
        or original(path, recipe, shard, *rest),
    )  # fmt: skip
    hltm.join(parts, tmp_path / "copied")
    assert drawn == []
    hltm.join(uneven, tmp_path / "drawn")
    assert drawn == [range(300, 600), range(600, 900), range(900, 1000)]
    assert content(tmp_path / "copied") == content(tmp_path / "drawn")


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 99), unique=True, max_size=3), st.integers(20, 60))
def test_parts_of_any_sizes_join(tmp_path_factory, monkeypatch, cuts, rows_per_shard):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # dozens of exports need not reach the disk
    home = tmp_path_factory.mktemp("parts")
    ends = [0, *sorted(cuts), 100]
    changes = {"views": 0, "augment": None, "rows_per_shard": rows_per_shard}
    parts = [part(home, str(a), a, b, STACKED, **changes) for a, b in pairwise(ends)]
    hltm.join(parts, home / "joined")
    part(home, "whole", 0, 100, STACKED, **changes)
    assert content(home / "joined") == content(home / "whole")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 6}, "its seed is 6, not 5"),
        ({"views": 1}, "its views is 1, not 2"),
        (
            {"augment": hltm.resample_leaves(0.5)},
            "its augmentation is resample-leaves:0.5, not resample-",
        ),
        ({"nodes": "leaves"}, "its latents are not the same"),
        ({"format": "safetensors"}, "its file format is safetensors, not npz"),
        ({"rows_per_shard": 200}, "its rows per shard is 200, not 300"),
        ({"tree": STACKED}, "its augmentation resample-leaves:0.4 has other rates"),
        ({"tree": hltm.symmetric_binary(depth=3, seed=1)}, "its tree is not the same"),
    ],
)
def test_parts_of_different_data_sets_are_refused(tmp_path, changes, what):
    one, two = part(tmp_path, "one", 0, 300), part(tmp_path, "two", 300, 400, **changes)
    with pytest.raises(ValueError, match=rf"two does not belong to .*one: {what}"):
        hltm.join([two, one], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_parts_with_a_gap_or_an_overlap_are_refused(tmp_path):
    one, two = part(tmp_path, "one", 0, 300), part(tmp_path, "two", 300, 400)
    gap, over = part(tmp_path, "gap", 301, 400), part(tmp_path, "over", 250, 260)
    for parts, words in (
        ([one, gap], "rows 300 to 300 are missing between .*one and .*gap"),
        ([one, two, over], "rows 250 to 259 are in both .*one and .*over"),
        ([one, one], "rows 0 to 299 are in both .*one and .*one"),
        ([], "at least one folder, got none"),
        ([one, tmp_path / "none"], "holds no exported data"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            hltm.join(parts, tmp_path / "new")
    with pytest.raises(TypeError, match="folders must be a list of folders, got '"):
        hltm.join(str(one), tmp_path / "new")
    with pytest.raises(ValueError, match=r"new is inside .*one, which would be changed"):
        hltm.join([one, two], one / "new")
    assert {path.name for path in one.iterdir()} == {"data", "manifest.json"}
    assert not (tmp_path / "new").exists()


def test_parts_that_are_damaged_or_not_finished_are_refused(tmp_path):
    one, two = part(tmp_path, "one", 0, 300), part(tmp_path, "two", 300, 900)
    manifest = json.loads((two / "manifest.json").read_text())
    file = two / manifest["shards"][1]["file"]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"00001-of-00002.npz was changed: its SHA-256 checksum"):
        hltm.join([one, two], tmp_path / "new")
    file.write_bytes(whole)
    assert len(hltm.join([one, two], tmp_path / "new")) == 900  # where it was left
    del manifest["shards"][1]
    (two / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="two is not finished: 1 of 2 files are written"):
        hltm.join([one, two], tmp_path / "newer")
