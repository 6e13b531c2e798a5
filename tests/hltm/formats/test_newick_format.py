"""Newick that we write: as we, dendropy, ete3 and Biopython read it, and what it would lose."""

import io
import re
import warnings

import dendropy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tree_strategies import (
    NAMES,
    TAME_NAMES,
    assert_same_tree,
    latent_trees,
    parent_lists,
    parent_names,
)

import hltm
from hltm import LatentTree, Topology, topology_from_newick


@given(latent_trees(stacked=False, names=NAMES))
def test_newick_keeps_shape_and_any_names(tree):
    read = topology_from_newick(tree.to_newick(tables="drop"))
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
    read = dendropy_tree(tree.to_newick(tables="drop"))
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
    read = dendropy_tree(tree.to_newick(tables="drop"))
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


@pytest.mark.parametrize("lengths", ["paralinear", "expected-changes", None])
@pytest.mark.parametrize("low", [0.0, 0.7, 0.999999])
def test_symmetric_binary_trees_come_back_bit_for_bit(low, lengths):
    tree = hltm.symmetric_binary(depth=5, polarity=(low, 1.0), seed=0)
    assert int((tree.polarity < 0).sum()) > 0
    text = tree.to_newick(lengths=lengths, rate=0.3)
    assert "stay" not in text  # the polarities alone are enough
    assert_same_tree(LatentTree.from_newick(text), tree)


@given(
    parent_lists(),
    st.integers(2, 5),
    st.lists(st.floats(0, 1), min_size=11, max_size=11),
)
def test_symmetric_trees_of_any_number_of_states_come_back_bit_for_bit(parents, states, stays):
    """Whatever the last digits of their entries are."""
    topology = Topology.from_parents(parents)
    tables = [torch.full((states,), 1 / states, dtype=torch.float64)]
    for stay in stays[: len(topology) - 1]:
        table = torch.full((states, states), (1 - stay) / (states - 1), dtype=torch.float64)
        tables.append(table.fill_diagonal_(stay))
    tree = LatentTree.from_tables(topology, tables)
    text = tree.to_newick()
    read = LatentTree.from_newick(text)
    assert read.topology.names == topology.names
    assert read.tables.flat.equal(tree.tables.flat)
    assert LatentTree.from_newick(text, states=states).tables.flat.equal(tree.tables.flat)


def test_entries_that_a_polarity_does_not_give_are_written_too():
    tree = hltm.balanced(depth=1, transition=[[0.9, 0.1], [0.1, 0.9]])
    assert tree.to_newick(lengths=None) == (
        "(1[&&NHX:polarity=0.8:stay=0.9:change=0.1],2[&&NHX:polarity=0.8:stay=0.9:change=0.1])0;"
    )
    assert_same_tree(LatentTree.from_newick(tree.to_newick()), tree)


def four_states(stay=0.7):
    change = (1 - stay) / 3
    return [[stay if i == j else change for j in range(4)] for i in range(4)]


@pytest.mark.parametrize(
    ("tree", "how", "reason"),
    [
        (hltm.balanced(depth=2, seed=0), {}, "the prior of root '0' is not uniform"),
        (
            hltm.balanced(depth=1, prior=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]]),
            {},
            "the table of node '1' is not symmetric",
        ),
        (
            hltm.balanced(depth=2, cardinality=(2, 2, 3), seed=0),
            {},
            "node '3' has 3 states and the root 2",
        ),
        (
            hltm.balanced(depth=1, transition=four_states()),
            {"annotations": False},
            "only an annotation holds the 4 states",
        ),
        (
            hltm.symmetric_binary(depth=1, polarity=0.5, signs="positive", seed=0),
            {"annotations": False, "lengths": None},
            "neither lengths nor annotations are written",
        ),
        (
            LatentTree.from_newick("(a[&polarity=0.5],b[&polarity=-0.25])r;"),
            {"annotations": False},
            "only an annotation holds the polarity -0.25 of node 'b'",
        ),
        (
            LatentTree.from_newick("(a[&polarity=0.5],b[&polarity=0])r;"),
            {"annotations": False},
            "only an annotation holds the polarity 0 of node 'b'",
        ),
    ],
)
def test_a_text_that_would_lose_tables_is_refused_unless_they_are_dropped(tree, how, reason):
    with pytest.raises(ValueError, match=re.escape(f"would lose tables, since {reason}")) as error:
        tree.to_newick(**how)
    assert "tables='drop'" in str(error.value)
    assert len(str(error.value)) < 300
    text = tree.to_newick(tables="drop", **how)
    assert topology_from_newick(text).names == tree.topology.names
    assert "[" not in text


def test_a_tree_of_four_states_stays_one():
    tree = hltm.balanced(depth=2, transition=four_states())
    assert LatentTree.from_newick(tree.to_newick()).tables.flat.equal(tree.tables.flat)


def test_lengths_alone_hold_positive_polarities():
    tree = hltm.symmetric_binary(depth=4, polarity=(0.01, 1.0), signs="positive", seed=2)
    for lengths in ("paralinear", "expected-changes"):
        text = tree.to_newick(annotations=False, lengths=lengths, rate=0.1)
        assert "[" not in text
        read = LatentTree.from_newick(text, lengths=lengths, rate=0.1)
        assert read.tables.flat.numpy() == pytest.approx(tree.tables.flat.numpy(), abs=1e-15)


def test_only_some_branches_have_lengths():
    mixed = hltm.balanced(depth=2, cardinality=(2, 3, 3), seed=0)
    assert mixed.to_newick(tables="drop") == "((3,4)1,(5,6)2)0;"
    skewed = hltm.balanced(depth=1, seed=0)
    assert skewed.to_newick(tables="drop").count(":") == 2
    assert skewed.to_newick(tables="drop", lengths=None) == "(1,2)0;"
    cut = hltm.balanced(depth=1, transition=[[0.5, 0.5], [0.5, 0.5]])
    assert cut.to_newick() == "(1[&&NHX:polarity=0.0],2[&&NHX:polarity=0.0])0;"
    assert LatentTree.from_newick(cut.to_newick()).polarity.tolist() == [1, 0, 0]
    rule = LatentTree.from_parents(
        {"a": None, "b": "a"}, {"a": [1.0, 0.0], "b": [[0.5, 0.5], [0, 1]]}
    )
    assert rule.to_newick(tables="drop") == "(b)a;"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"lengths": "years"}, "lengths must be 'paralinear' or 'expected-changes', got 'years'"),
        ({"rate": 0}, "rate must be a positive number, got 0"),
        ({"rate": float("nan")}, "rate must be a positive number, got nan"),
        ({"tables": "lose"}, "tables must be 'keep' or 'drop', got 'lose'"),
        (
            {"tables": "drop", "lengths": "expected-changes"},
            "expected changes need symmetric tables of one size, but the prior of root '0'",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        hltm.balanced(depth=1, seed=0).to_newick(**how)


def test_names_are_quoted_when_they_must_be():
    names = ["it's", "two words", "under_score", "(", "plain-1.0", ""]
    tree = LatentTree.from_tables(
        Topology.from_parents([None] + [0] * 5, names), [[0.5, 0.25, 0.25]] + [np.eye(3)[:, :3]] * 5
    )
    text = tree.to_newick(tables="drop")
    assert text == "(two_words:0.0,'under_score':0.0,'(':0.0,plain-1.0:0.0,'':0.0)'it''s';"
    assert topology_from_newick(text).names == tuple(names)


def test_deep_trees_are_written_and_read():
    tree = hltm.caterpillar(depth=1500, seed=0)
    read = topology_from_newick(tree.to_newick(tables="drop"))
    assert read.names == tree.topology.names
    assert read.parent.tolist() == tree.topology.parent.tolist()


def imported(name):
    """A package that other people read trees with, or a skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own code, when it is first compiled
        return pytest.importorskip(name)


def test_ete3_reads_our_newick():
    ete3 = imported("ete3")
    tree = hltm.symmetric_binary(depth=3, seed=0)
    for text in (tree.to_newick(), tree.to_newick(annotations=False, tables="drop")):
        read = {node.name: node for node in ete3.Tree(text, format=1).traverse()}
        above = {name: node.up.name if node.up else None for name, node in read.items()}
        assert above == parent_names(tree.topology)
        for v, name in enumerate(tree.topology.names[1:], start=1):
            assert read[name].dist == pytest.approx(-np.log(abs(float(tree.polarity[v]))), abs=1e-6)
            noted = float(getattr(read[name], "polarity", tree.polarity[v]))
            assert noted == pytest.approx(float(tree.polarity[v]), abs=1e-15)


def test_biopython_reads_our_newick():
    phylo = imported("Bio.Phylo")
    tree = hltm.symmetric_binary(depth=3, seed=0)
    for text in (tree.to_newick(), tree.to_newick(annotations=False, tables="drop")):
        read = phylo.read(io.StringIO(text), "newick")
        # it takes a number for an inner node's support
        found = {n.name or str(int(n.confidence)): n.branch_length for n in read.find_clades()}
        for v, name in enumerate(tree.topology.names[1:], start=1):
            assert found[name] == pytest.approx(-np.log(abs(float(tree.polarity[v]))), abs=1e-12)
