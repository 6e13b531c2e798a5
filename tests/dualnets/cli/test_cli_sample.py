"""The command `hltm sample`: what it writes, how it checks, how it refuses."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

import hltm
from dualnets.cli import _families, commands, main, sample
from dualnets.cli._terminal import progress_bar
from hltm.data.export.recipe import ExportRecipe


def run(capsys, *arguments):
    status = main(["sample", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_it_is_a_command_with_a_line_of_help():
    assert commands()["sample"].startswith("Write rows of a tree's data set to files")


def test_it_writes_what_the_library_draws(capsys, tmp_path):
    out = tmp_path / "out"
    status, said, _ = run(
        capsys, "--family", "symmetric-binary", "--depth", "3", "--polarity-low", "0.5", "--seed", "4",
        "-n", "2_000", "--draw-seed", "9", "--start", "11", "--views", "2",
        "--augment", "resample-leaves:0.2", "--format", "parquet", "--rows-per-shard", "1500", out,
    )  # fmt: skip
    assert status == 0
    tree = hltm.symmetric_binary(depth=3, polarity=(0.5, 1.0), seed=4)
    draw = tree.sample(2000, seed=9, start=11)
    data = hltm.load(out)
    assert data.leaves[:].equal(draw.leaves)
    assert np.array_equal(np.asarray(data.latents), draw.states[:, :7])
    _, second = tree.views(draw, hltm.resample_leaves(0.2))
    assert data.views[1][:].equal(second.leaves)
    assert said.startswith("2,000 rows in 2 parquet files, ")
    assert "states of a row: 8 leaves, 7 latents, 8 in view 1, 8 in view 2" in said
    assert all(len(line) <= 80 or str(out) in line for line in said.splitlines())
    assert "\x1b" not in said


def test_missing_leaves_and_columns_of_nodes(capsys, tmp_path):
    out = tmp_path / "out"
    status, _, _ = run(
        capsys, "--depth", 2, "-n", 200, "--views", 1, "--augment", "keep-root,drop-leaves:0.5",
        "--format", "csv", out,
    )  # fmt: skip
    assert status == 0
    data = hltm.load(out)
    tree = hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), seed=0)
    (view,) = tree.views(
        tree.sample(200, seed=0), hltm.keep_root().then(hltm.drop_leaves(0.5)), count=1
    )
    assert data.views[0][:].equal(view.leaves)
    first = (out / "data/00000-of-00001.csv").read_text().partition("\n")[0]
    assert first == "row,0,1,2,3,4,5,6,3_view_1,4_view_1,5_view_1,6_view_1"
    assert run(capsys, "--verify", out)[0] == 0
    status, _, err = run(capsys, "-n", 2, "--columns", "nodes", tmp_path / "other")
    assert (status, err.count("\n")) == (2, 1)
    assert "columns of format 'npz' must be 'arrays', got 'nodes'" in err


def test_a_saved_tree_and_chosen_latents(capsys, tmp_path):
    trees = hltm.symmetric_binary(depth=2, polarity=(0.5, 1.0), members=3, seed=1)
    trees.save(tmp_path / "tree.json")
    out = tmp_path / "out"
    status, _, _ = run(capsys, "--tree", tmp_path / "tree.json", "-n", 40, "--nodes", "0,2", out)
    assert status == 0
    data = hltm.load(out)
    draw = trees.sample(40, seed=0)
    assert np.array_equal(np.asarray(data.leaves), draw.leaves)
    assert np.array_equal(np.asarray(data.latents), draw.states[..., [0, 2]])


def test_a_tree_of_another_programs_file(capsys, tmp_path):
    text = "((human:0.1,chimp:0.1):0.3,lemur:0.5);"
    (tmp_path / "tree.nwk").write_text(text)
    _, _, said = run(capsys, "--tree", tmp_path / "tree.nwk", "-n", 4, tmp_path / "default")
    assert said == "branch lengths are read as paralinear, 2 states (--lengths, --states)\n"
    status, _, said = run(
        capsys, "--tree", tmp_path / "tree.nwk", "--lengths", "expected-changes", "--states", 4,
        "-n", 40, tmp_path / "out",
    )  # fmt: skip
    assert (status, said) == (0, "")
    tree = hltm.LatentTree.from_newick(text, lengths="expected-changes", states=4)
    assert hltm.load(tmp_path / "out").leaves[:].equal(tree.sample(40, seed=0).leaves)


def test_members_of_a_family(capsys, tmp_path):
    status, _, _ = run(capsys, "--depth", 2, "--members", 2, "-n", 10, tmp_path / "out")
    assert status == 0
    trees = hltm.symmetric_binary(depth=2, members=2, seed=0, polarity=(0.7, 1.0))
    assert np.array_equal(
        np.asarray(hltm.load(tmp_path / "out").leaves), trees.sample(10, seed=0).leaves
    )


def test_verify_tells_true_files_from_others(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "-n", 1000, "out")[0] == 0
    status, said, _ = run(capsys, "--verify", "out")
    assert status == 0
    words = " ".join(said.split())
    assert words.startswith("out is what it claims: 1 file, 1,000 rows; every checksum fits")
    assert "1,000 rows drawn again" in words
    assert "17 rows drawn again" in " ".join(
        run(capsys, "--verify", "out", "--rows", 17)[1].split()
    )

    target = tmp_path / "out/data/00000-of-00001.npz"
    damaged = bytearray(target.read_bytes())
    damaged[-2000] ^= 1
    target.write_bytes(damaged)
    status, said, _ = run(capsys, "out/", "--verify", "--rows", 0)
    assert status == 1
    assert "out is NOT what it claims:" in said
    assert "00000-of-00001.npz was changed: its SHA-256" in " ".join(said.split())


def test_an_interruption_is_taken_up_by_the_same_command(capsys, tmp_path, monkeypatch):
    arguments = ("-n", 1000, "--rows-per-shard", 300, tmp_path / "out")
    draw, calls = ExportRecipe.draw, []

    def interrupted(self, place, rows):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(self, place, rows)

    monkeypatch.setattr(ExportRecipe, "draw", interrupted)
    status, _, said = run(capsys, *arguments)
    assert status == 130
    assert "the same command continues from there" in said
    assert run(capsys, *arguments)[0] == 0
    assert [rows.start for rows in calls[3:]] == [600, 900]
    assert hltm.verify(tmp_path / "out").ok


def test_the_bar_shows_rate_and_time_left():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress_bar(terminal, "rows") as bar:
        sample.show_rows(bar, 1_000_000, 5_000_000)
        clock = iter(range(1, 10))
        bar.get_time = lambda: float(next(clock))
        for done in (2_000_000, 3_000_000, 4_000_000):
            sample.show_rows(bar, done, 5_000_000)
        bar.refresh()
        drawn = terminal.file.getvalue().split("\r")[-1]
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
    assert "4,000,000/5,000,000 rows" in shown
    assert re.search(r"[\d,]+/s", shown)
    assert re.search(r"\d\d:\d\d", shown)
    assert len(shown.strip("\n")) <= 80


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "name the folder to write to, e.g. hltm sample -n 1_000_000 out/"),
        (("out",), "give the number of rows to write, e.g. -n 1_000_000"),
        (("-n", "0", "out"), "the number of samples must be at least 1, got 0"),
        (("-n", "5", "--family", "oak", "out"), "unknown family 'oak', expected one of"),
        (("-n", "5", "--depth", "0", "out"), "depth must be at least 1, got 0"),
        (("-n", "5", "--format", "tsv", "out"), "unknown format 'tsv', expected one of npz"),
        (("-n", "5", "--views", "1", "out"), "--views 1 needs --augment"),
        (
            ("-n", "5", "--augment", "keep-root", "out"),
            "--augment keep-root has no effect without --views",
        ),
        (("-n", "5", "--augment", "blur", "--views", "1", "out"), "unknown augmentation 'blur'"),
        (("-n", "5", "--nodes", "oak", "out"), "oak"),
        (
            ("-n", "5", "--nodes", "leaves,0", "out"),
            "leaves are always kept, so name the latents alone",
        ),
        (
            ("-n", "5", "--family", "random-hierarchy", "out"),
            "--v is required; hltm sample --family random-hierarchy --help shows the options",
        ),
        (("-n", "5", "--tree", "none.json", "out"), "none.json: no such file"),
        (("-n", "5", "--tree", "x", "--family", "y", "out"), "give --tree or --family, not both"),
        (("-n", "5", "--lengths", "paralinear", "out"), "unknown option --lengths"),
        (("--verify",), "name the folder to check, e.g. hltm sample --verify out/"),
        (("--verify", "out"), "out holds no exported data: there is no out/manifest.json"),
    ],
)
def test_refusals_are_one_line(capsys, tmp_path, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    status, said, err = run(capsys, *arguments)
    assert (status, said) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_other_settings_for_a_folder_are_one_line(capsys, tmp_path):
    assert run(capsys, "-n", 10, tmp_path / "out")[0] == 0
    status, _, err = run(capsys, "-n", 10, "--draw-seed", 1, tmp_path / "out")
    assert status == 2
    assert "holds another data set: its seed is 0, not 1; choose another folder" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("first", [(), ("--verify",)])
def test_help_shows_every_option_at_80_columns(capsys, monkeypatch, first):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["sample", *first, "--help"]) == 0
    said = capsys.readouterr().out
    wanted = ["OUT", "--verify"] + (
        ["--rows", "--seed"] if first else
        ["--family", "--depth", "--polarity-low", "--seed", "--members", "--tree", "-n", "--draw-seed",
         "--start", "--views", "--augment", "--nodes", "--format", "--columns", "--rows-per-shard"]
    )  # fmt: skip
    for option in wanted:
        assert option in said
    assert max(map(len, said.splitlines())) <= 80


def test_every_family_can_be_sampled_though_one_has_a_flag_of_the_rows(tmp_path, capsys):
    """`--nodes` names the latents to keep; a random tree's number of nodes is `--tree-nodes`."""
    status, _, _ = run(
        capsys, "--family", "random-tree", "--tree-nodes", 9, "--nodes", "leaves", "-n", 4,
        tmp_path / "out",
    )  # fmt: skip
    assert status == 0
    assert len(hltm.load(tmp_path / "out").tree.topology) == 9
    for family in _families.families():
        assert main(["sample", "--family", family, "--help"]) == 0
    assert "--tree-nodes" in capsys.readouterr().out


def test_strings_of_a_grammar(capsys, tmp_path):
    grammar, out = tmp_path / "g.pcfg", tmp_path / "s.parquet"
    grammar.write_text("S -> S S [0.25] | 'a' [0.5] | 'b' [0.25]", encoding="utf-8")
    given = ("--grammar", grammar, "-n", 50, "--max-length", 6)
    more = ("--spans", "0-2, 1-3", "--draw-seed", 4, "--start", 7)
    status, said, _ = run(capsys, *given, *more, out)
    assert status == 0
    assert said.startswith("50 strings of at most 6 tokens")
    assert hltm.SentenceDataset.load(out) == hltm.SentenceDataset(
        hltm.PCFG.load(grammar), samples=50, seed=4, start=7, max_length=6, spans=[(0, 2), (1, 3)]
    )
    for arguments, message in [
        (
            ("--grammar", grammar, out),
            "--n is required; hltm sample --grammar --help shows the options",
        ),
        (given, "name the file to write, e.g. strings.parquet"),
        ((*given, "--spans", "0:2", out), "--spans must be such as 0-2,3-5, got '0:2'"),
        ((*given, "--spans", "4-8", out), "span (4, 8) is not within the 6 tokens of a string"),
        ((*given, "--depth", 3, out), "unknown option --depth"),
        ((f"--grammar={tmp_path}/none", *given[2:], out), "no such file or directory"),
        (("--grammar", out, *given[2:], out), "is no text file in UTF-8"),
    ]:
        status, _, error = run(capsys, *arguments)
        assert (status, error.count("\n"), message in error) == (2, 1, True), error
