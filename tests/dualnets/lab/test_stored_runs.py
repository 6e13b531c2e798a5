"""Runs in a folder are found, checked, and named by what one can type."""

import dataclasses
import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import DATE, edit, store_run

from dualnets import experiments
from dualnets.lab.stored_runs import (
    changed_flags,
    find_runs,
    named,
    read_run,
    short_names,
    shown_size,
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Three runs of two experiments: do not change them."""
    out = tmp_path_factory.mktemp("a folder [of] runs")
    store_run(out, "losses", day=3, only=["simple"])
    store_run(out, "losses", day=1, only=["simple", "triplet"], steps=[7], seed=[0, 1])
    store_run(out, "supervised", day=2)
    return out


@pytest.fixture
def copied(stored, tmp_path):
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_runs_are_found_newest_first(stored):
    runs = find_runs(stored)
    assert [(run.experiment, run.date) for run in runs] == [
        ("losses", DATE.format(3)), ("supervised", DATE.format(2)), ("losses", DATE.format(1)),
    ]  # fmt: skip
    assert [len(run.cells) for run in runs] == [1, 4, 4]
    assert not any(run.damage for run in runs)
    newest = runs[0]
    files = [*newest.folder.rglob("*"), *(stored / "losses" / "cells" / newest.cells[0]).rglob("*")]
    assert newest.size == sum(path.stat().st_size for path in files if path.is_file())


def test_a_manifest_without_a_date_has_that_of_its_file(copied):
    run = find_runs(copied)[0]
    for date in (None, "yesterday", 5):
        edit(run.folder / "manifest.json", date=date)
        os.utime(run.folder / "manifest.json", (0, 86_400))
        assert read_run(run.folder).date == "1970-01-02T00:00:00Z"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("manifest.json", "{", "manifest.json is no JSON"),
        ("manifest.json", "\udcff", "manifest.json is no JSON"),
        ("manifest.json", "[" * 100_000, "manifest.json is no JSON"),
        ("manifest.json", "[]", "manifest.json is no JSON object"),
        ("manifest.json", {"scale": None}, "manifest.json has no 'scale'"),
        ("manifest.json", {"command": 3}, "'command' in manifest.json is 3"),
        ("manifest.json", {"cells": {}}, "'cells' in manifest.json is no list"),
        ("manifest.json", {"cells": []}, "'cells' in manifest.json is empty"),
        ("manifest.json", {"scale": "\udcff"}, "'scale' in manifest.json is"),
        ("manifest.json", {"files": 5}, "'files' in manifest.json is no list of names"),
        ("manifest.json", {"files": [{}]}, "'files' in manifest.json is no list of names"),
        *[
            (
                "manifest.json",
                {"cells": [{"cell": "a", "settings": {}, "seconds": seconds}]},
                "'seconds' in",
            )
            for seconds in (float("inf"), float("nan"), 10**400, True)
        ],
        ("results.parquet", "PAR1 cut PAR1", "results.parquet is cut off, or no Parquet file"),
        ("manifest.json", {"cells": [3]}, "an entry of 'cells' in manifest.json is no JSON object"),
        ("manifest.json", {"cells": [{"cell": "a"}]}, "has no 'settings'"),
        (
            "manifest.json",
            {"run": "0123456789ab"},
            "manifest.json is a copy of that of losses/0123456789ab",
        ),
        ("verdict.json", None, "verdict.json is missing"),
        ("verdict.json", '{"verdict": "holds"}', "verdict.json is no list"),
        ("verdict.json", "[{}]", "an entry of verdict.json has no 'name'"),
        ("results.parquet", None, "results.parquet is missing"),
        ("results.parquet", "PAR1", "results.parquet is cut off, or no Parquet file"),
        ("results.parquet", "", "results.parquet is cut off, or no Parquet file"),
    ],
)
def test_a_damaged_run_is_found_with_its_reason_beside_the_others(copied, file, content, reason):
    whole = find_runs(copied)
    path = whole[0].folder / file
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        edit(path, **content)
    else:
        path.write_text(content, errors="surrogateescape")
    runs = find_runs(copied)
    (damaged,) = (run for run in runs if run.damage)
    assert damaged.folder == whole[0].folder
    assert reason in damaged.damage
    assert "\n" not in damaged.damage
    assert {run.folder for run in runs} == {run.folder for run in whole}


@pytest.mark.parametrize(
    "effect", [{"effect_value": "x"}, {"interval": [1]}, {"interval": 3}, {"interval": [0, "x"]}]
)
def test_an_effect_that_is_no_number_is_damage(copied, effect):
    run = find_runs(copied)[0]
    verdicts = json.loads((run.folder / "verdict.json").read_text())
    (run.folder / "verdict.json").write_text(json.dumps([verdicts[0] | effect]))
    assert "is no number with an interval" in read_run(run.folder).damage


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["run", "cells", "cell", "settings", "scale"]),
                                      inner, max_size=4), max_leaves=8))  # fmt: skip
def test_any_json_in_place_of_a_manifest_is_damage_and_no_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("runs") / "losses" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(content))
    (run,) = find_runs(folder.parents[1])
    assert run.damage


@pytest.mark.parametrize("file", ["verdict.json", "results.parquet"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_damage_and_is_not_waited_for(copied, file, make):
    path = find_runs(copied)[0].folder / file
    path.unlink()
    make(path)
    assert find_runs(copied)[0].damage == f"{file} is no file"


def test_cells_of_a_copied_manifest_are_not_known(copied):
    first, _, last = find_runs(copied)
    shutil.copy(first.folder / "manifest.json", last.folder / "manifest.json")
    assert read_run(last.folder).cells is None


def test_what_is_no_run_is_not_found(copied):
    whole = len(find_runs(copied))
    for name in ("losses/abcdefabcdef", "losses/notes", "losses/.abcdefabcdef-x1234567", "mine"):
        (copied / name).mkdir()
    shutil.copy(find_runs(copied)[0].folder / "manifest.json", copied / "losses" / "notes")
    shutil.copytree(find_runs(copied)[0].folder, copied / "losses" / ".0123456789ab-y1234567")
    (copied / "file").write_text("")
    assert len(find_runs(copied)) == whole


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="none does not exist, expected a folder of results"):
        find_runs(tmp_path / "none")
    with pytest.raises(ValueError, match="file is no folder, expected a folder of results"):
        find_runs(tmp_path / "file")
    assert find_runs(tmp_path) == []


def test_any_unique_beginning_of_a_name_is_understood(stored):
    runs, out = find_runs(stored), str(stored)
    short = short_names(runs)
    for run in runs:
        assert len(short[run.folder]) >= 4
        flag = run.experiment
        path = os.path.relpath(run.folder)
        for text in (short[run.folder], run.name, f"{flag}/{run.name[:5]}", f"{run.folder}",
                     f"{flag}/{run.name}/", path, f"./{path}"):  # fmt: skip
            assert named(text, runs, out) == run
    assert named("supervised", runs, out).experiment == "supervised"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("losses", "'losses' is 2 runs: 'losses/"),
        ("losses/", "'losses/' is 2 runs"),
        ("", "there is no run '' in"),
        ("/", "there is no run '/' in"),
        ("zzzz", "there is no run 'zzzz' in .*; hltm runs lists them"),
        ("losses/zz", "there is no run 'losses/zz'"),
        ("../losses", r"there is no run '../losses'"),
        ("[b]\n", r"there is no run '\[b\]\\n'"),
    ],
)
def test_a_name_of_no_run_or_of_several_is_refused(stored, text, message):
    with pytest.raises(ValueError, match=message):
        named(text, find_runs(stored), str(stored))
    with pytest.raises(ValueError, match="holds no runs"):
        named(text, [], "runs")


def test_short_names_grow_until_they_are_unique(copied):
    first = find_runs(copied)[0]
    for other in ("1234567890ab", "1234567990ab", "1235000000ab"):
        shutil.copytree(first.folder, copied / "losses" / other)
    names = {folder.name: short for folder, short in short_names(find_runs(copied)).items()}
    assert names["1234567890ab"] == "12345678"
    assert names["1235000000ab"] == "1235"


def test_what_differs_from_the_scale_is_as_one_would_type_it(stored):
    losses = experiments.load("losses")
    first, _, last = find_runs(stored)
    assert changed_flags(first, losses) == ["--only simple"]
    assert changed_flags(last, losses) == ["--only simple triplet", "--steps 7", "--seed 0 1"]
    assert changed_flags(last, None) == ["--only simple triplet", "--steps 7", "--seed 0 1"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("hltm run losses --scale smoke --seed 0", []),  # the default of the field
        ("hltm run losses --scale smoke --seed 1", ["--seed 1"]),
        ("hltm run losses --scale smoke --gone 1 'a b'", ["--gone 1 'a b'"]),
        ("hltm run losses 'open", []),
        ("", []),
    ],
)
def test_flags_that_repeat_the_scale_are_left_out(copied, command, expected):
    run = find_runs(copied)[0]
    edit(run.folder / "manifest.json", command=command)
    assert changed_flags(read_run(run.folder), experiments.load("losses")) == expected


def test_a_range_that_repeats_the_scale_is_left_out(copied):
    run = find_runs(copied)[0]
    losses = dataclasses.replace(experiments.load("losses"), grids={"smoke": [{"seed": range(4)}]})
    for seeds, expected in (("0:4", []), ("0:5", ["--seed 0:5"])):
        command = f"hltm run losses --scale smoke --seed {seeds}"
        edit(run.folder / "manifest.json", command=command)
        assert changed_flags(read_run(run.folder), losses) == expected


@pytest.mark.parametrize(("size", "shown"), [(0, "0 kB"), (1, "1 kB"), (2.5e9, "2.5 GB")])
def test_sizes_are_readable(size, shown):
    assert shown_size(size) == shown
