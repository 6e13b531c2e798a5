"""Exported data: what is written is what was drawn, whatever interrupts it, and verify can tell."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hltm
from hltm.data.export import recipe as recipes
from hltm.data.export.files import checksum
from hltm.data.export.manifest import read_manifest, write_manifest

FORMATS = ["npz", "parquet", "safetensors", "huggingface"]
TREE = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
SETTINGS = {
    "seed": 5,
    "start": 77,
    "views": 2,
    "augment": hltm.resample_leaves(0.4),
    "rows_per_shard": 300,
}
KILLED = """
import os, signal, sys
import hltm
from hltm.export import recipe
recipe.PIECE_ROWS = 64
tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
def progress(done, total):
    if done > 400:  # inside the second file
        os.kill(os.getpid(), signal.SIGKILL)
hltm.export(tree, sys.argv[1], 1000, seed=5, start=77, views=2, augment=hltm.resample_leaves(0.4),
            rows_per_shard=300, format=sys.argv[2], progress=progress)
"""


def many_states() -> hltm.LatentTree:
    """A root of 3 states above leaves of 2 and of 300."""
    wide = np.full((3, 300), 1 / 300)
    return hltm.LatentTree.from_parents(
        {"root": None, "few": "root", "many": "root"},
        {"root": [0.2, 0.3, 0.5], "few": [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], "many": wide},
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_same_as_drawn(data, tree, *, n, seed, start, augment=None):
    draw = tree.sample(n, seed=seed, start=start)
    assert torch.equal(torch.from_numpy(np.asarray(data.leaves)), draw.leaves)
    nodes = list(data.latent_nodes)
    assert torch.equal(torch.from_numpy(np.asarray(data.latents)), draw.states[..., nodes])
    if augment is not None:
        for column, view in zip(data.views, tree.views(draw, augment), strict=True):
            assert torch.equal(torch.from_numpy(np.asarray(column)), view.leaves)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_what_was_drawn(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(recipes, "PIECE_ROWS", 128)
    data = hltm.export(TREE, tmp_path / "out", 1000, format=kind, **SETTINGS)
    augment = SETTINGS["augment"]
    check_same_as_drawn(data, TREE, n=1000, seed=5, start=77, augment=augment)
    assert data.rows == range(77, 1077)
    shards = list(data.shards())
    assert [(s.rows.start, len(s.rows)) for s in shards] == [
        (77, 300), (377, 300), (677, 300), (977, 100),
    ]  # fmt: skip
    assert torch.cat([s.leaves for s in shards]).equal(data.leaves[:])
    assert torch.cat([s.latents for s in shards]).equal(data.latents[:])
    assert torch.cat([s.views[1] for s in shards]).equal(data.views[1][:])
    found = hltm.verify(tmp_path / "out", rows=1000)
    assert found.ok, str(found)
    assert found.rows_checked == 1000


@pytest.mark.parametrize("kind", FORMATS)
def test_members_share_a_folder_and_keep_their_addresses(tmp_path, kind):
    trees = hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), members=5, seed=0)[2:4]
    settings = {"seed": 1, "views": 2, "augment": hltm.keep_root(), "rows_per_shard": 150}
    data = hltm.export(trees, tmp_path / "out", 200, format=kind, **settings)
    assert data.leaves.shape == (2, 200, 4)
    check_same_as_drawn(data, trees, n=200, seed=1, start=0, augment=hltm.keep_root())
    assert [s.member for s in data.shards()] == [2, 2, 3, 3]
    draw = trees.sample(200, seed=1)
    assert data.leaves[1, 5:9].equal(draw.leaves[1, 5:9])
    assert data.leaves[1][5].equal(draw.leaves[1, 5])
    assert hltm.load(tmp_path / "out").tree.members == (2, 3)
    assert hltm.verify(tmp_path / "out", rows=400).ok


@pytest.mark.parametrize(
    "tree",
    [
        hltm.random_tree(nodes=14, seed=3),
        hltm.caterpillar(depth=4, cardinality=3, seed=1),
        hltm.random_hierarchy(v=4, m=2, s=2, L=2, classes=4, seed=0),
    ],
    ids=["random tree", "caterpillar", "random hierarchy"],
)
def test_trees_of_any_shape(tmp_path, tree):
    augment = hltm.keep_level(1).then(hltm.resample_leaves(0.5))
    data = hltm.export(tree, tmp_path / "out", 300, seed=2, start=5, views=2, augment=augment)
    check_same_as_drawn(data, tree, n=300, seed=2, start=5, augment=augment)
    assert hltm.verify(tmp_path / "out", rows=300).ok


@pytest.mark.parametrize("kind", FORMATS)
def test_more_than_256_states(tmp_path, kind):
    tree = many_states()
    data = hltm.export(tree, tmp_path / "out", 500, seed=3, format=kind)
    assert data.leaves.dtype == np.uint16
    check_same_as_drawn(data, tree, n=500, seed=3, start=0)
    assert int(np.asarray(data.leaves).max()) > 255
    assert hltm.verify(tmp_path / "out").ok


def test_which_latents_stand_beside_the_leaves(tmp_path):
    draw = TREE.sample(50, seed=1)
    alone = hltm.export(TREE, tmp_path / "leaves", 50, seed=1, nodes="leaves")
    assert torch.equal(alone.leaves[:], draw.leaves)
    with pytest.raises(ValueError, match="holds no latents; export with nodes='all'"):
        _ = alone.latents
    some = hltm.export(TREE, tmp_path / "some", 50, seed=1, nodes=["4", 1])
    assert some.latent_nodes == (4, 1)
    assert some.latents[:].equal(draw.states[:, [4, 1]])
    root = hltm.export(TREE, tmp_path / "root", 50, seed=1, nodes=TREE.root)
    assert root.latents[:].equal(draw.root[:, None])


def test_columns_are_indexed_like_arrays(tmp_path):
    column = hltm.export(TREE, tmp_path / "out", 1000, seed=5, rows_per_shard=300).leaves
    leaves = TREE.sample(1000, seed=5).leaves
    for index in (0, 299, 300, -1, slice(290, 610), slice(None, None, -7), slice(5, 5)):
        expected = leaves.numpy()[index]
        assert np.array_equal(column[index].numpy(), expected)
    chosen = np.random.default_rng(0).integers(-1000, 1000, 64)
    assert column[chosen].equal(leaves[chosen])
    assert column[[3, 999]].equal(leaves[[3, 999]])
    for wrong in (1000, -1001, [3, 1000]):
        with pytest.raises(IndexError, match="of 1000 rows"):
            _ = column[wrong]
    for wrong in (0.5, "row", [True, False]):
        with pytest.raises(TypeError, match="rows must be an integer, a slice or integers"):
            _ = column[wrong]


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

    monkeypatch.setattr(recipes, "PIECE_ROWS", 64)
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


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed": 6}, "its seed is 5, not 6"),
        ({"start": 0}, "its start is 77, not 0"),
        ({"n": 999}, "its n is 1000, not 999"),
        ({"views": 1}, "its views is 2, not 1"),
        ({"augment": hltm.keep_root()}, "its augmentation is resample-leaves:0.4, not keep-root"),
        ({"nodes": "leaves"}, "its latents are not the same"),
        ({"format": "parquet"}, "its file format is npz, not parquet"),
        ({"rows_per_shard": 301}, "its rows per shard is 300, not 301"),
        ({"tree": hltm.symmetric_binary(depth=3, seed=1)}, "its tree is not the same"),
    ],
)
def test_a_folder_of_other_settings_is_refused_by_name(tmp_path, change, complaint):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, **SETTINGS)
    before = content(out)
    asked = {"tree": TREE, "n": 1000, "folder": out, **SETTINGS, **change}
    with pytest.raises(ValueError, match=re.escape(f"{out} holds another data set: {complaint};")):
        hltm.export(**asked)
    assert content(out) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds no exported data: there is 'thesis\.tex'"):
        hltm.export(TREE, tmp_path, 10, seed=0)
    with pytest.raises(OSError, match="cannot write to"):
        hltm.export(TREE, tmp_path / "thesis.tex", 10, seed=0)


def test_two_processes_do_not_write_one_folder(tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="another process is writing"):
        hltm.export(TREE, tmp_path, 10, seed=0)
    os.close(handle)
    hltm.export(TREE, tmp_path, 10, seed=0)


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"n": 0}, ValueError, "the number of samples must be at least 1, got 0"),
        ({"start": -1}, ValueError, "rows must lie in"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"format": "csv"}, ValueError, "unknown format 'csv', expected one of npz, parquet"),
        ({"views": 2}, ValueError, r"views=2 needs augment"),
        ({"views": -1}, ValueError, "views must be in"),
        ({"augment": hltm.keep_root()}, ValueError, "augment keep-root needs views"),
        ({"rows_per_shard": 0}, ValueError, "rows_per_shard must be at least 1, got 0"),
        ({"nodes": ["7"]}, ValueError, "'7' is a leaf"),
        ({"nodes": [1, 1]}, ValueError, "nodes must be distinct"),
        ({"nodes": ["oak"]}, KeyError, "oak"),
        ({"tree": TREE.topology}, TypeError, "tree must be a LatentTree, got Topology"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, change, error, complaint):
    asked = {"tree": TREE, "n": 10, "folder": tmp_path / "out", "seed": 0, **change}
    with pytest.raises(error, match=complaint):
        hltm.export(**asked)
    assert not (tmp_path / "out").exists()


def test_the_manifest_says_where_everything_came_from(tmp_path):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, **SETTINGS)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["draw_format"] == hltm.DRAW_FORMAT
    assert manifest["hltm"] == hltm.__version__
    assert manifest["stream"] == "data"
    assert manifest["complete"] is True
    assert manifest["augmentation"]["rates"] == SETTINGS["augment"].rates(TREE).tolist()
    assert manifest["leaves"] == [str(v) for v in range(7, 15)]
    shards = manifest["shards"]
    assert [(s["start"], s["rows"]) for s in shards] == [
        (77, 300),
        (377, 300),
        (677, 300),
        (977, 100),
    ]
    for entry in shards:
        assert entry["sha256"] == checksum(out / entry["file"])
    TREE.save(tmp_path / "tree.json")
    assert manifest["tree"] == json.loads((tmp_path / "tree.json").read_text())


def test_files_do_not_depend_on_how_they_are_split(tmp_path):
    one = hltm.export(TREE, tmp_path / "one", 700, seed=5, rows_per_shard=700)
    many = hltm.export(TREE, tmp_path / "many", 300, seed=5, start=200, rows_per_shard=7)
    assert many.leaves[:].equal(one.leaves[200:500])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_flipped_bit_is_found_by_its_checksum(tmp_path, kind):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, format=kind, **SETTINGS)
    target = sorted((out / "data").iterdir())[1]
    damaged = bytearray(target.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    target.write_bytes(damaged)
    found = hltm.verify(out, rows=0)
    expected = f"data/{target.name} was changed: its SHA-256 checksum does not fit"
    assert found.problems == (expected,)
    assert str(found).startswith(f"{out} is NOT what it claims:")
    hltm.verify(out, rows=1000)  # a file that cannot be read is a finding, not an exception


@pytest.mark.parametrize("name", ["leaves", "latents", "view_2", "row"])
def test_a_wrong_row_with_a_fixed_checksum_is_found_by_its_address(tmp_path, name):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, **SETTINGS)
    target = out / "data/00001-of-00004.npz"
    with np.load(target) as file:
        columns = dict(file)
    columns[name][41] ^= 1
    with target.open("wb") as file:
        np.savez(file, **columns)
    manifest = read_manifest(out)
    manifest["shards"][1]["sha256"] = checksum(target)
    write_manifest(out, manifest)
    found = hltm.verify(out, rows=1000)
    assert found.problems == (
        f"data/{target.name}: 1 row is not what the address gives; the first is row 418, in {name}",
    )
    assert hltm.verify(out, rows=0).ok  # only the address tells


def test_missing_unknown_and_cut_files_are_named(tmp_path):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, **SETTINGS)
    (out / "data/00002-of-00004.npz").unlink()
    (out / "data/00009-of-00004.npz").write_bytes(b"")
    cut = out / "data/00003-of-00004.npz"
    size = cut.stat().st_size
    os.truncate(cut, 100)
    assert hltm.verify(out, rows=0).problems == (
        "data/00002-of-00004.npz is missing",
        f"data/00003-of-00004.npz has 100 bytes, not {size:,}",
        "data/00009-of-00004.npz is no part of the data set",
    )
    assert "cannot be read" in str(hltm.verify(out, rows=1000))


def test_a_manifest_that_claims_another_origin_is_found(tmp_path):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, **SETTINGS)
    manifest = read_manifest(out)
    write_manifest(out, manifest | {"seed": 6})
    assert len(hltm.verify(out).problems) == 4
    rates = [0.0] * 7 + [0.5] * 8
    write_manifest(out, manifest | {"augmentation": {"name": "x", "rates": rates}})
    assert all(" in view_" in problem for problem in hltm.verify(out).problems)
    write_manifest(out, manifest | {"shards": manifest["shards"][:3]})
    assert "the export is not finished" in str(hltm.verify(out, rows=0))
    write_manifest(out, manifest | {"draw_format": 2})
    for read in (hltm.load, hltm.verify):
        with pytest.raises(ValueError, match="draw format 2, expected 1"):
            read(out)
    for change, complaint in (
        ({"leaves": [*"abcdefgh"]}, "its leaves do not fit the rest"),
        ({"latents": ["oak"]}, "oak"),
        ({"n": "many"}, "the number of samples must be an integer"),
        ({"views": 0}, "do not fit"),
        ({"augmentation": {"name": "x", "rates": [2.0] * 15}}, r"must be in \[0, 1\]"),
        ({"shards": [{"file": "data/x"}]}, "shards are not listed as they should be"),
        ({"tree": {}}, "not a tree saved by hltm"),
    ):
        write_manifest(out, manifest | change)
        with pytest.raises(ValueError, match=complaint):
            hltm.load(out)
    write_manifest(out, {"shards": []})
    with pytest.raises(ValueError, match="is not a manifest"):
        hltm.load(out)
    with pytest.raises(FileNotFoundError, match="holds no exported data"):
        hltm.load(tmp_path)


def test_parquet_reaches_the_entropy_of_random_bits(tmp_path):
    tree = hltm.symmetric_binary(depth=5, polarity=0.0, seed=0)
    hltm.export(tree, tmp_path / "out", 1 << 16, seed=0, format="parquet")
    size = next((tmp_path / "out/data").iterdir()).stat().st_size
    assert size < 1.15 * 63 * (1 << 16) / 8


def test_pandas_reads_parquet_as_it_is(tmp_path):
    import pandas as pd

    hltm.export(TREE, tmp_path / "out", 1000, format="parquet", **SETTINGS)
    table = pd.concat([pd.read_parquet(path) for path in sorted((tmp_path / "out/data").iterdir())])
    assert list(table) == ["row", "leaves", "latents", "view_1", "view_2"]
    draw = TREE.sample(1000, seed=5, start=77)
    assert table["row"].tolist() == list(range(77, 1077))
    assert np.array_equal(np.stack(table["leaves"]), draw.leaves)
    assert table["leaves"].iloc[0].dtype == np.uint8


@pytest.mark.filterwarnings("ignore")  # of the other library
def test_hugging_face_datasets_load_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, format="huggingface", **SETTINGS)
    files = [str(path) for path in sorted((out / "data").iterdir())]
    arguments = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    rows = datasets.load_dataset("parquet", data_files=files, **arguments)
    draw = TREE.sample(1000, seed=5, start=77)
    assert np.array_equal(np.array(rows["leaves"]), draw.leaves)
    assert rows["row"][:2] == [77, 78]
    by_card = datasets.load_dataset(str(out), **arguments)  # the card says where the data lie
    assert by_card.column_names == ["row", "leaves", "latents", "view_1", "view_2"]
    assert np.array_equal(np.array(by_card["view_1"]), np.array(rows["view_1"]))


def test_the_card_has_the_generators_settings(tmp_path):
    hltm.export(TREE, tmp_path / "out", 1000, format="huggingface", **SETTINGS)
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\n")
    for said in (
        "data/*.parquet",
        "77..1,076 of seed 5",
        "resample-leaves:0.4",
        "15 nodes, 8 leaves",
    ):
        assert said in card
