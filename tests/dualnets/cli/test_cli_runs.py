"""`hltm runs`: lists, shows, compares and removes; and what of `hltm run` is about finding and planning."""

import io
import json
import re
import shutil
import subprocess
import sys

import pytest
from made_up_runs import store_run
from tiny_runs import FLAGS, blank_figures, code_of

from dualnets import experiments
from dualnets.cli import main
from dualnets.lab.stored_runs import find_runs


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Three runs of two experiments in a folder with blanks and brackets: do not change them."""
    out = tmp_path_factory.mktemp("runs") / "my  runs [bold]of[red] :tree: today"
    store_run(out, "losses", day=1, only=["simple", "triplet"], steps=[7], value=0.25)
    store_run(out, "losses", day=2, only=["simple", "infonce 4"], value=0.5)
    store_run(out, "byol_ablation", day=3, value=0.75)
    return out


@pytest.fixture
def out(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / stored.name)


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def run(capsys, *arguments):
    status = main(["runs", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def short(out, at):
    """The first four digits of a run's name, the newest being 0."""
    return find_runs(out)[at].name[:4]


def test_runs_are_listed_newest_first_within_80_columns(stored, capsys):
    status, shown, _ = run(capsys, "--out", stored)
    assert status == 0
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[:5] for line in heads] == [
        [short(stored, 0), "byol-ablation", "2026-11-03", "05:30", "smoke"],
        [short(stored, 1), "losses", "2026-11-02", "05:30", "smoke"],
        [short(stored, 2), "losses", "2026-11-01", "05:30", "smoke"],
    ]
    assert "2 cells" in heads[1]
    assert re.search(r"\d+ kB$", heads[1])
    assert lines[-2:] == [
        "  --only simple triplet --steps 7",
        "  holds  0.25 [0.15, 0.35], n = 2 trees",
    ]
    assert "  predictor  holds  0.75 [0.65, 0.85], n = 2 trees" in lines


def test_the_list_for_other_programs_has_everything(stored, capsys):
    status, shown, _ = run(capsys, "--out", stored, "--json")
    assert status == 0
    newest, middle, _ = json.loads(shown)
    assert newest["experiment"] == "byol_ablation"
    assert middle["changed"] == ["--only simple 'infonce 4'"]
    assert middle["verdicts"][0]["interval"] == [0.4, 0.6]
    assert middle["bytes"] == find_runs(stored)[1].size
    assert middle["name"] == short(stored, 1)


def test_a_folder_without_runs_is_no_mistake(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys)[:2] == (0, "runs holds no runs; hltm run emergence makes one.\n")
    assert run(capsys, "--json")[:2] == (0, "[]\n")
    (tmp_path / "empty").mkdir()
    assert "empty holds no runs" in run(capsys, "--out", "empty")[1]
    assert (
        run(capsys, "--out", "none")[2]
        == "hltm: none does not exist, expected a folder of results\n"
    )
    assert sorted(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_a_damaged_run_is_listed_with_its_reason(out, capsys):
    find_runs(out)[1].folder.joinpath("verdict.json").unlink()
    shown = run(capsys, "--out", out)[1]
    assert shown.count("  damaged: verdict.json is missing\n") == 1
    assert shown.count("holds") == 4
    status, shown, _ = run(capsys, "show", short(out, 1), "--out", out)
    assert status == 0
    assert "damaged: verdict.json is missing" in shown


def test_show_has_command_settings_verdicts_files_and_time(stored, capsys):
    status, shown, _ = run(capsys, "show", short(stored, 2), "--out", stored)
    assert status == 0
    found = find_runs(stored)[2]
    lines = shown.splitlines()
    assert lines[:3] == [
        f"losses/{found.name}",
        "2026-11-01 05:30 UTC, smoke scale",
        "hltm run losses --scale smoke --only simple triplet --steps 7",
    ]
    differ, vary, others = (
        at for at, line in enumerate(lines)
        if line.startswith(("settings that differ", "settings that vary", "the others"))
    )  # fmt: skip
    assert differ < vary < others
    words = " ".join(shown.split())
    assert "from those of the smoke scale: --only simple triplet --steps 7" in words
    assert "settings that vary between cells: variant simple, triplet" in words
    assert "steps 7;" in words
    assert "None" not in words
    assert "ema-decay" not in words  # of BYOL
    assert "holds 0.25 [0.15, 0.35], n = 2 trees" in words
    assert "gap closed; it grew" in words
    assert "2 cells, 4 s of computation on cpu" in words
    assert f"  {found.folder / 'results.parquet'}  " in shown
    assert all(len(line) <= 80 or str(stored) in line for line in lines)


def test_diff_shows_settings_effects_and_curves(out, capsys):
    a, b = short(out, 2), short(out, 1)
    status, shown, _ = run(capsys, "diff", a, b, "--out", out)
    assert status == 0
    words = " ".join(shown.split())
    assert "steps 7 150" in words
    assert "variant simple, triplet simple, infonce 4" in words
    assert "holds 0.25 [0.15, 0.35] holds 0.50 [0.40, 0.60] 0.25" in words
    assert "curves in common, means over latents: correlation, spread" in words
    picture = out / "comparisons" / f"{find_runs(out)[2].name}-{find_runs(out)[1].name}.png"
    assert shown.splitlines()[-1] == f"  {picture}"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert len(find_runs(out)) == 3


def test_diff_of_two_experiments_says_what_can_be_compared(out, capsys, tmp_path):
    picture = tmp_path / "both.svg"
    status, shown, _ = run(
        capsys, "diff", "byol-ablation", short(out, 1), "--out", out, "--picture", picture
    )
    assert status == 0
    assert "byol-ablation and losses are two experiments: their claims cannot be compared" in shown
    assert picture.read_text().startswith("<?xml")


def test_diff_without_common_curves_makes_no_figure(out, capsys):
    import pandas as pd

    path = find_runs(out)[1].folder / "results.parquet"
    pd.read_parquet(path).drop(columns="metric").to_parquet(path)
    shown = run(capsys, "diff", short(out, 1), short(out, 2), "--out", out)[1]
    assert "no metric over steps in common: no figure" in shown
    assert not (out / "comparisons").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sho"], "expected one of show, diff, rm, clean after hltm runs, got 'sho'"),
        (["show"], "name a run, e.g. hltm runs show fa3a"),
        (["show", "zzzz"], "there is no run 'zzzz' in "),
        (["show", "losses"], "'losses' is 2 runs: 'losses/"),
        (
            ["show", "byol-ablation", "losses"],
            "unexpected argument 'losses'; hltm runs show --help",
        ),
        (["diff"], "name two runs, e.g. hltm runs diff fa3a 11b2, got 0"),
        (["diff", "losses"], "name two runs, e.g. hltm runs diff fa3a 11b2, got 1"),
        (["diff", "byol-ablation", "byol-ablation"], "byol-ablation and byol-ablation are one run"),
        (["diff", "A", "B", "--picture", "x.gif"], "picture must end in .png or .svg, got 'x.gif'"),
        (["diff", "A", "B", "--picture", "no/x.png"], "picture no/x.png: there is no folder no"),
        (["rm"], "name runs, e.g. hltm runs rm fa3a"),
        (["rm", "A", "zzzz", "--yes"], "there is no run 'zzzz'"),
        (["rm", "A"], "there is no terminal to ask on; --yes removes without a question"),
        (["--csv"], "unknown option --csv"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(stored, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    names = {"A": short(stored, 0), "B": short(stored, 1)}
    before = sorted(stored.rglob("*"))
    status, _, error = run(capsys, *(names.get(a, a) for a in arguments), "--out", stored)
    assert status == 2
    assert error.startswith("hltm: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(stored.rglob("*")) == before


class Terminal:
    """A standard input that somebody sits at."""

    def __init__(self, answer):
        self.answer = answer

    def isatty(self):
        return True

    def readline(self):
        if not self.answer:
            raise EOFError  # Ctrl-D
        return self.answer


@pytest.mark.parametrize(
    ("answer", "removed"),
    [("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False), ("", False)],
)
def test_rm_asks_and_names_what_would_go(out, capsys, monkeypatch, answer, removed):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    found = find_runs(out)[1]
    status, shown, _ = run(capsys, "rm", short(out, 1), "--out", out)
    assert status == (0 if removed else 1)
    assert f"  {found.folder}  " in shown
    assert "2 cells that no other run needs, " in shown  # the other run's cells have other steps
    assert "Remove them? [y/N]" in shown
    assert found.folder.exists() is not removed
    assert len(find_runs(out)) == (2 if removed else 3)


def test_rm_and_clean_remove_without_a_question_if_told_so(out, capsys):
    names = [short(out, 1), short(out, 2)]
    assert run(capsys, "rm", *names, "--yes", "--out", out)[0] == 0
    assert [r.experiment for r in find_runs(out)] == ["byol_ablation"]
    shutil.rmtree(find_runs(out)[0].folder)
    status, shown, _ = run(capsys, "clean", "--yes", "--out", out)
    assert status == 0
    assert "8 cells that no other run needs" in shown
    assert run(capsys, "clean", "--out", out)[1] == "There is nothing to remove.\n"
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_listing_loads_neither_torch_nor_tables(stored):
    code = f"""
import sys
from dualnets.cli import main
main(["runs", "--out", {str(stored)!r}])
print([m for m in ("torch", "numpy", "pandas", "pyarrow", "matplotlib") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_diff_of_a_table_that_is_damaged_inside_is_refused(out, capsys):
    path = find_runs(out)[1].folder / "results.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"x" * (len(content) - 12) + content[-8:])
    status, _, error = run(capsys, "diff", short(out, 1), short(out, 2), "--out", out)
    assert status == 2
    assert f"run {path.parent} is damaged: results.parquet: " in error


# hltm run: some variants, a dry run, ranges, tracking


@pytest.mark.slow
def test_only_runs_the_variants_that_are_named_and_decides_nothing(tmp_path, capsys, monkeypatch):
    computed = []
    code = code_of("losses")
    original = code.run_cell
    monkeypatch.setattr(
        code, "run_cell", lambda s, *rest: computed.append(s.variant) or original(s, *rest)
    )
    arguments = [
        "run",
        "losses",
        "--only",
        "triplet",
        "simple",
        "--out",
        str(tmp_path),
        "--workers",
        "1",
    ]
    arguments += FLAGS
    with blank_figures("losses"):
        assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert sorted(set(computed)) == ["simple", "triplet"]
    assert "OPEN. Only some of the variants: no verdict; " in shown
    (found,) = find_runs(tmp_path)
    assert "--only triplet simple" in found.manifest["command"]
    assert {"index.html", "results.parquet", "losses.png"} <= set(found.manifest["files"])
    assert all(cell["peak_memory"] > 1e7 for cell in found.manifest["cells"])
    assert main(arguments) == 0
    assert "This run is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["losses", "--only", "smple"], "unknown variant 'smple' (did you mean 'simple'?), expected some of "
         "'simple', 'triplet', 'infonce 1'"),
        (["losses", "--only", "simple", "x"], "unknown variant 'x', expected some of"),
        (["losses", "--only"], "--only needs a value, or several"),
        (["emergence", "--only", "x"], "only chooses among variants, and emergence has none"),
        (["losses", "--variant", "x"], "every cell of the experiment has its own; --only chooses among them"),
        (["emergence", "--seed", "3:3"], "--seed 3:3 is empty, expected FIRST:END with 1 to 65,536 numbers"),
        (["emergence", "--seed", "8:0"], "--seed 8:0 is empty"),
        (["emergence", "--seed", "0:1000000000"], "--seed 0:1000000000 has 1,000,000,000 numbers"),
        (["emergence", "--seed", "0:x"], "or a range such as 0:8, got '0:x'"),
        (["emergence", "--seed", "0:8:2"], "or a range such as 0:8, got '0:8:2'"),
        (["emergence", "--seed", ":8"], "or a range such as 0:8, got ':8'"),
        (["emergence", "--seed", "-2:2"], "seed must be at least 0, got -2"),
        (["emergence", "--lr", "0:2"], "--lr must be a number, or several, got '0:2'"),
        (["emergence", "--track", "wandb"], "--track must be one of tensorboard, got 'wandb'"),
        (["emergence", "--dry-run", "--units", "0"], "units must be at least 1, got 0"),
        (["update", "--weights-from", "samples"],
         "has no effect here: it applies to loss covariance, which this experiment does not have"),
        (["image-update", "--distance-epsilon", "0.5"],
         "distance-epsilon has no effect here: it applies to loss inverse-distance"),
    ],
)  # fmt: skip
def test_a_mistake_of_hltm_run_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_cells_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "losses", "--only", "simple", "triplet", "--seed", "0:2", "--dry-run"]
    assert main([*arguments, "--scale", "smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line[14:] for line in lines if re.match("[0-9a-f]{12}  ", line)]
    assert cells == [f"seed {s}, variant {v}" for v in ("simple", "triplet") for s in (0, 1)]
    assert "4 cells: 0 stored, 4 to compute" in lines
    assert list(tmp_path.iterdir()) == []
    store_run("runs", "losses", only=["simple"], seed=[0])
    before = sorted(tmp_path.rglob("*"))
    assert main([*arguments, "--scale", "smoke"]) == 0
    shown = capsys.readouterr().out
    assert "seed 0, variant simple  (stored)\n" in shown
    assert "4 cells: 1 stored, 3 to compute\ntime: about 6 s of computation" in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_a_range_ends_before_its_end_in_every_whole_number(capsys, tmp_path, monkeypatch):
    from dualnets.lab import claims

    monkeypatch.chdir(tmp_path)
    assert main(["run", "polarity", "--seed", "0:3", "7", "--batch", "2:4", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert {int(seed) for seed in re.findall(r"seed (\d)", shown)} == {0, 1, 2, 7}
    assert {int(batch) for batch in re.findall(r"batch (\d)", shown)} == {2, 3}
    asked = []
    monkeypatch.setattr(
        claims, "stored", lambda every, out, scale, seeds: asked.append(seeds) or []
    )
    assert main(["claims", "--seed", "2:5", "0"]) == 0
    assert asked[0] == [0, 2, 3, 4]


def test_tracking_needs_its_package_before_any_work(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("dualnets.lab.tensorboard.find_spec", lambda name: None)
    assert main(["run", "emergence", "--track", "tensorboard", "--out", str(tmp_path / "new")]) == 2
    assert "python -m pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_tracking_works_with_parallel_workers(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    arguments = ["run", "emergence", "--scale", "smoke", "--workers", "2", "--track", "tensorboard"]
    assert main([*arguments, "--out", str(tmp_path), *FLAGS]) == 0
    folders = list((tmp_path / "emergence" / "tensorboard").iterdir())
    assert len(folders) == 4
    assert all(len(list(folder.glob("events*"))) == 1 for folder in folders)


@pytest.mark.parametrize("name", experiments.names())
def test_the_help_of_every_experiment_with_variants_names_them(name, capsys):
    assert main(["run", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert ("--only VARIANT ..." in shown) == (
        "variant" in experiments.load(name).grids["default"][0]
    )
