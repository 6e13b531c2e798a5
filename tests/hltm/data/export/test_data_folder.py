"""A folder of data as a data set: rows, batches, tables, loaders, displays."""

import pickle

import numpy as np
import pytest
import torch
from exports import SETTINGS, TREE
from torch.utils.data import DataLoader, Subset

import hltm
from hltm.data.export import column as column_module

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on few cores
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
MORE = {**SETTINGS, "augment": hltm.drop_leaves(0.5)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return hltm.export(TREE, tmp_path_factory.mktemp("data") / "out", 1000, **MORE)


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    trees = hltm.symmetric_binary(depth=2, polarity=(0.7, 1.0), members=5, seed=0)[2:4]
    return hltm.export(trees, tmp_path_factory.mktemp("data") / "stacked", 100, seed=1)


def check_rows(batch, places):
    """A batch has the drawn rows at some places."""
    draw = TREE.sample(1000, seed=5, start=77)
    assert batch.rows.tolist() == [77 + i for i in places]
    assert batch.leaves.equal(draw.leaves[places])
    assert batch.latents.equal(draw.states[places, :7])
    for found, view in zip(batch.views, TREE.views(draw, MORE["augment"]), strict=True):
        assert found.equal(view.leaves[places])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_every_row_once(data, workers):
    loader = DataLoader(data, batch_size=64, shuffle=True, num_workers=workers)
    batches = list(loader)
    assert len(batches) == 16
    assert type(batches[0]) is hltm.FolderBatch
    for batch in batches:
        check_rows(batch, (batch.rows - 77).tolist())
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == list(range(77, 1077))


def test_loaders_of_any_kind_give_the_same_batches(data):
    own = list(DataLoader(data, batch_size=300))
    assert own == list(data.batches(300))
    part = Subset(data, range(1000))
    assert own == list(DataLoader(part, batch_size=300))
    item_by_item = DataLoader([data[i] for i in range(900)], batch_size=300)
    for a, b in zip(own, item_by_item, strict=False):
        check_rows(b, range(int(a.rows[0]) - 77, int(a.rows[-1]) - 76))
    by_hand = DataLoader(data, batch_size=300, collate_fn=lambda rows: [r.rows for r in rows])
    assert next(iter(by_hand)) == list(range(77, 377))


@pytest.mark.slow
def test_a_spawned_worker_gives_the_same_batches(data):
    spawned = DataLoader(data, batch_size=300, num_workers=1, multiprocessing_context="spawn")
    assert next(iter(spawned)) == next(iter(data.batches(300)))


def test_rows_batches_and_loops(data):
    check_rows(data[5:9], range(5, 9))
    check_rows(data[[7, 3, -1]], [7, 3, 999])
    check_rows(data[(7, 3)], [7, 3])
    check_rows(data[np.array([3], dtype=np.uint8)], [3])
    check_rows(data[torch.tensor([600, 0])], [600, 0])
    check_rows(data[np.arange(1000) % 400 == 7], [7, 407, 807])
    for one in (data[np.int64(300)], data[300]):
        assert one.rows == 377
        assert type(one.rows) is int
        assert one.leaves.equal(data.leaves[300])
        assert one.views[1].equal(data.views[1][300])
    rows = list(data)
    assert len(rows) == len(data) == 1000
    assert rows[300] == data[300]
    sizes = [len(batch.rows) for batch in data.batches(np.int64(300))]
    assert sizes == [300, 300, 300, 100]
    with pytest.raises(ValueError, match="size of a batch must be at least 1, got 0"):
        data.batches(0)
    with pytest.raises(IndexError, match=r"places must be in -1000\.\.999, got 1000"):
        _ = data[1000]
    with pytest.raises(TypeError, match="expected a place, a slice or a list of places, got 'x'"):
        _ = data["x"]


@pytest.mark.parametrize("nothing", [[], (), slice(5, 5), np.array([], dtype=int), np.array([])])
def test_no_rows(data, nothing):
    assert data.leaves[nothing].shape == (0, 8)
    assert data.views[0][nothing].dtype == torch.int16
    found = data[nothing]
    assert found.rows.shape == (0,)
    assert found.latents.shape == (0, 7)


def test_leaves_alone(tmp_path):
    data = hltm.export(TREE, tmp_path, 10, seed=1, nodes=[])
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch.latents.shape == (4, 0)
    assert batch.views == []
    assert data[2].latents.shape == (0,)
    assert list(data.to_pandas()) == ["row", *TREE.topology.names[7:]]


def test_members_are_chosen_first(stacked):
    with pytest.raises(ValueError, match=r"holds 2 members; choose one, e\.g\. data\[0\]"):
        next(iter(DataLoader(stacked, batch_size=4)))
    with pytest.raises(ValueError, match="holds 2 members"):
        stacked.batches(4)
    for place, member in enumerate(stacked):
        assert member.tree.members == (place + 2,)
        expected = member.tree.sample(100, seed=1)
        assert member.leaves[:].equal(expected.leaves)
        assert next(iter(DataLoader(member, batch_size=7))).leaves.equal(expected.leaves[:7])
        assert stacked[place, 3:5].leaves.equal(expected.leaves[3:5])
        assert [shard.member for shard in member.shards()] == [place + 2]
        assert member.to_pandas()["member"].unique().tolist() == [place + 2]
    assert stacked[-1].tree.members == (3,)
    with pytest.raises(IndexError):
        _ = stacked[2]
    table = stacked.to_pandas()
    assert len(table) == 200
    names = [str(v) for v in stacked.tree.leaves]
    assert np.array_equal(table[names][100:], stacked.leaves[1][:])


def test_a_table_has_the_names_of_nodes(data):
    table = data.to_pandas()
    names = list(TREE.topology.names)
    draw = TREE.sample(1000, seed=5, start=77)
    assert list(table)[:16] == ["row", *names]
    assert np.array_equal(table[names], draw.states)
    assert {str(kind) for kind in table[names].dtypes} == {"uint8"}
    view = TREE.views(draw, MORE["augment"])[1]
    shown = table[[f"{name}_view_2" for name in names[7:]]]
    assert {str(kind) for kind in shown.dtypes} == {"Int16"}
    assert np.array_equal(shown.isna(), view.missing)
    assert np.array_equal(shown.fillna(-1), view.leaves)


def test_it_pickles_without_what_it_read(data):
    _ = data.leaves[:]
    again = pickle.loads(pickle.dumps(data))
    assert again.leaves[:].equal(data.leaves[:])
    assert len(pickle.dumps(data)) < 20_000


def test_shards_that_were_read_are_kept_up_to_a_size(data, monkeypatch):
    read, calls = column_module.read_column, []
    monkeypatch.setattr(column_module, "read_column", lambda *at: calls.append(at) or read(*at))
    order = [0, 300, 600, 900, 0, 300, 600, 900]
    fresh = hltm.load(data.folder)
    _ = [fresh.leaves[i] for i in order]
    assert len(calls) == 4
    monkeypatch.setattr(column_module, "KEPT_BYTES", 2 * 300 * 8)
    fresh = hltm.load(data.folder)
    del calls[:]
    _ = [fresh.leaves[i] for i in (0, 300, 0, 600, 0, 300)]  # 600 displaces 300, not 0
    assert len(calls) == 4
    monkeypatch.setattr(column_module, "KEPT_BYTES", 0)
    fresh = hltm.load(data.folder)
    del calls[:]
    _ = [fresh.leaves[i] for i in (0, 1, 300, 301)]
    assert len(calls) == 2


def test_displays_are_short_and_escaped(data, stacked, tmp_path):
    assert repr(data).endswith(
        "out', 1,000 rows from 77: leaves 8, latents 7, view_1 8, view_2 8; npz)"
    )
    assert "2 members x 100 rows from 0" in repr(stacked)
    assert "2 members" not in repr(stacked[0])
    html = hltm.export(TREE, tmp_path / "<b>", 5, **MORE)._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<td>view_1</td><td>8</td><td>int16</td>" in html
    batch = data[3:5]
    assert repr(batch) == (
        "FolderBatch(rows=(2,) int64, leaves=(2, 8) uint8, latents=(2, 7) uint8, "
        "views=[(2, 8) int16, (2, 8) int16])"
    )


def test_equality_never_raises(data):
    assert data != 3
    assert data == data
    assert data.leaves != data.views[0]
    assert data[3:5] == data[3:5]
    assert data[3:5] != data[3:6]
    assert data[3:5] != 3
    assert not data[3:5] == data[4:6]  # noqa: SIM201 - both operators
    assert hltm.verify(data.folder) == hltm.verify(data.folder)


def test_numbers_of_numpy_are_numbers(tmp_path):
    data = hltm.export(
        TREE, tmp_path / "numpy", np.int64(20), seed=np.uint64(5), start=np.int32(3), views=np.int8(1),
        augment=hltm.keep_root(), nodes=np.array([0, 2]), rows_per_shard=np.int16(7), format="npz",
    )  # fmt: skip
    again = hltm.export(
        TREE, tmp_path / "plain", 20, seed=5, start=3, views=1, augment=hltm.keep_root(), nodes=(0, 2),
        rows_per_shard=7,
    )  # fmt: skip
    assert data.manifest == again.manifest
    assert hltm.verify(tmp_path / "numpy", rows=np.int64(20), seed=np.int64(1)).rows_checked == 20
    assert data.latent_nodes == (0, 2)
    assert hltm.export(TREE, tmp_path / "one", 5, seed=1, nodes=np.int64(1)).latent_nodes == (1,)


@pytest.mark.slow
def test_states_above_256_can_be_reduced(tmp_path):
    tree = hltm.LatentTree.from_parents(
        {"root": None, "many": "root"}, {"root": [0.5, 0.5], "many": np.full((2, 300), 1 / 300)}
    )
    data = hltm.export(tree, tmp_path, 500, seed=3)
    states = data.leaves[:]
    assert states.dtype == torch.int32
    assert int(states.max()) == int(np.asarray(tree.sample(500, seed=3).leaves).max())
    assert torch.bincount(states[:, 0]).sum() == 500
    assert next(data.shards()).leaves.equal(states)
    with np.load(next((tmp_path / "data").iterdir())) as file:
        assert file["leaves"].dtype == np.uint16
    assert data.to_pandas()["many"].dtype == np.int32


@pytest.mark.parametrize("rows", [3, True, np.int64(2), [1, 2], range(2, 5), None, "a"])
def test_a_draw_is_of_a_slice(data, rows):
    with pytest.raises(TypeError, match="rows must be a slice"):
        data.draw(rows)
