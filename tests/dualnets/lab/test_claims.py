"""Claims: from stored runs to the table of the README."""

import dataclasses
import re
from pathlib import Path

import pytest
from tiny_runs import blank_figures

import dualnets
from dualnets import experiments
from dualnets.cli import main
from dualnets.lab import claims
from dualnets.lab.grids import run_name

ROOT = Path(__file__).resolve().parents[3]
NAMES = experiments.names()
EVERY = [experiments.load(name) for name in NAMES]
SAVED = ROOT / "benchmarks" / "claims"
FOUND = claims.Claim(
    experiment="emergence",
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
    command="hltm run emergence",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with a stored run of a whole scale, its repetition, and one with other settings."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"members": 2, "steps": 2, "evaluation_samples": 512}
    with blank_figures("depth_and_width"):
        for changes in ({}, small, {"seed": 3}):
            dualnets.run("depth_and_width", scale="smoke", out=folder, **changes)
    return folder


def test_the_readme_says_what_the_stored_results_say():
    page = (ROOT / "README.md").read_text()
    assert claims.insert_table(claims.table(SAVED), page) == page, (
        "hltm claims --markdown README.md writes it"
    )


@pytest.mark.parametrize("changes", [{}, {"seed": 1}], ids=["as it stands", "again"])
def test_stored_results_are_of_experiments_there_are(changes):
    found = claims.load(claims.repetition_folder(SAVED, changes["seed"]) if changes else SAVED)
    assert [claim.experiment for claim in found] == experiments.names()
    for claim in found:
        experiment = experiments.load(claim.experiment)
        assert claim.claim == experiment.claim
        assert claim.reference == experiment.reference
        assert claim.scale in ("default", "paper")
        assert claim.run == run_name(experiment, claim.scale, **changes)


def test_only_a_whole_scale_counts(out):
    found = claims.stored(EVERY, out)
    (claim,) = (c for c in found if c.experiment == "depth_and_width")
    assert claim.scale == "smoke"
    assert claim.n == 12
    assert claim.run == run_name(experiments.load("depth_and_width"), "smoke")
    others = [c for c in found if c.experiment != "depth_and_width"]
    assert {c.verdict for c in others} == {"not run"}
    assert all(c.verdict == "not run" for c in claims.stored(EVERY, out, "default"))


def test_runs_of_another_seed_are_those_of_this_seed_alone(out):
    pair = [experiments.load(name) for name in ("depth_and_width", "emergence")]
    for seed, ran in ((None, 1), (3, 1), (4, 0)):
        found = [claim for claim in claims.stored(pair, out, seed=seed) if claim.run]
        assert len(found) == ran
    (again,) = (claim for claim in claims.stored(pair, out, "smoke", 3) if claim.run)
    (first,) = (claim for claim in claims.stored(pair, out, "smoke") if claim.run)
    assert again.run == run_name(experiments.load("depth_and_width"), "smoke", seed=3) != first.run
    assert "--seed 3" in again.command
    assert again.effect != first.effect


def test_claims_are_saved_and_loaded_whole(tmp_path):
    assert claims.save(
        [FOUND, claims.Claim("lucky", "not run yet", "nowhere")], tmp_path, NAMES
    ) == [FOUND]
    assert claims.load(tmp_path) == [FOUND]
    (tmp_path / "gone.json").write_text("{}")
    claims.save([FOUND], tmp_path, NAMES)
    assert [file.name for file in tmp_path.iterdir()] == ["emergence.json"]


def test_a_saved_claim_gives_way_to_its_scale_or_a_larger_one_only(tmp_path):
    claims.save([FOUND], tmp_path, NAMES)
    assert claims.save([], tmp_path, NAMES) == []
    assert claims.save([dataclasses.replace(FOUND, scale="smoke", n=2)], tmp_path, NAMES) == []
    assert claims.load(tmp_path) == [FOUND]
    for scale in ("default", "paper"):
        larger = dataclasses.replace(FOUND, scale=scale, n=20)
        assert claims.save([larger], tmp_path, NAMES) == [larger]
        assert claims.load(tmp_path) == [larger]


def test_the_table_stands_between_its_marks():
    table = claims.markdown([FOUND])
    assert "It emerges \\| or not<br>*somewhere* | **holds**" in table
    assert "0.76 [0.73, 0.78] | 16 trees | default abc |" in table
    page = f"before\n{claims.BEGIN}\nold\n{claims.END}\nafter\n"
    once = claims.insert_table(table, page)
    assert once == f"before\n{claims.BEGIN}\n{table}\n{claims.END}\nafter\n"
    assert claims.insert_table(table, once) == once
    with pytest.raises(ValueError, match="expected the marks"):
        claims.insert_table(table, "no marks")


def test_the_command_shows_prints_and_writes(out, tmp_path, capsys):
    assert main(["claims", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"depth-and-width +HOLDS", shown)
    assert "not run" in shown
    assert main(["claims", "--out", str(out), "--markdown", "-"]) == 0
    printed = capsys.readouterr().out.strip()
    page = tmp_path / "README.md"
    page.write_text(f"{claims.BEGIN}\n{claims.END}\n")
    assert main(["claims", "--out", str(out), "--markdown", str(page)]) == 0
    assert page.read_text() == f"{claims.BEGIN}\n{printed}\n{claims.END}\n"
    assert (tmp_path / "benchmarks" / "claims" / "depth_and_width.json").is_file()


def test_runs_of_another_seed_become_a_column(out, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(f"{claims.BEGIN}\n{claims.END}\n")
    write = ["claims", "--out", str(out), "--markdown", str(page)]
    assert main(write) == 0
    assert main([*write, "--seed", "3"]) == 0
    assert "seed_3 are written" in capsys.readouterr().out
    header, line, row = page.read_text().splitlines()[1:-1]
    (again,) = claims.load(tmp_path / "benchmarks" / "claims" / "seed_3")
    assert header.endswith("| run | again, seed 3 |")
    assert line.count("|") == header.count("|")
    assert row.endswith(f" | **{again.verdict}** {again.shown_effect} |")
    assert main(write) == 0
    assert "again, seed 3" in page.read_text()
    before = page.read_text()
    assert main(["claims", "--out", str(tmp_path / "empty"), "--markdown", str(page)]) == 2
    assert page.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "-1"], "seed must be"),
        (["--seed", "0", "--scale", "smoke"], "seed 0 is that of every scale"),
        (["--scale", "huge"], "unknown scale 'huge'"),
        (["--markdown", "nowhere.md"], "there is no page nowhere.md"),
        (["--markdown", "-", "--out", "nowhere"], "nowhere holds no run of a whole scale"),
        (["--out", __file__], "is a file, expected a folder"),
    ],
)
def test_bad_requests_are_refused_in_one_line(arguments, words, capsys):
    assert main(["claims", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
