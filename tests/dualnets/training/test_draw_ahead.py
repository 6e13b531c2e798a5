"""Rows drawn ahead by a thread: the same rows, one span ahead, and no thread left behind."""

import contextlib
import functools
import threading
from types import SimpleNamespace

import pytest
import torch

import dualnets
import hltm
from dualnets.methods.protocol import Needs
from dualnets.training import data as training_data
from dualnets.training import draw_ahead, trajectory
from dualnets.training.data import FixedData, FreshData

TREES = hltm.symmetric_binary(depth=3, members=3, seed=0)
WIDE = hltm.balanced(depth=2, cardinality=300, members=3, seed=0)
NEEDS = [
    Needs(),
    Needs(views=3, negatives=2, targets="latents"),
    Needs(views=1, targets="root", places=True),
]


def rows(kind, trees=TREES, **changes):
    given = {
        "source": trees, "members": trees.members, "augment": hltm.keep_root(), "batch": 5,
        "seed": 9, "stacked": True, "device": torch.device("cpu"),
    }  # fmt: skip
    return kind(**(given | changes))


def part_of(own):
    """What `drawn_ahead` knows of a part of an ensemble."""
    return SimpleNamespace(config=SimpleNamespace(data=own, _replace=lambda data: replaced(data)))


def replaced(data):
    return part_of(data).config


@contextlib.contextmanager
def ahead(own, steps):
    """The rows drawn ahead for a device for which the CPU stands in."""
    part = part_of(own)
    with draw_ahead.drawn_ahead([part], steps, always=True):
        yield part.config.data
    assert part.config.data is own


def threads():
    return [each.name for each in threading.enumerate() if each.name.startswith(draw_ahead.NAME)]


@pytest.fixture
def small_spans(monkeypatch):
    """Spans of a few steps."""
    monkeypatch.setattr(training_data, "DRAWN_BYTES", 1000)


def assert_same(found, expected):
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.dtype == expected.dtype
        assert torch.equal(found.long(), expected.long())


FIXED = functools.partial(FixedData, samples=23)


@pytest.mark.parametrize(
    ("make", "needs"),
    [*((FreshData, each) for each in NEEDS[:2]), *((FIXED, each) for each in NEEDS)],
)
def test_the_rows_are_the_same_in_any_spans(needs, make, small_spans):
    own = rows(make)
    with ahead(own, 30) as found:
        step = 3
        for many in (1, 1, 9, 2, 14):
            for a, b in zip(
                found.batches(needs, step, many), own.batches(needs, step, many), strict=True
            ):
                assert a.size == b.size
                for name in ("leaves", "targets", "places"):
                    assert_same(getattr(a, name), getattr(b, name))
            step += many
        for first in (11, 2, 29):  # out of order, too
            for a, b in zip(found.draw(needs, first, 1).views, own.draw(needs, first, 1).views,
                            strict=True):  # fmt: skip
                assert_same(a, b)


@pytest.mark.slow
def test_states_of_16_bits_travel(small_spans):
    own = rows(FreshData, WIDE)
    with ahead(own, 4) as found:
        for a, b in zip(
            found.draw(Needs(), 0, 3).views, own.draw(Needs(), 0, 3).views, strict=True
        ):
            assert a.dtype == torch.uint16
            assert_same(a, b)


def test_one_span_ahead_and_none_beyond_the_end(small_spans, monkeypatch):
    drawn, draw = [], FreshData.draw

    def noted(self, needs, first_step, steps):
        drawn.append(
            (threading.current_thread().name.startswith(draw_ahead.NAME), first_step, steps)
        )
        return draw(self, needs, first_step, steps)

    monkeypatch.setattr(FreshData, "draw", noted)
    own = rows(FreshData)
    span = own.steps_at_once(Needs())
    assert span == 4
    with ahead(own, 11) as found:
        found.draw(Needs(), 0, 1)
        found.thread.submit(int).result()  # the thread has done all that was asked of it
        assert drawn == [(True, 0, 4), (True, 4, 4)]
        found.draw(Needs(), 1, 4)
        found.draw(Needs(), 5, 6)
        found.thread.submit(int).result()
    assert drawn == [(True, 0, 4), (True, 4, 4), (True, 8, 3)]


@pytest.fixture
def always(monkeypatch):
    """Training draws ahead on the CPU."""
    switched = functools.partial(draw_ahead.drawn_ahead, always=True)
    monkeypatch.setattr(trajectory, "drawn_ahead", switched)


def train(**changes):
    given = {
        "augment": hltm.keep_root(), "steps": 12, "batch": 5, "optimizer": dualnets.Adam(lr=0.01),
        "seed": 2, "snapshots": [0, 1, 7],
    }  # fmt: skip
    network = dualnets.tree_network(TREES, units=3, seed=1)
    return dualnets.trajectory(network, dualnets.SimCLR(), TREES, **(given | changes))


@pytest.mark.parametrize("changes", [{}, {"samples": 23}, {"members_at_once": 2}], ids=str)
def test_training_gives_the_same_numbers(changes, small_spans, monkeypatch):
    plain = list(train(**changes))
    switched = functools.partial(draw_ahead.drawn_ahead, always=True)
    monkeypatch.setattr(trajectory, "drawn_ahead", switched)
    for a, b in zip(train(**changes), plain, strict=True):
        assert a.losses.equal(b.losses) or a.step == 0
        for one, other in zip(a.network.parameters(), b.network.parameters(), strict=True):
            assert one.equal(other)
    assert threads() == []


def test_the_thread_ends_with_a_generator_that_is_closed(always):
    found = train()
    next(found)
    next(found)
    assert threads()
    found.close()
    assert threads() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_thread_ends_with_an_error(always, error):
    def progress(steps):
        raise error("no more")

    with pytest.raises(error, match="no more"):
        list(train(progress=progress))
    assert threads() == []


def test_an_error_of_the_thread_is_raised_by_the_training(always, small_spans, monkeypatch):
    draw = FreshData.draw

    def fail(self, needs, first_step, steps):
        if first_step >= 4:
            raise MemoryError("no such luck")
        return draw(self, needs, first_step, steps)

    monkeypatch.setattr(FreshData, "draw", fail)
    found = train(snapshots=range(13))
    steps = []
    with pytest.raises(MemoryError, match="no such luck"):
        steps.extend(snapshot.step for snapshot in found)
    assert steps[-1] == 4
    assert threads() == []


class Streams:
    """Stands in for `torch.cuda`: it notes what is asked of it, in order."""

    def __init__(self):
        self.notes, self.on = [], "training"

    def Stream(self, device):
        return SimpleNamespace(
            record_event=lambda: self._note("record", f"after copy {self.copies}")
        )

    @contextlib.contextmanager
    def stream(self, stream):
        self.on = "copies"
        yield
        self.on = "training"

    def current_stream(self, device):
        return SimpleNamespace(wait_event=lambda event: self._note("wait", event))

    @property
    def copies(self):
        return sum(kind == "copy" for kind, _ in self.notes)

    def _note(self, *note):
        self.notes.append(note)
        return note[-1]


def test_the_training_waits_for_its_copy_and_keeps_its_memory(small_spans, monkeypatch):
    """On a device with streams: one pinned copy per span, an event after it, waited for before its use."""
    streams, pinned = Streams(), []
    together = draw_ahead._in_one_piece

    class Pinned(torch.Tensor):
        def to(self, device, non_blocking):
            assert non_blocking
            streams._note("copy", streams.on)
            return self.as_subclass(torch.Tensor).clone()

    def in_one_piece(tensors, *, pin):
        pinned.append(pin)
        return together(tensors, pin=False).as_subclass(Pinned)

    monkeypatch.setattr(draw_ahead, "_streams_of", lambda device: streams)
    monkeypatch.setattr(draw_ahead, "_in_one_piece", in_one_piece)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: streams._note("kept for", "training")
    )
    own = rows(FreshData)
    with ahead(own, 11) as found:
        for step in range(11):
            for a, b in zip(
                found.draw(Needs(), step, 1).views, own.draw(Needs(), step, 1).views, strict=True
            ):
                assert_same(a, b)
    assert pinned == [True] * 3
    assert [note for note in streams.notes if note[0] == "copy"] == [("copy", "copies")] * 3
    waits = [event for kind, event in streams.notes if kind == "wait"]
    assert waits == ["after copy 1", "after copy 2", "after copy 3"]
    assert sum(kind == "kept for" for kind, _ in streams.notes) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("needs", NEEDS[:2])
def test_a_gpu_is_given_the_same_rows(needs, small_spans):
    own = rows(FreshData)
    with ahead(own.on(torch.device("cuda")), 300) as found:
        for step in range(0, 300, 3):
            batches = found.batches(needs, step, 3)
            for a, b in zip(batches, own.batches(needs, step, 3), strict=True):
                assert a.leaves.is_cuda
                assert_same(a.leaves.cpu(), b.leaves)
                if needs.targets:
                    assert_same(a.targets.cpu(), b.targets)
