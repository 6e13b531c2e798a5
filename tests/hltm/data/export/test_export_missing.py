"""Views with missing leaves: left out of the files, read back as drawn, and verified."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from exports import LAYOUTS, TREE, check_same_as_drawn, content
from few import few
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hltm
from hltm._paths import checksum
from hltm.data.export import recipe
from hltm.data.export.files import read_column
from hltm.data.export.manifest import read_manifest, read_recipe, write_manifest

DROPPED = hltm.drop_leaves(0.5)
COMPOUND = hltm.resample_subtrees(0.4, 1).then(hltm.drop_leaves(0.3)).then(hltm.drop_leaves(0.2))
SOME = hltm.Augmentation(  # only leaves below one node, with rates of their own
    "half-blind",
    lambda topology: np.zeros(len(topology)),
    lambda topology: np.where(np.arange(len(topology)) >= 11, 0.25, 0.0),
)
MANY = hltm.LatentTree.from_parents(
    {"root": None, "few": "root", "many": "root"},
    {"root": [0.2, 0.3, 0.5], "few": np.full((3, 2), 0.5), "many": np.full((3, 300), 1 / 300)},
)


def export(tree, out, samples, kind, **more):
    name, _, nodes = kind.partition(" of ")
    return hltm.export(tree, out, samples, format=name, columns=nodes or None, **more)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("augment", few([COMPOUND, DROPPED, SOME]), ids=str)
def test_views_are_written_as_they_are_drawn(tmp_path, monkeypatch, kind, augment):
    monkeypatch.setattr(recipe, "PIECE_ROWS", 128)
    more = {"seed": 5, "start": 77, "views": 2, "augment": augment, "rows_per_shard": 300}
    data = export(TREE, tmp_path / "out", 700, kind, **more)
    check_same_as_drawn(data, TREE, 700, seed=5, start=77, augment=augment)
    missing = augment.missing_rates(TREE)[TREE.leaves.start :]
    found = (np.asarray(data.views[0]) == -1).mean(0)
    assert np.abs(found - missing).max() < 0.08  # four standard errors
    assert data.views[0].dtype == np.int16
    assert data.leaves.dtype == np.uint8
    assert all(hltm.load(tmp_path / "out").views[i][:].equal(data.views[i][:]) for i in (0, 1))
    found = hltm.verify(tmp_path / "out", rows=700)
    assert (found.ok, found.rows_checked) == (True, 700), str(found)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_many_states_and_stacked_members(tmp_path, kind):
    more = {"seed": 3, "views": 1, "augment": DROPPED}
    data = export(MANY, tmp_path / "many", 300, kind, **more)
    check_same_as_drawn(data, MANY, 300, seed=3, augment=None)
    (view,) = MANY.views(MANY.sample(300, seed=3), DROPPED, count=1)
    assert np.array_equal(data.views[0], view.leaves)
    assert int(np.asarray(data.views[0]).max()) > 255
    assert data.views[0].dtype == data.leaves.dtype == np.int32
    trees = hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), members=5, seed=0)[2:4]
    data = export(trees, tmp_path / "members", 200, kind, rows_per_shard=150, **more)
    (view,) = trees.views(trees.sample(200, seed=3), DROPPED, count=1)
    assert np.array_equal(data.views[0], view.leaves)
    assert data[1].views[0][:].equal(view.leaves[1])
    assert hltm.verify(tmp_path / "many").ok
    assert hltm.verify(tmp_path / "members", rows=400).ok


@given(
    seed=st.integers(0, 2**32),
    rate=st.sampled_from([0.0, 1e-9, 0.1, 0.9, 1.0]),
    kind=st.sampled_from(LAYOUTS),
    nodes=st.sampled_from(["all", "leaves"]),
    samples=st.integers(1, 40),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_rate_and_format(tmp_path_factory, seed, rate, kind, nodes, samples):
    tree = hltm.random_tree(nodes=12, cardinality=(2, 4), seed=seed)
    augment = hltm.resample_leaves(0.5).then(hltm.drop_leaves(rate))
    out = tmp_path_factory.mktemp("out") / "data"
    data = export(tree, out, samples, kind, seed=seed, views=2, augment=augment, nodes=nodes)
    for column, view in zip(
        data.views, tree.views(tree.sample(samples, seed=seed), augment), strict=True
    ):
        assert column[:].equal(view.leaves)
    assert hltm.verify(out).ok


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_state_of_a_missing_leaf_is_not_in_the_file(tmp_path, kind):
    """Two trees that differ only in the leaves' states give, all leaves missing, the same views."""
    hidden = []
    for prior in (0.0, 1.0):
        tree = hltm.LatentTree.from_parents(
            {"r": None, "a": "r", "b": "r"},
            {"r": [0.5, 0.5], "a": [[1 - prior, prior]] * 2, "b": [[1 - prior, prior]] * 2},
        )
        out = tmp_path / str(prior)
        data = export(tree, out, 500, kind, seed=0, views=1, augment=hltm.drop_leaves(1.0))
        assert data.leaves[:].eq(prior).all()
        assert data.views[0][:].eq(-1).all()
        hidden.append(raw_view(out, read_recipe(out)[1]))
    assert hidden[0] == hidden[1]


def raw_view(out, recipe):
    """The first view's part of a file, byte for byte where the format allows it."""
    (shard,) = recipe.shards
    path = out / shard.file
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        group = pq.ParquetFile(path).metadata.row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
        content = path.read_bytes()
        found = []
        for chunk in chunks:
            if "view_1" in chunk.path_in_schema:
                offsets = (chunk.dictionary_page_offset, chunk.data_page_offset)
                first = min(offset for offset in offsets if offset)
                found.append(content[first : first + chunk.total_compressed_size])
        assert len(found) == (2 if recipe.columns == "nodes" else 1)
        return found
    if path.suffix == ".csv":
        return [line.split(",")[-2:] for line in path.read_text().splitlines()]
    return read_column(out, recipe, shard, "view_1").tolist()


def test_other_programs_find_missing_leaves_null(tmp_path):
    import pandas as pd

    (view,) = TREE.views(TREE.sample(200, seed=1), DROPPED, count=1)
    missing = view.missing.numpy()
    more = {"seed": 1, "views": 1, "augment": DROPPED}
    for kind in ("parquet", "parquet of nodes", "csv"):
        export(TREE, tmp_path / kind, 200, kind, **more)
    lists = pd.read_parquet(tmp_path / "parquet")
    assert np.array_equal(np.isnan(np.stack(lists["view_1"]).astype(float)), missing)
    assert lists["leaves"].iloc[0].dtype == np.uint8
    names = [f"{TREE.topology.names[v]}_view_1" for v in TREE.leaves]
    wide = pd.read_parquet(tmp_path / "parquet of nodes", dtype_backend="numpy_nullable")
    csv = pd.read_csv(next((tmp_path / "csv/data").iterdir()))
    for table in (wide, csv):
        assert np.array_equal(table[names].isna().to_numpy(), missing)
        shown = table[names].to_numpy(dtype=float, na_value=-1)
        assert np.array_equal(np.where(missing, -1, shown), view.leaves)
    export(TREE, tmp_path / "npz", 200, "npz", **more)
    with np.load(next((tmp_path / "npz/data").iterdir())) as file:
        assert np.array_equal(file["view_1"], view.leaves)
        assert file["view_1"].dtype == np.int16


def test_the_manifest_has_the_missing_rates_and_a_version_of_its_own(tmp_path):
    for name, augment, version in (
        ("plain", hltm.keep_root(), 1),
        ("none", hltm.drop_leaves(0.0), 1),
        ("some", COMPOUND, 2),
    ):
        out = tmp_path / name
        hltm.export(TREE, out, 10, seed=1, views=1, augment=augment)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["version"] == version
        rates = manifest["augmentation"].get("missing_rates")
        assert rates == (augment.missing_rates(TREE).tolist() if version == 2 else None)
        with np.load(out / "data/00000-of-00001.npz") as file:
            assert file["view_1"].dtype == (np.int16 if version == 2 else np.uint8)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_changed_marks_are_found(tmp_path, kind):
    """The marks of another seed, with fixed checksums: only the addresses show it."""
    out, other = tmp_path / "out", tmp_path / "other"
    for folder, augment in ((out, DROPPED), (other, hltm.drop_leaves(0.4))):
        export(TREE, folder, 100, kind, seed=1, views=1, augment=augment)
    target = next((out / "data").iterdir())
    target.write_bytes((other / "data" / target.name).read_bytes())
    manifest = read_manifest(out)
    manifest["shards"][0] |= {"sha256": checksum(target), "bytes": target.stat().st_size}
    write_manifest(out, manifest)
    assert "rows are not what the address determines" in str(hltm.verify(out, rows=100))
    assert ", in view_1" in str(hltm.verify(out, rows=100))


@pytest.mark.parametrize("mark", ["shown", "hidden"])
def test_a_single_changed_mark_is_found(tmp_path, mark):
    out = tmp_path / "out"
    hltm.export(TREE, out, 100, seed=1, views=1, augment=DROPPED)
    target = out / "data/00000-of-00001.npz"
    with np.load(target) as file:
        columns = dict(file)
    row, leaf = np.argwhere((columns["view_1"] == -1) == (mark == "shown"))[7]
    columns["view_1"][row, leaf] = columns["leaves"][row, leaf] if mark == "shown" else -1
    with target.open("wb") as file:
        np.savez(file, **columns)
    manifest = read_manifest(out)
    manifest["shards"][0]["sha256"] = checksum(target)
    write_manifest(out, manifest)
    assert hltm.verify(out, rows=100).problems == (
        f"data/{target.name}: 1 row is not what the address determines; the first is row {row}, in view_1",
    )


def test_missing_leaves_where_none_can_be_are_found(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    hltm.export(TREE, out, 100, seed=1, format="parquet", columns="nodes")
    target = next((out / "data").iterdir())
    table = pq.read_table(target)
    column = pa.array([None, *table.column("9").to_pylist()[1:]], pa.uint8())
    pq.write_table(table.set_column(table.column_names.index("9"), "9", column), target)
    manifest = read_manifest(out)
    manifest["shards"][0] |= {"sha256": checksum(target), "bytes": target.stat().st_size}
    write_manifest(out, manifest)
    assert "9 is of int16, expected uint8" in str(hltm.verify(out))
    with pytest.raises(ValueError, match="9 is of int16, expected uint8"):
        _ = hltm.load(out).leaves[:]


def complete_views(out, augment, name):
    """A folder as an earlier version wrote it: complete views under the name of an augmentation."""
    shown = hltm.Augmentation(name, augment.rule)
    hltm.export(TREE, out, 100, seed=1, views=1, augment=shown)
    assert read_manifest(out)["version"] == 1


@pytest.mark.parametrize("augment", [DROPPED, COMPOUND], ids=str)
def test_complete_views_of_an_earlier_version_are_named(tmp_path, augment):
    out = tmp_path / "out"
    complete_views(out, augment, augment.name)
    (problem,) = hltm.verify(out).problems
    assert problem.startswith(f"the augmentation {augment} misses leaves, but an earlier version")
    assert len(problem) < 300
    data = hltm.load(out)
    assert data.leaves[:].equal(TREE.sample(100, seed=1).leaves)
    for use in (lambda: data.views, lambda: data[0], data.to_pandas):
        with pytest.raises(ValueError, match="wrote these views complete, without missing leaves"):
            use()
    with pytest.raises(ValueError, match="because an earlier version wrote its views without"):
        hltm.export(TREE, out, 100, seed=1, views=1, augment=augment)


def test_names_that_miss_nothing_are_no_problem(tmp_path):
    for i, name in enumerate(("drop-leaves:0", "drop-leaves:x", "my-drop-leaves:0.5")):
        complete_views(tmp_path / str(i), hltm.keep_root(), name)
        assert hltm.verify(tmp_path / str(i)).ok


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 1}, "version 1, expected 2"),
        ({"version": 4}, "has version 4, expected 1 or 2 or 3"),
        ({"augmentation": {"name": "x", "rates": [0.0] * 15}}, "version 2, expected 1"),
        ({"missing_rates": [1.5] * 15}, r"missing_rates must be in \[0, 1\], one per node"),
        ({"missing_rates": [0.5] * 14}, r"missing_rates must be in \[0, 1\], one per node"),
        ({"columns": "nodes"}, "columns 'nodes' do not fit format 'npz'"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, change, complaint):
    out = tmp_path / "out"
    hltm.export(TREE, out, 10, seed=1, views=1, augment=DROPPED)
    manifest = read_manifest(out)
    if "missing_rates" in change:
        manifest["augmentation"] |= change
    else:
        manifest |= change
    write_manifest(out, manifest)
    for read in (hltm.load, hltm.verify):
        with pytest.raises(ValueError, match=complaint):
            read(out)


def test_other_rates_under_one_name_are_another_data_set(tmp_path):
    out = tmp_path / "out"
    hltm.export(TREE, out, 10, seed=1, views=1, augment=SOME)
    other = hltm.Augmentation(SOME.name, SOME.rule, DROPPED.missing)
    with pytest.raises(ValueError, match="its augmentation half-blind has other rates; choose"):
        hltm.export(TREE, out, 10, seed=1, views=1, augment=other)


KILLED = """
import os, signal, sys
import hltm
from hltm.data.export import recipe
recipe.PIECE_ROWS = 64
tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
def progress(done, total):
    if done > 400:  # inside the second file
        os.kill(os.getpid(), signal.SIGKILL)
hltm.export(tree, sys.argv[1], 1000, seed=5, views=2, augment=hltm.drop_leaves(0.5),
            rows_per_shard=300, format=sys.argv[2], columns=sys.argv[3] or None, progress=progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet of nodes", "safetensors"])
def test_a_killed_export_with_missing_leaves_is_continued(tmp_path, monkeypatch, kind):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    name, _, nodes = kind.partition(" of ")
    command = [sys.executable, "-c", KILLED, str(killed), name, nodes]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with pytest.raises(ValueError, match="is not finished: 1 of 4 files are written"):
        hltm.load(killed)
    monkeypatch.setattr(recipe, "PIECE_ROWS", 64)
    for out in (killed, whole):
        export(TREE, out, 1000, kind, seed=5, views=2, augment=DROPPED, rows_per_shard=300)
    assert content(killed) == content(whole)
    assert hltm.verify(killed, rows=1000).ok
