"""Removing runs takes what is theirs alone, and never what could be somebody else's."""

import os
import shutil
import time
from pathlib import Path

import pytest
from made_up_runs import edit, store_run

from dualnets.lab import removal
from dualnets.lab.store import Store
from dualnets.lab.stored_runs import find_runs

HIDDEN = ".0123456789ab-x1y2z3_4"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    store_run(out, "losses", day=1, only=["simple"])
    store_run(out, "losses", day=2, only=["simple", "triplet"])
    store_run(out, "supervised", day=3)
    return out


@pytest.fixture
def out(stored, tmp_path):
    """A folder with two runs that share a cell, and one of another experiment."""
    shutil.copytree(stored, tmp_path / "runs")
    return tmp_path / "runs"


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def run_of(out, experiment, cells):
    (run,) = (r for r in find_runs(out) if r.experiment == experiment and len(r.cells) == cells)
    return run


def aged(path, days=2):
    """Let a file or a folder and all in it be older."""
    for each in [*path.rglob("*"), path]:
        os.utime(each, (time.time() - days * 86_400,) * 2, follow_symlinks=False)
    return path


def test_a_run_goes_with_the_cells_that_no_other_needs(out):
    small, large = run_of(out, "losses", 1), run_of(out, "losses", 2)
    found = removal.of_runs(out, [large])
    (own,) = set(large.cells) - set(small.cells)
    assert found.runs == [large.folder]
    assert found.cells == [out / "losses" / "cells" / own]
    before = tree(out)
    found.remove()
    gone = [f"losses/{large.name}", f"losses/cells/{own}"]
    assert tree(out) == [path for path in before if not path.startswith(tuple(gone))]
    assert [run.damage for run in find_runs(out)] == ["", ""]


def test_two_runs_that_share_a_cell_take_it_along(out):
    both = [run_of(out, "losses", 1), run_of(out, "losses", 2)]
    removal.of_runs(out, both).remove()
    assert tree(out / "losses") == ["cells"]
    assert len(find_runs(out)) == 1


def test_cells_stay_while_a_run_cannot_say_whether_it_needs_them(out):
    small, large = run_of(out, "losses", 1), run_of(out, "losses", 2)
    (large.folder / "manifest.json").write_text("{")
    found = removal.of_runs(out, [small])
    assert found.cells == []
    (reason,) = found.kept
    assert f"run {large.name} may need them" in reason
    assert [p.parent.parent.name for p in removal.unused(out).cells] == []
    # a damaged run itself may go
    removal.of_runs(out, [run for run in find_runs(out) if run.damage]).remove()
    assert not large.folder.exists()
    assert len(removal.unused(out).cells) == 1


@pytest.mark.parametrize(
    "where", ["notes.txt", "networks/mine", "sub/a", "emergence.png", "networks/a.safetensors"]
)
def test_a_run_with_somebody_elses_file_is_refused(out, where):
    run = run_of(out, "losses", 2)
    path = run.folder / where
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    edit(run.folder / "manifest.json", files=["results.parquet", "verdict.json"])
    before = tree(out)
    with pytest.raises(
        ValueError, match="which no run writes: move it away first; nothing is removed"
    ):
        removal.of_runs(out, [run_of(out, "losses", 1), run_of(out, "losses", 2)])
    assert tree(out) == before


def test_files_that_the_manifest_names_are_of_the_run(out):
    run = run_of(out, "losses", 1)
    (run.folder / "small.csv").write_text("")
    edit(run.folder / "manifest.json", files=["small.csv"])
    removal.of_runs(out, [run_of(out, "losses", 1)]).remove()
    assert not run.folder.exists()


@pytest.mark.parametrize("which", ["run", "experiment", "file"])
def test_links_are_not_followed(out, tmp_path, which):
    run = run_of(out, "losses", 1)
    elsewhere = tmp_path / "elsewhere"
    link = {
        "run": run.folder,
        "experiment": out / "losses",
        "file": run.folder / "results.parquet",
    }[which]
    shutil.move(link, elsewhere)
    link.symlink_to(elsewhere)
    before = elsewhere.read_bytes() if elsewhere.is_file() else tree(elsewhere)
    with pytest.raises(
        ValueError, match=r"is a link|is reached by the link losses|has results\.parquet"
    ):
        removal.of_runs(out, [run_of(out, "losses", 1)])
    removal.unused(out).remove()
    assert (elsewhere.read_bytes() if elsewhere.is_file() else tree(elsewhere)) == before


def test_the_folder_of_results_may_be_a_link(out, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(out)
    large = run_of(link, "losses", 2)
    removal.of_runs(link, [large]).remove()
    shutil.rmtree(run_of(out, "losses", 1).folder)
    assert len(removal.unused(link).cells) == 1
    removal.unused(link).remove()
    assert tree(out / "losses") == ["cells"]


def test_a_cell_with_somebody_elses_file_or_without_a_manifest_stays(out):
    run = run_of(out, "supervised", 4)
    cells = [out / "supervised" / "cells" / cell for cell in run.cells]
    (cells[0] / "notes.txt").write_text("mine")
    (cells[1] / "manifest.json").unlink()
    found = removal.of_runs(out, [run])
    assert found.cells == sorted(cells[2:])
    (kept,) = found.kept
    assert kept.startswith(f"{cells[0]} stays, since it has notes.txt")
    found.remove()
    assert sorted((out / "supervised" / "cells").iterdir()) == sorted(cells[:2])


@pytest.mark.parametrize("name", ["..", "../..", "../../../mine", "/mine", ".", ""])
def test_a_manifest_cannot_name_folders_elsewhere_as_cells(out, tmp_path, name):
    run = run_of(out, "losses", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    edit(run.folder / "manifest.json", cells=[{"cell": name, "settings": {}, "seconds": 1.0}])
    found = removal.of_runs(out, [run for run in find_runs(out) if run.experiment == "losses"][:1])
    assert all(path.parent == out / "losses" / "cells" for path in found.cells)


def test_cleaning_takes_unused_cells_and_old_leftovers_alone(out):
    run = run_of(out, "losses", 2)
    shutil.rmtree(run.folder)
    for place in (out / "losses", out / "losses" / "cells"):
        left = place / HIDDEN
        shutil.copytree(run_of(out, "losses", 1).folder, left / "was")
        (left / "networks").mkdir()
        aged(left)
    young = out / "losses" / ".0123456789ab-young123"
    young.mkdir()
    kept = {
        "losses/.0123456789ab-mine1234/notes.txt": "a file of the user",
        "losses/.notes/manifest.json": "another name",
        "losses/.0123456789ab-x1y2z3_5": "a file",
        "supervised/.git/manifest.json": "another name",
        ".0123456789ab-x1y2z3_4/manifest.json": "beside the experiments",
    }
    for name, text in kept.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)
        aged(
            (out / name).parent if "/." in name and name.endswith((".txt", ".json")) else out / name
        )
    found = removal.unused(out)
    assert len(found.cells) == 1
    assert found.leftovers == [out / "losses" / HIDDEN, out / "losses" / "cells" / HIDDEN]
    found.remove()
    assert removal.unused(out).folders == []
    assert all((out / name).read_text() == text for name, text in kept.items())
    assert young.is_dir()
    assert [run.damage for run in find_runs(out)] == ["", ""]


def test_a_leftover_whose_files_are_young_is_of_a_run_that_goes_on(out):
    left = out / "losses" / HIDDEN
    (left / "networks").mkdir(parents=True)
    aged(left)
    (left / "networks" / "a.safetensors").write_text("")
    os.utime(left / "networks", (0, 0))
    os.utime(left, (0, 0))
    assert removal.unused(out).leftovers == []
    aged(left)
    assert removal.unused(out).leftovers == [left]


def test_an_interrupted_removal_leaves_no_damaged_run(out, monkeypatch):
    run = run_of(out, "losses", 1)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(removal.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        removal.of_runs(out, [run]).remove()
    monkeypatch.undo()
    assert run.folder not in [r.folder for r in find_runs(out)]
    assert [r.damage for r in find_runs(out)] == ["", ""]
    (left,) = (p for p in Path(out / "losses").iterdir() if p.name.startswith("."))
    aged(left)
    assert removal.unused(out).leftovers == [left]
    removal.unused(out).remove()
    assert not left.exists()


def test_cells_of_a_run_that_is_being_computed_stay(out):
    """`Store.in_use` is held by every run; twice at once, too. Without the lock they would go."""
    run = run_of(out, "losses", 2)
    store, free = Store(out, "losses"), removal.of_runs(out, [run])
    assert len(free.cells) == 1
    with store.in_use(), store.in_use():
        found = removal.of_runs(out, [run])
        assert (found.cells, found.runs) == ([], [run.folder])
        assert found.kept == [
            "the cells of losses stay, since a run of it is being computed and may need them"
        ]
        shutil.rmtree(run.folder)
        assert removal.unused(out).cells == []
        free.remove()  # planned before the run began
        assert free.cells[0].is_dir()
    assert removal.unused(out).cells == free.cells
    free.remove()
    assert not free.cells[0].exists()
