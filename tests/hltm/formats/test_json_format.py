"""JSON: every bit and address survives, foreign files are refused."""

import json

import pytest
from hypothesis import given
from tree_strategies import NAMES, assert_same_tree, latent_trees

import hltm
from hltm.formats.json import from_json, to_json


@given(latent_trees(names=NAMES))
def test_json_keeps_every_bit(tree):
    assert_same_tree(from_json(to_json(tree)), tree)


def test_json_keeps_addresses_and_draws(tmp_path):
    trees = hltm.symmetric_binary(depth=3, members=6, seed=1)
    for i, kept in enumerate([trees, trees[2:5], trees[4], trees[5:6]]):
        kept.save(tmp_path / f"{i}.json")
        read = hltm.load_tree(str(tmp_path / f"{i}.json"))
        assert_same_tree(read, kept)
        assert read.sample(50, seed=3).states.equal(kept.sample(50, seed=3).states)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i}.json" for i in range(4)]


def test_json_writes_shared_tables_once():
    transition = [[0.9, 0.1], [0.2, 0.8]]
    trees = hltm.balanced(depth=1, transition=transition, members=1000)
    text = to_json(trees)
    assert json.loads(text)["nodes"][1]["table"] == transition
    assert_same_tree(from_json(text), trees)


def test_json_says_its_formats():
    held = json.loads(to_json(hltm.balanced(depth=1, seed=0)))
    assert held["draw_format"] == hltm.DRAW_FORMAT
    assert (held["format"], held["version"]) == ("hltm.LatentTree", 1)
    assert [node["parent"] for node in held["nodes"]] == [None, "0", "0"]


def changed(**changes):
    held = json.loads(to_json(hltm.balanced(depth=1, branching=1, seed=0))) | changes
    return json.dumps({key: value for key, value in held.items() if value != "absent"})


ROOT = {"name": "0", "parent": None, "table": [0.5, 0.5]}
FOREIGN = {
    "empty": ("", "not a tree saved by hltm: not JSON"),
    "binary": ("\x00\x01", "not a tree saved by hltm: not JSON"),
    "list": ("[1, 2]", "its format is not 'hltm.LatentTree'"),
    "other": ('{"nodes": []}', "its format is not 'hltm.LatentTree'"),
    "version": (changed(version=2), "saved as version 2, expected 1"),
    "draws": (changed(draw_format=99), "draw format 99, expected 1"),
    "no draws": (changed(draw_format="absent"), "draw format None, expected 1"),
    "no nodes": (changed(nodes="absent"), "KeyError.'nodes'"),
    "no members": (changed(members="absent"), "KeyError.'members'"),
    "bad nodes": (changed(nodes=[1, 2]), "TypeError"),
    "twice": (changed(nodes=[ROOT, ROOT]), "distinct"),
    "bad table": (changed(nodes=[ROOT, ROOT | {"name": "1", "parent": "0"}]), r"'1' has shape"),
    "bad parent": (changed(nodes=[ROOT, ROOT | {"name": "1", "parent": "x"}]), "parent 'x'"),
    "members": (changed(members=[0, 1]), "expected 1 member addresses, got 2"),
    "text members": (changed(members=["a"]), "TypeError"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files_get_one_error_that_names_the_file(case, tmp_path):
    text, message = FOREIGN[case]
    path = tmp_path / "tree.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"tree.json: .*{message}"):
        hltm.load_tree(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        hltm.load_tree(tmp_path / "nowhere.json")


def test_json_that_is_nested_deeply_is_refused():
    with pytest.raises(ValueError, match="not a tree saved by hltm: not JSON"):
        from_json("[" * 100_000)
