"""Exports as tables of other programs: whole folders, columns of single nodes, CSV, the card."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from exports import SETTINGS, TREE, content
from few import few

import hltm
from hltm.data.export.manifest import read_manifest

AWKWARD = ['a "b"|c, é😀', "line\nbreak", "no", "1.5", "a.b", "a", "`x`: <i>#*_", ""]
NAMED = hltm.LatentTree.from_parents(
    {"r": None, "s": "r"} | dict.fromkeys(AWKWARD, "s"),
    {"r": [0.5, 0.5]} | {name: [[0.8, 0.2], [0.3, 0.7]] for name in ["s", *AWKWARD]},
)
DROPPED = hltm.drop_leaves(0.5)
WIDE = [("parquet", "nodes"), ("huggingface", "nodes"), ("csv", None), ("csv", "nodes")]


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("columns", ["arrays", "nodes"])
def test_pandas_reads_a_whole_folder_of_parquet(tmp_path, members, columns):
    tree = hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), members=members, seed=0)
    out = tmp_path / "out"
    data = hltm.export(
        tree, out, 100, seed=1, views=1, augment=DROPPED, format="parquet", columns=columns,
        rows_per_shard=30,
    )  # fmt: skip
    table = pd.read_parquet(out)
    rows = list(range(100)) * (members or 1)
    assert table["row"].tolist() == rows
    if members:
        assert table["member"].tolist() == [0] * 100 + [1] * 100
    expected = np.concatenate(data.leaves) if members else np.asarray(data.leaves)
    names = list(tree.topology.names)[3:]
    found = table[names].to_numpy() if columns == "nodes" else np.stack(table["leaves"])
    assert np.array_equal(found, expected)
    assert pd.read_parquet(out / "data").equals(table)


def test_an_earlier_folder_of_parquet_keeps_its_manifest(tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    for folder in (out, whole):
        hltm.export(TREE, folder, 1000, format="parquet", **SETTINGS)
    (out / "_manifest.json").rename(out / "manifest.json")
    (out / "data/00002-of-00004.parquet").unlink()
    assert "00002-of-00004.parquet is missing" in str(hltm.verify(out))
    hltm.export(TREE, out, 1000, format="parquet", **SETTINGS)
    assert hltm.verify(out).ok
    found = content(out)
    found["_manifest.json"] = found.pop("manifest.json")
    assert found == content(whole)


@pytest.mark.parametrize("columns", few(["nodes", "arrays"]))
def test_duckdb_reads_a_whole_folder(tmp_path, columns):
    duckdb = pytest.importorskip("duckdb")
    out = tmp_path / "out"
    more = {"seed": 1, "views": 1, "augment": DROPPED, "rows_per_shard": 30}
    data = hltm.export(TREE, out, 100, format="parquet", columns=columns, **more)
    what = '"9", "9_view_1"' if columns == "nodes" else "leaves[3], view_1[3]"
    found = duckdb.sql(f"select {what} from '{out}/**/*.parquet' order by row").fetchall()
    view = [None if state == -1 else state for state in data.views[0][:][:, 2].tolist()]
    assert found == list(zip(data.leaves[:][:, 2].tolist(), view, strict=True))


def test_polars_reads_the_files(tmp_path):
    polars = pytest.importorskip("polars")
    more = {"seed": 1, "views": 1, "augment": DROPPED, "columns": "nodes", "rows_per_shard": 30}
    data = hltm.export(TREE, tmp_path, 100, format="parquet", **more)
    table = polars.read_parquet(tmp_path / "data").sort("row")
    assert table["9"].to_list() == data.leaves[:][:, 2].tolist()
    assert table["9_view_1"].fill_null(-1).to_list() == data.views[0][:][:, 2].tolist()


@pytest.mark.parametrize(("kind", "columns"), WIDE)
def test_a_column_per_node_has_its_name(tmp_path, kind, columns):
    out = tmp_path / "out"
    data = hltm.export(
        NAMED, out, 90, seed=4, views=2, augment=DROPPED, format=kind, columns=columns,
        rows_per_shard=40,
    )  # fmt: skip
    draw = NAMED.sample(90, seed=4)
    views = NAMED.views(draw, DROPPED)
    files = sorted((out / "data").iterdir())
    if kind == "csv":
        whole = [list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")))) for path in files]
        assert all(lines[0] == whole[0][0] for lines in whole)
        rows = [line for lines in whole for line in lines[1:]]
        found = pd.DataFrame(rows, columns=whole[0][0]).replace("", "-1").astype(int)
    else:
        found = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
        found = found.fillna(-1)
    names = NAMED.topology.names
    leaves = [names[v] for v in NAMED.leaves]
    suffixed = [f"{name}_view_{i}" for i in (1, 2) for name in leaves]
    assert list(found) == ["row", *names, *suffixed]
    assert found["row"].tolist() == list(range(90))
    assert np.array_equal(found[list(names)], draw.states)
    for i, view in enumerate(views):
        assert np.array_equal(found[[f"{name}_view_{i + 1}" for name in leaves]], view.leaves)
    assert np.array_equal(data.latents, draw.states[:, :2])
    assert hltm.verify(out, rows=90).ok
    table = data.to_pandas()
    assert list(table) == list(found)
    assert np.array_equal(table.fillna(-1).astype(int), found.astype(int))


def test_columns_that_would_share_a_name_are_refused(tmp_path):
    tables = {"r": [0.5, 0.5], "x": [[1, 0], [0, 1]], "y": [[1, 0], [0, 1]]}
    for names, views in ((("r", "row"), 0), (("r", "x", "x_view_1"), 1)):
        made = dict(zip(names, tables.values(), strict=False))
        tree = hltm.LatentTree.from_parents({names[0]: None} | dict.fromkeys(names[1:], "r"), made)
        more = {"seed": 0, "views": views, "augment": DROPPED if views else None}
        for kind, columns in WIDE:
            with pytest.raises(ValueError, match=f"two columns have the name '{names[-1]}'"):
                hltm.export(tree, tmp_path / "out", 5, format=kind, columns=columns, **more)
        assert not (tmp_path / "out").exists()
        data = hltm.export(tree, tmp_path / str(views), 5, format="parquet", **more)
        with pytest.raises(ValueError, match=f"two columns have the name '{names[-1]}'"):
            data.to_pandas()


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("npz", "nodes"),
        ("safetensors", "nodes"),
        ("csv", "arrays"),
        ("parquet", "wide"),
        ("npz", 3),
    ],
)
def test_layouts_that_a_format_does_not_have_are_refused(tmp_path, kind, columns):
    with pytest.raises(ValueError, match=f"columns of format '{kind}' must be .*, got {columns!r}"):
        hltm.export(TREE, tmp_path / "out", 5, seed=0, format=kind, columns=columns)


def test_a_folder_of_the_other_layout_is_another_data_set(tmp_path):
    out = tmp_path / "out"
    hltm.export(TREE, out, 5, seed=0, format="parquet")
    with pytest.raises(ValueError, match="its columns is arrays, not nodes; choose another"):
        hltm.export(TREE, out, 5, seed=0, format="parquet", columns="nodes")
    assert read_manifest(out)["version"] == 1


def test_a_csv_file_with_other_columns_or_states_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("hltm.data.export.read.HASHED", 0)  # as if it was large
    out = tmp_path / "out"
    data = hltm.export(TREE, out, 5, seed=0, format="csv")
    path = next((out / "data").iterdir())
    text = path.read_text()
    for changed, complaint in (
        (
            text.replace("row,0,1", "row,1,0", 1),
            "first line does not have the names of the columns",
        ),
        (text.replace("\n0,", "\n0,x", 1), "cannot be read"),
        (text.replace("\n0,", "\n0,300", 1), "cannot be read"),
        (text + text.splitlines()[-1] + "\n", "has shape"),
    ):
        path.write_text(changed)
        with pytest.raises(ValueError, match=complaint):
            _ = hltm.load(out).latents[:]
        assert complaint in str(hltm.verify(out))
    assert len(data) == 5


def card_of(out):
    """The front matter of a card, and its text."""
    front, _, text = (out / "README.md").read_text(encoding="utf-8")[4:].partition("\n---\n")
    return front, text


@pytest.mark.parametrize("columns", ["arrays", "nodes"])
def test_the_card_has_licence_types_and_what_missing_means(tmp_path, columns):
    augment = hltm.Augmentation("odd|name\n`*`", DROPPED.rule, DROPPED.missing)
    more = {"seed": 0, "views": 1, "augment": augment, "format": "huggingface", "columns": columns}
    hltm.export(NAMED, tmp_path / "missing", 5, **more)
    front, text = card_of(tmp_path / "missing")
    assert "\nlicense: mit\n" in front
    assert "\n  - name: row\n    dtype: int64\n" in front
    if columns == "nodes":
        quoted = r'"a \U00000022b\U00000022|c, é😀_view_1"'
        assert f"\n  - name: {quoted}\n    dtype: uint8\n" in front
        assert '\n  - name: "line\\U0000000abreak"\n' in front
    else:
        length = len(AWKWARD)
        assert front.endswith(f"\n  - name: view_1\n    sequence: uint8\n    length: {length}")
    assert "**Missing leaves.** Null in a view is a leaf that the view misses." in text
    assert r"| augmentation | odd\|name \`\*\` |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    cells = {line.replace(r"\|", "").count("|") for line in tables}
    assert cells == {3, 4}  # no name has added a cell or a line
    assert "<i>" not in text
    more |= {"augment": hltm.keep_root()}
    hltm.export(NAMED, tmp_path / "complete", 5, **more)
    assert "Missing" not in card_of(tmp_path / "complete")[1]


@pytest.mark.parametrize("columns", ["arrays", "nodes"])
def test_programs_read_the_front_matter(tmp_path, columns):
    yaml = pytest.importorskip("yaml")
    more = {"seed": 0, "views": 1, "augment": DROPPED, "format": "huggingface", "columns": columns}
    hltm.export(NAMED, tmp_path, 5, **more)
    features = yaml.safe_load(card_of(tmp_path)[0])["dataset_info"]["features"]
    names = [each["name"] for each in features]
    if columns == "nodes":
        assert names == ["row", "r", "s", *AWKWARD, *(f"{name}_view_1" for name in AWKWARD)]
    else:
        assert names == ["row", "leaves", "latents", "view_1"]


@pytest.mark.filterwarnings("ignore")  # of the other library
@pytest.mark.parametrize("columns", ["arrays", "nodes"])
def test_hugging_face_datasets_take_the_types_of_the_card(tmp_path, monkeypatch, columns):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    more = {"seed": 0, "views": 1, "augment": DROPPED, "format": "huggingface", "columns": columns}
    data = hltm.export(NAMED, out, 50, **more)
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    view = [[None if s == -1 else s for s in row] for row in data.views[0][:].tolist()]
    if columns == "arrays":
        assert rows["view_1"][:] == view
        assert rows.features["view_1"].length == len(AWKWARD)
    else:
        assert rows["no_view_1"][:] == [row[AWKWARD.index("no")] for row in view]
        assert rows.features["no"].dtype == "uint8"


def named_leaf(name):
    table = [[0.9, 0.1], [0.2, 0.8]]
    return hltm.LatentTree.from_parents(
        {"r": None, name: "r", "b": "r"}, {"r": [0.5, 0.5], name: table, "b": table}
    )


@pytest.mark.parametrize("name", ["a\rb", "a\nb", 'a"b', "a,b", " a "])
def test_names_of_csv_columns_are_read_by_pandas(tmp_path, name):
    data = hltm.export(named_leaf(name), tmp_path, 5, seed=1, format="csv")
    table = pd.read_csv(next((tmp_path / "data").iterdir()))
    assert list(table) == list(data.to_pandas())
    assert hltm.verify(tmp_path).ok


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_that_no_file_can_hold_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=r"the name '\\ud800' is no text that can be encoded"):
        hltm.export(named_leaf("\ud800"), tmp_path / "o", 5, seed=1, format=kind, columns="nodes")
    assert not (tmp_path / "o").exists()
