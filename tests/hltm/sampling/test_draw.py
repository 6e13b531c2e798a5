"""Draws as their users see them: arrays, addresses, redraws, packed bits, and clear errors."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from draw_cases import BINARY, MIXED, PARENTS, random_tree

import hltm
from hltm.sampling.packed import pack_bits, unpack_bits


@pytest.fixture(scope="module")
def tree():
    return random_tree(PARENTS, MIXED, seed=0)


@pytest.fixture(scope="module")
def trees():
    return random_tree(PARENTS, MIXED, seed=0, members=3)


@pytest.fixture(scope="module")
def binary():
    return random_tree(PARENTS, BINARY, seed=0, members=2)


def test_arrays_of_one_tree_have_no_member_axis(tree):
    draw = tree.sample(10, seed=1, start=5)
    assert draw.states.shape == (10, 7)
    assert draw.leaves.shape == (10, 4)
    assert draw.root.shape == (10,)
    assert draw.level(1).shape == (10, 2)
    assert draw.states.dtype == torch.uint8
    assert torch.equal(draw.node(2), draw.states[:, 2])
    assert draw.rows == range(5, 15)
    assert "samples 5..14" in repr(draw)
    assert np.shares_memory(np.asarray(draw.states), draw.states_SVB.numpy())


def test_arrays_of_several_trees_have_it(trees):
    draw = trees.sample(10, seed=1)
    assert draw.states.shape == (3, 10, 7)
    assert draw.leaves.shape == (3, 10, 4)
    assert draw.root.shape == (3, 10)
    assert draw.level(2).shape == (3, 10, 1)
    assert trees[1:2].sample(10, seed=1).states.shape == (1, 10, 7)
    assert trees[1].sample(10, seed=1).states.shape == (10, 7)


def test_states_are_contiguous_in_storage_whatever_the_start(tree, binary):
    for drawn in (tree.sample(1000, seed=1, start=77), binary.sample(1000, seed=1, start=77)):
        assert drawn.states_SVB.is_contiguous()


def test_nodes_go_by_name_too(tree):
    draw = tree.sample(10, seed=1)
    assert torch.equal(draw.node("3"), draw.node(tree.topology.node("3")))
    with pytest.raises(KeyError, match="unknown node 'x'"):
        draw.node("x")
    with pytest.raises(IndexError, match=r"node must be in 0..6, got 7"):
        draw.node(7)
    with pytest.raises(ValueError, match=r"level must be in 0..2, got 3"):
        draw.level(3)


def test_nodes_that_were_not_kept_are_an_error(tree):
    draw = tree.draw(10, seed=1, first=3)
    assert draw.leaves.shape == (10, 4)
    for ask in (lambda: draw.root, lambda: draw.level(1), lambda: draw.node(2)):
        with pytest.raises(ValueError, match="keeps nodes from 3 on"):
            ask()
    with pytest.raises(ValueError, match="needs all nodes, but this draw keeps nodes from 3 on"):
        tree.views(draw, hltm.keep_root())


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"samples": -3}, ValueError, "must be at least 0, got -3"),
        ({"samples": 2.0}, TypeError, "the number of samples must be an integer, got 2.0"),
        ({"samples": True}, TypeError, "the number of samples must be an integer, got True"),
        ({"start": -1}, ValueError, r"rows must lie in 0..2\^34-1, got -1..8"),
        ({"start": 2**34 - 9}, ValueError, r"rows must lie in 0..2\^34-1"),
        ({"start": 0.5}, TypeError, "start must be an integer, got 0.5"),
        ({"seed": -1}, ValueError, r"seed must be in 0..2\^64-1, got -1"),
        ({"seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
        ({"device": "abacus"}, ValueError, "unknown device 'abacus', expected auto, cpu, cuda"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_cannot_be_drawn_is_named(binary, asked, error, message, packed):
    call = {"samples": 10, "seed": 1, "packed": packed, **asked}
    with pytest.raises(error, match=message):
        binary.sample(**call)


def test_the_last_row_has_an_address(tree):
    assert tree.sample(1, seed=2**64 - 1, start=2**34 - 1).rows == range(2**34 - 1, 2**34)


def test_a_seed_is_required(tree):
    with pytest.raises(TypeError, match="seed"):
        tree.sample(10)


def test_nothing_touches_a_global_generator(tree):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    tree.views(tree.sample(100, seed=1), hltm.keep_root())
    assert torch.equal(torch.get_rng_state(), before)


# views


def test_views_share_what_they_keep(tree):
    draw = tree.sample(500, seed=1)
    for view in tree.views(draw, hltm.keep_level(1), count=3):
        assert torch.equal(view.level(1), draw.level(1))
        assert torch.equal(view.root, draw.root)
        assert not torch.equal(view.leaves, draw.leaves)
        assert view.rows == draw.rows
    assert [v.view for v in tree.views(draw, hltm.keep_root(), first_view=5)] == [5, 6]


def test_views_of_no_change_are_the_data(tree):
    draw = tree.sample(500, seed=1)
    (view,) = tree.views(draw, hltm.resample_leaves(0.0), count=1)
    assert torch.equal(view.states, draw.states)


def test_views_of_views_are_an_error(tree):
    (view, _) = tree.views(tree.sample(10, seed=1), hltm.keep_root())
    with pytest.raises(ValueError, match="got a draw of view 1; compose augmentations"):
        tree.views(view, hltm.keep_root())


@pytest.mark.parametrize("asked", [{"count": 0}, {"first_view": 0}, {"first_view": 2**24 - 1}])
def test_view_numbers_have_24_bits(tree, asked):
    with pytest.raises(ValueError, match=r"views must be in 1..2\^24-1"):
        tree.views(tree.sample(10, seed=1), hltm.keep_root(), **asked)


def test_another_tree_s_draw_is_an_error(tree, trees, binary):
    other = hltm.symmetric_binary(depth=3, seed=0)
    with pytest.raises(ValueError, match="the draw has 15 nodes, this tree 7"):
        tree.views(other.sample(10, seed=1), hltm.keep_root())
    with pytest.raises(
        ValueError, match=r"the draw is of members \(0, 1, 2\), this tree of \(1,\)"
    ):
        trees[1].views(trees.sample(10, seed=1), hltm.keep_root())
    draw = tree.sample(50, seed=1)
    with pytest.raises(ValueError, match=r"the draw is of tree \w{8}, not of this tree \w{8}; "):
        binary[0].redraw(draw, 0)
    with pytest.raises(ValueError, match=r"node '0' has state 2, expected 0..1"):
        binary[0].redraw(replace(draw, origin=None), 0)


# redraws


def test_a_redraw_changes_what_lies_below_and_nothing_else(tree):
    draw = tree.sample(500, seed=1)
    again = tree.redraw(draw, 1)
    assert again.view == 1
    changed = [v for v in range(7) if not torch.equal(again.node(v), draw.node(v))]
    assert changed == [int(v) for v in tree.topology.children[1]]
    below_all = tree.redraw(draw, [1, 2])
    assert torch.equal(below_all.level(1), draw.level(1))
    assert torch.equal(below_all.root, draw.root)


def test_a_redraw_goes_on_from_its_own_states(tree):
    draw = tree.sample(500, seed=1)
    own = replace(draw, states_SVB=torch.zeros_like(draw.states_SVB))
    again = tree.redraw(own, 0)
    assert not again.root.any()
    assert again.leaves.any()
    once = tree.redraw(draw, 0)
    twice = tree.redraw(once, 0)
    assert (once.view, twice.view) == (1, 2)
    assert torch.equal(twice.root, draw.root)
    assert not torch.equal(twice.leaves, once.leaves)
    assert torch.equal(tree.redraw(draw, 0, view=2).states, twice.states)


def test_a_redraw_reads_the_numbers_of_the_view_of_its_number(tree):
    draw = tree.sample(500, seed=1)
    (view,) = tree.views(draw, hltm.keep_root(), count=1, first_view=9)
    assert torch.equal(tree.redraw(draw, tree.root, view=9).states, view.states)


def test_what_cannot_be_redrawn_is_named(tree):
    draw = tree.sample(10, seed=1)
    leaf = tree.topology.names[tree.leaves[0]]
    with pytest.raises(ValueError, match=f"node '{leaf}' is a leaf, nothing lies below it"):
        tree.redraw(draw, [0, leaf])
    with pytest.raises(ValueError, match="redraw needs at least one node"):
        tree.redraw(draw, [])
    with pytest.raises(KeyError, match="unknown node 'x'"):
        tree.redraw(draw, "x")
    again = tree.redraw(draw, 0)
    with pytest.raises(
        ValueError, match=r"view must be in 2..2\^24-1, above the draw's own, got 1"
    ):
        tree.redraw(again, 0, view=1)
    bad = replace(draw, states_SVB=torch.full_like(draw.states_SVB, 9))
    with pytest.raises(ValueError, match=r"node '0' has state 9, expected 0..2"):
        tree.redraw(bad, 0)
    negative = replace(draw, states_SVB=draw.states_SVB.long() - 9)
    with pytest.raises(ValueError, match=r"node '0' has state -9, expected 0..2"):
        tree.redraw(negative, 0)
    with pytest.raises(TypeError, match=r"states must be integers, got torch.float32"):
        tree.redraw(replace(draw, states_SVB=draw.states_SVB.float()), 0)
    fewer = replace(draw, states_SVB=draw.states_SVB[:, :5])
    with pytest.raises(ValueError, match=r"\(members, nodes\) \(1, 5\), expected \(1, 7\)"):
        tree.redraw(fewer, 0)


# packed bits


@pytest.mark.parametrize("start", [0, 3, 8, 121, 128, 2**34 - 2000])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 130, 2000])
def test_packed_states_unpack_to_the_states(binary, start, count):
    packed = binary.sample(count, seed=1, start=start, packed=True)
    draw = binary.sample(count, seed=1, start=start)
    assert packed.bits.shape == (2, 7, -(-count // 8))
    assert torch.equal(packed.unpack().states, draw.states)
    assert torch.equal(packed.bits, pack_bits(draw.states_SVB))  # unused bits are 0
    expected = np.packbits(draw.states_SVB.numpy(), axis=-1, bitorder="little")
    np.testing.assert_array_equal(packed.bits.numpy(), expected)
    assert packed.rows == draw.rows
    assert f"samples {start}..{start + count - 1}" in repr(packed)


def test_packed_draws_of_one_tree_have_no_member_axis(binary):
    packed = binary[1].sample(100, seed=1, packed=True)
    assert packed.bits.shape == (7, 13)
    assert torch.equal(packed.unpack().states, binary.sample(100, seed=1).states[1])


def test_only_binary_trees_pack(tree):
    with pytest.raises(ValueError, match="need binary nodes, but node '0' has 3 states"):
        tree.sample(10, seed=1, packed=True)


def test_more_states_than_bits_are_an_error():
    with pytest.raises(ValueError, match="2 bytes hold 16 states, expected at least 17"):
        unpack_bits(torch.zeros(2, dtype=torch.uint8), 17)


def test_importing_hltm_imports_neither_a_compiler_nor_other_programs():
    """The compiler is imported when something is first drawn on a CPU."""
    code = "import hltm, sys; sys.exit(bool({'numba', 'networkx', 'pgmpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
