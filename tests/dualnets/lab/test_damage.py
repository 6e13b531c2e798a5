"""Stored cells and runs that have changed are never believed: they are named, set aside and made again."""

import random
import shutil

import pandas as pd
import pytest
from tiny_runs import blank_figures, code_of, tiny_run

from dualnets.lab.manifests import DamagedError
from dualnets.lab.reporter import Reporter
from dualnets.lab.store import Store
from dualnets.lab.stored_runs import find_runs

CHANGES = 60


class Named(Reporter):
    """Keeps what is reported as damaged."""

    def __init__(self):
        self.found = []

    def damaged(self, folder, reason):
        self.found.append((folder.name, reason))


def flip(path, rng):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def content(found):
    """A cell without its checksum, which may be the one thing that has changed."""
    table, manifest = found
    return table.to_dict("list"), {k: v for k, v in manifest.items() if "checksum" not in k}


def damaged_or_the_same(out, changes, seed):
    """Flip bits of a cell's files, one at a time: how many of the changes were found."""
    store, rng, found = Store(out, "emergence"), random.Random(seed), 0
    cell = min(store.cell("").iterdir())
    before = repr(content(store.read_cell(cell.name)))
    files = [path for path in sorted(cell.rglob("*")) if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".parquet", ".safetensors"}
    for _ in range(changes):
        path = rng.choice(files)
        whole = path.read_bytes()
        flip(path, rng)
        try:
            assert repr(content(store.read_cell(cell.name))) == before
        except DamagedError:  # any other error, or another cell, is a fault
            found += 1
        path.write_bytes(whole)
    return found


def test_no_change_of_a_bit_of_a_cell_changes_what_is_read(copied_run, monkeypatch):
    monkeypatch.setattr("dualnets.lab.store.READ_ATTEMPTS", 0)
    assert damaged_or_the_same(copied_run[1], CHANGES, seed=0) > 0.9 * CHANGES


@pytest.mark.slow
def test_no_change_of_thousands(copied_run, monkeypatch):
    monkeypatch.setattr("dualnets.lab.store.READ_ATTEMPTS", 0)
    assert damaged_or_the_same(copied_run[1], 3000, seed=1) > 2700


def test_damaged_cells_are_set_aside_and_computed_again(copied_run, monkeypatch):
    """One with a changed table, one that is a copy of another, one whose network is gone."""
    first, out = copied_run
    shutil.rmtree(out / "emergence" / first.name)
    one, other, third, whole = sorted((out / "emergence" / "cells").iterdir())
    rows = pd.read_parquet(one / "results.parquet")
    rows["value"] *= 2
    rows.to_parquet(one / "results.parquet", index=False)
    shutil.rmtree(other)
    shutil.copytree(whole, other)
    next((third / "networks").iterdir()).unlink()
    code, computed = code_of("emergence"), []
    original = code.run_cell
    monkeypatch.setattr(code, "run_cell", lambda s, *r: computed.append(s) or original(s, *r))
    monkeypatch.setattr("dualnets.lab.store.READ_ATTEMPTS", 0)
    named = Named()
    with blank_figures("emergence"):
        again = tiny_run(out, reporter=named)
    assert len(computed) == 3
    pd.testing.assert_frame_equal(again.table, first.table)
    reasons = dict(named.found)
    assert reasons[one.name] == "results.parquet was changed: its SHA-256 checksum does not fit"
    assert reasons[other.name] == f"it is a copy of cell {whole.name}"
    assert "networks/" in reasons[third.name]
    assert reasons[third.name].endswith("is missing")
    aside = [p for p in one.parent.iterdir() if p.name.startswith(f".{one.name}-damaged-")]
    assert len(aside) == 1  # what was there is not lost


@pytest.mark.parametrize("file", ["index.html", "emergence.png", "results.parquet", "verdict.json"])
def test_a_finished_run_that_misses_a_file_is_made_again_from_its_cells(
    copied_run, monkeypatch, file
):
    first, out = copied_run
    (out / "emergence" / first.name / file).unlink()
    monkeypatch.setattr(code_of("emergence"), "run_cell", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr("dualnets.lab.store.READ_ATTEMPTS", 0)
    named = Named()
    with blank_figures("emergence"):
        again = tiny_run(out, reporter=named)
    assert named.found == [(first.name, f"{file} is missing")]
    assert not again.reused
    assert again.verdicts == first.verdicts
    pd.testing.assert_frame_equal(again.table, first.table)
    assert tiny_run(out).reused


def test_a_changed_run_is_named_where_runs_are_listed(copied_run):
    first, out = copied_run
    path = out / "emergence" / first.name / "verdict.json"
    path.write_text(path.read_text().replace('"open"', '"holds"'))
    (run,) = find_runs(out)
    assert run.damage == "verdict.json was changed: its SHA-256 checksum does not fit"


def test_a_finished_run_is_shown_where_nothing_can_be_written(copied_run, monkeypatch):
    first, out = copied_run
    monkeypatch.setattr(Store, "check_writable", lambda self: pytest.fail("nothing is written"))
    assert tiny_run(out).verdicts == first.verdicts
