"""The command line: help without torch, one line for every mistake, output at 80 columns."""

import io
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from tiny_runs import FLAGS, code_of

from dualnets import experiments
from dualnets.cli import main
from dualnets.lab.grids import settable_fields

HEAVY = ("torch", "numpy", "pandas", "scipy", "numba", "matplotlib", "rich")


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_help_and_lists_import_nothing_heavy():
    """Of every experiment; which is why they answer at once."""
    lines = python(f"""
import sys
from dualnets import experiments
from dualnets.cli import main
before = set()
for arguments in (["--help"], ["run", "--help"], ["list"], ["claims", "--help"], ["runs", "--help"],
                  ["probe", "--help"], ["tree", "--help"], ["sample", "--help"],
                  ["tree", "--family", "balanced", "--help"], ["sample", "--verify", "--help"],
                  *(["run", name, "--help"] for name in experiments.names())):
    assert main(arguments) == 0
    found = {{name for name in {HEAVY} if name in sys.modules}}
    if found - before:
        print("HEAVY", *arguments, *sorted(found - before))
    before = found
""")
    assert any("hltm run emergence" in line for line in lines)
    assert [line for line in lines if line.startswith("HEAVY")] == []


def test_the_command_can_be_started_as_a_module_and_its_output_cut_off(tmp_path):
    read, write = os.pipe()
    os.close(read)  # as `| head -1` does, but always before the first line
    for arguments in (["list"], ["runs", "--out", tmp_path]):  # by Python itself, and by rich
        command = [sys.executable, "-m", "hltm", *arguments]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (141, "")
    os.close(write)
    done = subprocess.run([sys.executable, "-m", "hltm", "lst"], capture_output=True, text=True)
    assert done.stderr.startswith("hltm: unknown command 'lst' (did you mean list?)")


def test_a_commands_help_shows_every_setting_with_default_and_meaning(capsys):
    assert main(["run", "emergence", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for flag in ("--units", "--steps", "--polarity-low", "--members", "--loss", "--temperature",
                 "--augment", "--network", "--seed", "--device", "--fresh", "--out", "--scale"):  # fmt: skip
        assert f" {flag} " in shown
    assert "2 5 10" in shown
    assert "defaults are those of the default scale" in shown
    assert main(["run", "emergence", "--scale", "smoke", "--help"]) == 0
    of_smoke = " ".join(capsys.readouterr().out.split())
    assert "defaults are those of the smoke scale" in of_smoke
    assert "number of updates (default: 300)" in of_smoke
    assert "smallest magnitude of an edge's polarity" in shown


def test_help_shows_the_settings_that_apply_and_all_are_accepted(capsys):
    def flags(*arguments):
        assert main(["run", *arguments, "--help"]) == 0
        return set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.M))

    of_byol, of_vicreg = "--ema-decay", "--invariance"
    shown = flags("byol-batchnorm")
    assert of_byol in shown
    assert of_vicreg not in shown
    assert "--method" not in shown  # which no flag can change
    assert not {of_byol, of_vicreg} & flags("polarity")
    assert of_vicreg in flags("polarity", "--method", "vicreg")
    assert main(["run", "byol-batchnorm", of_vicreg, "2"]) == 2
    refused = "invariance has no effect here: it applies to method vicreg, and method is byol"
    assert refused in capsys.readouterr().err


def test_the_list_of_commands_fits_80_columns(capsys):
    assert main([]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize(
    "command",
    [
        "run methods",
        "runs",
        "runs diff",
        "runs rm",
        "runs clean",
        "claims",
        "list",
        "report",
        "probe",
        "sample",
        "tree",
        "run",
        "",
    ],
)
def test_help_fits_the_terminal(command, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: {f'hltm {command}'.strip()}")
    if command not in ("tree", "run", ""):  # pages of their own, written for 80 columns
        assert max(map(len, lines)) <= width


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
        (["run", "emergence", "--method", "byolx"],
         "emergence has no setting --method; architecture, augmentation, branching, byol-ablation and "),
        (["run", "emergence", "--augment", "blur"], "unknown augmentation 'blur'"),
        (["run", "emergence", "--augment", "keep-nodes:oak"], "unknown node 'oak'; the tree has"),
        (["run", "emergence", "--steps"], "steps needs a value, or several"),
        (["run", "emergence", "--steps", "--lr", "1"], "steps needs a value, or several"),
        (["run", "emergence", "--workers", "-1"], "workers must be at least 0, got -1"),
        (["run", "emergence", "--momentum", "1"], "0 <= momentum < 1, got 1.0"),
        (["run", "residual", "--augment", "keep-nodes:oak"], "unknown node 'oak'"),
        (["run", "update", "--augment", "keep-level:9"],
         "augmentation 'keep-level:9': level must be in 0..2, got 9"),
        (["run", "methods", "--method", "byol"], "method cannot be set: every cell"),
        (["run", "byol_linar"], "(did you mean byol-linear?); there are: amplification, "),
        (["list", "all"], "unexpected argument 'all'; hltm list --help shows the options"),
        (["claims", "--workers", "-1"], "workers must be at least 0, got -1"),
        (["claims", "--scale"], "--scale needs a value; hltm claims --help"),
        (["run", "emergence", "--units", "two"], "--units must be a whole number, or several, got 'two'"),
        (["run", "emergence", "--units", "2.5"], "--units must be a whole number, or several, got '2.5'"),
        (["run", "emergence", "--lr", "x", "1"], "--lr must be a number, or several, got 'x'"),
        (["run", "emergence", "--unitz", "3"], "unknown option --unitz (did you mean --units?); hltm run"),
        (["run", "emergence", "--units=3=4"], "--units must be a whole number, or several, got '3=4'"),
        (["run", "emergence", "--bias", "maybe"], "--bias must be True or False, or several, got 'maybe'"),
        (["run", "emergence", "--fresh=yes"], "--fresh takes no value, got 'yes'; hltm run"),
        (["run", "emergence", "--network", "cnn"], "--network must be one of tree, conv, "),
        (["run", "emergence", "--fresh", "maybe"], "unexpected argument 'maybe'"),
        (["sample", "-n", "1.5", "out"], "--n must be a whole number, got '1.5'; hltm sample --help"),
        (["tree", "--family", "random-tree"], "--nodes is required; hltm tree --family random-tree --help"),
        (["tree", "--depth", "x"], "--depth must be a whole number, got 'x'"),
        (["tree", "--polarity-low", "x"], "--polarity-low must be a number, got 'x'"),
        (["tree", "stray"], "unexpected argument 'stray'"),
        (["tree", "--picture", "nowhere/x.png"], "there is no folder nowhere"),
        (["tree", "--picture", "x.gif"], "picture must end in .png, .svg or .pdf, got 'x.gif'"),
        (["probe", "--lags", "x"], "--lags must be a whole number, got 'x'"),
        (["probe", "--tree", "none.json", "--activations", "a.npz", "--rows", "0:4"],
         "none.json: no such file or directory"),
        (["run", "polarity", "--prototypes", "3", "4"],
         "prototypes has no effect here: it applies to method swav, and method is simclr"),
        (["run", "emergence", "--loss", "ntxent", "--negatives", "4"],
         "negatives has no effect here: it applies to loss infonce, spectral, exponential "
         "or inverse-distance, and loss is ntxent"),
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


def test_a_killed_process_is_one_line_that_says_how_to_continue(monkeypatch, capsys, tmp_path):
    from dualnets.lab import runner, workers

    def killed(*_):
        raise workers.WorkerDiedError("its process died; was there enough memory?")

    monkeypatch.setattr(runner, "compute_all", killed)
    assert main(["run", "emergence", "--workers", "2", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "enough memory? Finished cells are stored" in said


def test_sigterm_is_as_an_interruption(monkeypatch, tmp_path, capsys):
    def terminated(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(code_of("emergence"), "run_cell", terminated)
    assert main(["run", "emergence", "--scale", "smoke", "--out", str(tmp_path)]) == 130
    assert "the same command continues from there" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cell_that_raises_is_one_line_that_names_it(monkeypatch, capsys, tmp_path):
    def mistaken(settings, *_):
        raise KeyError(f"units {settings.units}")

    monkeypatch.setattr(code_of("emergence"), "run_cell", mistaken)
    assert main(["run", "emergence", "--scale", "smoke", "--out", str(tmp_path), *FLAGS]) == 1
    said = capsys.readouterr()
    assert said.out.count("failed: KeyError: 'units") == 4
    assert said.err.count("\n") == 1
    assert re.match(r"hltm: cell [0-9a-f]{12} \(network tree, units 2, augment keep-root\): KeyError: "
                    r"'units 2' \(4 of 4 cells failed\)\. Finished cells are stored", said.err)  # fmt: skip


@pytest.mark.parametrize("where", ["cell", "check"])
def test_a_cell_too_large_for_the_memory_is_one_line(where, monkeypatch, capsys, tmp_path):
    def greedy(*_):
        torch.empty(1 << 60)

    monkeypatch.setattr(code_of("emergence"), "run_cell", greedy)
    monkeypatch.setattr(experiments.load("polarity").Settings, "check", greedy)
    name = {"cell": "emergence", "check": "polarity"}[where]
    assert main(["run", name, "--scale", "smoke", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "a cell needs more memory than there is" in said
    assert said.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_run_reads_well_at_80_columns_without_colour(stored, capsys, monkeypatch):
    _, printed, out = stored
    assert "\x1b" not in printed
    lines = printed.splitlines()
    assert all(len(line) <= 80 or str(out) in line for line in lines)
    assert "…" not in printed
    assert lines[0] == "4 cells of 2 trees"
    assert (
        sum(bool(re.match(r"\d/4  .*: root \d\.\d\d -> \d\.\d\d  \(\d+ s\)", s)) for s in lines)
        == 4
    )
    assert "OPEN. The smoke scale only shows that everything runs: no verdict; 2 trees" in " ".join(
        printed.split()
    )
    paths = [line.strip() for line in lines if str(out) in line]
    assert len(paths) == 4
    assert all(os.path.exists(path) for path in paths)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["run", "emergence", "--scale", "smoke", "--out", str(out), *FLAGS]) == 0
    again = capsys.readouterr().out
    assert again.startswith("This run is finished; nothing was computed")
    assert again.split("\n\n", 1)[1] == printed.split("\n\n", 1)[1]


def test_paths_can_be_copied_from_what_is_printed(tmp_path, capsys, monkeypatch):
    """Long ones are not broken, blanks stay, and brackets are not markup."""
    monkeypatch.setenv("COLUMNS", "80")
    long = tmp_path / ("a [bold]folder[red] with  blanks in its " + "long-long-" * 9 + "name")
    long.mkdir()
    picture, page = long / "tree.png", long / "README.md"
    page.write_text("no marks\n")
    for arguments, path, status in (
        (["tree", "--depth", "1", "--picture", picture], picture, 0),
        (["sample", "-n", "10", long / "rows"], long / "rows", 0),
        (["sample", "--verify", long / "rows"], long / "rows", 0),
        (["sample", "--verify", long / "none"], long / "none", 2),
        (["claims", "--out", long / "empty"], long / "empty", 0),
        (["claims", "--out", page], page, 2),
        (["claims", "--markdown", long / "gone.md"], long / "gone.md", 2),
        (["run", "emergence", "--out", page], page, 2),
    ):
        assert main(list(map(str, arguments))) == status
        printed = capsys.readouterr()
        assert str(path) in printed.out + printed.err


def test_an_interruption_says_how_to_continue(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(code_of("emergence"), "run_cell", interrupted)
    assert main(["run", "emergence", "--scale", "smoke", "--out", str(tmp_path)]) == 130
    assert "the same command continues from there" in capsys.readouterr().err


def test_wide_tables_go_on_below_and_nothing_is_cut():
    import pandas as pd
    from rich.console import Console

    from dualnets.cli._tables import terminal_tables

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


def test_of_several_tables_each_has_the_rows_about_which_it_says_something():
    import pandas as pd

    from dualnets.cli._tables import terminal_tables

    rows = pd.DataFrame({"what": ["alpha", "beta", "gamma"], "error": ["0.10", "", "0.20"],
                         "cosine": ["", "0.30", "0.40"]})  # fmt: skip
    shown = [list(table.columns[0].cells) for table in terminal_tables(rows, 12)]
    assert [[str(cell) for cell in column] for column in shown] == [
        ["alpha", "gamma"], ["beta", "gamma"],
    ]  # fmt: skip
    (whole,) = terminal_tables(rows, 80)
    assert whole.row_count == 3


@pytest.mark.parametrize("arguments", ["--help", "list"])
def test_an_output_that_cannot_be_written_is_one_line(arguments):
    command = f"{sys.executable} -m hltm {arguments}"
    done = subprocess.run(f"{command} >&-", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = subprocess.run(f"{command} >/dev/full", shell=True, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("hltm: ")
    assert "no space left" in done.stderr.lower()


def test_help_is_shown_where_greek_letters_cannot_be():
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "hltm", "run", "emergence", "--help"], text=True,
                          env=ascii_only, capture_output=True, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "? of the loss" in done.stdout


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--polarity-low -1e-3", "polarity-low must be at least 0, got -0.001"),
        ("--polarity-low -inf", "polarity-low must be at least 0, got -inf"),
        ("--fresh=True", "--fresh takes no value, got 'True'"),
        ("--workers -1", "workers must be at least 0, got -1"),
        ("--warm-up -5", "warm-up must be at least 0 steps, got -5"),
        ("--network-norm layer --network-norm-epsilon 0",
         "network-norm-epsilon must be above 0 and finite, got 0.0"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_flag_as_it_was_typed(typed, message, tmp_path, capsys):
    assert main(["run", "emergence", "--out", str(tmp_path), *typed.split()]) == 2
    assert capsys.readouterr().err.startswith(f"hltm: {message}")
    assert list(tmp_path.iterdir()) == []


def test_help_leaves_out_what_a_fixed_number_makes_useless():
    """SwAV's `queue-from` needs a queue, and `methods` fixes that there is none."""
    assert "queue_from" not in settable_fields(experiments.load("methods"))


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_torchs_threads_sleep_while_they_wait_unless_the_user_decided(given, monkeypatch, capsys):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in names:
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["--version"]) == 0
    found = {name: os.environ[name] for name in names if name in os.environ}
    assert found == (given or {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"})
