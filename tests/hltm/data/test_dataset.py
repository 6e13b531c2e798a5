"""Torch data sets of views: every row is the addressed draw, read once, by any loader."""

import inspect
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from draw_cases import MIXED, PARENTS, random_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, RandomSampler, Subset

import hltm
from hltm.data.adapters import lightly_batch, solo_learn_batch

TREE = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on few cores
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
CROPS = hltm.resample_subtrees(0.4, 1).then(hltm.resample_leaves(0.2)).then(hltm.drop_leaves(0.1))


def fixed(tree=TREE, augment=CROPS, **changes):
    return hltm.ViewDataset(tree, augment, **({"samples": 700, "seed": 3} | changes))


def stream(tree=TREE, augment=CROPS, **changes):
    return hltm.ViewStream(tree, augment, **({"batch": 50, "seed": 3} | changes))


def addressed(tree, places, epoch=0, start=0, augment=CROPS, seed=3):
    """What `sample` and `views` draw at some rows: the data, and two views' leaves."""
    draw = tree.sample(int(places.max()) + 1, seed=seed, start=start)
    views = tree.views(draw, augment, first_view=2 * epoch + 1)
    return draw, [view.leaves[places] for view in views]


def assert_addressed(batch, tree=TREE, **where):
    views, root, places = batch
    draw, expected = addressed(tree, places, **where)
    assert root.equal(draw.root[places].long())
    for view, leaves in zip(views, expected, strict=True):
        assert view.equal(leaves)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 699), min_size=1, max_size=30), st.integers(0, 3), st.booleans())
def test_any_items_are_the_addressed_draw(places, epoch, binary):
    tree = TREE if binary else random_tree(PARENTS, MIXED, seed=1)
    data = fixed(tree, start=40)
    data.set_epoch(epoch)
    items = data.__getitems__(places)
    assert [item.places for item in items] == places
    batch = torch.utils.data.default_collate(items)
    assert_addressed(batch, tree, epoch=epoch, start=40)
    assert batch == torch.utils.data.default_collate(list(items))
    assert data[places[0]] == items[0] == next(iter(items))


def test_an_epoch_sees_each_row_once_through_new_views():
    data = fixed(samples=300)
    seen = []
    loader = DataLoader(
        data, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    for epoch in range(2):
        data.set_epoch(epoch)
        batches = list(loader)
        for batch in batches:
            assert_addressed(batch, epoch=epoch)
        places = torch.cat([batch[2] for batch in batches])
        assert places.sort()[0].equal(torch.arange(300))
        seen.append(torch.cat([batch[0][0] for batch in batches])[places.argsort()])
    assert not seen[0].equal(seen[1])


def test_targets_come_from_the_data():
    draw = TREE.sample(700, seed=3)
    places = np.array([4, 690, 4])
    for targets, nodes in [("latents", range(7)), (3, [0]), (2, [1, 2]), (["5", 0], [5, 0])]:
        found = fixed(augment=hltm.keep_level(1), targets=targets).batch(places).targets
        assert found.equal(draw.states[places][:, list(nodes)].long())
    assert fixed().batch(places).targets.equal(draw.root[places].long())
    leaves = fixed(augment=hltm.drop_leaves(0.5), targets=0).batch(places).targets
    assert leaves.equal(draw.leaves[places].long())  # missing in a view, known all the same


def test_targets_of_a_view_are_what_it_shows():
    _, (a, b) = addressed(TREE, torch.arange(700), augment=hltm.resample_leaves(0.5))
    places = np.array([4, 690, 4])
    data = fixed(augment=hltm.resample_leaves(0.5), targets=0, targets_of="view")
    assert data.batch(places).targets.equal(torch.stack([a[places], b[places]], 1).long())
    root = fixed(targets_of="view").batch(places).targets
    assert root.equal(TREE.sample(700, seed=3).root[places].long()[:, None].expand(3, 2))


def test_the_data_themselves_are_one_view():
    data = fixed(augment=None)
    (view,), root, _ = data.batch(np.arange(700))
    draw = TREE.sample(700, seed=3)
    assert view.equal(draw.leaves)
    assert root.equal(draw.root.long())
    other = fixed(augment=None, stream=hltm.Stream.EVALUATION).batch(np.arange(700))
    assert not other.views[0].equal(view)


def test_encoders_get_rows_and_view():
    embed = partial(hltm.encode.embeddings, cardinality=2, dimension=3, seed=9, noise=0.3)
    data = fixed(encode=embed, start=40)
    places = np.array([600, 3])
    found = data.batch(places)
    _, leaves = addressed(TREE, torch.from_numpy(places), start=40)
    for view, states, number in zip(found.views, leaves, [1, 2], strict=True):
        assert view.equal(embed(states, rows=places + 40, view=number))
    signs = fixed(encode=partial(hltm.encode.signs, missing=0)).batch(places).views[0]
    assert signs.dtype == torch.float32
    assert fixed(encode=torch.nn.Identity()).batch(places).views[0].shape == (2, 8)


def test_adapters_have_the_shapes_of_their_libraries():
    items = [fixed()[i] for i in (3, 9, 3)]
    whole = fixed().batch(np.array([3, 9, 3]))
    for batch in (items, whole):
        views, targets, names = lightly_batch(batch)
        assert isinstance(views, list)
        assert names == ["3", "9", "3"]
        places, same, again = solo_learn_batch(batch)
        assert places.tolist() == [3, 9, 3]
        assert targets.equal(again)
        assert targets.equal(whole.targets)
        for a, b, c in zip(views, same, whole.views, strict=True):
            assert a.equal(c)
            assert b.equal(c)
    loader = DataLoader(stream(), batch_size=None, collate_fn=solo_learn_batch)
    assert next(iter(loader))[0].equal(torch.arange(50))


def test_a_model_learns_from_two_workers():
    tree = hltm.symmetric_binary(depth=2, polarity=0.95, seed=0)
    data = hltm.ViewDataset(
        tree, hltm.resample_leaves(0.1), samples=2000, seed=1, encode=hltm.encode.signs
    )
    model = torch.nn.Linear(4, 2)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = DataLoader(
        data,
        batch_size=100,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
        num_workers=2,
        multiprocessing_context="fork",
    )
    losses = []
    for epoch in range(2):
        data.set_epoch(epoch)
        for (a, b), root, _ in loader:
            loss = sum(torch.nn.functional.cross_entropy(model(x), root) for x in (a, b))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[0] == pytest.approx(2 * np.log(2), rel=1e-5)
    fresh = tree.sample(2000, seed=2)
    best = tree.posterior(fresh.leaves, nodes=0).marginals[:, 0]
    found, bayes = (
        (scores.argmax(1) == fresh.root).double().mean()
        for scores in (model(hltm.encode.signs(fresh.leaves)), best)
    )
    assert bayes > 0.9
    assert found > bayes - 0.02


def test_a_data_set_can_be_sent_to_another_process():
    data = fixed()
    again = pickle.loads(pickle.dumps(data))
    assert again[5].views[1].equal(data[5].views[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "number of samples must be at least 1, got 0"),
        (
            {"tree": random_tree([-1, 0], [2, 2], seed=0, members=2)},
            "choose one, e.g. trees",
        ),
        ({"views": 0}, "the number of views must be at least 1, got 0"),
        ({"augment": None, "views": 2}, "must be 1 without an augmentation, got 2"),
        ({"targets": "leaves"}, "targets must be 'root', 'latents', a level .* 'leaves'"),
        ({"targets": [True, False]}, r"targets must be .*, got \[True, False\]"),
        ({"targets": torch.tensor([0.5])}, r"targets must be .*, got tensor"),
        ({"targets": {0: 1}}, r"targets must be .*, got \{0: 1\}"),
        ({"targets": 9}, r"level must be in 0..3, got 9"),
        ({"targets_of": "base"}, "targets_of must be 'data' or 'view', got 'base'"),
        ({"targets": "latents"}, "target '3' may be drawn again by resample-subtrees"),
        ({"augment": hltm.keep_nothing()}, "target '0' may be drawn again"),
        ({"seed": -1}, r"seed must be in"),
    ],
)
def test_what_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        fixed(**changes)


def test_numbers_are_integers():
    for changes in ({"views": 1.5}, {"samples": 70.0}, {"start": "0"}):
        with pytest.raises(TypeError, match=r"must be an integer, got"):
            fixed(**changes)
    with pytest.raises(TypeError, match=r"batch must be an integer, got 2\.0"):
        stream(batch=2.0)


def test_places_are_any_index():
    data, whole = fixed(), fixed().batch(np.arange(700))
    wanted = [3, 699, 3]
    for index in (
        [3, -1, 3],
        (3, 699, -697),
        np.array([3, 699, 3], dtype=np.uint16),
        torch.tensor([3, 699, 3]),
        [np.int64(3), torch.tensor(699), 3],
    ):
        found = data[index]
        assert found.places.tolist() == wanted
        assert found.views[1].equal(whole.views[1][wanted])
    for index in (slice(0, 4), slice(None, None, -7), slice(690, 900), slice(5, 5)):
        assert data[index].places.tolist() == list(range(700))[index]
    odd = torch.arange(700) % 2 == 1
    assert data[odd].targets.equal(whole.targets[odd])
    for one in (np.int64(4), torch.tensor(4), np.array(4), -696):
        assert data[one] == data[4]
        assert data[one].places == 4


def test_a_batch_without_rows_has_the_shapes_of_any():
    for index in ([], slice(0, 0), np.zeros(0, dtype=np.int64)):
        (a, _), targets, places = fixed(encode=partial(hltm.encode.one_hot, cardinality=2))[index]
        assert a.shape == (0, 8, 2)
        assert targets.shape == places.shape == (0,)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (700, IndexError, r"places must be in -700..699, got 700"),
        ([1, -701], IndexError, r"places must be in -700..699, got -701"),
        (True, TypeError, "expected a place, a slice or a list of places, got True"),
        ([1.0, 2.0], TypeError, r"a list of places, got \[1.0, 2.0\]"),
        ("root", TypeError, "a list of places, got 'root'"),
        (None, TypeError, "a list of places, got None"),
        ([[1, 2]], TypeError, "a list of places, got"),
        ([True, False], IndexError, "expected 700 booleans, one per row, got 2"),
    ],
)
def test_what_is_no_place_is_named(index, error, message):
    with pytest.raises(error, match=message):
        fixed()[index]


def test_targets_may_be_any_list_and_none():
    draw = TREE.sample(700, seed=3)
    for targets in (np.array([0, 1]), torch.tensor([0, 1]), range(2), ("0", np.int32(1))):
        found = fixed(augment=hltm.keep_level(1), targets=targets)[:].targets
        assert found.equal(draw.states[:, :2].long())
    level = fixed(augment=hltm.keep_level(1), targets=np.int64(2))[:].targets
    assert level.equal(draw.states[:, 1:3].long())
    data = fixed(augment=hltm.keep_nothing(), targets=[])
    assert data[:4].targets.shape == (4, 0)
    assert fixed(targets=[], targets_of="view")[:4].targets.shape == (4, 2, 0)


def test_loaders_take_batches_whole():
    """Torch's own collation of items one by one gives the same, so it cannot be told from the result."""
    data = fixed()
    joined = []

    def by_item(items):
        joined.append(len(items))
        return torch.utils.data.default_collate([items[i] for i in range(len(items))])

    for name, chosen in [("all", data), ("subset", Subset(data, range(100, 400)))]:
        data.set_epoch(2)
        batches = list(DataLoader(chosen, batch_size=64))
        assert batches == list(DataLoader(chosen, batch_size=64, collate_fn=by_item)), name
        batch = next(iter(DataLoader(chosen, batch_size=64)))
        assert isinstance(batch, hltm.ViewBatch)
        assert isinstance(batch.places, torch.Tensor)
    items = data.__getitems__([5, 6, 7])
    assert torch.utils.data.default_collate(items) is items.whole
    assert items[1:] == list(items)[1:] == [data[6], data[7]]
    assert items[-1] == data[7]
    assert repr(items).startswith(
        "3 items of ViewBatch(views=[(3, 8) int16, (3, 8) int16], targets="
    )
    sampler = BatchSampler(RandomSampler(data), 4, drop_last=False)
    by_sampler = next(iter(DataLoader(data, sampler=sampler, batch_size=None)))
    assert_addressed(by_sampler, epoch=2)
    assert len(by_sampler.places) == 4
    both = next(iter(DataLoader(ConcatDataset([data, data]), batch_size=8)))
    assert both == data[:8]


def test_batches_compare_by_content():
    data = fixed()
    assert data[:3] == data[0:3]
    assert data[:3] != data[1:4]
    assert data[:3] != data[:2]
    assert data[0] != data[1]
    assert data[0] != 5
    assert data[0] != (1, 2, 3)
    assert hash(data[:3]) == hash(data[0:3])
    assert data != fixed()


def test_displays_are_short():
    assert repr(fixed(augment=hltm.keep_root())) == (
        "ViewDataset(700 rows, 2 views of keep-root, targets root)"
    )
    data = fixed(augment=None, targets="latents", encode=hltm.encode.signs)
    assert repr(data) == "ViewDataset(700 rows, 1 view, targets 0, 1, 2, 3, 4, …)"
    assert repr(fixed(targets=[])).endswith("targets none)")
    assert repr(data[2]) == "ViewBatch(views=[(8,) float32], targets=(7,) int64, places=2)"
    html = data._repr_html_()
    assert "<th>encode</th><td>signs</td>" in html
    assert "LatentTree(15 nodes" in html


def test_epochs_beyond_the_views_are_named():
    data = fixed()
    for epoch in (-1, 8388607):
        with pytest.raises(ValueError, match=rf"epoch must be in 0..8388606, got {epoch}"):
            data.set_epoch(epoch)
    for epoch in (0.5, True):
        with pytest.raises(TypeError, match=f"epoch must be an integer, got {epoch}"):
            data.set_epoch(epoch)
    with pytest.raises(ValueError, match=r"expected a state such as {'epoch': 3}, got {'step': 1}"):
        data.load_state_dict({"step": 1})
    data.set_epoch(np.int64(4))
    assert data.epoch == 4
    data.set_epoch(8388606)
    data.set_epoch(None)
    with pytest.raises(ValueError, match=r"2\^24 views of a row, but epoch 8388607 needs more"):
        next(iter(DataLoader(data, batch_size=4)))


@pytest.mark.parametrize("kind", [hltm.ViewDataset, hltm.ViewStream, hltm.LabelledDataset])
def test_arguments_are_named(kind):
    found = inspect.signature(kind).parameters
    assert {"samples", "seed", "start", "targets", "encode", "stream"} <= found.keys()
    assert all(own.kind is not own.VAR_KEYWORD for own in found.values())
