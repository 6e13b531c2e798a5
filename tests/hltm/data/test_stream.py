"""Streams of batches: each row once over ranks and workers, fresh ones in each loop, places to resume."""

import copy
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import hltm

TREE = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
AUGMENT = hltm.resample_subtrees(0.4, 1).then(hltm.resample_leaves(0.2)).then(hltm.drop_leaves(0.1))
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on few cores
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def stream(**changes):
    return hltm.ViewStream(TREE, AUGMENT, **({"batch": 50, "seed": 3} | changes))


def loader_of(data, workers=0, **options):
    context = "fork" if workers else None
    return DataLoader(
        data, batch_size=None, num_workers=workers, multiprocessing_context=context, **options
    )


def firsts(batches):
    """The first place of every batch."""
    return [int(batch.places[0]) for batch in batches]


def assert_addressed(batch, epoch=0, start=0):
    views, root, places = batch
    draw = TREE.sample(int(places.max()) + 1, seed=3, start=start)
    assert root.equal(draw.root[places].long())
    expected = TREE.views(draw, AUGMENT, first_view=2 * epoch + 1)
    for view, wanted in zip(views, expected, strict=True):
        assert view.equal(wanted.leaves[places])


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("samples", [1, 430, None])
def test_a_stream_is_the_same_with_any_number_of_workers(workers, samples):
    if workers == 3 and samples != 430:
        return
    data = stream(samples=samples, start=7)
    loader = loader_of(data, workers)
    batches = list(islice(loader, 9))
    for batch in batches:
        assert_addressed(batch, start=7)
    places = torch.cat([batch[2] for batch in batches])
    assert places.equal(torch.arange(samples or 450))
    if samples is not None:
        assert len(data) == len(loader) == len(batches)


def places_of(data, worker=0, workers=1):
    """The places of every batch that a worker reads in a pass."""
    with pytest.MonkeyPatch.context() as patch:
        info = type("Info", (), {"id": worker, "num_workers": workers})
        patch.setattr("hltm.data.stream.get_worker_info", lambda: info)
        patch.setattr(data, "_draw", lambda places, epoch: places)
        return list(data._read((0, worker)))


@settings(max_examples=80)
@given(
    ranks=st.integers(1, 5),
    workers=st.integers(1, 4),
    samples=st.integers(1, 300),
    batch=st.integers(1, 60),
    tail=st.sampled_from([None, "drop", "pad", "keep"]),
)
def test_ranks_and_workers_read_each_row_once(ranks, workers, samples, batch, tail):
    kind = tail or ("keep" if ranks == 1 else "drop")
    whole = samples // (ranks * batch)
    seen = {}
    for rank in range(ranks):
        data = stream(samples=samples, batch=batch, rank=rank, ranks=ranks, tail=tail)
        if kind == "drop" and whole == 0:
            with pytest.raises(ValueError, match=f"no whole batch of {batch} for each of {ranks}"):
                len(data)
            return
        for worker in range(workers):
            for step, places in enumerate(places_of(data, worker, workers)):
                # a loader asks its workers in turn
                seen[step * workers + worker, rank] = places
        assert len(data) == sum(r == rank for _, r in seen)
    read = np.concatenate([seen[key] for key in sorted(seen)])  # at each step, the ranks in order
    if kind == "keep":
        assert read.tolist() == list(range(samples))
        return
    assert {len(places) for places in seen.values()} == {batch}
    assert len({sum(r == rank for _, r in seen) for rank in range(ranks)}) == 1
    steps = whole if kind == "drop" else -(-samples // (ranks * batch))
    assert read.tolist() == [i % samples for i in range(steps * ranks * batch)]


def test_the_process_group_is_asked_when_a_loop_begins(monkeypatch):
    early, alone = stream(samples=300), stream(samples=320)
    assert len(early) == 6
    assert len(alone) == 7
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    assert len(early) == len(alone) == 2
    for data in (early, alone, stream(samples=300)):
        assert firsts(data) == [50, 200]
    assert firsts(islice(stream(rank=2, ranks=4), 2)) == [100, 300]
    # a worker that is started anew has no process group; it takes the rank from its starter
    sent = pickle.loads(pickle.dumps(early))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    assert (sent.rank, sent.ranks) == (0, 1)
    monkeypatch.setattr("hltm.data.stream.get_worker_info", lambda: object())
    assert (sent.rank, sent.ranks) == (1, 3)


def test_each_pass_over_a_finite_stream_has_new_views():
    data = stream(samples=120)
    for epoch in range(3):
        for batch in loader_of(data):
            assert_addressed(batch, epoch)
    next(iter(data))  # a pass that is left counts
    iter(data)  # one that is not read does not
    for epoch, workers in [(4, 2), (5, 1), (6, 0)]:
        for batch in loader_of(data, workers):
            assert_addressed(batch, epoch)
    lasting = loader_of(data, 2, persistent_workers=True)
    for epoch in (7, 8):
        for batch in lasting:
            assert_addressed(batch, epoch)
    data.set_epoch(2)
    for loader in (lasting, data, data):
        for batch in loader:
            assert_addressed(batch, 2)
    data.set_epoch(None)
    assert_addressed(next(iter(data)), 3)


def test_an_endless_stream_goes_on():
    data = stream()
    assert firsts(islice(data, 3)) == [0, 50, 100]
    loader = loader_of(data)
    assert firsts(islice(loader, 2)) == [150, 200]
    assert data.state_dict() == {"step": 5}
    data.set_epoch(4)
    batch = next(iter(loader))
    assert firsts([batch]) == [250]
    assert_addressed(batch, 4)
    data.set_epoch(None)
    assert_addressed(next(iter(loader)), 0)
    assert firsts(islice(copy.deepcopy(data), 1)) == [350] == firsts(islice(data, 1))
    data.load_state_dict({"step": 2})
    assert firsts(islice(data, 2)) == [100, 150]
    assert firsts(islice(data, 2)) == [200, 250]


def test_workers_of_an_endless_stream_repeat_no_row():
    data, seen = stream(), []
    lasting = loader_of(data, 2, persistent_workers=True)
    for loader in (loader_of(data, 2), lasting, lasting, loader_of(data), loader_of(data, 1)):
        found = firsts(islice(loader, 5))
        assert found == list(range(found[0], found[0] + 250, 50))
        seen += found
    assert seen == sorted(set(seen))
    data.load_state_dict({"step": 5})  # counted by the user, whatever was read ahead
    assert firsts(islice(lasting, 3)) == [250, 300, 350]
    data.load_state_dict({"step": 8})
    assert firsts(islice(loader_of(data, 2), 3)) == [400, 450, 500]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_finite_stream_goes_on_where_it_was_left(workers):
    data = stream(samples=240)
    list(data)
    whole = list(data)
    data.load_state_dict({"epoch": 1, "step": 2})
    rest = list(loader_of(data, workers))
    assert rest == whole[2:]
    assert firsts(loader_of(data, workers)) == [0, 50, 100, 150, 200]
    assert data.state_dict() == {"epoch": 2, "step": 5}
    data.load_state_dict({"epoch": 0, "step": 5})  # the end of a pass is the beginning of the next
    assert list(loader_of(data, workers)) == whole


def test_the_state_of_a_loop_is_after_its_last_batch():
    for samples in (None, 240):
        data = stream(samples=samples)
        for batch in islice(data, 3):
            last = batch
        other = stream(samples=samples)
        other.load_state_dict(data.state_dict())
        assert firsts(islice(other, 1)) == [int(last.places[-1]) + 1]


@pytest.mark.parametrize(
    ("samples", "workers"),
    [
        (430, 2),
        (None, 0),
        pytest.param(430, 0, marks=pytest.mark.slow),
        pytest.param(None, 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_stateful_loader_resumes_exactly(workers, samples):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    context = "fork" if workers else None

    def make():
        return stateful(
            stream(samples=samples), None, num_workers=workers, multiprocessing_context=context
        )

    loader = make()
    steps = 9 if samples is None else None
    list(islice(loader, steps))
    whole = list(islice(loader, steps))
    for taken in (1, 8):
        loader = make()
        list(islice(loader, steps))
        iterator = iter(loader)
        assert list(islice(iterator, taken)) == whole[:taken] or samples is None
        other = make()
        other.load_state_dict(loader.state_dict())
        rest = list(islice(other, 1))
        assert rest == list(islice(iterator, 1))
        if samples is not None:
            assert rest == whole[taken : taken + 1]
    loader = make()
    list(islice(loader, steps))
    other = make()
    other.load_state_dict(loader.state_dict())
    if samples is not None:
        assert list(other) == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"rank": 2, "ranks": 2}, "rank must be in 0..1, got 2"),
        ({"rank": 2}, "set both rank and ranks or neither, got 2 and None"),
        ({"start": -1}, r"rows must lie in 0..2\^34-1"),
        ({"tail": "cut"}, "tail must be 'drop', 'pad' or 'keep', got 'cut'"),
    ],
)
def test_what_no_stream_can_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        stream(**changes)


@pytest.mark.parametrize("state", [{}, {"step": -1}, {"epoch": 0}, {"epoch": 0, "step": 0}])
def test_what_is_no_state_is_named(state):
    with pytest.raises(ValueError, match=r"expected a state such as {'step': 5}, got {"):
        stream().load_state_dict(state)
    with pytest.raises(ValueError, match=r"expected a state such as {'epoch': 3, 'step': 5}, got"):
        stream(samples=9).load_state_dict({"step": 0})


def test_lengths_and_displays():
    with pytest.raises(TypeError, match="an endless stream has no length; set samples"):
        len(stream())
    data = hltm.ViewStream(TREE, None, batch=8, seed=0, samples=30, targets="latents")
    assert repr(data) == "ViewStream(30 rows, batches of 8, 1 view, targets 0, 1, 2, 3, 4, …)"
    assert repr(stream()).startswith("ViewStream(endless, batches of 50, 2 views of resample")
    assert "<th>batch</th><td>batches of 8</td>" in data._repr_html_()
