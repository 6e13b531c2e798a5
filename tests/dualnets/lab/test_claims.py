"""Claims: from stored runs to the table of a page."""

import dataclasses
import re
import shutil
import sys
from pathlib import Path

import pytest
from tiny_runs import blank_figures

import dualnets
from dualnets import experiments
from dualnets.cli import main
from dualnets.lab import claims, rules
from dualnets.lab.grids import run_name

ROOT = Path(__file__).resolve().parents[3]
NAMES = experiments.names()
DECLARED = {name: experiments.load(name) for name in NAMES}  # before one is made small
SAVED = ROOT / "benchmarks" / "claims"
FOUND = claims.ClaimResult(
    experiment="emergence",
    name="levels",
    claim="It emerges | or not",
    reference="somewhere",
    verdict="holds",
    measured="gap closed",
    effect=0.76,
    low=0.73,
    high=0.78,
    n=16,
    of="trees",
    reason="it grew",
    scale="default",
    run="abc",
    flat=True,
    command="hltm run emergence",
    cpu_seconds=12.3,
)


@pytest.fixture(scope="module", autouse=True)
def small_default():
    """One experiment has a tiny default scale; names of runs are made once."""
    experiment = experiments.load("depth_and_width")
    small = {"steps": [20], "evaluation_samples": [512], "snapshots": [2]}
    own = [grid | small for grid in experiment.grids["smoke"][:2]]
    grids = {**experiment.grids, "default": own}
    found = {}

    def name_of(experiment, *given, **changes):
        key = (experiment.name, given, str(changes))
        if key not in found:
            found[key] = run_name(experiment, *given, **changes)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "run_name", name_of)
        small = dataclasses.replace(experiment, grids=grids)
        patch.setattr(sys.modules[experiment.module], "EXPERIMENT", small)
        yield


@pytest.fixture(scope="module")
def every(small_default):
    return [experiments.load(name) for name in NAMES]


@pytest.fixture(scope="module")
def out(tmp_path_factory, small_default):
    """A folder with a stored run of a whole scale, its repetition, and one with other settings."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"members": 2, "steps": 2, "evaluation_samples": 512}
    with blank_figures("depth_and_width"):
        for changes in ({}, small, {"seed": 3}):
            dualnets.run("depth_and_width", out=folder, **changes)
    return folder


def test_the_page_says_what_the_stored_results_say():
    page = (ROOT / "benchmarks" / "claims.md").read_text()
    assert claims.insert_table(claims.table(SAVED), page) == page, (
        "hltm claims --markdown benchmarks/claims.md writes it"
    )


def may_be_missing(name):
    """Those on pictures and on predicted leaves, which are stored as far as they were run."""
    file = Path(experiments.__file__).parent / "prediction" / f"{name}.py"
    return "fashion" in DECLARED[name].grids or file.is_file()


@pytest.mark.parametrize("scale", claims.SCALES)
@pytest.mark.parametrize("seeds", [[], [1], [0, 1]], ids=["as it stands", "again", "pooled"])
def test_stored_results_are_of_claims_there_are(scale, seeds):
    found = claims.load(claims.results_folder(SAVED, scale, seeds))
    changes = {"seed": seeds} if seeds else {}
    if scale == "default":
        those = [name for name in NAMES if claims.can_run(DECLARED[name], scale, seeds)]
        there = list(dict.fromkeys(result.experiment for result in found))
        assert there == [name for name in those if name in there or not may_be_missing(name)]
    for experiment in dict.fromkeys(result.experiment for result in found):
        declared = DECLARED[experiment]
        own = [result for result in found if result.experiment == experiment]
        assert [(each.name, each.claim, each.reference) for each in own] == [
            (claim.name, claim.text, claim.reference) for claim in declared.claims
        ]
        assert {each.run for each in own} == {run_name(declared, scale, **changes)}
        assert {each.scale for each in own} == {scale}


def test_only_a_whole_scale_counts(out, every):
    found = claims.stored(every, out)
    (result,) = (each for each in found if each.experiment == "depth_and_width")
    assert result.scale == "default"
    assert result.n == 12
    assert result.run == run_name(experiments.load("depth_and_width"), "default")
    assert result.cpu_seconds > 0
    others = [each for each in found if each.experiment != "depth_and_width"]
    assert {each.verdict for each in others} == {"not run"}
    long = claims.stored(every, out, "long")
    assert {each.experiment for each in long} == {e.name for e in every if "long" in e.grids}
    assert {each.verdict for each in [*long, *claims.stored(every, out, "paper")]} <= {"not run"}


def test_every_claim_has_a_name_where_there_are_several(every):
    for experiment in every:
        names = [claim.name for claim in experiment.claims]
        assert len(set(names)) == len(names)
        assert all(names) or len(names) == 1


def test_runs_of_another_seed_are_those_of_this_seed_alone(out):
    pair = [experiments.load(name) for name in ("depth_and_width", "emergence")]
    for seeds, ran in (((), 1), ([3], 1), ([4], 0), ([0, 3], 0)):
        found = [each for each in claims.stored(pair, out, seeds=seeds) if each.run]
        assert len(found) == ran
    (again,) = (each for each in claims.stored(pair, out, seeds=[3]) if each.run)
    (first,) = (each for each in claims.stored(pair, out) if each.run)
    assert (
        again.run == run_name(experiments.load("depth_and_width"), "default", seed=3) != first.run
    )
    assert "--seed 3" in again.command
    # runs with an experiment's own seeds are no repetitions
    use = experiments.load("use")
    assert [claims.can_run(use, "default", own) for own in ([], [0], [2], [3], [0, 1])] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert claims.stored(pair, out, seeds=[0]) == []
    assert again.effect != first.effect


def test_claims_are_saved_and_loaded_whole(tmp_path):
    other = dataclasses.replace(FOUND, name="root", flat=None)
    missing = claims.ClaimResult("lucky", "", "not run yet", "nowhere")
    assert claims.save([FOUND, missing, other], tmp_path, NAMES) == [FOUND, other]
    assert claims.load(tmp_path) == [FOUND, other]
    (tmp_path / "gone.json").write_text("{}")
    newer = dataclasses.replace(FOUND, n=20)
    claims.save([newer], tmp_path, NAMES)
    assert [file.name for file in tmp_path.iterdir()] == ["emergence.json"]
    assert claims.load(tmp_path) == [newer]


def test_other_scales_and_seeds_are_columns_of_the_table(tmp_path):
    root = dataclasses.replace(FOUND, name="root")
    longer = dataclasses.replace(FOUND, scale="long", verdict="fails", effect=0.5, low=None)
    claims.save([FOUND, root], tmp_path, NAMES)
    claims.save([longer], claims.results_folder(tmp_path, "long"), NAMES)
    claims.save([root], claims.results_folder(tmp_path, "default", [1]), NAMES)
    claims.save([longer], claims.results_folder(tmp_path, "long", [2, 3]), NAMES)
    head, _, first, second = claims.table(tmp_path).splitlines()
    assert head.endswith("| run | again, seed 1 | long scale | long scale, seeds 2, 3 pooled |")
    assert first.endswith("| default abc, 12 CPU s |  | **fails** 0.50 | **fails** 0.50 |")
    assert second.endswith("| default abc, 12 CPU s | **holds** 0.76 [0.73, 0.78] |  |  |")


ON_TREES = dataclasses.replace(FOUND, experiment="byol_ablation", name="predictor")
ON_PICTURES = dataclasses.replace(
    ON_TREES, experiment="image_byol", verdict="open", effect=0.2, low=None, n=12, of="networks",
    partner="byol-ablation: predictor",
)  # fmt: skip


def test_claims_on_pictures_stand_beside_those_on_trees():
    fashion = dataclasses.replace(ON_PICTURES, verdict="fails", n=6, scale="fashion")
    gone = dataclasses.replace(ON_PICTURES, name="gone", partner="byol-ablation: gone")
    alone = dataclasses.replace(ON_PICTURES, name="alone", partner="")
    results = {"default": [ON_TREES, ON_PICTURES, gone, alone], "long": [], "fashion": [fashion]}
    (pair,) = claims.side_by_side(results)
    assert pair.trees == ON_TREES
    assert pair.pictures == {"default": ON_PICTURES, "fashion": fashion}
    head, _, line = claims.partners_markdown([pair]).splitlines()
    assert (
        head == "| on trees, on pictures | on trees | on pictures, default | on pictures, fashion |"
    )
    assert line == (
        "| `byol-ablation: predictor`<br>`image-byol: predictor` | **holds** 0.76 [0.73, 0.78], n = 16 trees "
        "| **open** 0.20, n = 12 networks | **fails** 0.20, n = 6 networks |"
    )
    only = claims.side_by_side({"default": [ON_TREES], "fashion": [fashion]})
    assert claims.partners_markdown(only).count("**") == 4
    assert claims.partners_markdown([]) == ""
    assert claims.side_by_side({"default": []}) == []


def test_the_table_of_pairs_follows_that_of_claims(tmp_path):
    claims.save([ON_TREES, ON_PICTURES], tmp_path, NAMES)
    first, second = claims.table(tmp_path).split("\n\n")
    assert first == claims.markdown([ON_TREES, ON_PICTURES])
    assert second == claims.partners_markdown(
        claims.side_by_side({"default": [ON_TREES, ON_PICTURES]})
    )


def test_a_pair_is_shown_by_the_command(capsys):
    from dualnets.cli._terminal import terminal
    from dualnets.cli.claims import _show_beside

    _show_beside(terminal(), claims.side_by_side({"default": [ON_TREES, ON_PICTURES]}))
    assert capsys.readouterr().out.splitlines() == [
        "",
        "On trees, and on pictures:",
        "byol-ablation: predictor / image-byol: predictor",
        "  trees              holds 0.76 [0.73, 0.78], n = 16 trees",
        "  pictures, default  open 0.20, n = 12 networks",
    ]
    _show_beside(terminal(), [])
    assert capsys.readouterr().out == ""


def test_a_partner_is_the_title_of_a_claim_of_another_experiment(every):
    titles = {rules.claim_title(each.name, own.name) for each in every for own in each.claims}
    partners = [own.partner for each in every for own in each.claims if own.partner]
    assert set(partners) <= titles
    assert len(set(partners)) > 10


def test_the_table_stands_between_its_marks():
    table = claims.markdown([FOUND])
    assert "It emerges \\| or not<br>*somewhere* | **holds**" in table
    assert "0.76 [0.73, 0.78] | 16 trees | yes | default abc, 12 CPU s |" in table
    assert "| `emergence: levels` |" in table
    page = f"before\n{claims.BEGIN}\nold\n{claims.END}\nafter\n"
    once = claims.insert_table(table, page)
    assert once == f"before\n{claims.BEGIN}\n{table}\n{claims.END}\nafter\n"
    assert claims.insert_table(table, once) == once
    with pytest.raises(ValueError, match="expected the marks"):
        claims.insert_table(table, "no marks")


def test_the_command_shows_prints_and_writes(out, tmp_path, capsys):
    command = ["claims", "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert re.search(r"depth-and-width.* HOLDS", shown)
    assert "Not run: " in shown
    assert main([*command, "--markdown", "-"]) == 0
    printed = capsys.readouterr().out.strip()
    page = tmp_path / "claims.md"
    page.write_text(f"{claims.BEGIN}\n{claims.END}\n")
    assert main([*command, "--markdown", str(page)]) == 0
    assert page.read_text() == f"{claims.BEGIN}\n{printed}\n{claims.END}\n"
    assert (tmp_path / "claims" / "depth_and_width.json").is_file()


def test_a_damaged_run_is_named_and_the_others_are_shown(out, tmp_path, capsys):
    copied = shutil.copytree(out, tmp_path / "runs")
    run = copied / "depth_and_width" / run_name(experiments.load("depth_and_width"), "default")
    (run / "verdict.json").write_text("[" * 100_000)
    assert main(["claims", "--out", str(copied)]) == 0
    shown = capsys.readouterr()
    assert f"hltm: run {run} is damaged: verdict.json" in shown.err
    assert "Not run: " in shown.out
    assert " HOLDS" not in shown.out


@pytest.mark.slow
def test_runs_of_another_seed_become_a_column(out, tmp_path, capsys):
    page = tmp_path / "claims.md"
    page.write_text(f"{claims.BEGIN}\n{claims.END}\n")
    write = ["claims", "--out", str(out), "--markdown", str(page)]
    assert main(write) == 0
    assert main([*write, "--seed", "3"]) == 0
    assert "seed_3." in capsys.readouterr().out
    header, line, row = page.read_text().splitlines()[1:-1]
    (again,) = claims.load(tmp_path / "claims" / "seed_3")
    assert header.endswith("| run | again, seed 3 |")
    assert line.count("|") == header.count("|")
    assert row.endswith(f" | **{again.verdict}** {again.shown_effect} |")
    assert main(write) == 0
    assert main([*write, "--seed", "3", "3"]) == 0  # the same run
    assert [path.name for path in (tmp_path / "claims").glob("seed_*")] == ["seed_3"]
    assert "again, seed 3" in page.read_text()
    before = page.read_text()
    assert main(["claims", "--out", str(tmp_path / "empty"), "--markdown", str(page)]) == 2
    assert page.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "-1"], "seed must be"),
        (["--seed"], "--seed needs a value, or several"),
        (["--scale", "huge"], "unknown scale 'huge'"),
        (["--markdown", "nowhere.md"], "there is no page nowhere.md"),
        (["--markdown", str(ROOT / "LICENSE")], "must have an ending, as claims.md has, got "),
        (["--markdown", "-", "--out", "nowhere"], "nowhere holds no run of a whole scale"),
        (["--out", __file__], "is a file, expected a folder"),
    ],
)
def test_bad_requests_are_refused_in_one_line(arguments, words, capsys):
    assert main(["claims", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
