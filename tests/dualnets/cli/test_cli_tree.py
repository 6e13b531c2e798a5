"""The command `hltm tree`: what it prints, how it refuses, and its families."""

import re

import pytest

import hltm
from dualnets.cli import _families, _tree_files, commands, main
from dualnets.cli import tree as tree_command
from hltm.formats.files import FORMATS


def run(capsys, *arguments):
    status = main(["tree", *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_it_is_a_command_with_a_line_of_help(capsys):
    assert commands()["tree"] == (
        "Show a tree: its shape, exact correlations, ceilings, and a figure."
    )
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert "symmetric-binary" in out
    assert max(map(len, out.splitlines())) <= 80


def test_every_node_has_its_exact_numbers(capsys):
    arguments = (
        "--family",
        "symmetric-binary",
        "--depth",
        "3",
        "--polarity-low",
        "0.2",
        "--seed",
        "4",
    )
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out  # no colour outside a terminal
    shown = hltm.symmetric_binary(depth=3, polarity=(0.2, 1.0), seed=4)
    rows = {}
    for line in out.splitlines():
        found = re.match(r"[│├└─ ]*(\d+) +2 (.*)", line)
        if found:
            rows[int(found[1])] = [float(x) for x in found[2].split()]
    assert sorted(rows) == list(range(15))
    own = shown.ceiling(shown.latents).value
    every = shown.ceiling(shown.latents, leaves="all").value
    for v, row in rows.items():
        expected = [] if v == 0 else [float(shown.polarity[v]), float(shown.correlation(0, v))]
        if v in shown.latents:
            expected += [float(own[v]), float(every[v])]
        assert row == pytest.approx(expected, abs=5.1e-4)


def test_children_stand_below_their_parent(capsys):
    _, out, _ = run(capsys, "--depth", "2")
    drawn = [re.match(r"([│├└─ ]*)(\d+) +2 ", line) for line in out.splitlines()]
    assert [(m[1], m[2]) for m in drawn if m] == [
        ("", "0"), ("├─", "1"), ("│ ├─", "3"), ("│ └─", "4"), ("└─", "2"), ("  ├─", "5"), ("  └─", "6"),
    ]  # fmt: skip


def test_sampled_ceilings_show_their_error_and_fit(capsys):
    status, out, _ = run(capsys, "--depth", "5", "--samples", "256")
    assert status == 0
    assert re.search(r"^0 +2 +0\.\d{3} ± 0\.\d{3}", out, re.M)
    assert "standard error" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_large_tree_is_shown_by_level(capsys):
    status, out, _ = run(capsys, "--depth", "7", "--samples", "64")
    assert status == 0
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d ", line)]
    assert [(int(row[0]), int(row[1])) for row in rows] == [(7 - i, 2**i) for i in range(8)]
    large = hltm.symmetric_binary(depth=7, seed=0)
    level = list(large.level(3))
    assert float(rows[4][2]) == pytest.approx(float(large.polarity[level].abs().mean()), abs=5.1e-4)
    root = large.correlation(0, level).abs().mean()
    assert float(rows[4][3]) == pytest.approx(float(root), abs=5.1e-4)


def test_long_work_is_announced_and_by_default_bounded(capsys, monkeypatch):
    monkeypatch.setattr(tree_command, "WORK", 1 << 16)
    monkeypatch.setattr(tree_command, "FEWEST", 200)
    status, out, err = run(capsys, "--depth", "7")
    assert status == 0
    assert err == "ceilings of 127 latents from 257 samples (--samples) …\n"
    assert "257 samples; the standard error of a node is at most 0." in " ".join(out.split())
    assert run(capsys, "--depth", "9")[2].startswith("ceilings of 511 latents from 200 samples")
    assert "from 300 samples" in run(capsys, "--depth", "8", "--samples", "300")[2]
    assert run(capsys, "--depth", "3", "--samples", "300")[2] == ""


def test_it_draws_the_tree(capsys, tmp_path):
    file = tmp_path / "tree.png"
    status, out, _ = run(capsys, "--depth", "2", "--picture", str(file))
    assert status == 0
    assert str(file) in out
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--family", "oak"), "unknown family 'oak', expected one of"),
        (("--depth", "0"), "depth must be at least 1, got 0"),
        (("--polarity-low", "2"), "polarities must be in"),
        (("--samples", "1"), "--samples must be at least 2, got 1"),
        (("--depth", "1", "--picture", "/nowhere/at/all.png"), "/nowhere/at/all.png"),
        (("--depth", "1", "--picture", "tree.odd"), "odd"),
    ],
)
def test_refusals_are_one_line(capsys, arguments, complaint):
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert complaint in err
    assert err.count("\n") == 1


def test_help_of_a_family_shows_its_options(capsys):
    assert main(["tree", "--family=symmetric_binary", "--help"]) == 0
    out = capsys.readouterr().out
    for option in (
        "--depth",
        "--branching",
        "--polarity-low",
        "--polarity-high",
        "--signs",
        "--seed",
    ):
        assert option in out
    assert "Levels below the root" in out
    assert "--members" not in out


def made_up(
    *,
    nodes: int,
    cardinality: tuple[int, int] | int = 2,
    rate: float = 0.5,
    start: str | None = None,
    table: list[float] | None = None,
    members: int | None = None,
    seed: int,
) -> hltm.LatentTree:
    """A family with every kind of argument."""
    raise NotImplementedError


def test_flags_follow_a_familys_keywords():
    found = {
        option.name: (option.kind, option.default, option.required, argument)
        for argument, own in _families.flags(made_up).items()
        for option in own
    }
    assert found == {
        "nodes": (int, None, True, "nodes"), "cardinality_low": (int, 2, False, "cardinality"),
        "cardinality_high": (int, 2, False, "cardinality"), "rate": (float, 0.5, False, "rate"),
        "start": (str, None, False, "start"), "seed": (int, 0, False, "seed"),
    }  # fmt: skip


def test_states_beyond_binary_are_compared_by_information(capsys, monkeypatch):
    def three(*, seed: int = 0) -> hltm.LatentTree:
        """Three states everywhere."""
        import numpy as np

        table = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
        topology = hltm.Topology.balanced(1, 2)
        return hltm.LatentTree.from_tables(topology, [np.ones(3) / 3, table, table])

    monkeypatch.setattr(_families, "get_type_hints", lambda make, **_: {"seed": int})
    monkeypatch.setattr(_families, "families", lambda: {"three": three})
    status, out, _ = run(capsys, "--family", "three")
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith("├─1"))
    assert [float(x) for x in line.split()[2:]] == pytest.approx([0.7, 0.460], abs=5.1e-4)
    assert "mutual information in nats" in out


def numbers(printed):
    return [line for line in printed.splitlines() if re.search(r"\d\.\d{3}", line)]


@pytest.mark.parametrize("suffix", [".json", ".nwk", ".bif", ".graphml", ".gml", ".json.gz"])
def test_a_tree_is_saved_and_shown_again(capsys, tmp_path, suffix):
    file = str(tmp_path / f"tree{suffix}")
    status, out, _ = run(capsys, "--depth", "2", "--seed", "3", "--save", file)
    assert status == 0
    assert file in out
    expected = hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), seed=3)
    assert hltm.load_tree(file).tables.flat.equal(expected.tables.flat)
    status, again, _ = run(capsys, "--tree", file)
    assert status == 0
    assert again.startswith(f"tree{suffix}: 7 nodes")
    assert numbers(again) == numbers(out)


def test_a_phylogeny_is_shown_with_what_its_lengths_are(capsys, tmp_path):
    file = tmp_path / "primates.nex"
    file.write_text("#NEXUS\nbegin trees;\ntree a = ((human:0.1,chimp_p:0.1):0.3,lemur:0.5);\nend;")
    status, out, _ = run(
        capsys, "--tree", str(file), "--lengths", "expected-changes", "--rate", "0.5", "--keep-underscores"
    )  # fmt: skip
    assert status == 0
    assert re.search(r"human +2 +0\.905 ", out)  # exp(-2 · 0.5 · 0.1)
    assert "chimp_p" in out
    assert run(capsys, "--tree", str(file), "--states", "4")[0] == 0


def test_several_trees_are_shown_one_by_one(capsys, tmp_path):
    trees = hltm.symmetric_binary(depth=1, polarity=(0.5, 0.9), members=3, seed=0)
    file = str(tmp_path / "trees.json")
    trees.save(file)
    assert run(capsys, "--tree", file)[1].startswith("trees.json, member 0 of 3: 3 nodes")
    status, out, _ = run(
        capsys, "--tree", file, "--member", "2", "--save", str(tmp_path / "one.bif")
    )
    assert status == 0
    assert out.startswith("trees.json, member 2 of 3: 3 nodes")
    assert f"{float(trees[2].polarity[1]):.3f}" in out
    assert hltm.load_tree(tmp_path / "one.bif").tables.flat.equal(trees[2].tables.flat)
    assert run(capsys, "--tree", file, "--save", str(tmp_path / "all.gml"))[0] == 0
    assert hltm.load_tree(tmp_path / "all.gml").tables.flat.equal(trees.tables.flat)


def test_names_that_do_not_print_are_quoted(capsys, tmp_path):
    tree = hltm.LatentTree.from_parents({"a\nb": None, "c": "a\nb"}, [[0.5, 0.5], [[1, 0], [0, 1]]])
    tree.save(tmp_path / "tree.json")
    status, out, _ = run(capsys, "--tree", str(tmp_path / "tree.json"))
    assert status == 0
    assert r"'a\nb'" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tree", "none.json"), "none.json: no such file"),
        (("--tree", "."), ".: is a directory"),
        (("--tree=",), "--tree needs a value"),
        (("--tree", "two.nwk"), "two.nwk: the text holds 2 trees"),
        (("--tree", "two.nwk", "--rate", "0"), "rate must be a positive number, got 0"),
        (("--tree", "two.nwk", "--states", "0"), "states must be an integer in 2..65536, got 0"),
        (("--save", "s3://bucket/tree.json"), "'s3://bucket/tree.json' is a URL"),
        (("--tree", "asia.bif"), "asia.bif: not a tree: the edge 'c' -> 'd' closes the circle"),
        (("--tree", "asia.bif", "--lengths", "paralinear"), "BIF has no option 'lengths'"),
        (("--tree", "free.gml"), "free.gml: the edges of an undirected graph have no direction"),
        (("--tree", "free.gml", "--root", "c"), "free.gml: root 'c' is not a node of the graph"),
        (("--tree", "free.gml", "--root", "a", "--member", "1"), "--member must be in 0..0, got 1"),
        (("--tree", "free.gml", "--family", "balanced"), "give --tree or --family, not both"),
        (("--tree", "free.gml", "--depth", "3"), "unknown option --depth"),
        (("--save", "tree.odd"), "tree.odd: a tree is not written to .odd, expected one of .json"),
        (("--save", "nowhere/tree.json"), "nowhere/tree.json: there is no folder nowhere"),
        (
            ("--family", "random-tree", "--nodes", "5", "--save", "t.nwk"),
            "Newick would lose tables",
        ),
    ],
)
def test_refusals_of_files_are_one_line(capsys, tmp_path, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.nwk").write_text("(a:1,b:1);(a:1,b:1);")
    (tmp_path / "free.gml").write_text(
        'graph [ node [ id 0 label "a" ] node [ id 1 label "b" ] edge [ source 0 target 1 polarity 1 ] ]'
    )
    (tmp_path / "asia.bif").write_text(
        "".join(f"variable {v} {{ type discrete [ 2 ] {{ no, yes }}; }}\n" for v in "abcd")
        + "probability ( a ) { } probability ( b | a ) { } probability ( c | a ) { }\n"
        + "probability ( d | b, c ) { }\n"
    )
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_help_of_a_file_shows_its_options_at_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(capsys, "--help")[0] == 0
    assert main(["tree", "--tree", "any.nwk", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--lengths", "--rate", "--states", "--root", "--member", "--save", "--picture"):
        assert option in out
    assert "--depth" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_newick_is_saved_with_the_lengths_that_were_read(capsys, tmp_path):
    (tmp_path / "a.nwk").write_text("(a:0.25,b:0.5)r;")
    files = ["--tree", str(tmp_path / "a.nwk"), "--save", str(tmp_path / "b.nwk")]
    for options in ((), ("--lengths", "expected-changes", "--rate", "2", "--states", "4")):
        assert run(capsys, *files, *options)[0] == 0
        found = re.findall(r":([0-9.]+)\[", (tmp_path / "b.nwk").read_text())
        assert [float(length) for length in found] == pytest.approx([0.25, 0.5])


def test_the_help_names_every_format_of_files():
    for each in FORMATS:
        assert each.name.removeprefix("node-link ") in _tree_files.FORMATS
        assert each.write is None or each.suffixes[0] in _tree_files.WRITTEN
