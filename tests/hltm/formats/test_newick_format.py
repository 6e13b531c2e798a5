"""Newick: shape, names and lengths, as we and dendropy read them."""

import dendropy
import numpy as np
import pytest
import torch
from hypothesis import given
from tree_strategies import NAMES, TAME_NAMES, latent_trees, parent_names

import hltm
from hltm import LatentTree, Topology, topology_from_newick


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
