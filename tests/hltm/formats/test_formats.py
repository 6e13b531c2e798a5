"""Trees in other programs' words: what survives the journey, and what other readers make of them."""

import json
import subprocess
import sys

import dendropy
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from tree_strategies import NAMES, TAME_NAMES, assert_same_tree, latent_trees, parent_names

import hltm
from hltm import LatentTree, Topology, topology_from_newick
from hltm.formats.json import from_json, to_json

# JSON


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


# networkx


@given(latent_trees(names=NAMES))
def test_networkx_and_back(tree):
    graph = tree.to_networkx()
    assert_same_tree(LatentTree.from_networkx(graph), tree)
    assert nx.is_arborescence(graph)
    assert {child: parent for parent, child in graph.edges} == {
        name: parent for name, parent in parent_names(tree.topology).items() if parent is not None
    }
    for name, held in graph.nodes(data=True):
        v = tree.topology.node(name)
        assert held["level"] == tree.topology.level[v]
        assert held["cardinality"] == tree.tables.cardinality[v]


def test_networkx_keeps_addresses():
    tree = hltm.symmetric_binary(depth=2, members=5, seed=0)[3]
    assert_same_tree(LatentTree.from_networkx(tree.to_networkx()), tree)


def test_networkx_graphs_share_no_memory_with_the_tree():
    tree = hltm.balanced(depth=1, seed=0)
    before = tree.tables.flat.clone()
    graph = tree.to_networkx()
    graph.edges["0", "1"]["table"][:] = 0
    graph.nodes["0"]["prior"][:] = 0
    assert tree.tables.flat.equal(before)


def hand_made():
    graph = nx.DiGraph()
    graph.add_edge(1, 2, table=[[0.9, 0.1], [0.3, 0.7]])
    graph.add_edge(0, 1, table=[[1, 0], [0, 1]])
    graph.nodes[0]["prior"] = [0.25, 0.75]
    return graph


def test_a_graph_made_by_hand_is_a_tree():
    tree = LatentTree.from_networkx(hand_made())
    assert tree.topology.names == ("0", "1", "2")
    assert tree.table("2").tolist() == [[0.9, 0.1], [0.3, 0.7]]
    assert not tree.stacked


def test_bad_graphs_get_one_error():
    with pytest.raises(TypeError, match=r"expected a networkx DiGraph .* got Graph"):
        LatentTree.from_networkx(nx.path_graph(3))
    with pytest.raises(TypeError, match="got MultiDiGraph"):
        LatentTree.from_networkx(nx.MultiDiGraph([(0, 1)]))
    cases = {
        "no attribute 'table'": lambda g: g.add_edge(1, 3),
        "node '9', a root, has no attribute 'prior'": lambda g: g.add_node(9),
        "node '2' has 2 parents": lambda g: g.add_edge(0, 2, table=[[1, 0], [0, 1]]),
        "found 0: none": lambda g: g.add_edge(2, 0, table=[[1, 0], [0, 1]]),
        r"'1' sums to 0\.5": lambda g: g.edges[0, 1].update(table=[[0.5, 0], [0, 1]]),
        "got '1' more than once": lambda g: g.add_edge(0, "1", table=[[1, 0], [0, 1]]),
    }
    for message, spoil in cases.items():
        graph = hand_made()
        spoil(graph)
        with pytest.raises(ValueError, match=message):
            LatentTree.from_networkx(graph)


def test_importing_hltm_does_not_import_networkx():
    code = "import sys, hltm; sys.exit('networkx' in sys.modules or 'pgmpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Newick


@given(latent_trees(stacked=False, names=NAMES))
def test_newick_keeps_shape_and_any_names(tree):
    read = topology_from_newick(tree.to_newick())
    assert read.names == tree.topology.names
    assert read.parent.tolist() == tree.topology.parent.tolist()


def dendropy_tree(text):
    return dendropy.Tree.get(
        data=text,
        schema="newick",
        suppress_internal_node_taxa=True,
        suppress_leaf_node_taxa=True,
        case_sensitive_taxon_labels=True,
    )


# a quoted name that is nothing but a mark of the grammar, dendropy takes for the mark
READABLE = TAME_NAMES.filter(lambda name: name not in set("():;,"))


@given(latent_trees(stacked=False, names=READABLE, cardinality=3))
def test_dendropy_reads_our_newick(tree):
    read = dendropy_tree(tree.to_newick())
    above = {
        node.label: None if node.parent_node is None else node.parent_node.label
        for node in read.preorder_node_iter()
    }
    assert above == parent_names(tree.topology)
    lengths = {node.label: node.edge_length for node in read.preorder_node_iter()}
    assert lengths.pop(tree.topology.names[0]) is None
    assert all(length is not None and length >= 0 for length in lengths.values())


def test_lengths_add_up_to_the_correlation_in_a_symmetric_tree():
    tree = hltm.symmetric_binary(depth=3, polarity=(0.2, 1.0), seed=3)
    read = dendropy_tree(tree.to_newick())
    root_distance = {}
    for node in read.preorder_node_iter():
        above = root_distance[node.parent_node.label] if node.parent_node else 0
        root_distance[node.label] = above + (node.edge_length or 0)
    correlation = tree.correlation(0, range(len(tree.topology)))
    for v, name in enumerate(tree.topology.names):
        assert root_distance[name] == pytest.approx(-np.log(abs(float(correlation[v]))))
    rho = {node.label: node.annotations.get_value("polarity") for node in read.preorder_node_iter()}
    assert [float(rho[name]) for name in tree.topology.names[1:]] == pytest.approx(
        tree.polarity[1:].tolist(), rel=1e-14
    )


@given(latent_trees(max_nodes=5, stacked=False, cardinality=3))
def test_lengths_are_paralinear_and_additive(tree):
    """From the joint of every pair: -log |det J| + (log det D_u + log det D_v) / 2."""
    states, probability = tree.joint()
    count = len(tree.topology)
    read = dendropy_tree(tree.to_newick())
    distance = {0: 0.0}
    for node in read.preorder_node_iter():
        if node.parent_node is not None:
            above = distance[tree.topology.node(node.parent_node.label)]
            distance[tree.topology.node(node.label)] = above + node.edge_length
    for v in range(1, count):
        pair = torch.zeros(9, dtype=torch.float64)
        pair.index_add_(0, states[:, 0] * 3 + states[:, v], probability)
        pair = pair.reshape(3, 3).numpy()
        scale = (np.log(pair.sum(0)).sum() + np.log(pair.sum(1)).sum()) / 2
        expected = scale - np.log(abs(np.linalg.det(pair)))
        assert distance[v] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_symmetric_binary_trees_come_back_with_their_signs():
    tree = hltm.symmetric_binary(depth=4, polarity=(0.0, 1.0), seed=0)
    read = LatentTree.from_newick(tree.to_newick())
    assert parent_names(read.topology) == parent_names(tree.topology)
    assert read.tables.flat.numpy() == pytest.approx(tree.tables.flat.numpy(), abs=1e-15)
    assert int((read.polarity < 0).sum()) > 0


def test_a_phylogeny_is_a_symmetric_binary_tree():
    text = "[a comment]((A:0.1,'B b':2e-1)0.95:0.3,C_c:.5):9;"
    tree = LatentTree.from_newick(text)
    assert parent_names(tree.topology) == {
        "0": None, "0.95": "0", "C c": "0", "A": "0.95", "B b": "0.95",
    }  # fmt: skip
    assert float(tree.correlation("A", "B b")) == pytest.approx(np.exp(-0.3))
    assert float(tree.correlation("A", "C c")) == pytest.approx(np.exp(-0.9))
    assert tree.table(0).tolist() == [0.5, 0.5]


def test_only_some_branches_have_lengths():
    mixed = hltm.balanced(depth=2, cardinality=(2, 3, 3), seed=0)
    assert mixed.to_newick() == "((3,4)1,(5,6)2)0;"
    skewed = hltm.balanced(depth=1, seed=0)
    assert ":" in skewed.to_newick()
    assert "polarity" not in skewed.to_newick()
    cut = hltm.balanced(depth=1, transition=[[0.5, 0.5], [0.5, 0.5]])
    assert cut.to_newick() == "(1[&polarity=0.0],2[&polarity=0.0])0;"
    assert LatentTree.from_newick(cut.to_newick()).polarity.tolist() == [1, 0, 0]
    rule = LatentTree.from_parents(
        {"a": None, "b": "a"}, {"a": [1.0, 0.0], "b": [[0.5, 0.5], [0, 1]]}
    )
    assert rule.to_newick() == "(b)a;"


def test_names_are_quoted_when_they_must_be():
    names = ["it's", "two words", "under_score", "(", "plain-1.0", ""]
    tree = LatentTree.from_tables(
        Topology.from_parents([None] + [0] * 5, names), [[0.5, 0.25, 0.25]] + [np.eye(3)[:, :3]] * 5
    )
    assert tree.to_newick() == (
        "('two words':0.0,'under_score':0.0,'(':0.0,plain-1.0:0.0,'':0.0)'it''s';"
    )
    assert topology_from_newick(tree.to_newick()).names == tuple(names)


def test_unnamed_nodes_get_numbers_that_are_free():
    topology = topology_from_newick("((1,2),(0,));")
    assert parent_names(topology) == {
        "3": None, "4": "3", "5": "3", "1": "4", "2": "4", "0": "5", "6": "5",
    }  # fmt: skip


def test_deep_trees_are_written_and_read():
    tree = hltm.caterpillar(depth=3000, seed=0)
    read = topology_from_newick(tree.to_newick())
    assert read.names == tree.topology.names
    assert read.parent.tolist() == tree.topology.parent.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends before its semicolon"),
        ("(a,b)c", "ends before its semicolon"),
        ("a;", "at least one leaf"),
        ("(a,b));", "character 5: unexpected '[)]'"),
        ("((a,b);", "character 6: unexpected ';'"),
        ("a,b;", "character 1: unexpected ','"),
        ("(a b)c;", "character 3: unexpected 'b'"),
        ("(a,b)c(d);", "unexpected '[(]'"),
        ("(a:,b)c;", "character 3: unexpected ','"),
        ("(a:1:2,b)c;", "unexpected ':'"),
        ("(a,b)c;(d,e)f;", "character 7: unexpected"),
        ("(a,'b)c;", "character 3: got \"'b"),
        ("(a,[b)c;", "character 3"),
        ("(a,a)c;", "'a' more than once"),
    ],
)
def test_bad_newick_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        topology_from_newick(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(a:1,b)c;", "branch to node 'b' has neither a length nor a polarity"),
        ("(a:1,b:x)c;", "node 'b' has length 'x', expected a number"),
        ("(a:1,b:-0.5)c;", "node 'b' has length -0.5, expected a number that is not negative"),
        ("(a:1,b:nan)c;", "node 'b' has length nan"),
        (
            "(a:1,b:1[&polarity=1.5])c;",
            r"node 'b' has polarity 1.5, expected a number in \[-1, 1\]",
        ),
        ("(a:1,b:1[&polarity=up])c;", "node 'b' has polarity 'up'"),
    ],
)
def test_newick_without_good_lengths_is_no_latent_tree(text, message):
    with pytest.raises(ValueError, match=message):
        LatentTree.from_newick(text)


# BIF


def read_by_pgmpy(text):
    from pgmpy.readwrite import BIFReader

    return BIFReader(string=text).get_model()


@pytest.mark.filterwarnings("ignore")  # what pgmpy's own imports warn of
@pytest.mark.parametrize("seed", range(4))
def test_pgmpy_reads_our_bif_to_the_same_joint(seed):
    tree = hltm.random_tree(nodes=6, cardinality=(2, 3), concentration=0.3, seed=seed)
    names = [["0", "1", "2", "3", "4", "5"], ["root", "a.b", "c-d", "e_f", "G", "x1"]][seed % 2]
    tree = LatentTree.from_tables(
        Topology(tree.topology.parent, tree.topology.level, tuple(names)),
        [tree.table(v) for v in range(6)],
    )
    model = read_by_pgmpy(tree.to_bif())
    assert set(model.nodes) == set(names)
    assert {child: parent for parent, child in model.edges} == {
        name: parent for name, parent in parent_names(tree.topology).items() if parent
    }
    states, probability = tree.joint()
    expected = np.ones(len(probability))
    for name in names:
        cpd = model.get_cpds(name)
        axes = [
            [int(state.removeprefix("s")) for state in cpd.state_names[variable]]
            for variable in cpd.variables
        ]
        assert all(axis == list(range(len(axis))) for axis in axes)
        columns = [states[:, tree.topology.node(variable)].numpy() for variable in cpd.variables]
        expected = expected * cpd.values[tuple(columns)]
    assert probability.numpy() == pytest.approx(expected, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a b", "c"], "cannot hold the name 'a b'"),
        (["a", ""], "cannot hold the name ''"),
        (["a", "b|c"], r"cannot hold the name 'b\|c'"),
        (["Table", "b"], "cannot hold the name 'Table'"),
        (["Bob", "bob"], "more than case, .* got 'Bob' and 'bob'"),
    ],
)
def test_names_that_bif_cannot_hold_are_refused(names, message):
    tree = LatentTree.from_parents([None, 0], [[0.5, 0.5], [[1, 0], [0, 1]]], names)
    with pytest.raises(ValueError, match=message):
        tree.to_bif()


def test_formats_of_one_tree_ask_for_a_member():
    trees = hltm.symmetric_binary(depth=1, members=3, seed=0)
    for write in (trees.to_bif, trees.to_newick):
        with pytest.raises(ValueError, match=r"holds one tree, got 3: choose a member"):
            write()
    assert trees[1].to_bif()
