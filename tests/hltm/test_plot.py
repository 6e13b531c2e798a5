"""Pictures of trees: nothing overlaps or crosses, every edge says what it is, files are readable."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from irregular_trees import irregular_tree
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb

import hltm
from hltm.plot import NEGATIVE, POSITIVE, positions, strengths, tree_figure


def lines(figure):
    (found,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    return found


def drawn(tree):
    """Every edge as it is drawn: its parent and its three points, from the parent down."""
    segments = lines(tree_figure(tree)).get_segments()
    for v, points in zip(range(1, len(tree.topology)), segments, strict=True):
        yield int(tree.topology.parent[v]), *map(tuple, points.tolist())


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), nodes=st.integers(2, 40))
def test_no_edge_crosses_another(seed, nodes):
    tree = irregular_tree(seed, nodes=nodes, max_states=2)
    topology = tree.topology
    across = positions(topology)
    assert sorted(across[list(topology.leaves)].tolist()) == list(range(len(topology.leaves)))
    edges = list(drawn(tree))
    for v, (p, start, turn, end) in enumerate(
        edges, start=1
    ):  # a slant of one level, then straight
        assert start == (across[p], topology.level[p])
        assert turn == (across[v], topology.level[p] - 1)
        assert end == (across[v], topology.level[v])
    for level in range(topology.depth + 1):  # what lies on one level lies apart
        passing = [turn[0] for _, _, turn, end in edges if end[1] < level <= turn[1]]
        own = [across[v] for v in topology.at_level(level)]
        assert len({*own, *passing}) == len(own) + len(passing)
    for p, start, turn, _ in edges:  # slants of different parents, within a level
        for q, other, bend, _ in edges:
            if p != q and start[1] == other[1]:
                assert (start[0] - other[0]) * (turn[0] - bend[0]) > 0


def test_leaves_stand_in_the_order_of_a_walk():
    topology = hltm.Topology.from_parents([None, 0, 0, 1, 1, 3, 3])
    names = sorted(topology.leaves, key=positions(topology).__getitem__)
    assert [topology.names[v] for v in names] == ["5", "6", "4", "2"]


def test_names_are_text_and_no_mathematics():
    names = ["$\\frac{1$", "a_{1}", "x" * 300, "\\input{y}", "a\nb", "$x$", "c"]
    tree = hltm.LatentTree.from_parents(
        dict(zip(names, [None, *(names[v] for v in (0, 0, 1, 1, 2, 2))], strict=True)),
        {names[0]: [0.5, 0.5]} | {name: [[0.9, 0.1], [0.2, 0.8]] for name in names[1:]},
    )
    figure = tree_figure(tree, values=[0.5] * 7, label="$\\frac{1$", title="$\\frac{1$")
    figure.savefig(io.BytesIO())  # where mathematics would be read
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert shown == {"\\input{y}", "a\\nb", "$x$", "c"}


def test_edges_show_sign_and_strength():
    tree = hltm.symmetric_binary(depth=3, polarity=(0.1, 1.0), seed=0)
    edges = lines(tree_figure(tree))
    strength = tree.polarity[1:].numpy()
    widths = np.array(edges.get_linewidths())
    assert (np.argsort(widths) == np.argsort(np.abs(strength))).all()
    for colour, value in zip(edges.get_colors(), strength, strict=True):
        near, far = (POSITIVE, NEGATIVE) if value > 0 else (NEGATIVE, POSITIVE)
        distance = [np.abs(np.array(colour[:3]) - to_rgb(c)).sum() for c in (near, far)]
        assert abs(value) < 0.3 or distance[0] < distance[1]


def test_strength_beyond_binary_is_the_maximal_correlation():
    topology = hltm.Topology.from_parents([None, 0, 1])  # the only leaf below node 1
    random = np.random.default_rng(0)
    for states in (2, 4):
        mixed = hltm.LatentTree.from_tables(
            topology,
            [
                random.dirichlet(np.ones(n), rows)
                for n, rows in ((states, None), (3, states), (2, 3))
            ]
            if states > 2
            else [random.dirichlet(np.ones(2), rows) for rows in (None, 2, 2)],
        )
        expected = mixed.ceiling(1).value
        assert abs(strengths(mixed)[2]) == pytest.approx(float(expected), abs=1e-7)
    assert ((strengths(mixed)[1:] >= 0) & (strengths(mixed)[1:] <= 1)).all()


def test_values_colour_their_nodes_and_others_stay_white():
    tree = hltm.symmetric_binary(depth=2, seed=0)
    figure = tree_figure(tree, values={"1": 0.0, 2: 1.0}, label="height", limits=(0, 2))
    latents, leaves = (c for c in figure.axes[0].collections if isinstance(c, PathCollection))
    fill = latents.get_facecolors()
    assert fill[0, :3].tolist() == [1, 1, 1]
    np.testing.assert_allclose(fill[1], mpl.colormaps["viridis"](0.0))
    np.testing.assert_allclose(fill[2], mpl.colormaps["viridis"](0.5))
    assert (leaves.get_facecolors() == 1).all()
    assert figure.axes[1].get_ylabel() == "height"
    assert len(tree_figure(tree).axes) == 1  # no scale without values
    plain = tree_figure(tree, values=np.full(7, 0.3))
    assert len(plain.axes) == 2


@pytest.mark.slow
def test_files_of_a_few_hundred_nodes(tmp_path):
    tree = irregular_tree(1, nodes=300, max_states=3)
    figure = tree_figure(tree, title="three hundred nodes")
    assert max(figure.get_size_inches()) <= 24
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        file = tmp_path / f"tree.{suffix}"
        figure.savefig(file, dpi=40)
        assert file.read_bytes().startswith(start)


def test_names_stand_where_there_is_room():
    small, large = (hltm.symmetric_binary(depth=d, seed=0) for d in (3, 7))
    texts = [text.get_text() for text in tree_figure(small).axes[0].texts]
    assert sorted(texts, key=int) == [str(v) for v in range(15)]
    assert len(tree_figure(large).axes[0].texts) < 128


def test_bad_requests_name_the_value():
    tree = hltm.symmetric_binary(depth=2, seed=0)
    with pytest.raises(ValueError, match=r"got 2: choose one"):
        tree_figure(hltm.symmetric_binary(depth=2, seed=0, members=2))
    with pytest.raises(ValueError, match="expected 7 values, one per node, got 3"):
        tree_figure(tree, values=[1, 2, 3])
    with pytest.raises(ValueError, match=r"low < high, got \(1, 0\)"):
        tree_figure(tree, values=[1] * 7, limits=(1, 0))
    with pytest.raises(KeyError, match="unknown node 'sky'"):
        tree_figure(tree, values={"sky": 1})
