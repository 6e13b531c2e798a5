"""`verify` finds every change: of bytes, of rows, of files and of the manifest."""

import os

import numpy as np
import pytest
from exports import FORMATS, SETTINGS, TREE

import hltm
from hltm.data.export.files import checksum
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
