"""`verify` finds every change: of bytes, of rows, of files and of the manifest."""

import os
import shutil

import numpy as np
import pytest
from exports import FORMATS, SETTINGS, TREE

import hltm
from hltm._paths import checksum
from hltm.data.export.manifest import read_manifest, write_manifest


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
        f"data/{target.name}: 1 row is not what the address determines; the first is row 418, in {name}",
    )
    assert hltm.verify(out, rows=0).ok  # only the address shows it


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
        "data/00009-of-00004.npz is not part of the data set",
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
        ({"shards": [{"file": "data/x"}]}, "shards do not have"),
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


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n": 2**33, "rows_per_shard": 1}, "at most 1,000,000 files, got 8,589,934,592"),
        ({"rows_per_shard": 3.5}, "rows_per_shard must be an integer, got 3.5"),
        ({"rows_per_shard": 0}, "rows_per_shard must be at least 1"),
        ({"views": 10**18}, "at most 100,000 views"),
        ({"views": True}, "views must be an integer, got True"),
        ({"augmentation": {"name": True, "rates": [0.0] * 15}}, "name must be text, got True"),
    ],
)
def test_claims_that_no_folder_can_meet_are_refused_at_once(tmp_path, change, complaint):
    hltm.export(TREE, tmp_path / "out", 1000, **SETTINGS)
    write_manifest(tmp_path / "out", read_manifest(tmp_path / "out") | change)
    for read in (hltm.load, hltm.verify):
        with pytest.raises(ValueError, match=complaint):
            read(tmp_path / "out")


@pytest.mark.parametrize(("key", "value"), [("file", []), ("bytes", None), ("sha256", 3)])
def test_entries_of_files_have_the_types_that_are_read(tmp_path, key, value):
    hltm.export(TREE, tmp_path / "out", 100, **SETTINGS)
    manifest = read_manifest(tmp_path / "out")
    manifest["shards"][0][key] = value
    write_manifest(tmp_path / "out", manifest)
    with pytest.raises(ValueError, match="its shards do not have file \\(str\\)"):
        hltm.verify(tmp_path / "out")


def test_more_files_than_a_computer_can_list_are_not_exported(tmp_path):
    with pytest.raises(ValueError, match="at most 1,000,000 files, got 8,589,934,592"):
        hltm.export(TREE, tmp_path / "out", 2**33, seed=1, rows_per_shard=1)


@pytest.mark.parametrize("kind", FORMATS)
def test_columns_that_the_manifest_does_not_name_are_found(tmp_path, kind):
    out = tmp_path / "out"
    hltm.export(TREE, out, 100, format=kind, **SETTINGS)
    write_manifest(out, read_manifest(out) | {"latents": []})
    complaint = "cannot be read" if kind == "csv" else "a column that the manifest does not name"
    assert complaint in str(hltm.verify(out))


def test_files_beside_the_data_that_readers_of_a_folder_take_for_rows_are_found(tmp_path):
    out = tmp_path / "out"
    hltm.export(TREE, out, 100, seed=1, format="parquet")
    assert hltm.verify(out).ok
    (out / "notes.txt").write_text("of a user")
    shutil.copy(next((out / "data").iterdir()), out / "more.parquet")
    shutil.copy(out / "_manifest.json", out / "manifest.json")
    found = hltm.verify(out).problems
    assert found == tuple(
        f"{name} is not part of the data set" for name in ("_manifest.json", "more.parquet")
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_was_copied_over_another_is_never_read_and_is_written_again(tmp_path, kind):
    out = tmp_path / "out"
    hltm.export(TREE, out, 900, format=kind, **SETTINGS | {"rows_per_shard": 300})
    first, second, _ = sorted((out / "data").iterdir())
    whole = first.read_bytes()
    shutil.copyfile(second, first)
    with pytest.raises(ValueError, match=f"{first.name} holds other rows than its address has"):
        hltm.load(out).leaves[:3]
    again = hltm.export(TREE, out, 900, format=kind, **SETTINGS | {"rows_per_shard": 300})
    assert first.read_bytes() == whole
    assert again.leaves[:3].shape == (3, 8)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_rows_of_another_seed_are_not_read(tmp_path, kind, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    for out, seed in ((one, 1), (other, 2)):
        hltm.export(TREE, out, 40, format=kind, **SETTINGS | {"seed": seed})
    (file,), (of_other,) = ((out / "data").iterdir() for out in (one, other))
    shutil.copyfile(of_other, file)
    with pytest.raises(ValueError, match="was changed: its SHA-256 checksum does not fit"):
        hltm.load(one).leaves[:3]
    monkeypatch.setattr("hltm.data.export.read.HASHED", 0)  # a large one is read
    assert hltm.load(one).leaves[:3].equal(hltm.load(other).leaves[:3])
    assert not hltm.verify(one).ok


def test_a_changed_bit_is_written_again(tmp_path):
    hltm.export(TREE, tmp_path, 100, **SETTINGS)
    (file,) = (tmp_path / "data").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:90] + bytes([whole[90] ^ 1]) + whole[91:])
    hltm.export(TREE, tmp_path, 100, **SETTINGS)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("kind", ["a link", "a folder", "a named pipe"])
@pytest.mark.parametrize("name", ["manifest.json", "data/00000-of-00001.npz"])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, kind, name):
    out = tmp_path / "out"
    hltm.export(TREE, out, 100, **SETTINGS)
    path = out / name
    path.rename(tmp_path / "elsewhere")
    if kind == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    if name == "manifest.json":
        for read in (hltm.load, hltm.verify):
            with pytest.raises((ValueError, FileNotFoundError), match=r"manifest\.json"):
                read(out)
        return
    with pytest.raises(ValueError, match=f"{path} is {kind}, expected a file"):
        hltm.load(out).leaves[:3]
    assert f"{name} is {kind}, expected a file" in hltm.verify(out).problems


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "[" * 100_000])
def test_a_manifest_that_is_nested_deeply_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="is not a manifest: maximum recursion depth"):
        hltm.load(tmp_path)
