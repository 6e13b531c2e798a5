"""Damaged files of trees of every format: another tree that is one, or one clear refusal."""

import json

import networkx
import pytest
from mutants import check_reader, json_mutant, mutant

import hltm

TREE = hltm.random_tree(nodes=9, seed=1)
KINDS = ["json", "nwk", "bif", "graphml", "gml", "nex", "node-link.json", "json.gz"]


def written(path):
    if path.name.endswith("nex"):
        tree = "((1:0.1,2:0.2)x:0.1,c:0.3)"
        text = f"#NEXUS\nbegin trees;\ntranslate 1 human, 2 'a b';\ntree t = [&R] {tree};\nend;\n"
        path.write_text(text)
    elif path.name.startswith("node-link"):
        path.write_text(json.dumps(networkx.node_link_data(TREE.to_networkx(), edges="edges")))
    else:
        TREE.save(path, **({"tables": "drop"} if path.suffix == ".nwk" else {}))


def check_trees(tmp_path, kind, count):
    path = tmp_path / (kind if kind.startswith("node-link") else f"tree.{kind}")
    written(path)
    options = {"lengths": "expected-changes"} if kind in ("nwk", "nex") else {}

    def load():
        return hltm.load_tree(path, **options)

    def check(found):
        for v in found.topology.names:
            assert abs(found.table(v).sum(-1) - 1).max() < 1e-6

    check(load())
    change = json_mutant if kind.endswith("json") else mutant
    assert check_reader(path, load, ValueError, count, check, change) > count // 5


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_trees_are_refused_in_one_line(tmp_path, kind):
    check_trees(tmp_path, kind, 30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_damaged_trees(tmp_path, kind):
    check_trees(tmp_path, kind, 1500)
