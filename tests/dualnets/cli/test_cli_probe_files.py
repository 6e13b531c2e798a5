"""The files that a probe writes: one for each layer, whole or not at all; names are text."""

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hltm
from dualnets.cli._probe_files import check_folder, heatmap_name, write_files
from dualnets.cli._probe_tables import probe_tables
from hltm._names import brief
from hltm.probe import probe_layers, to_frame

TREE = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
NAMES = [
    "[/]", "[red]x", "$\\frac{1$", "\\input{x}", "<b>", "a\nb", "a\rb", "", "..", "é 中 \U0001f333",
    "a/b", "a_b", "A_b", "1", "01", "x" * 300, "\x1b[31m", "a,b\"c",
]  # fmt: skip


@pytest.fixture(scope="module")
def probed():
    draw = TREE.sample(300, seed=1)
    found = probe_layers(dict.fromkeys(NAMES, draw.leaves.float()), TREE, draw=draw, lags=5)
    return found, to_frame(found, TREE)


@given(st.lists(st.text(max_size=60), min_size=2, max_size=2, unique=True))
def test_no_two_layers_share_a_file(names):
    files = [heatmap_name(name) for name in names]
    assert files[0].lower() != files[1].lower()
    for file in files:
        assert len(file) < 80
        assert file.startswith("heatmap-")
        assert file.isascii()
        assert file.isprintable()
        assert "/" not in file


def test_a_name_like_another_ones_hash_has_its_own_file():
    plain = heatmap_name("a/b").removeprefix("heatmap-").removesuffix(".png")
    assert heatmap_name(plain) != heatmap_name("a/b")


def test_names_are_text_on_a_terminal(probed):
    from rich.console import Console

    table = probed[1]
    for names in (NAMES, NAMES[:4], NAMES[4:8], NAMES[-2:]):
        console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
        for part in probe_tables(table[table["layer"].isin(names)], written=False):
            console.print(part)
        shown = console.file.getvalue()
        for name in names:
            assert brief(name, 20).partition("…")[0] in shown
        assert "\x1b[31m" not in shown
        assert max(map(len, shown.splitlines())) <= 80


def test_names_are_text_in_files(probed, tmp_path):
    found, table = probed
    some = {name: found[name] for name in ("$\\frac{1$", "a\rb", "<b>")}
    kept = table[table["layer"].isin(some)]
    paths = write_files(str(tmp_path / "out"), kept, some, TREE)
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o666 & ~current_umask(tmp_path)}
    read = pd.read_csv(paths[0], dtype={"layer": str}, keep_default_na=False)
    assert read["layer"].tolist() == kept["layer"].tolist()
    page = paths[-1].read_text(encoding="utf-8")
    assert "<b>" not in page.replace("<b>holds", "")
    assert "Layer &lt;b&gt;" in page
    assert "Layer a\\rb" in page
    assert "Layer $\\frac{1$" in page
    assert page.count("data:image/png;base64,") == 3


def current_umask(folder):
    (folder / "plain").touch()
    return 0o666 & ~((folder / "plain").stat().st_mode & 0o777)


def test_a_second_run_replaces_its_own_files_and_no_others(probed, tmp_path):
    found, table = probed
    for own in (["a/b", "a_b"], ["a_b"]):
        layers = {name: found[name] for name in own}
        write_files(str(tmp_path), table[table["layer"].isin(own)], layers, TREE)
        (tmp_path / "mine.png").write_text("mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "heatmap-a_b.png", "index.html", "mine.png", "table.csv",
    ]  # fmt: skip


def test_an_error_leaves_the_folder_as_it_was(probed, tmp_path, monkeypatch):
    found, table = probed
    own = {"a_b": found["a_b"]}
    kept = table[table["layer"] == "a_b"]
    (tmp_path / "table.csv").write_text("layer\nanother's\n")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("dualnets.lab.report.probe_page.write", broken)
    with pytest.raises(OSError, match="disk full"):
        write_files(str(tmp_path), kept, own, TREE)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "layer\nanother's\n"


def test_where_no_files_can_be_written_is_seen_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match="x: is a file, expected a folder"):
        check_folder(str(tmp_path / "x"))
    with pytest.raises(ValueError, match="x: is a file, expected a folder"):
        check_folder(str(tmp_path / "x" / "y"))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ValueError, match="no files can be written there"):
        check_folder(str(tmp_path / "new" / "folder"))
    with pytest.raises(ValueError, match="is a URL"):
        check_folder("s3://bucket/x")


def test_numbers_are_whole_on_a_narrow_terminal(probed):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=40)
    for part in probe_tables(probed[1][probed[1]["layer"] == "a/b"], written=False):
        console.print(part)
    shown = console.file.getvalue()
    assert shown.startswith("layer a/b")
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 40


def test_files_of_other_programs_are_not_replaced(probed, tmp_path):
    found, table = probed
    some = table[table["layer"] == "a/b"]
    write_files(str(tmp_path), some, {"a/b": found["a/b"]}, TREE)
    check_folder(str(tmp_path))
    (tmp_path / "index.html").write_text("<title>mine</title>")
    with pytest.raises(ValueError, match=r"index\.html: is no file of hltm probe, and would be"):
        check_folder(str(tmp_path))
    (tmp_path / "index.html").unlink()
    (tmp_path / "table.csv").write_text("layer,weight")
    with pytest.raises(ValueError, match=r"table\.csv: is no file of hltm probe"):
        check_folder(str(tmp_path))
    (tmp_path / "table.csv").unlink()
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(ValueError, match=r"table\.csv: is no file of hltm probe"):
        check_folder(str(tmp_path))


def test_many_layers_are_shown_by_one_metric():
    draw = TREE.sample(300, seed=1)
    layers = {f"layer{at}": draw.leaves.float() for at in range(12)}
    table = hltm.probe.measure(layers, TREE, draw=draw, lags=5)
    from rich.console import Console

    console = Console(file=io.StringIO(), width=80)
    for part in probe_tables(table, written=False):
        console.print(part)
    shown = console.file.getvalue()
    assert "correlation of 12 layers" in shown
    assert shown.count("\nlayer") == 12 + 1  # and in the head
    assert len(shown.splitlines()) < 40
    assert "more numbers of each layer are written with --out FOLDER" in shown
