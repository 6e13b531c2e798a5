"""A dry run names the cells of a run, and estimates what they take from cells that are stored."""

import pytest
from made_up_runs import edit, store_run

from dualnets import experiments
from dualnets.lab.dry_run import plan, shown_seconds

LOSSES = experiments.load("losses")
FEW = {"scale": "smoke", "only": ["simple", "triplet"]}


def test_nothing_is_known_without_stored_cells_and_nothing_is_written(tmp_path):
    found = plan(LOSSES, out=tmp_path / "none", **FEW)
    assert [cell.stored for cell in found.cells] == [False, False]
    assert found.shown == ["variant"]
    assert list(found.summary()) == [
        "2 cells: 0 stored, 2 to compute",
        "time and memory: nothing is known, since no cell of this experiment is stored",
    ]
    assert list(tmp_path.iterdir()) == []


def test_stored_cells_are_read_unless_the_run_is_fresh(tmp_path):
    store_run(tmp_path, only=["simple"])
    found = plan(LOSSES, out=tmp_path, **FEW)
    assert [cell.stored for cell in found.cells] == [True, False]
    assert [cell.stored for cell in plan(LOSSES, out=tmp_path, fresh=True, **FEW).cells] == [
        False
    ] * 2
    both = plan(LOSSES, out=tmp_path, scale="smoke", only=["simple"])
    assert list(both.summary()) == ["1 cell: 1 stored, 0 to compute"]


def test_estimates_are_those_of_the_most_similar_cells_in_proportion(tmp_path):
    store_run(tmp_path, only=["simple"])
    (cell,) = (tmp_path / "losses" / "cells").iterdir()
    edit(cell / "manifest.json", seconds=30.0, peak_memory=10**9)
    store_run(tmp_path, only=["triplet"], steps=[300])
    found = plan(LOSSES, out=tmp_path, scale="smoke", only=["simple"], steps=[300], workers=1)
    (estimate,) = found.estimates
    assert estimate.seconds == pytest.approx(60.0)
    assert estimate.memory == 1e9
    size = sum(path.stat().st_size for path in cell.rglob("*") if path.is_file())
    assert estimate.disk == pytest.approx(size)
    assert list(found.summary()) == [
        "1 cell: 0 stored, 1 to compute",
        "time: about 1 min 0 s of computation",
        "memory: about 1.0 GB for each process",
        f"disk: about {-(-size // 1000)} kB",
        "(from 2 stored cells, in proportion to steps, members, batch)",
    ]
    larger = plan(LOSSES, out=tmp_path, scale="smoke", only=["simple"], steps=[1500])
    (far,) = larger.estimates
    assert far.seconds == pytest.approx(300.0)
    assert far.ratio == 10
    lines = list(larger.summary())
    assert lines[1] == "time: at most about 5 min 0 s of computation"
    assert lines[-2].startswith("These cells are up to 10 times as large as the stored ones, whose")
    assert all(len(line) <= 80 for line in lines)


def test_processes_share_the_time_and_unmeasured_memory_is_unknown(tmp_path):
    store_run(tmp_path, only=["simple"])
    (cell,) = (tmp_path / "losses" / "cells").iterdir()
    edit(cell / "manifest.json", seconds=30.0, peak_memory=None)
    lines = list(
        plan(
            LOSSES, out=tmp_path, workers=2, seed=[1, 2, 3], scale="smoke", only=["simple"]
        ).summary()
    )
    assert lines[1] == "time: about 1 min 30 s of computation, 45 s with 2 processes"
    assert lines[2] == "memory: nothing is known, since the stored cells did not measure it"


def test_damaged_cells_are_no_help_and_no_hindrance(tmp_path):
    store_run(tmp_path, only=["simple"])
    (cell,) = (tmp_path / "losses" / "cells").iterdir()
    (cell / "manifest.json").write_text("{")
    assert plan(LOSSES, out=tmp_path, **FEW).known == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "huge"}, "unknown scale 'huge'"),
        (
            {"only": ["smple"]},
            r"unknown variant 'smple' \(did you mean 'simple'\?\), expected some of",
        ),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"units": [0]}, "units must be at least 1"),
    ],
)
def test_what_cannot_be_run_cannot_be_planned(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        plan(LOSSES, out=tmp_path, **changes)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (3599.9, "1 h 0 min"), (9e4, "25 h 0 min")],
)
def test_times_are_readable(seconds, shown):
    assert shown_seconds(seconds) == shown
