"""Stored cells and runs that have changed are never believed: they are named, set aside and made again."""

import json
import os
import shutil

import pandas as pd
import pytest
from mutants import check_reader, json_mutant, mutant
from tiny_runs import blank_figures, code_of, tiny_run

from dualnets import _checksums
from dualnets.lab import removal
from dualnets.lab.manifests import DamagedError
from dualnets.lab.reporter import Reporter
from dualnets.lab.store import Store
from dualnets.lab.stored_runs import find_runs


class Named(Reporter):
    """Keeps what is reported as damaged."""

    def __init__(self):
        self.found = []

    def damaged(self, folder, reason):
        self.found.append((folder.name, reason))


def content(found):
    """A cell without its checksum, which may be the one thing that has changed."""
    table, manifest = found
    return table.to_dict("list"), {k: v for k, v in manifest.items() if "checksum" not in k}


def damaged_or_the_same(out, count):
    """Damage a cell's files, one at a time: how many of the changes were found."""
    store = Store(out, "emergence")
    cell = min(store.cell("").iterdir())
    before = repr(content(store.read_cell(cell.name)))

    def check(found):  # another cell is a fault, as is any other error
        assert repr(content(found)) == before

    files = [path for path in sorted(cell.rglob("*")) if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".parquet", ".safetensors"}
    return sum(
        check_reader(
            path, lambda: store.read_cell(cell.name), DamagedError, count, check,
            json_mutant if path.suffix == ".json" else mutant,
        )
        for path in files
    )  # fmt: skip


def test_no_change_of_a_cell_changes_what_is_read(copied_run, monkeypatch):
    monkeypatch.setattr("dualnets.lab.store.READ_ATTEMPTS", 0)
    assert damaged_or_the_same(copied_run[1], 15) > 0.9 * 60


@pytest.mark.slow
def test_no_change_of_thousands(copied_run, monkeypatch):
    monkeypatch.setattr("dualnets.lab.store.READ_ATTEMPTS", 0)
    assert damaged_or_the_same(copied_run[1], 1000) > 0.9 * 4000


def damaged_runs(out, name, count):
    """Damage a run's files, one at a time: it is listed, as it was or with its damage, in every case."""
    (before,) = find_runs(out)

    def check(runs):
        assert runs[0].damage or repr(runs[0].verdicts) == repr(before.verdicts)
        assert "\n" not in runs[0].damage
        assert len(runs[0].damage) < 300

    for path in sorted((out / "emergence" / name).glob("*.json")):
        check_reader(path, lambda: find_runs(out), (), count, check, json_mutant)


def test_a_damaged_run_is_listed_as_it_was_or_with_its_damage(copied_run):
    damaged_runs(copied_run[1], copied_run[0].name, 20)


@pytest.mark.slow
def test_thousands_of_damaged_runs_are_listed(copied_run):
    damaged_runs(copied_run[1], copied_run[0].name, 1000)


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

    def run_and_look(*given):
        computed.append(
            removal._in_use(out / "emergence")
        )  # or `hltm runs clean` would take the cells
        return original(*given)

    monkeypatch.setattr(code, "run_cell", run_and_look)
    monkeypatch.setattr("dualnets.lab.store.READ_ATTEMPTS", 0)
    named = Named()
    with blank_figures("emergence"):
        again = tiny_run(out, reporter=named)
    assert computed == [True] * 3
    pd.testing.assert_frame_equal(again.table, first.table)
    reasons = dict(named.found)
    assert reasons[one.name] == "results.parquet was changed: its SHA-256 checksum does not fit"
    assert reasons[other.name] == f"it is a copy of cell {whole.name}"
    assert "networks/" in reasons[third.name]
    assert reasons[third.name].endswith("is missing")
    aside = [p for p in one.parent.iterdir() if p.name.startswith(f".{one.name}-damaged-")]
    assert len(aside) == 1  # what was there is not lost


@pytest.mark.parametrize(
    "file",
    [
        "results.parquet",
        "verdict.json",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("index.html", "emergence.png")),
    ],
)
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


def unsigned(folder):
    """Make a run or a cell one of an earlier version, without checksums."""
    path = folder / "manifest.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if "checksum" not in k}
    path.write_text(json.dumps(kept))


def signed(folder, **changes):
    """Edit a manifest, and let its own checksum fit."""
    path = folder / "manifest.json"
    changed = json.loads(path.read_text()) | changes
    del changed["checksum"]
    path.write_text(json.dumps(changed | {"checksum": _checksums._checksum_of(changed)}))


def replaced_by_a_pipe(run, cell):
    for path in (run / "index.html", cell / "networks" / "final.safetensors"):
        path.unlink()
        os.mkfifo(path)


def tables_of_others(run, cell):
    other = next(p for p in cell.parent.iterdir() if p != cell)
    for folder in (run, cell):
        unsigned(folder)
        shutil.copy(other / "results.parquet", folder)


def tables_of_earlier_versions_changed(run, cell):
    for folder in (run, cell):
        unsigned(folder)
        path = folder / "results.parquet"
        content = bytearray(path.read_bytes())
        content[-40] ^= 255
        path.write_bytes(content)


def lists_of_checksums(run, cell):
    signed(run, checksums=["a"])
    signed(cell, checksums={"../a": "b"})


def verdicts_without_reasons(run, cell):
    unsigned(run)
    (run / "verdict.json").write_text('[{"name": "", "claim": "a", "verdict": "open"}]')
    signed(cell, checksums=None)


@pytest.mark.parametrize(
    ("change", "of_run", "of_cell"),
    [
        (replaced_by_a_pipe, "index.html is (missing|no file)", "networks/final.safetensors is no file"),
        (tables_of_others, r"results.parquet is not of \w{12}", r"results.parquet is not of \w{12}"),
        (tables_of_earlier_versions_changed, "results.parquet cannot be read", "cannot be read"),
        (lists_of_checksums, "checksums in manifest.json are not of files", "are not of files of its"),
        (verdicts_without_reasons, "verdict.json has no 'reference'", "are not of files of its folder"),
    ],
)  # fmt: skip
def test_other_damage_is_named(copied_run, monkeypatch, change, of_run, of_cell):
    monkeypatch.setattr("dualnets.lab.store.READ_ATTEMPTS", 0)
    first, out = copied_run
    store, cell = Store(out, "emergence"), min((out / "emergence" / "cells").iterdir())
    store.check_run(first.name)
    store.check_cell(cell.name)
    change(out / "emergence" / first.name, cell)
    for check, name, message in (
        (store.check_run, first.name, of_run),
        (store.check_cell, cell.name, of_cell),
    ):
        with pytest.raises(DamagedError, match=message) as caught:
            check(name)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)
    find_runs(out)  # no damage stops the list


def test_undamaged_cells_of_earlier_versions_are_read(copied_run):
    first, out = copied_run
    store, cell = Store(out, "emergence"), min((out / "emergence" / "cells").iterdir())
    for folder in (out / "emergence" / first.name, cell):
        unsigned(folder)
    store.check_run(first.name)
    store.check_cell(cell.name)


def test_what_is_no_folder_is_set_aside_before_anything_is_computed(copied_run, monkeypatch):
    first, out = copied_run
    run, cell = out / "emergence" / first.name, min((out / "emergence" / "cells").iterdir())
    for place in (run, cell):
        shutil.rmtree(place)
    run.write_text("somebody's")
    cell.symlink_to(out / "nowhere")
    other = next(p for p in cell.parent.iterdir() if p.is_dir())
    (other / "networks" / "mine").mkdir()  # what someone else put there is left alone
    named = Named()
    with blank_figures("emergence"):
        again = tiny_run(out, reporter=named)
    assert named.found == [(run.name, "it is no folder"), (cell.name, "it is no folder")]
    pd.testing.assert_frame_equal(again.table, first.table)
    (aside,) = (out / "emergence").glob(f".{run.name}-damaged-*")
    assert aside.read_text() == "somebody's"


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
