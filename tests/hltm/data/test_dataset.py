"""Torch data sets of views: every row is the addressed draw, read once, by any loader."""

import pickle
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from draw_cases import MIXED, PARENTS, random_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

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
    one = data[places[0]]
    assert one.targets.equal(items[0].targets)
    assert all(a.equal(b) for a, b in zip(one.views, items[0].views, strict=True))


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


def test_workers_that_outlive_an_epoch_see_the_next_one():
    data = fixed(samples=200)
    loader = DataLoader(
        data,
        batch_size=50,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    for epoch in (0, 5):
        data.set_epoch(epoch)
        for batch in loader:
            assert_addressed(batch, epoch=epoch)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("samples", [1, 430, None])
def test_a_stream_is_the_same_with_any_number_of_workers(workers, samples):
    if workers == 3 and samples != 430:
        return
    data = stream(samples=samples, start=7)
    loader = DataLoader(
        data,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    batches = list(islice(loader, 9))
    for batch in batches:
        assert_addressed(batch, start=7)
    places = torch.cat([batch[2] for batch in batches])
    assert places.equal(torch.arange(samples or 450))
    if samples is not None:
        assert len(data) == len(loader) == len(batches)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 300), st.integers(1, 60))
@settings(max_examples=40)
def test_ranks_and_workers_neither_repeat_nor_lose_a_row(ranks, workers, samples, batch):
    seen = {}
    for rank in range(ranks):
        for worker in range(workers):
            data = stream(samples=samples, batch=batch, rank=rank, ranks=ranks)
            with pytest.MonkeyPatch.context() as patch:
                info = type("Info", (), {"id": worker, "num_workers": workers})
                patch.setattr("hltm.data.dataset.get_worker_info", lambda info=info: info)
                patch.setattr(data, "batch", lambda places: places)
                found = list(data)
            for step, places in enumerate(found):
                # a loader asks its workers in turn
                seen[step * workers + worker, rank] = places
        assert len(data) == sum(r == rank for _, r in seen)
    whole = np.concatenate([seen[key] for key in sorted(seen)])
    assert whole.tolist() == list(range(samples))  # at each step, the ranks in order


def test_a_process_group_gives_the_rank(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert next(iter(stream())).places[0] == 50
    assert next(iter(stream(rank=2, ranks=4))).places[0] == 100


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
    ("make", "changes", "message"),
    [
        (fixed, {"samples": 0}, "number of samples must be at least 1, got 0"),
        (
            fixed,
            {"tree": random_tree([-1, 0], [2, 2], seed=0, members=2)},
            "choose one, e.g. trees",
        ),
        (fixed, {"views": 0}, "the number of views must be at least 1, got 0"),
        (fixed, {"augment": None, "views": 2}, "must be 1 without an augmentation, got 2"),
        (fixed, {"targets": "leaves"}, "targets must be 'root', 'latents', a level .* 'leaves'"),
        (fixed, {"targets": []}, r"targets must be .*, got \[\]"),
        (fixed, {"targets": 9}, r"level must be in 0..3, got 9"),
        (fixed, {"targets_of": "base"}, "targets_of must be 'data' or 'view', got 'base'"),
        (fixed, {"targets": "latents"}, "target '3' may be drawn again by resample-subtrees"),
        (fixed, {"augment": hltm.keep_nothing()}, "target '0' may be drawn again"),
        (fixed, {"seed": -1}, r"seed must be in"),
        (stream, {"batch": 0}, "batch must be at least 1, got 0"),
        (stream, {"rank": 2, "ranks": 2}, "rank must be in 0..1, got 2"),
        (stream, {"rank": 2}, "set both rank and ranks or neither, got 2 and None"),
        (stream, {"start": -1}, r"rows must lie in 0..2\^34-1"),
    ],
)
def test_what_cannot_be_is_named(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_places_and_epochs_beyond_the_data_are_named():
    with pytest.raises(IndexError):
        fixed()[700]
    assert fixed()[-1].places == 699
    with pytest.raises(ValueError, match=r"epoch must be in 0..8388606, got -1"):
        fixed().set_epoch(-1)
    with pytest.raises(ValueError, match=r"epoch must be in 0..8388606, got 8388607"):
        fixed().set_epoch(8388607)
    fixed().set_epoch(8388606)
    with pytest.raises(TypeError, match="has no length"):
        len(stream())
