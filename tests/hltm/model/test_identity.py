"""Trees, topologies and tables compare by content, pickle, and have digests of what determines states."""

import copy
import hashlib
import multiprocessing
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from tree_strategies import latent_trees

import hltm
from hltm.model import digest as digest_module
from hltm.model.tables import Tables

SETTINGS = {"depth": 3, "polarity": (0.7, 1.0), "members": 4}


def renamed(tree):
    names = tuple(f"n{v}" for v in range(len(tree.topology)))
    topology = hltm.Topology(tree.topology.parent, tree.topology.level, names)
    return replace(tree, tables=Tables(topology, tree.tables.cardinality, tree.tables.flat))


@given(latent_trees())
def test_copies_equal_their_original(tree):
    tree.sample(3, seed=0)  # derived arrays are made: they must not matter
    for again in (
        pickle.loads(pickle.dumps(tree)), copy.copy(tree), copy.deepcopy(tree), replace(tree),
        hltm.LatentTree.from_tables(
            tree.topology, [tree.table(name) for name in tree.topology.names],
            len(tree) if tree.stacked else None,
        ),
    ):  # fmt: skip
        assert again == tree
        assert hash(again) == hash(tree)
        assert again.digest == tree.digest
        assert again.topology == tree.topology
        assert hash(again.topology) == hash(tree.topology)
        assert again.tables == tree.tables
        assert hash(again.tables) == hash(tree.tables)
        assert again.sample(5, seed=1) == tree.sample(5, seed=1)
    assert tree != "tree"
    assert tree.tables != 3
    assert tree.topology is not None
    assert tree.topology != ()


def test_a_pickle_holds_no_derived_arrays():
    tree = hltm.random_tree(nodes=40, cardinality=(2, 40), seed=1)
    before = len(pickle.dumps(tree))
    tree.sample(1000, seed=0)
    _ = tree.topology.children, tree.tables.groups, tree.digest
    assert len(pickle.dumps(tree)) == before
    shared = hltm.balanced(depth=3, transition=[[0.9, 0.1], [0.2, 0.8]], members=1000)
    assert len(pickle.dumps(shared)) < 20_000  # one set of tables for a thousand members


def test_any_difference_makes_trees_unequal():
    tree = hltm.symmetric_binary(**SETTINGS, seed=0)
    flat = tree.tables.flat.clone()
    flat[2, 5] = np.nextafter(float(flat[2, 5]), 1)
    one_bit = Tables(tree.topology, tree.tables.cardinality, flat)
    others = [
        hltm.symmetric_binary(**SETTINGS, seed=1),
        replace(tree, tables=one_bit),
        replace(tree, members=(0, 1, 2, 4)),
        renamed(tree), tree[:3], tree[0], tree[:1],
        hltm.symmetric_binary(**SETTINGS | {"depth": 2}, seed=0),
    ]  # fmt: skip
    for other in others:
        assert tree != other
    assert len({tree, *others, copy.deepcopy(tree)}) == 1 + len(others)
    assert tree[:1] != tree[0]  # with and without an S axis


def test_digests_are_of_what_determines_the_states():
    trees = hltm.symmetric_binary(**SETTINGS, seed=0)
    assert trees.digest == tuple(trees[s].digest for s in range(4))
    assert len(set(trees.digest)) == 4
    assert trees[1:3].digest == trees.digest[1:3]
    assert renamed(trees).digest == trees.digest
    assert replace(trees, members=(5, 6, 7, 8)).digest == trees.digest
    # the same tables over another shape, and the same numbers as tables of other sizes
    chain = hltm.Topology.from_parents([None, 0, 1, 2])
    star = hltm.Topology.from_parents([None, 0, 0, 0])
    a, b = (hltm.random_tables(shape, seed=0) for shape in (chain, star))
    assert a.tables.flat.equal(b.tables.flat)
    assert a.digest != b.digest
    sizes = [2, 3, 2], [3, 2, 2]
    pair = [
        Tables(hltm.Topology.from_parents([None, 0, 0]), np.array(k), torch.zeros(1, 16))
        for k in sizes
    ]
    assert pair[0].digest != pair[1].digest
    shared = hltm.balanced(depth=2, transition=[[0.9, 0.1], [0.2, 0.8]], members=3)
    alone = hltm.balanced(depth=2, transition=[[0.9, 0.1], [0.2, 0.8]])
    assert shared.digest == (alone.digest,) * 3
    assert len(alone.digest) == 64


def test_a_digest_is_the_hash_of_shape_and_tables_as_bytes():
    tables = [[0.25, 0.75], np.eye(2), [[0.5, 0.5], [1, 0]]]
    tree = hltm.LatentTree.from_parents([None, 0, 0], tables)
    parts = [
        np.array([-1, 0, 0, 2, 2, 2], dtype="<i8"),
        *(np.array(t, dtype="<f8") for t in tables),
    ]
    assert tree.digest == hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    assert tree.digest.startswith("f08e5bd8")  # the same in every version


def test_digests_are_computed_once_and_only_where_trees_differ_as_objects(monkeypatch):
    computed = []
    plain = digest_module.Digest._compute
    monkeypatch.setattr(
        digest_module.Digest, "_compute", lambda self, t: computed.append(t) or plain(self, t)
    )
    trees = hltm.random_tree(nodes=12, cardinality=(2, 5), members=3, seed=0)
    draw = trees.sample(10, seed=1)
    for _ in range(3):
        trees.redraw(trees.views(draw, hltm.keep_root())[0], trees.root)
        trees.sample(5, seed=2)
    assert trees.tables == trees.tables
    assert not computed
    other = hltm.random_tree(nodes=12, cardinality=(2, 5), members=3, seed=0)
    for _ in range(3):
        assert other.views(draw, hltm.keep_root())[1].states.shape == draw.states.shape
        assert other == trees
        assert hash(other) == hash(trees)
    assert len(computed) == 2
    assert draw.origin.digest._tables is None  # a draw does not keep its tree alive


def test_tables_changed_in_place_are_other_tables():
    flat = hltm.random_tree(nodes=6, cardinality=3, seed=0).tables.flat.clone()
    shape = hltm.random_tree(nodes=6, cardinality=3, seed=0).tables
    tree = hltm.LatentTree(Tables(shape.topology, shape.cardinality, flat))
    before, original = tree.sample(200, seed=1), copy.deepcopy(tree)
    assert tree == original
    flat.copy_(hltm.random_tree(nodes=6, cardinality=3, seed=9).tables.flat)
    fresh = hltm.LatentTree(Tables(shape.topology, shape.cardinality, flat.clone()))
    assert tree != original
    assert tree.digest == fresh.digest
    assert tree.sample(200, seed=1) == fresh.sample(200, seed=1)  # thresholds are made again
    with pytest.raises(ValueError, match=r"the draw is of tree \w{8}, not of this tree"):
        tree.redraw(before, tree.root)
    # the values that a draw was made from may be gone before anyone compares them
    learned = hltm.LatentTree(Tables(shape.topology, shape.cardinality, flat.clone()))
    late = learned.sample(5, seed=0)
    learned.tables.flat.copy_(original.tables.flat)
    with pytest.raises(ValueError, match="the draw is of tree"):
        learned.redraw(late, learned.root)


def test_tables_that_are_learned_compare_and_draw():
    logits = torch.zeros(1, 10, dtype=torch.float64, requires_grad=True)
    shape = hltm.random_tree(nodes=3, max_branching=2, seed=0).tables

    def tree():
        return hltm.LatentTree(
            Tables(
                shape.topology,
                shape.cardinality,
                logits.unflatten(1, (5, 2)).softmax(-1).flatten(1),
            )
        )

    assert tree() == tree()
    assert hash(tree()) == hash(tree())
    first = tree()
    evidence = first.posterior(first.sample(20, seed=0).leaves).log_evidence.sum()
    assert torch.autograd.grad(evidence, logits)[0].isfinite().all()
    assert first.redraw(tree().sample(5, seed=0), 0).states.shape == (5, 3)
    with torch.no_grad():
        logits[0, 0] += 1
    assert tree() != first


def test_tables_of_inference_mode_work():
    with torch.inference_mode():
        tree = hltm.symmetric_binary(**SETTINGS, seed=0)
        assert tree.redraw(tree.sample(5, seed=0), 0).states.shape == (4, 5, 15)
    assert tree == hltm.symmetric_binary(**SETTINGS, seed=0)


def _in_a_fresh_process(arguments):
    tree, draw, augment = arguments
    again = hltm.symmetric_binary(**SETTINGS, seed=0)
    view, _ = again.views(draw, augment)
    return tree, again == tree, again.digest, view, augment


@pytest.mark.slow
def test_spawned_processes_agree():
    tree = hltm.symmetric_binary(**SETTINGS, seed=0)
    draw, augment = tree.sample(50, seed=1), hltm.keep_root().then(hltm.drop_leaves(0.3))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.map(_in_a_fresh_process, [(tree, draw, augment)])
    assert found == (tree, True, tree.digest, tree.views(draw, augment)[0], augment)


def test_texts_are_short():
    tree = hltm.balanced(depth=12, seed=0, members=2)
    for item in (tree, tree.topology, tree.tables, tree.tables.digest, tree.sample(100, seed=0)):
        assert len(repr(item)) < 160
        assert "\n" not in repr(item)
    named = hltm.LatentTree.from_parents(
        {"a": None, "b\n": "a"}, {"a": [0.5, 0.5], "b\n": np.eye(2)}
    )
    assert repr(named) == r"LatentTree(2 nodes, 1 leaf, depth 1, 2 states, names 'a', 'b\n')"
