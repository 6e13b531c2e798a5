"""The command `hltm tree`: what it prints, how it refuses, and its families."""

import re

import pytest

import hltm
from dualnets.cli import _families, commands, main


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
        (("--samples", "1"), "at least 2 samples"),
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

    monkeypatch.setattr(_families, "get_type_hints", lambda make: {"seed": int})
    monkeypatch.setattr(_families, "families", lambda: {"three": three})
    status, out, _ = run(capsys, "--family", "three")
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith("├─1"))
    assert [float(x) for x in line.split()[2:]] == pytest.approx([0.7, 0.460], abs=5.1e-4)
    assert "mutual information in nats" in out
