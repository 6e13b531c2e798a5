"""The command line: help without torch, one clear line for every mistake, output at 80 columns."""

import os
import re
import subprocess
import sys

import pytest
import torch

from dualnets.cli import main

TINY = ["--steps", "20", "--members", "2", "--evaluation-samples", "512", "--snapshots", "3"]


def hltm(*arguments, **more):
    code = "import sys; from dualnets.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "80", "TERM": "dumb"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **more
    )


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from dualnets.cli import main; main(['--help']); main(['run', '--help']);"
        "print([m for m in ('torch', 'numpy', 'pandas', 'numba', 'rich', 'tyro') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "hltm run emergence" in done.stdout


def test_a_commands_help_shows_every_setting_with_default_and_meaning(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "emergence", "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for flag in ("--units", "--steps", "--polarity-low", "--members", "--loss", "--temperature",
                 "--augment", "--network", "--seed", "--device", "--fresh", "--out", "--scale"):  # fmt: skip
        assert flag in shown
    assert "2 5 10" in shown
    assert "smallest magnitude of an edge's polarity" in shown


def test_list_names_the_experiments(capsys):
    assert main(["list"]) == 0
    assert re.search(r"emergence  +latents emerge in networks", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "unknown command 'runn' (did you mean run?)"),
        (["run", "emergense"], "unknown experiment 'emergense' (did you mean emergence?)"),
        (["run", "--units", "3"], "name the experiment before --units"),
        (["run", "emergence", "--units", "0"], "units must be at least 1, got 0"),
        (["run", "emergence", "--polarity-low", "0.9", "--polarity-high", "0.8"],
         "polarity-low must not exceed polarity-high, got 0.9 and 0.8"),
        (["run", "emergence", "--device", "tpu"], "unknown device 'tpu'"),
        (["run", "emergence", "--scale", "big"], "unknown scale 'big'"),
        (["run", "emergence", "--augment", "blur"], "unknown augmentation 'blur'"),
        (["run", "emergence", "--augment", "keep-nodes:oak"], "unknown node 'oak'; the tree has"),
        (["run", "emergence", "--steps"], "steps needs a value, or several"),
        (["run", "emergence", "--steps", "--lr", "1"], "steps needs a value, or several"),
        (["run", "emergence", "--workers", "-1"], "workers must be at least 1, got -1"),
        (["run", "emergence", "--momentum", "1"], "0 <= momentum < 1, got 1.0"),
        (["run", "residual", "--augment", "keep-nodes:oak"], "unknown node 'oak'"),
        (["run", "update", "--augment", "keep-level:9"], "level must be in 0..2, got 9"),
        (["run", "methods", "--method", "byol"], "method cannot be set: every cell"),
        (["run", "byol_linar"], "(did you mean byol-linear?); there are: amplification, "),
        (["list", "all"], "list takes no options, got all"),
        (["claims", "--workers", "-1"], "workers must be at least 0, got -1"),
        (["claims", "--scale"], "missing value for argument '--scale'. Expected one; hltm claims"),
        (["run", "emergence", "--units", "two"], "--units must be a whole number, or several, got 'two'"),
        (["run", "emergence", "--units", "2.5"], "--units must be a whole number, or several, got '2.5'"),
        (["run", "emergence", "--lr", "x", "1"], "--lr must be a number, or several, got 'x', '1'"),
        (["run", "emergence", "--unitz", "3"], "--unitz, 3 (did you mean --units?); hltm run emergence"),
        (["run", "emergence", "--network", "cnn"], "invalid choice 'cnn' for argument '--network'"),
        (["run", "emergence", "--fresh", "maybe"], "unrecognized options: maybe"),
        (["sample", "-n", "1.5", "out"], "--n must be a whole number, got '1.5'; hltm sample --help"),
        (["tree", "--depth", "x"], "--depth must be a whole number, got 'x'"),
        (["tree", "--polarity-low", "x"], "--polarity-low must be a number, got 'x'"),
        (["tree", "stray"], "unrecognized options: stray"),
        (["tree", "--picture", "nowhere/x.png"], "there is no folder nowhere"),
        (["tree", "--picture", "x.gif"], "picture must end in .png, .svg or .pdf, got 'x.gif'"),
        (["probe", "--lags", "x"], "--lags must be a whole number, got 'x'"),
        (["probe", "--tree", "none.json", "--activations", "a.npz", "--rows", "0:4"],
         "none.json: no such file or directory"),
        (["run", "polarity", "--prototypes", "3", "4"],
         "prototypes has no effect here: it applies to method swav, and method is simclr"),
        (["run", "emergence", "--loss", "ntxent", "--negatives", "4"],
         "negatives has no effect here: it applies to loss infonce, spectral, exponential or"),
        (["run", "emergence", "--network-norm-mean", "stop"], "it applies to network-norm batch, and"),
        (["run", "emergence", "--precision", "bfloat16"], "bfloat16 is for CUDA"),
        (["run", "polarity", "--precision", "bfloat16"], "bfloat16 is for CUDA"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("hltm: ")
    assert message in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["run", "emergence", "--out", str(tmp_path / "file")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_a_killed_process_is_one_line_that_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    from dualnets.lab import workers

    def killed(*_):
        raise workers.WorkerDiedError("a process died (exit status -9); was there enough memory?")

    monkeypatch.setattr(workers, "run", killed)
    assert main(["run", "emergence", "--workers", "2", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "enough memory? Finished cells are stored" in said


@pytest.mark.parametrize("where", ["cell", "check"])
def test_a_cell_too_large_for_the_memory_is_one_line(where, monkeypatch, capsys, tmp_path):
    from dualnets.experiments.emergence import emergence, polarity

    def greedy(*_):
        torch.empty(1 << 60)

    monkeypatch.setattr(emergence, "run_cell", greedy)
    monkeypatch.setattr(polarity.Settings, "check", greedy)
    name = {"cell": "emergence", "check": "polarity"}[where]
    assert main(["run", name, "--scale", "smoke", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "a cell needs more memory than there is" in said
    assert said.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_run_reads_well_at_80_columns_without_colour(tmp_path):
    done = hltm("run", "emergence", "--scale", "smoke", "--out", tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 or str(tmp_path) in line for line in lines)
    assert "…" not in done.stdout
    assert "OPEN. 2 trees are fewer than 13" in done.stdout
    paths = [line.strip() for line in lines if str(tmp_path) in line]
    assert len(paths) == 4
    assert all(os.path.exists(path) for path in paths)
    again = hltm("run", "emergence", "--scale", "smoke", "--out", tmp_path, *TINY)
    assert again.stdout.startswith("This run is finished; nothing was computed")
    assert again.stdout.split("\n\n", 1)[1] == done.stdout.split("\n\n", 1)[1]


def test_an_interruption_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    from dualnets.experiments.emergence import emergence

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(emergence, "run_cell", interrupted)
    assert main(["run", "emergence", "--scale", "smoke", "--out", str(tmp_path)]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_wide_tables_go_on_below_and_nothing_is_cut():
    import io

    import pandas as pd
    from rich.console import Console

    from dualnets.cli.run import terminal_tables

    rows = pd.DataFrame(
        {"pair": ["a / b", "a / b", "c / d"], "units": [2, 5, 2]}
        | {f"measure number {i}": [0.5 + i, float("nan"), 1e-9] for i in range(9)}
        | {"gap": ["0.50 [-0.25, 0.75]"] * 3}
    )
    out = io.StringIO()
    console = Console(file=out, width=80)
    for table in terminal_tables(rows, 80):
        console.print(table)
    shown = out.getvalue()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("0.50 [-0.25, 0.75]") == 3
    tables = shown.count("units")
    assert tables > 1
    assert shown.count("a / b") == tables  # once in each
    assert all(f"{0.5 + i:.3f}" in shown for i in range(9))
