"""Grids, cells and runs: merged, stored once, resumed, repeated."""

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

import dualnets
from dualnets import experiments
from dualnets.experiments.emergence import emergence
from dualnets.lab import runner
from dualnets.lab.report import page
from dualnets.lab.stats import Verdict

TINY = {"steps": 20, "members": 2, "evaluation_samples": 512, "snapshots": 3, "depth": 2}


def tiny(tmp_path, **changes):
    return dualnets.run("emergence", scale="smoke", out=tmp_path, **(TINY | changes))


def test_a_flag_replaces_a_field_everywhere_but_where_it_is_pinned():
    found = runner.cells(emergence, "default", {})
    assert [(c.network, c.units, c.augment) for c in found] == [
        ("tree", 2, "keep-root"),
        ("tree", 5, "keep-root"),
        ("tree", 10, "keep-root"),
        ("mlp", 64, "keep-root"),
        ("tree", 10, "keep-nothing"),
    ]
    found = runner.cells(
        emergence,
        "default",
        {"network": ["mlp"], "units": [64], "augment": ["resample-leaves:0.3"]},
    )
    assert [(c.network, c.units, c.augment) for c in found] == [
        ("mlp", 64, "resample-leaves:0.3"),
        ("mlp", 64, "keep-nothing"),
    ]


def test_the_default_run_is_what_it_is_said_to_be():
    for settings in runner.cells(emergence, "default", {}):
        assert (settings.depth, settings.branching) == (5, 2)
        assert (settings.polarity_low, settings.polarity_high) == (0.7, 1.0)
        assert (settings.members, settings.steps, settings.batch) == (16, 2000, 128)
        assert (settings.loss, settings.temperature, settings.negatives) == ("infonce", 0.1, 1)
        assert (settings.lr, settings.bias) == (0.1, False)
    paper = runner.cells(emergence, "paper", {})
    assert {s.polarity_low for s in paper} == {0.7, 0.8, 0.9}
    assert {s.units for s in paper if s.network == "tree"} == {2, 5, 10, 20}
    assert {(s.members, s.steps) for s in paper} == {(30, 10_000)}


def test_a_run_leaves_all_its_files_and_is_found_again(tmp_path, monkeypatch):
    run = tiny(tmp_path)
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
    verdict = json.loads((run.folder / "verdict.json").read_text())
    assert {"claim", "verdict", "rule", "effect", "interval", "n"} <= set(verdict)
    assert verdict["verdict"] == "open"  # two trees cannot tell
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert len(manifest["cells"]) == 4
    assert str(tmp_path) not in (run.folder / "manifest.json").read_text()

    monkeypatch.setattr(emergence, "run_cell", lambda *_: pytest.fail("computed again"))
    again = tiny(tmp_path)
    assert again.reused
    assert again.folder == run.folder
    assert again.verdict == run.verdict
    assert again.table.equals(run.table)


def test_fresh_computes_again_and_gives_the_same_values(tmp_path):
    first = tiny(tmp_path)
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    again = tiny(tmp_path, fresh=True)
    assert not again.reused
    assert (again.folder / "manifest.json").stat().st_mtime_ns > stamp
    pd.testing.assert_frame_equal(again.table, first.table)


def test_runs_share_cells(tmp_path, monkeypatch):
    tiny(tmp_path)
    computed = []
    original = emergence.run_cell
    monkeypatch.setattr(
        emergence, "run_cell", lambda s, *rest: computed.append(s.units) or original(s, *rest)
    )
    run = tiny(tmp_path, units=[2, 7])
    assert sorted(computed) == [2, 2, 7, 7, 7]  # tree 2 is stored; dense and controls are new
    assert run.table["units"].unique().tolist() == [2, 7]


def test_an_interrupted_run_loses_one_cell_at_most(tmp_path, monkeypatch):
    original, calls = emergence.run_cell, []

    def interrupted(settings, *rest):
        calls.append(settings)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(settings, *rest)

    monkeypatch.setattr(emergence, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path)
    assert len(list((tmp_path / "emergence" / "cells").iterdir())) == 2
    run = tiny(tmp_path)
    assert len(calls) == 3 + 2
    assert not run.reused


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """kill -9 in the middle, then the same command: the same values as never killed."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    command = [
        sys.executable, "-c", "import sys; from dualnets.cli import main; sys.exit(main())",
        "run", "emergence", "--scale=smoke", f"--out={tmp_path}", *flags,
    ]  # fmt: skip
    slow = [*command[:2], "import time, dualnets.experiments.emergence as e\n"
            "f = e.run_cell\n"
            "e.run_cell = lambda *a: (f(*a), time.sleep(1))[0]\n" + command[2], *command[3:]]  # fmt: skip
    cells = tmp_path / "emergence" / "cells"
    process = subprocess.Popen(slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not any(cells.glob("[!.]*")) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    stored = [path for path in cells.iterdir() if not path.name.startswith(".")]
    assert 1 <= len(stored) < 4
    stamps = {path: (path / "manifest.json").stat().st_mtime_ns for path in stored}
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(stored)} of them stored" in done.stdout
    assert all((path / "manifest.json").stat().st_mtime_ns == at for path, at in stamps.items())
    found = next((tmp_path / "emergence").glob("[!c]*/results.parquet"))
    never_killed = tiny(tmp_path / "other")
    pd.testing.assert_frame_equal(pd.read_parquet(found), never_killed.table)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("emergense", {}, r"unknown experiment 'emergense' \(did you mean emergence\?\)"),
        ("emergence", {"scale": "huge"}, "unknown scale 'huge', expected one of smoke"),
        ("emergence", {"unit": 3}, r"unknown setting 'unit' \(did you mean units\?\)"),
        ("emergence", {"units": [3, 0]}, "units must be at least 1, got 0"),
        ("emergence", {"device": "tpu0"}, "unknown device 'tpu0', expected auto, cpu or cuda"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message):
        dualnets.run(name, out=tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_the_command_repeats_the_run():
    text = runner.repeat_command("emergence", "smoke", {"units": [2, 5], "augment": ["keep-root"]})
    assert text == "hltm run emergence --scale smoke --units 2 5 --augment keep-root"


def test_a_pages_details_keep_whole_numbers_beside_rows_without_one():
    details = [{"variant": "a", "level": 2}, {"variant": "b", "spread": 0.25}]
    shown = page._details(Verdict("c", "open", "r", "", "e", None, None, 2, details))
    assert "<td>2</td>" in shown
    assert "<td>0.250</td>" in shown
    assert shown.count("<td>–</td>") == 2


def test_settings_without_values_and_settings_that_every_grid_pins_are_refused():
    with pytest.raises(ValueError, match="steps needs a value, or several"):
        runner.cells(emergence, "smoke", {"steps": []})
    with pytest.raises(ValueError, match="variant cannot be set: every cell"):
        runner.cells(experiments.load("methods"), "smoke", {"variant": ["mine"]})


def test_a_setting_without_effect_on_a_cell_leaves_it_as_it_is():
    methods = experiments.load("methods")
    swept = runner.cells(methods, "smoke", {"prototypes": [8, 16]})
    of_swav = [s.prototypes for s in swept if s.method == "swav"]
    others = [s for s in swept if s.method != "swav"]
    assert of_swav[:2] == [8, 16]
    assert len(of_swav) == 2 * sum(s.method == "swav" for s in runner.cells(methods, "smoke", {}))
    plain = runner.cells(methods, "smoke", {})
    assert others == [s for s in plain if s.method != "swav"]


def test_a_setting_without_effect_on_any_cell_is_refused():
    for name, change, of in (
        ("polarity", {"target": ["random"]}, "method byol, and method is simclr"),
        ("polarity", {"readout": ["none"]}, "method teacher-student, and method is simclr"),
        ("polarity", {"margin": [2.0]}, "loss triplet, and loss is infonce"),
        ("polarity", {"optimizer": ["adam"], "momentum": [0.5]}, "optimizer sgd or lars, and"),
        ("polarity", {"final_rate": [0.5]}, "schedule cosine, and schedule is constant"),
        ("polarity", {"network_norm": ["group"], "network_norm_std": ["off"]}, "network-norm batch, and"),
        ("polarity", {"method": ["byol"], "loss": ["triplet"]}, "method simclr, and method is byol"),
        ("polarity", {"method": ["byol"], "redraw": ["top"]}, "redraw-every above 0, and redraw-every is 0"),
        ("polarity", {"method": ["byol"], "target": ["random"], "ema_decay": [0.5]}, "target ema"),
        ("polarity", {"method": ["supervised"], "head_norm": ["none"]}, "byol"),
    ):  # fmt: skip
        flag = [*change][-1].replace("_", "-")
        with pytest.raises(ValueError, match=f"{flag} has no effect here: it applies to .*{of}"):
            runner.cells(experiments.load(name), "smoke", change)
    for change in (
        {"method": ["moco"], "temperature": [0.2]},
        {"method": ["byol"], "head_norm": ["none"], "redraw_every": [5], "redraw": ["top"]},
        {"loss": ["triplet"], "margin": [2.0]},
        {"schedule": ["cosine"], "final_rate": [0.5]},
        {"network_norm": ["group"], "network_norm_groups": [5]},
    ):
        assert runner.cells(experiments.load("polarity"), "smoke", change)


def test_settings_of_the_optimizer_reach_it():
    flags = {
        "momentum": 0.5,
        "nesterov": True,
        "clip": 2.0,
        "schedule": "cosine",
        "final_rate": 0.1,
    }
    made = emergence.Settings(**flags).build_optimizer()
    assert (made.momentum, made.nesterov, made.clip, made.schedule.final) == (0.5, True, 2.0, 0.1)


def test_cells_that_were_stored_before_a_setting_came_are_read_with_it(tmp_path):
    first = tiny(tmp_path)
    later = [item.name for item in dataclasses.fields(emergence.Settings) if item.metadata["later"]]
    assert later
    for file in tmp_path.glob("emergence/cells/*/*.parquet"):
        pd.read_parquet(file).drop(columns=later).to_parquet(file, index=False)
    shutil.rmtree(first.folder)
    again = tiny(tmp_path)
    pd.testing.assert_frame_equal(again.table, first.table)
    assert again.verdict == first.verdict


@pytest.mark.parametrize("name", ["residual", "top_down"])
def test_trees_of_several_seeds_are_told_apart_by_every_experiment(name, tmp_path):
    two = dualnets.run(name, scale="smoke", out=tmp_path, seed=[0, 1], members=2)
    assert two.verdict.n in (4, 0)
    assert two.table["member"].nunique() == 2  # as they were drawn
    assert len(runner.summary_table(two))
