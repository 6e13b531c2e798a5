"""Integers of any type, lists for tuples, and tables that are rounded or counts."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hltm

INTEGERS = [
    np.int64,
    np.int32,
    np.uint8,
    np.uint64,
    lambda x: torch.tensor(x),
    lambda x: np.array(x),
]


@pytest.mark.parametrize("i", INTEGERS)
def test_integers_of_any_type_make_the_same_trees_and_draws(i):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # integers of 8 bits must not overflow
        pairs = [
            (
                hltm.symmetric_binary(i(3), i(2), polarity=0.8, members=i(3), seed=i(7)),
                hltm.symmetric_binary(3, 2, polarity=0.8, members=3, seed=7),
            ),
            (
                hltm.balanced(depth=i(2), branching=i(3), cardinality=i(3), seed=i(1)),
                hltm.balanced(depth=2, branching=3, cardinality=3, seed=1),
            ),
            (
                hltm.caterpillar(depth=i(3), branching=i(3), cardinality=i(4), seed=i(1)),
                hltm.caterpillar(depth=3, branching=3, cardinality=4, seed=1),
            ),
            (
                hltm.random_tree(
                    nodes=i(9), max_branching=i(2), cardinality=[i(2), i(4)], seed=i(1)
                ),
                hltm.random_tree(nodes=9, max_branching=2, cardinality=(2, 4), seed=1),
            ),
        ]
        for tree, expected in pairs:
            assert tree == expected
        tree, expected = pairs[0]
        draw = tree.sample(i(200), seed=i(3), start=i(100))
        assert draw == expected.sample(200, seed=3, start=100)
        assert tree.sample(i(200), seed=i(3), start=i(100), packed=True).unpack() == draw
        view = tree.views(draw, hltm.keep_level(i(1)), count=i(2), first_view=i(200))[1]
        assert view == expected.views(draw, hltm.keep_level(1), count=2, first_view=200)[1]
        assert tree.redraw(draw, i(0), view=i(255)) == expected.redraw(draw, 0, view=255)
        assert draw.level(i(1)).equal(draw.level(1))
        assert draw.node(i(1)).equal(draw.node(1))
        assert tree.table(i(1)).equal(tree.table(1))
        assert tree[i(1)] == tree[1]
        assert tree.level(i(1)) == range(3, 7)
        assert tree.correlation(i(0), i(3)).equal(tree.correlation(0, 3))
        assert hltm.keep_nodes(i(1)).rates(tree).tolist() == hltm.keep_nodes(1).rates(tree).tolist()


def test_lists_and_arrays_serve_as_ranges():
    for pair in (
        [0.7, 1.0],
        (0.7, 1.0),
        np.array([0.7, 1.0]),
        torch.tensor([0.7, 1.0], dtype=torch.float64),
    ):
        made = hltm.symmetric_binary(depth=2, polarity=pair, seed=0)
        assert made == hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), seed=0)
    for pair in ([2, 3], (2, 3), np.array([2, 3]), range(2, 4)):
        made = hltm.random_tree(nodes=5, cardinality=pair, seed=0)
        assert made == hltm.random_tree(nodes=5, cardinality=(2, 3), seed=0)
    assert hltm.balanced(depth=1, cardinality=[2, 3], seed=0) == hltm.balanced(
        depth=1, cardinality=(2, 3), seed=0
    )
    tree = hltm.symmetric_binary(depth=2, members=3, seed=0)
    assert hltm.LatentTree(tree.tables, [0, 1, 2], True) == tree
    for bad in ([0.7], [0.1, 0.2, 0.3], []):
        with pytest.raises(
            ValueError, match=r"polarity must be one number or a pair \(low, high\)"
        ):
            hltm.symmetric_binary(depth=2, polarity=bad, seed=0)
        with pytest.raises(ValueError, match="cardinality must be one number or a pair"):
            hltm.random_tree(nodes=5, cardinality=bad, seed=0)
    for bad in ("high", None, [None, 1]):
        with pytest.raises(TypeError, match="polarity must be one number or a pair of numbers"):
            hltm.symmetric_binary(depth=2, polarity=bad, seed=0)
    for bad in (2.0, True, "3"):
        with pytest.raises(TypeError, match="members must be an integer, got"):
            hltm.symmetric_binary(depth=2, members=bad, seed=0)


def test_no_nodes_have_no_correlations():
    tree = hltm.symmetric_binary(depth=2, polarity=0.8, members=3, seed=0)
    assert tree.correlation([], [0, 1]).shape == (3, 0, 2)
    assert tree.correlation(0, []).shape == (3, 0)
    assert tree.view_correlation([], hltm.keep_root()).shape == (3, 0)
    assert tree.view_information([], hltm.keep_root()).shape == (3, 0)
    assert tree.leaf_distribution([]).shape == (3, 1, 16)


# tables whose rows do not sum to one


def test_a_rounded_row_is_refused_with_the_remedy():
    thirds = [[0.3333] * 3] * 2
    with pytest.raises(ValueError, match=r"node '1' sums to 0\.9999, expected 1; normalise=True, "):
        hltm.LatentTree.from_parents([None, 0], [[0.5, 0.5], thirds])
    made = hltm.LatentTree.from_parents([None, 0], [[0.5, 0.5], thirds], normalise=True)
    assert made.table("1").tolist() == pytest.approx(np.full((2, 3), 1 / 3))
    topology = hltm.Topology.from_parents([None, 0])
    assert hltm.LatentTree.from_tables(topology, [[2, 2], thirds], normalise=True) == made


@given(
    st.lists(st.lists(st.integers(0, 10**9), min_size=3, max_size=3), min_size=2, max_size=2),
    st.floats(1e-290, 1e290),
)
def test_counts_become_their_shares(counts, scale):
    """Against exact rational arithmetic."""
    counts = [row if any(row) else [1, 0, 0] for row in counts]
    weights = [[count * scale for count in row] for row in counts]
    tables = [[3, 1], weights if np.isfinite(weights).all() else counts]
    made = hltm.LatentTree.from_parents([None, 0], tables, normalise=True)
    assert made.table("0").tolist() == [0.75, 0.25]
    exact = [[float(Fraction(count, sum(row))) for count in row] for row in counts]
    assert made.table("1").numpy() == pytest.approx(np.array(exact), rel=1e-14, abs=0)
    again = hltm.LatentTree.from_tables(made.topology, [made.table(v) for v in made.topology.names])
    assert again.table("1").numpy() == pytest.approx(made.table("1").numpy(), rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 0], "sums to 0.0, expected a positive and finite sum$"),
        ([1e308, 1e308], "sums to inf, expected a positive and finite sum$"),
        ([-1, 2], r"holds -1\.0, expected finite numbers that are at least 0"),
        ([float("nan"), 1], "holds nan, expected finite numbers"),
        ([float("inf"), 1], "holds inf, expected finite numbers"),
    ],
)
def test_rows_that_cannot_be_normalised_are_named(row, message):
    with pytest.raises(ValueError, match=f"table of node '1' {message}"):
        hltm.LatentTree.from_parents([None, 0], [[1, 1], [[1, 1], row]], normalise=True)


def test_normalising_keeps_probabilities_bit_for_bit_and_gradients():
    tree = hltm.random_tree(nodes=9, cardinality=(2, 5), members=2, seed=3)
    tables = [tree.table(v) for v in range(9)]
    assert hltm.LatentTree.from_tables(tree.topology, tables, 2, normalise=True) == tree
    weights = torch.tensor([[3.0, 1.0]] * 2, dtype=torch.float64, requires_grad=True)
    made = hltm.LatentTree.from_parents([None, 0], [[1, 1], weights], normalise=True)
    gradient = torch.autograd.grad(made.table("1")[0, 0], weights)[0]
    assert gradient[0].tolist() == pytest.approx([1 / 16, -3 / 16])  # d a / (a + b)
