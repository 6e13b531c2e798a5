"""Drawing ahead: while a device trains on a span of steps, the CPU draws the next span for it.

A thread draws with the CPU kernel, which releases the interpreter's lock, and joins all that a span
needs in one piece of pinned memory. One copy brings it to the device, on a stream of its own beside the
training, whose stream waits for the copy; no thread does. Rows are drawn by address, so they are the
same wherever and in whatever spans they are drawn.

    the training   span 0         span 1         span 2
    the thread     draw, copy 1   draw, copy 2   …

The memory of a span is not reused by hand: torch gives pinned memory out again only when the copies from
it are done, and the memory of a device only when the streams that were recorded for it are past it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualnets.methods.protocol import Needs
from dualnets.training.data import DrawnViews, TreeRows
from dualnets.training.ensemble import Part

ALIGNMENT = 8  # bytes, of every tensor in the joined memory
NAME = "hltm-draw-ahead"  # of the thread


@contextmanager
def drawn_ahead(parts: Sequence[Part], steps: int, *, always: bool = False) -> Iterator[None]:
    """Within, a thread draws the parts' rows ahead, where their device does not draw itself.

    The thread ends with the block, however that is left, and draws nothing from step `steps` on. An
    error in it is raised where the rows are asked for. `always` draws ahead on the CPU too, for tests.
    """
    rows = [part.config.data for part in parts]
    drawn_here = rows[0].device.type == "cpu" or rows[0].drawn_by_device
    if drawn_here and not always:
        yield
        return
    thread = ThreadPoolExecutor(1, thread_name_prefix=NAME)
    try:
        for part in parts:
            own = part.config.data
            assert isinstance(own, TreeRows)  # others are drawn by the device
            ahead = RowsAhead.of(own, thread, steps, len(parts))
            part.config = part.config._replace(data=ahead)
        yield
    finally:
        thread.shutdown(cancel_futures=True)
        for part, own in zip(parts, rows, strict=True):
            part.config = part.config._replace(data=own)


class Span(NamedTuple):
    """The data of steps first_step .. end - 1 in one piece of memory.

    Attributes:
        first_step, end: the steps.
        memory: `(bytes,)` uint8, on the device, or still on the CPU where the device has no streams.
        tensors: what lies in it, in the order of `_tensors`; on the device `meta`.
        copied: the event after the copy to the device; None where no stream copies.
    """

    first_step: int
    end: int
    memory: Tensor
    tensors: list[Tensor | None]
    copied: Any


@dataclass(frozen=True)
class RowsAhead(TreeRows):
    """Rows that a thread draws one span ahead of the steps that are asked for, in their order.

    Attributes:
        origin: the same rows, drawn on the CPU.
        thread: draws them.
        last: how many steps there are.
        share: a span may take one of so many shares of `DRAWN_BYTES`.
        stream: of the copies; None where the device has no streams.
    """

    origin: TreeRows
    thread: ThreadPoolExecutor
    last: int
    share: int
    stream: Any
    _now: dict[Needs, Span] = field(default_factory=dict, repr=False, compare=False)
    _next: dict[Needs, Future[Span]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, rows: TreeRows, thread: ThreadPoolExecutor, last: int, share: int) -> RowsAhead:
        """The same rows, drawn ahead for `rows.device`."""
        module = _streams_of(rows.device)
        return cls(
            **{item.name: getattr(rows, item.name) for item in fields(TreeRows)},
            origin=rows.on(torch.device("cpu")), thread=thread, last=last, share=share,
            stream=None if module is None else module.Stream(rows.device),
        )  # fmt: skip

    def of_members(self, low: int, high: int) -> TreeRows:  # type: ignore[override]
        """The rows of some members alone, not drawn ahead."""
        return self.origin.of_members(low, high).on(self.device)

    def draw(self, needs: Needs, first_step: int, steps: int) -> DrawnViews:
        pieces = []
        step, end = first_step, first_step + steps
        while step < end:
            span = self._now.get(needs)
            if span is None or not span.first_step <= step < span.end:
                span = self._span_at(needs, step)
            stop = min(end, span.end)
            rows = [(at - span.first_step) * self.batch for at in (step, stop)]
            pieces.append(_rows(_views(span), needs, *rows))
            step = stop
        return pieces[0] if len(pieces) == 1 else _joined(pieces)

    def _span_at(self, needs: Needs, step: int) -> Span:
        """The span that begins at a step; the thread begins the one after it."""
        self._now.pop(needs, None)  # its memory is free while the next is waited for
        foreseen = self._next.pop(needs, None)
        span = None if foreseen is None else foreseen.result()
        if span is None or span.first_step != step:
            span = self.thread.submit(self._make, needs, step).result()
        if span.end < self.last:
            self._next[needs] = self.thread.submit(self._make, needs, span.end)
        memory = span.memory
        if span.copied is None:
            memory = memory.to(self.device)
        else:
            current = _streams_of(self.device).current_stream(self.device)
            current.wait_event(span.copied)
            memory.record_stream(current)
        self._now[needs] = span = span._replace(memory=memory)
        return span

    def _make(self, needs: Needs, step: int) -> Span:
        """In the thread: draw the span that begins at a step, and put its copy on the stream."""
        many = max(self.origin.steps_at_once(needs) // self.share, 1)
        end = step + max(min(many, self.last - step), 1)
        tensors = _tensors(self.origin.draw(needs, step, end - step))
        memory = _in_one_piece(tensors, pin=self.stream is not None)
        empty = [None if each is None else each.to("meta") for each in tensors]
        if self.stream is None:
            return Span(step, end, memory, empty, None)
        with _streams_of(self.device).stream(self.stream):
            memory = memory.to(self.device, non_blocking=True)
            return Span(step, end, memory, empty, self.stream.record_event())


def _streams_of(device: torch.device) -> Any:
    """The module of torch with the streams of a device; None where it has none."""
    return getattr(torch, device.type) if device.type in ("cuda", "xpu") else None


def _tensors(drawn: DrawnViews) -> list[Tensor | None]:
    """Views, negatives, targets and places."""
    return [*drawn.views, drawn.negatives, drawn.targets, drawn.places]


def _drawn(tensors: Sequence[Tensor | None]) -> DrawnViews:
    """The inverse of `_tensors`."""
    *views, negatives, targets, places = tensors
    return DrawnViews([view for view in views if view is not None], negatives, targets, places)


def _places(tensors: Sequence[Tensor | None]) -> list[int]:
    """Where in the joined memory every tensor begins, and where the last one ends."""
    sizes = [0 if each is None else -(-each.nbytes // ALIGNMENT) * ALIGNMENT for each in tensors]
    return [0, *np.cumsum(sizes).tolist()]


def _in_one_piece(tensors: Sequence[Tensor | None], *, pin: bool) -> Tensor:
    """`(bytes,)` uint8: the tensors one after the other."""
    places = _places(tensors)
    memory = torch.empty(places[-1], dtype=torch.uint8, pin_memory=pin)
    for each, there in zip(tensors, _cut(memory, tensors), strict=True):
        if each is not None and there is not None:
            there.copy_(each)
    return memory


def _cut(memory: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors in their joined memory, of the shapes and dtypes of `tensors`."""
    return [
        None if each is None else memory[low : low + each.nbytes].view(each.dtype).view(each.shape)
        for each, (low, _) in zip(tensors, pairwise(_places(tensors)), strict=True)
    ]


def _views(span: Span) -> DrawnViews:
    return _drawn(_cut(span.memory, span.tensors))


def _rows(drawn: DrawnViews, needs: Needs, low: int, high: int) -> DrawnViews:
    """Rows low .. high - 1 alone, without a copy."""
    negatives = drawn.negatives
    if negatives is not None:
        negatives = negatives[..., low * needs.negatives : high * needs.negatives]
    return DrawnViews(
        [view[..., low:high] for view in drawn.views],
        negatives,
        None if drawn.targets is None else drawn.targets[..., low:high],
        None if drawn.places is None else drawn.places[low:high],
    )


def _joined(pieces: Sequence[DrawnViews]) -> DrawnViews:
    """Consecutive pieces as one."""
    return _drawn(
        [
            None if same[0] is None else torch.cat(same, dim=-1)
            for same in zip(*map(_tensors, pieces), strict=True)
        ]
    )
