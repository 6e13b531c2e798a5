"""Runs: stored once, resumed, repeated."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from made_up_runs import edit
from tiny_runs import FLAGS, blank_figures, code_of, tiny_run

import dualnets
from dualnets import experiments
from dualnets.cli import main
from dualnets.lab import runner

EMERGENCE = experiments.load("emergence")


def test_a_run_leaves_all_its_files_and_is_found_again(stored, monkeypatch):
    run, _, out = stored
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "results.parquet", "manifest.json", "verdict.json", "networks", "emergence.png",
        "emergence.svg", "index.html",
    }  # fmt: skip
    wanted = (
        "experiment run cell member network units polarity_low polarity_high loss augment step level "
        "node metric candidates value initial null ceiling n"
    )
    assert set(wanted.split()) <= set(run.table.columns)
    assert len(list((run.folder / "networks").glob("*.safetensors"))) == 2 * 4
    (verdict,) = json.loads((run.folder / "verdict.json").read_text())
    assert {"claim", "reference", "verdict", "rule", "effect", "interval", "n"} <= set(verdict)
    assert verdict["verdict"] == "open"
    assert verdict["reason"].startswith("the smoke scale only shows that everything runs")
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert len(manifest["cells"]) == 4
    assert all(cell["cpu_seconds"] > 0 for cell in manifest["cells"])
    assert str(out) not in (run.folder / "manifest.json").read_text()

    monkeypatch.setattr(code_of("emergence"), "run_cell", lambda *_: pytest.fail("computed again"))
    again = tiny_run(out)
    assert again.reused
    assert again.folder == run.folder
    assert again.verdicts == run.verdicts
    assert again.table.equals(run.table)


@pytest.mark.slow
def test_fresh_computes_again_and_gives_the_same_values(copied_run):
    first, out = copied_run
    manifest = out / "emergence" / first.name / "manifest.json"
    stamp = manifest.stat().st_mtime_ns
    with blank_figures("emergence"):
        again = tiny_run(out, fresh=True)
    assert not again.reused
    assert manifest.stat().st_mtime_ns > stamp
    pd.testing.assert_frame_equal(again.table, first.table)


def test_runs_share_cells(copied_run, monkeypatch):
    _, out = copied_run
    computed = []
    code = code_of("emergence")
    original = code.run_cell
    monkeypatch.setattr(
        code, "run_cell", lambda s, *rest: computed.append(s.units) or original(s, *rest)
    )
    with blank_figures("emergence"):
        run = tiny_run(out, units=[2, 7])
    assert sorted(computed) == [2, 2, 7, 7, 7]  # tree 2 is stored; dense and controls are new
    assert run.table["units"].unique().tolist() == [2, 7]


def test_an_interrupted_run_loses_one_cell_at_most(tmp_path, stored, monkeypatch):
    code, calls = code_of("emergence"), []
    original = code.run_cell

    def interrupted(settings, *rest):
        calls.append(settings)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(settings, *rest)

    monkeypatch.setattr(code, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path)
    assert len(list((tmp_path / "emergence" / "cells").iterdir())) == 2
    with blank_figures("emergence"):
        run = tiny_run(tmp_path)
    assert len(calls) == 3 + 2
    assert not run.reused
    pd.testing.assert_frame_equal(run.table, stored[0].table)


@pytest.mark.slow
def test_a_killed_run_continues_where_it_was(tmp_path, stored, capsys):
    """kill -9 in the third cell, then the same command: the same values as never killed."""
    arguments = ["run", "emergence", "--scale=smoke", f"--out={tmp_path}", *FLAGS]
    script = f"""
import importlib, time
from dualnets import experiments
from dualnets.cli import main
code = importlib.import_module(experiments.load("emergence").code)
original, calls = code.run_cell, []
def run_cell(*cell):
    calls.append(cell)
    if len(calls) == 3:
        time.sleep(600)
    return original(*cell)
code.run_cell = run_cell
main({arguments!r})
"""
    cells = tmp_path / "emergence" / "cells"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(list(cells.glob("[!.]*"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = [path for path in cells.iterdir() if not path.name.startswith(".")]
    stamps = {path: (path / "manifest.json").stat().st_mtime_ns for path in found}
    assert len(stamps) == 2
    with blank_figures("emergence"):
        assert main(arguments) == 0
    assert "2 of them stored" in capsys.readouterr().out
    assert all((path / "manifest.json").stat().st_mtime_ns == at for path, at in stamps.items())
    (results,) = (tmp_path / "emergence").glob("*/results.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(results), stored[0].table)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("emergense", {}, r"unknown experiment 'emergense' \(did you mean emergence\?\)"),
        ("emergence", {"scale": "huge"}, "unknown scale 'huge', expected one of smoke"),
        ("emergence", {"unit": 3}, r"unknown setting 'unit' \(did you mean units\?\)"),
        ("emergence", {"units": [3, 0]}, "units must be at least 1, got 0"),
        (
            "emergence",
            {"device": "tpu0"},
            "unknown device 'tpu0', expected auto, cpu, cuda",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message):
        dualnets.run(name, out=tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_settings_of_the_optimizer_reach_it():
    flags = {
        "momentum": 0.5,
        "nesterov": True,
        "clip": 2.0,
        "schedule": "cosine",
        "final_rate": 0.1,
    }
    made = EMERGENCE.Settings(**flags).build_optimizer()
    assert (made.momentum, made.nesterov, made.clip, made.schedule.final) == (0.5, True, 2.0, 0.1)


def test_what_was_stored_before_a_setting_was_added_is_read_with_it(copied_run):
    """Both cells and whole runs, whose summary may ask for any setting."""
    first, out = copied_run
    later = [
        item.name
        for item in dataclasses.fields(EMERGENCE.Settings)
        if item.metadata["stored"].later
    ]
    assert later
    for file in out.glob("emergence/**/*.parquet"):
        pd.read_parquet(file).drop(columns=later).to_parquet(file, index=False)
        edit(file.parent / "manifest.json")
    reused = tiny_run(out)
    assert reused.reused
    pd.testing.assert_frame_equal(reused.table, first.table)
    runner.summary_table(EMERGENCE, reused)
    shutil.rmtree(out / "emergence" / first.name)
    with blank_figures("emergence"):
        again = tiny_run(out)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert again.verdicts == first.verdicts


@pytest.mark.parametrize("name", ["residual", pytest.param("top_down", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_trees_of_several_seeds_are_kept_apart_by_every_experiment(name, tmp_path):
    with blank_figures(name):
        two = dualnets.run(name, scale="smoke", out=tmp_path, seed=[0, 1], members=2)
    assert two.verdicts[0].n in (4, 0)
    assert two.table["member"].nunique() == 2  # as they were drawn
    assert len(runner.summary_table(experiments.load(name), two))
