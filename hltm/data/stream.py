"""A torch data set without places: whole batches of rows in order, for any number of ranks and workers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Literal, get_args

import numpy as np
import torch.distributed
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from hltm._integers import as_integer
from hltm.data.dataset import EpochReader
from hltm.data.view_batches import Targets, TargetsOf, ViewBatch
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import MAX_ROWS, Stream
from hltm.tree import LatentTree

Tail = Literal["drop", "pad", "keep"]


class ViewStream(EpochReader, IterableDataset[ViewBatch]):
    """An iterable-style data set: whole batches of rows in order, endless or of a given length.

    Batch b starts at row start + b · batch. At its step t, rank r of R reads batch R t + r whatever
    the number of workers: ranks and workers together read each row once, and a rank reads the same
    batches in the same order with any number of workers. Give it to a loader with
    `batch_size=None`.

    **Passes.** Each pass over a stream of `samples` rows has new views, as those of
    `hltm.ViewDataset`. An endless stream never repeats a row: each loop goes on after the last batch
    that was read. Workers read ahead, so after a loop that is left, the batches that they had read
    beyond it are passed over; to go on at an exact step, count the steps and load that number. Loops
    that run at the same time read the same rows.

    Args:
        tree, augment, seed, start, views, targets, targets_of, encode, stream: as `ViewDataset`.
        batch: B, the rows of a batch.
        samples: the number of rows of all ranks together; None for no end.
        rank, ranks: the number of this process and the number of processes; by default those of
            torch.distributed when a loop begins.
        tail: what to do where `samples` is no multiple of ranks · batch. `drop` leaves out the last
            rows, fewer than ranks · batch; `pad` fills up with the first rows; `keep` reads each row
            once, so the last batch may be smaller and ranks may differ by one batch, for which
            training in parallel would wait for ever. By default `keep` for one rank and `drop` for
            several.

    Raises:
        ValueError: as `ViewDataset`; a batch below 1, a rank outside 0..ranks - 1, an unknown tail,
            or, when a loop begins, no whole batch for every rank where the tail is dropped.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> data = ViewStream(tree, hltm.keep_root(), batch=64, seed=1, targets=3)
        >>> data
        ViewStream(endless, batches of 64, 2 views of keep-root, targets 0)
        >>> loader = torch.utils.data.DataLoader(data, batch_size=None)
        >>> (a, b), root, places = next(iter(loader))
        >>> a.shape, a.dtype, root.shape, places[:3]
        (torch.Size([64, 8]), torch.uint8, torch.Size([64, 1]), tensor([0, 1, 2]))
        >>> next(iter(loader)).places[:3], data.state_dict()  # the next loop goes on
        (tensor([64, 65, 66]), {'step': 2})
    """

    def __init__(
        self,
        tree: LatentTree,
        augment: Augmentation | None,
        *,
        batch: int,
        seed: int,
        samples: int | None = None,
        start: int = 0,
        views: int | None = None,
        targets: Targets = "root",
        targets_of: TargetsOf = "data",
        encode: Callable[..., Tensor] | None = None,
        stream: Stream = Stream.DATA,
        rank: int | None = None,
        ranks: int | None = None,
        tail: Tail | None = None,
    ) -> None:
        batch = as_integer("batch", batch, 1)
        if (rank is None) != (ranks is None):
            raise ValueError(f"set both rank and ranks or neither, got {rank} and {ranks}")
        if rank is not None and ranks is not None and not 0 <= rank < ranks:
            raise ValueError(f"rank must be in 0..{ranks - 1}, got {rank}")
        if tail not in (None, *get_args(Tail)):
            raise ValueError(f"tail must be 'drop', 'pad' or 'keep', got {tail!r}")
        super().__init__(
            tree, augment, samples=MAX_ROWS - start if samples is None else samples, seed=seed,
            start=start, views=views, targets=targets, targets_of=targets_of, encode=encode,
            stream=stream,
        )  # fmt: skip
        self.size, self.endless, self.tail = batch, samples is None, tail
        self._given_ranks = None if rank is None or ranks is None else (rank, ranks)
        self._starter: tuple[int, int] | None = None  # the ranks of the process that sent this here
        self._next: tuple[int, int] | None = None  # the pass and step that this worker reads next

    def __getstate__(self) -> dict[str, Any]:
        # workers that are started anew have no process group, and so take the rank from here
        return self.__dict__ | {"_starter": process_ranks(), "_next": None}

    @property
    def rank(self) -> int:
        """The number r of this process among the ranks, as it is now."""
        return self._ranks()[0]

    @property
    def ranks(self) -> int:
        """The number R of ranks, as it is now."""
        return self._ranks()[1]

    def _ranks(self) -> tuple[int, int]:
        """The rank and the number of ranks: those given, or of the process group, or of its starter."""
        starter = self._starter if get_worker_info() is not None else None
        return self._given_ranks or process_ranks() or starter or (0, 1)

    def __len__(self) -> int:
        """The number of batches that this rank reads in a pass."""
        if self.endless:
            raise TypeError("an endless stream has no length; set samples")
        return self._steps()

    def _steps(self) -> int:
        """The number of steps of a pass of this rank."""
        rank, ranks = self._ranks()
        batches = -(-self.samples // self.size)
        tail = self.tail or ("keep" if ranks == 1 else "drop")
        if tail == "keep":
            return len(range(rank, batches, ranks))
        steps = self.samples // (ranks * self.size) if tail == "drop" else -(-batches // ranks)
        if steps == 0:
            raise ValueError(
                f"{self.samples} samples are no whole batch of {self.size} for each of {ranks} ranks: "
                f"set tail='pad' or tail='keep'"
            )
        return steps

    def __iter__(self) -> Iterator[ViewBatch]:
        # a worker knows its place before it is first asked for a batch, a loop only then
        return self._read(None if get_worker_info() is None else self._begin())

    def _begin(self) -> tuple[int, int]:
        """Begin a pass: its number and the first step that this process reads."""
        self._next = self.passes.begin(goes_on=self.endless)
        return self._next

    def _read(self, place: tuple[int, int] | None) -> Iterator[ViewBatch]:
        """The batches of this process from a pass and step on, or in the next pass."""
        number, first = place or self._begin()
        (rank, ranks), steps, info = self._ranks(), self._steps(), get_worker_info()
        stride = 1 if info is None else info.num_workers
        for step in count(first, stride):
            if step >= steps:
                return
            low = (step * ranks + rank) * self.size
            places = np.arange(low, low + self.size)
            places = places % self.samples if self.tail == "pad" else places[places < self.samples]
            found = self._draw(places, self._epoch_of(number))
            self._next = number, step + stride
            self.passes.has_read(number, step + 1)
            yield found

    def _epoch_of(self, number: int) -> int:
        """The epoch of a pass: an endless stream has new rows and needs no new views."""
        pinned = self.passes.pinned
        return pinned if pinned is not None else 0 if self.endless else number

    def state_dict(self) -> dict[str, int]:
        """What a resumed run needs to go on after the last batch that was read.

        Returns:
            `step`, how many batches this rank has read: since the beginning of an endless stream,
            or in the pass `epoch` of a stream of `samples` rows. With workers, what they have read
            ahead is counted too: put your own count of steps in its place. In a worker it is the
            worker's own next step, as torchdata's StatefulDataLoader keeps it for each.
        """
        number, step = self._next if get_worker_info() and self._next else self.passes.position
        return {"step": step} if self.endless else {"epoch": number, "step": step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next loop go on from the place of a `state_dict`, the same on every rank.

        Raises:
            ValueError: no state of such a stream.
        """
        wanted = {"step": 5} if self.endless else {"epoch": 3, "step": 5}
        if set(state) != set(wanted) or not 0 <= state["step"] <= MAX_ROWS:
            raise ValueError(f"expected a state such as {wanted}, got {state!r:.100}")
        number, step = self._checked(state.get("epoch", 0)), operator.index(state["step"])
        if not self.endless and get_worker_info() is None and step >= self._steps():
            number, step = number + 1, 0
        self.passes.start_at(number, step)

    def _summary(self) -> dict[str, str]:
        rows = "endless" if self.endless else f"{self.samples} rows"
        return {"rows": rows, "batch": f"batches of {self.size}"} | {
            key: text for key, text in super()._summary().items() if key != "rows"
        }


def process_ranks() -> tuple[int, int] | None:
    """The rank of this process and the number of ranks; None where there is no process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return None
