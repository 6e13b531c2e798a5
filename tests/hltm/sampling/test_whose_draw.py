"""A draw knows which tree it is of: another tree's is refused by name, wherever a draw is taken."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tree_strategies import latent_trees

import hltm
from hltm.model.tables import Tables
from hltm.sampling.sample import redraw, sample, views

ROOT = hltm.keep_root()
OTHERS = r"the draw is of tree {}, not of this tree {}"


def tree(seed=0, **settings):
    return hltm.symmetric_binary(**{"depth": 2, "polarity": 0.8, "seed": seed} | settings)


def takers(of):
    """Everything that takes a draw, of the tree `of`."""
    rates, root = ROOT.rates(of), np.array([0])
    return [
        lambda draw: of.redraw(draw, of.root),
        lambda draw: of.views(draw, ROOT),
        lambda draw: of.views(draw, hltm.drop_leaves(0.5)),
        lambda draw: hltm.probe.measure(draw.leaves.float(), of, draw=draw, lags=2),
        lambda draw: hltm.probe.probe_layers(draw.leaves.float(), of, draw=draw, lags=2),
        lambda draw: views(of.tables, draw, rates),
        lambda draw: redraw(of.tables, draw, root),
    ]


@pytest.mark.parametrize("members", [None, 3])
def test_another_tree_s_draw_is_refused_everywhere(members):
    mine, other = tree(0, members=members), tree(1, members=members)
    draw = mine.sample(50, seed=1)
    short = [t.digest[0][:8] if members else t.digest[:8] for t in (mine, other)]
    for take in takers(mine):
        take(draw)
    for take in takers(other):
        with pytest.raises(ValueError, match=OTHERS.format(*short)) as error:
            take(draw)
        assert len(str(error.value)) < 300
        with pytest.raises(ValueError, match="the draw is of tree"):  # also one that was sent
            take(pickle.loads(pickle.dumps(draw)))
    assert ("for member 0" in str(error.value)) == bool(members)


@given(latent_trees(max_nodes=6), st.data())
def test_exactly_the_draws_of_equal_tables_are_taken(model, data):
    draw = model.sample(5, seed=1)
    expected = model.redraw(draw, model.root)
    again = pickle.loads(pickle.dumps(model))
    assert again.redraw(draw, again.root) == expected
    assert again.redraw(copy.deepcopy(draw), again.root) == expected
    flat = model.tables.flat.clone()
    place = data.draw(st.integers(0, flat.numel() - 1))
    flat.view(-1)[place] = np.nextafter(float(flat.view(-1)[place]), 2.0)  # one bit of one table
    other = replace(model, tables=Tables(model.topology, model.tables.cardinality, flat))
    with pytest.raises(ValueError, match="the draw is of tree"):
        other.redraw(draw, other.root)


def test_names_do_not_matter_but_shapes_do():
    shape = hltm.Topology.from_parents([None, 0, 0, 0])
    named = hltm.Topology(shape.parent, shape.level, ("r", "a", "b", "c"))
    numbers, words = (hltm.random_tables(each, seed=0) for each in (shape, named))
    assert numbers != words
    draw = numbers.sample(10, seed=1)
    assert words.redraw(draw, "r").states.equal(numbers.redraw(draw, "0").states)
    chain = hltm.random_tables(hltm.Topology.from_parents([None, 0, 1, 2]), seed=0)
    assert chain.tables.flat.equal(numbers.tables.flat)
    with pytest.raises(ValueError, match="the draw is of tree"):
        chain.redraw(draw, chain.root)


def test_a_saved_tree_takes_the_draws_of_its_original(tmp_path):
    mine = hltm.random_tree(nodes=9, cardinality=(2, 4), members=2, seed=3)
    mine.save(tmp_path / "tree.json")
    again = hltm.load_tree(tmp_path / "tree.json")
    assert again == mine
    assert again.redraw(mine.sample(9, seed=1), 0) == mine.redraw(mine.sample(9, seed=1), 0)


def test_members_slices_and_single_trees_agree():
    trees = tree(members=4)
    whole = trees.sample(30, seed=1)
    part = replace(whole, states_SVB=whole.states_SVB[1:3], members=(1, 2))
    assert trees[1:3].sample(30, seed=1).states.equal(part.states)
    assert trees[1:3].redraw(part, 0).states.equal(trees.redraw(whole, 0).states[1:3])
    one = replace(whole, states_SVB=whole.states_SVB[2:3], members=(2,), stacked=False)
    assert trees[2].redraw(one, 0).states.equal(trees.redraw(whole, 0).states[2])
    # member 2's states as if they were of member 3
    wrong = replace(whole, states_SVB=whole.states_SVB[2:3], members=(3,), stacked=False)
    assert trees[3].redraw(wrong, 0).states.shape == (30, 7)  # states of your own at its address
    with pytest.raises(ValueError, match=r"the draw is of members \(3,\), this tree of \(2,\)"):
        trees[2].redraw(wrong, 0)
    moved = replace(trees[2], members=(3,))  # member 2's tables at member 3's address
    with pytest.raises(ValueError, match="the draw is of tree"):
        moved.redraw(trees[3].sample(30, seed=1), 0)
    outside = replace(whole, states_SVB=whole.states_SVB[:1], members=(9,), stacked=False)
    with pytest.raises(ValueError, match="the draw is of tree None"):
        replace(trees[0], members=(9,)).redraw(outside, 0)


def test_members_that_share_one_tree():
    shared = hltm.balanced(depth=2, transition=[[0.9, 0.1], [0.2, 0.8]], members=3)
    alone = hltm.balanced(depth=2, transition=[[0.9, 0.1], [0.2, 0.8]])
    draw = sample(alone.tables, (0, 1, 2), 400, seed=1)  # draws of S networks that share a tree
    assert draw == shared.sample(400, seed=1)
    assert shared.redraw(draw, 0).states.equal(redraw(alone.tables, draw, np.array([0])).states)
    found = hltm.probe.measure(draw.leaves.float(), alone, draw=draw, lags=2)
    assert sorted(set(found.member)) == [0, 1, 2]
    other = hltm.balanced(depth=2, transition=[[0.8, 0.2], [0.2, 0.8]])
    with pytest.raises(ValueError, match=r"the draw is of tree .* for member 0"):
        hltm.probe.measure(draw.leaves.float(), other, draw=draw, lags=2)


def test_states_of_your_own_keep_their_tree():
    mine, other = tree(0), tree(1)
    draw = mine.sample(20, seed=1)
    own = replace(draw, states_SVB=torch.zeros_like(draw.states_SVB))
    assert not mine.redraw(own, mine.level(1)).level(1).any()
    with pytest.raises(ValueError, match="the draw is of tree"):
        other.redraw(own, 0)
    freed = replace(own, origin=None)
    assert not other.redraw(freed, other.level(1)).level(1).any()
    for derived in (mine.views(draw, ROOT)[0], mine.redraw(draw, 0), mine.redraw(own, [1])):
        with pytest.raises(ValueError, match="the draw is of tree"):
            other.redraw(derived, 0)


def test_a_packed_draw_carries_its_tree():
    mine, other = tree(0), tree(1)
    packed = mine.sample(20, seed=1, packed=True)
    assert packed.unpack() == mine.sample(20, seed=1)
    assert mine.redraw(packed.unpack(), 0) == mine.redraw(mine.sample(20, seed=1), 0)
    with pytest.raises(ValueError, match="the draw is of tree"):
        other.redraw(packed.unpack(), 0)


def test_members_in_another_order_are_not_paired_with_this_tree_s():
    trees = tree(members=3)
    draw = trees[::-1].sample(5, seed=1)
    for take in (trees.posterior, trees.most_likely, trees.log_prob):
        with pytest.raises(
            ValueError, match=r"the draw is of members \(2, 1, 0\), this tree of \(0"
        ):
            take(draw)
    given = trees.posterior(draw.leaves).log_evidence
    assert given.flip(0).equal(trees[::-1].posterior(draw.leaves.flip(0)).log_evidence)
    assert trees[1].posterior(trees[0].sample(5, seed=1)).log_evidence.isfinite().all()
