"""What a draw gives besides states: tables with names, equality, text, empty draws, and wide states."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import hltm
from hltm.sampling.rows import draw_rows

NAMED = hltm.LatentTree.from_parents(
    {"topic": None, "a b": "topic", "<c>": "topic"},
    {"topic": [0.5, 0.5], "a b": [[0.9, 0.1], [0.2, 0.8]], "<c>": [[0.9, 0.1], [0.2, 0.8]]},
)
DROP = hltm.drop_leaves(0.5)


def wide():
    return hltm.random_tables(
        hltm.Topology.from_parents([None, 0, 0]), cardinality=[400, 300, 2], seed=0
    )


def test_a_table_has_the_nodes_names_and_the_samples_numbers():
    draw = NAMED.sample(40, seed=1, start=100)
    table = draw.to_pandas()
    assert list(table.columns) == list(NAMED.topology.names)
    assert (table.index.name, table.index[0], table.index[-1]) == ("sample", 100, 139)
    assert (table.dtypes == np.uint8).all()
    for name in NAMED.topology.names:
        assert table[name].to_numpy().tolist() == draw.node(name).tolist()
    table.iloc[:, :] = 1  # a copy: the draw stays
    assert draw == NAMED.sample(40, seed=1, start=100)
    leaves = NAMED.draw(5, seed=1, first=1).to_pandas()
    assert list(leaves.columns) == list(NAMED.topology.names[1:])


def test_a_table_of_stacked_draws_has_a_member_level():
    trees = hltm.symmetric_binary(depth=1, members=3, seed=0)[1:]
    draw = trees.sample(4, seed=1, start=7)
    table = draw.to_pandas()
    assert table.index.names == ["member", "sample"]
    assert table.index.tolist() == [(m, i) for m in (1, 2) for i in range(7, 11)]
    for i, member in enumerate((1, 2)):
        assert table.loc[member].to_numpy().tolist() == draw.states[i].tolist()


@pytest.mark.parametrize("members", [None, 2])
def test_missing_leaves_are_na(members):
    tree = hltm.symmetric_binary(depth=2, members=members, seed=0)
    view, _ = tree.views(tree.sample(50, seed=1), DROP)
    table = view.to_pandas()
    assert (table.dtypes.iloc[:3] == np.uint8).all()
    assert (table.dtypes.iloc[3:] == pd.Int16Dtype()).all()
    observed = table.iloc[:, 3:]
    assert 0.3 < observed.isna().to_numpy().mean() < 0.7
    filled = observed.fillna(-1).to_numpy(dtype=np.int64)
    assert filled.tolist() == view.leaves.reshape(-1, 4).tolist()
    for name in observed:  # the states of missing leaves are nowhere in the table
        held = observed[name].array
        assert (held._data[held.isna()] == -1).all()
    (big, _) = wide().views(wide().sample(50, seed=1), DROP)
    assert list(map(str, big.to_pandas().dtypes)) == ["int32", "Int32", "Int32"]


def test_more_than_256_states_can_be_reduced():
    tree = wide()
    draw = tree.sample(500, seed=0)
    assert draw.states_SVB.dtype == torch.uint16  # storage
    stored = torch.from_numpy(draw.states_SVB[0].numpy().astype(np.int32)).T
    for found, expected in (
        (draw.states, stored), (draw.leaves, stored[:, 1:]), (draw.level(1), stored[:, :1]),
        (draw.root, stored[:, 0]), (draw.node("1"), stored[:, 1]),
    ):  # fmt: skip
        assert found.dtype == torch.int32
        assert found.equal(expected)
        assert int(found.max()) == int(expected.max())
    assert torch.bincount(draw.root).sum() == 500
    view, _ = tree.views(draw, hltm.keep_root())
    assert int((view.root - draw.root).abs().max()) == 0
    hidden, _ = tree.views(draw, DROP)
    assert int(hidden.leaves.min()) == -1
    assert hltm.ViewDataset(tree, None, samples=9, seed=0)[3].views[0].max() >= 0
    batch = hltm.ViewDataset(tree, hltm.keep_root(), samples=9, seed=0).batch(np.arange(9))
    assert [leaves.dtype for leaves in batch.views] == [torch.int32] * 2
    assert batch.targets.equal(draw.root[:9].long())
    stacked = hltm.random_tables(tree.topology, cardinality=300, members=2, seed=0).sample(
        4, seed=0
    )
    assert stacked.states.dtype == torch.int32 == stacked.leaves.dtype


def test_equality_is_of_address_tree_and_states():
    tree = hltm.symmetric_binary(depth=2, members=2, seed=0)
    draw = tree.sample(20, seed=1)
    view, hidden = tree.views(draw, hltm.keep_root())[0], tree.views(draw, DROP)[0]
    packed = tree.sample(20, seed=1, packed=True)
    for each in (draw, view, hidden, packed):
        for again in (pickle.loads(pickle.dumps(each)), copy.deepcopy(each), replace(each)):
            assert again == each
            assert hash(again) == hash(each)
    states = draw.states_SVB.clone()
    states[0, 0, 0] ^= 1
    others = [
        view, hidden, replace(draw, states_SVB=states), tree.sample(20, seed=2), tree.sample(21, seed=1),
        tree.sample(20, seed=1, start=1), tree[0].sample(20, seed=1), replace(draw, origin=None),
        replace(hidden, missing_SXB=None), packed,
        hltm.symmetric_binary(depth=2, members=2, seed=5).sample(20, seed=1),
    ]  # fmt: skip
    for other in (*others, None, 3, "draw", draw.states, draw.states.numpy()):
        assert (draw == other) is False or not isinstance(other, hltm.Draw)
        assert draw is not other
    assert all(draw != other for other in others)
    assert tree.sample(20, seed=1, packed=True) == packed != tree.sample(20, seed=2, packed=True)
    assert len({draw, *others}) == 1 + len(others)


@pytest.mark.parametrize("members", [None, 3])
def test_empty_draws_are_draws(members):
    tree = hltm.random_tree(nodes=8, cardinality=(2, 5), members=members, seed=1)
    lead = () if members is None else (members,)
    empty = tree.sample(0, seed=1, start=5)
    assert empty.rows == range(5, 5)
    assert "no samples" in repr(empty)
    for draw in (empty, *tree.views(empty, hltm.keep_root().then(DROP)), tree.redraw(empty, 0)):
        assert draw.states.shape == (*lead, 0, 8)
        assert draw.leaves.shape == (*lead, 0, len(tree.leaves))
        assert draw.root.shape == (*lead, 0)
        assert len(draw.to_pandas()) == 0
        assert draw.states.dtype == tree.sample(3, seed=1).states.dtype
    assert empty == tree.sample(0, seed=1, start=5) != tree.sample(0, seed=1)
    binary = hltm.symmetric_binary(depth=2, members=members, seed=1)
    packed = binary.sample(0, seed=1, packed=True)
    assert packed.bits.shape == (*lead, 7, 0)
    assert packed.unpack() == binary.sample(0, seed=1)
    (states,) = draw_rows(binary.tables, binary.members, np.array([], dtype=np.int64), seed=1)
    assert states.shape == (len(binary.members), 7, 0)


def test_notebooks_show_the_first_samples():
    html = NAMED.sample(100, seed=0)._repr_html_()
    assert "&lt;c&gt;" in html and "<c>" not in html  # noqa: PT018
    assert html.count("<tr") == 2 + 5
    trees = hltm.balanced(depth=8, members=3, seed=0)
    html = trees.views(trees.sample(100, seed=0), DROP)[0]._repr_html_()
    assert "&lt;NA&gt;" in html
    assert len(html) < 20_000
    assert "<table" not in hltm.balanced(depth=10, seed=0).sample(1, seed=0)._repr_html_()
    assert NAMED.sample(0, seed=0)._repr_html_().count("<tr") == 2
