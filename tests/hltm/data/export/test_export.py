"""Exported data: what is written is what was drawn; what is refused."""

import re

import numpy as np
import pytest
import torch
from exports import FORMATS, SETTINGS, TREE, check_same_as_drawn, content

import hltm
from hltm.data.export import recipe


def many_states() -> hltm.LatentTree:
    """A root of 3 states above leaves of 2 and of 300."""
    wide = np.full((3, 300), 1 / 300)
    return hltm.LatentTree.from_parents(
        {"root": None, "few": "root", "many": "root"},
        {"root": [0.2, 0.3, 0.5], "few": [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], "many": wide},
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_what_was_drawn(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(recipe, "PIECE_ROWS", 128)
    data = hltm.export(TREE, tmp_path / "out", 1000, format=kind, **SETTINGS)
    augment = SETTINGS["augment"]
    check_same_as_drawn(data, TREE, 1000, seed=5, start=77, augment=augment)
    assert data.rows == range(77, 1077)
    shards = list(data.shards())
    assert [(s.rows.start, len(s.rows)) for s in shards] == [
        (77, 300), (377, 300), (677, 300), (977, 100),
    ]  # fmt: skip
    assert torch.cat([s.leaves for s in shards]).equal(data.leaves[:])
    assert torch.cat([s.latents for s in shards]).equal(data.latents[:])
    assert torch.cat([s.views[1] for s in shards]).equal(data.views[1][:])
    found = hltm.verify(tmp_path / "out", rows=1000)
    assert found.ok, str(found)
    assert found.rows_checked == 1000


@pytest.mark.parametrize("kind", FORMATS)
def test_members_share_a_folder_and_keep_their_addresses(tmp_path, kind):
    trees = hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), members=5, seed=0)[2:4]
    settings = {"seed": 1, "views": 2, "augment": hltm.keep_root(), "rows_per_shard": 150}
    data = hltm.export(trees, tmp_path / "out", 200, format=kind, **settings)
    assert data.leaves.shape == (2, 200, 4)
    check_same_as_drawn(data, trees, 200, seed=1, start=0, augment=hltm.keep_root())
    assert [s.member for s in data.shards()] == [2, 2, 3, 3]
    draw = trees.sample(200, seed=1)
    assert data.leaves[1, 5:9].equal(draw.leaves[1, 5:9])
    assert data.leaves[1][5].equal(draw.leaves[1, 5])
    assert hltm.load(tmp_path / "out").tree.members == (2, 3)
    assert hltm.verify(tmp_path / "out", rows=400).ok


@pytest.mark.parametrize(
    "tree",
    [
        hltm.random_tree(nodes=14, seed=3),
        hltm.caterpillar(depth=4, cardinality=3, seed=1),
        hltm.random_hierarchy(v=4, m=2, s=2, L=2, classes=4, seed=0),
    ],
    ids=["random tree", "caterpillar", "random hierarchy"],
)
def test_trees_of_any_shape(tmp_path, tree):
    augment = hltm.keep_level(1).then(hltm.resample_leaves(0.5))
    data = hltm.export(tree, tmp_path / "out", 300, seed=2, start=5, views=2, augment=augment)
    check_same_as_drawn(data, tree, 300, seed=2, start=5, augment=augment)
    assert hltm.verify(tmp_path / "out", rows=300).ok


@pytest.mark.parametrize("kind", FORMATS)
def test_more_than_256_states(tmp_path, kind):
    tree = many_states()
    data = hltm.export(tree, tmp_path / "out", 500, seed=3, format=kind)
    assert data.leaves.dtype == np.int32  # torch cannot reduce uint16
    check_same_as_drawn(data, tree, 500, seed=3, start=0)
    assert int(np.asarray(data.leaves).max()) > 255
    assert hltm.verify(tmp_path / "out").ok


def test_which_latents_stand_beside_the_leaves(tmp_path):
    draw = TREE.sample(50, seed=1)
    alone = hltm.export(TREE, tmp_path / "leaves", 50, seed=1, nodes="leaves")
    assert torch.equal(alone.leaves[:], draw.leaves)
    with pytest.raises(ValueError, match="holds no latents; export with nodes='all'"):
        _ = alone.latents
    some = hltm.export(TREE, tmp_path / "some", 50, seed=1, nodes=["4", 1])
    assert some.latent_nodes == (4, 1)
    assert some.latents[:].equal(draw.states[:, [4, 1]])
    root = hltm.export(TREE, tmp_path / "root", 50, seed=1, nodes=TREE.root)
    assert root.latents[:].equal(draw.root[:, None])


def test_columns_are_indexed_like_arrays(tmp_path):
    column = hltm.export(TREE, tmp_path / "out", 1000, seed=5, rows_per_shard=300).leaves
    leaves = TREE.sample(1000, seed=5).leaves
    for index in (0, 299, 300, -1, slice(290, 610), slice(None, None, -7), slice(5, 5)):
        expected = leaves.numpy()[index]
        assert np.array_equal(column[index].numpy(), expected)
    chosen = np.random.default_rng(0).integers(-1000, 1000, 64)
    assert column[chosen].equal(leaves[chosen])
    assert column[[3, 999]].equal(leaves[[3, 999]])
    for wrong in (1000, -1001, [3, 1000]):
        with pytest.raises(IndexError, match=r"places must be in -1000\.\.999, got"):
            _ = column[wrong]
    assert column[leaves[:, 0] == 1].equal(leaves[leaves[:, 0] == 1])
    with pytest.raises(IndexError, match="expected 1000 booleans, one per row, got 2"):
        _ = column[[True, False]]
    for wrong in (0.5, "row"):
        with pytest.raises(TypeError, match="expected a place, a slice or a list of places"):
            _ = column[wrong]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed": 6}, "its seed is 5, not 6"),
        ({"start": 0}, "its start is 77, not 0"),
        ({"samples": 999}, "its number of samples is 1000, not 999"),
        ({"views": 1}, "its views is 2, not 1"),
        ({"augment": hltm.keep_root()}, "its augmentation is resample-leaves:0.4, not keep-root"),
        ({"nodes": "leaves"}, "its latents are not the same"),
        ({"format": "parquet"}, "its file format is npz, not parquet"),
        ({"rows_per_shard": 301}, "its rows per shard is 300, not 301"),
        ({"tree": hltm.symmetric_binary(depth=3, seed=1)}, "its tree is not the same"),
    ],
)
def test_a_folder_of_other_settings_is_refused_by_name(tmp_path, change, complaint):
    out = tmp_path / "out"
    hltm.export(TREE, out, 1000, **SETTINGS)
    before = content(out)
    asked = {"tree": TREE, "samples": 1000, "folder": out, **SETTINGS, **change}
    with pytest.raises(ValueError, match=re.escape(f"{out} holds another data set: {complaint};")):
        hltm.export(**asked)
    assert content(out) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds no exported data: there is 'thesis\.tex'"):
        hltm.export(TREE, tmp_path, 10, seed=0)
    with pytest.raises(OSError, match="cannot write to"):
        hltm.export(TREE, tmp_path / "thesis.tex", 10, seed=0)


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"samples": 0}, ValueError, "the number of samples must be at least 1, got 0"),
        ({"start": -1}, ValueError, "rows must lie in"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"format": "tsv"}, ValueError, "unknown format 'tsv', expected one of npz, parquet"),
        ({"views": 2}, ValueError, r"views=2 needs augment"),
        ({"views": -1}, ValueError, "views must be at least 0, got -1"),
        ({"views": 1 << 24}, ValueError, "views must be below 2"),
        ({"views": [1]}, TypeError, r"views must be an integer, got \[1\]"),
        ({"views": True}, TypeError, "views must be an integer, got True"),
        ({"augment": "keep-root", "views": 1}, TypeError, "augment must be an Augmentation, e"),
        ({"format": ["npz"]}, ValueError, r"unknown format \['npz'\], expected one of"),
        ({"augment": hltm.keep_root()}, ValueError, "augment=keep-root has no effect here"),
        ({"rows_per_shard": 0}, ValueError, "rows_per_shard must be at least 1, got 0"),
        ({"nodes": ["7"]}, ValueError, "nodes must be latents, got the leaf '7'"),
        ({"nodes": [1, 1]}, ValueError, "nodes must be distinct"),
        ({"nodes": ["oak"]}, KeyError, "oak"),
        ({"tree": TREE.topology}, TypeError, "tree must be a LatentTree, got Topology"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, change, error, complaint):
    asked = {"tree": TREE, "samples": 10, "folder": tmp_path / "out", "seed": 0, **change}
    with pytest.raises(error, match=complaint):
        hltm.export(**asked)
    assert not (tmp_path / "out").exists()


def test_files_do_not_depend_on_how_they_are_split(tmp_path):
    one = hltm.export(TREE, tmp_path / "one", 700, seed=5, rows_per_shard=700)
    many = hltm.export(TREE, tmp_path / "many", 300, seed=5, start=200, rows_per_shard=7)
    assert many.leaves[:].equal(one.leaves[200:500])
