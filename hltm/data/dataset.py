"""Torch data sets of views: nothing is stored, every row is drawn by its address when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np
import torch.distributed
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from hltm.data.view_batches import Targets, TargetsOf, ViewBatch, Views
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import MAX_ROWS, Stream
from hltm.sampling.sample import check_rows
from hltm.tree import LatentTree


class ViewDataset(Views, Dataset[ViewBatch]):
    """A fixed set of P rows with views that are new in every epoch; map-style.

    Item i is a `ViewBatch` (views, targets, place) of row start + i of the endless data set of the
    seed: what `tree.sample` and `tree.views` draw there. Epoch e shows views C e + 1 .. C e + C, so
    2e + 1 and 2e + 2 of two. A loader fetches a batch in one call (`__getitems__`); torch's own
    collation, samplers and workers do. Rows in order cost least: of scattered ones, the blocks of
    128 rows that they lie in are drawn whole.

    Args:
        tree: one tree.
        augmentation: what a view redraws and misses; None shows the data themselves, once.
        samples: P.
        seed: 64 bits.
        start: the first row.
        views: C, how many; 2 by default.
        targets: `root`, `latents` (all), a level, or a list of nodes.
        targets_of: `data`, for nodes that no view draws again; or `view`, the states in each view.
        encode: from `(B, X)` integer states, -1 where missing, to inputs `(B, ...)`, e.g.
            `hltm.encode.signs`. One that has parameters `rows` or `view` is told the numbers of the
            rows and of the view, as `hltm.encode.embeddings` needs them. None shows states.
        stream: what the rows are for; rows of different streams are independent.

    Raises:
        ValueError: stacked trees, no samples, a number of views below 1, targets that are none, or
            a target that a view may draw again though it is asked of the data.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> data = ViewDataset(
        ...     tree, hltm.keep_root(), samples=1000, seed=1, encode=hltm.encode.signs
        ... )
        >>> loader = torch.utils.data.DataLoader(data, batch_size=100, shuffle=True)
        >>> data.set_epoch(3)
        >>> (a, b), root, places = next(iter(loader))
        >>> a.shape, root.shape, root.equal(tree.sample(1000, seed=1).root[places].long())
        (torch.Size([100, 8]), torch.Size([100]), True)
    """

    def __init__(
        self,
        tree: LatentTree,
        augmentation: Augmentation | None,
        *,
        samples: int,
        seed: int,
        start: int = 0,
        views: int | None = None,
        targets: Targets = "root",
        targets_of: TargetsOf = "data",
        encode: Callable[..., Tensor] | None = None,
        stream: Stream = Stream.DATA,
    ) -> None:
        check_rows(start, samples)
        super().__init__(
            tree,
            augmentation,
            seed=seed,
            start=start,
            views=views,
            targets=targets,
            targets_of=targets_of,
            encode=encode,
            stream=stream,
        )
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> ViewBatch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[ViewBatch]:
        """The items of several places, drawn in one call; a loader asks so."""
        places = [range(self.samples)[i] for i in indices]
        found = self.batch(np.array(places, dtype=np.int64))
        views = zip(*[view.unbind(0) for view in found.views], strict=True)
        return [
            ViewBatch(*item) for item in zip(views, found.targets.unbind(0), places, strict=True)
        ]


class ViewStream(Views, IterableDataset[ViewBatch]):
    """Whole batches of fresh rows, in order, without an end or up to a number of rows; iterable.

    Batch b is rows start + b · batch and on. At its step t, rank r of R reads batch R t + r
    whatever the number of workers: together ranks and workers read each row once, and one rank
    alone reads the same batches in the same order with any number of workers. Give it to a loader
    with `batch_size=None`.

    Args:
        tree, augmentation, seed, start, views, targets, targets_of, encode, stream: as
            `ViewDataset`.
        batch: B, rows of a batch; the last one of `samples` may have fewer.
        samples: how many rows there are for all ranks together; None for no end. Ranks may then
            differ by one batch: let it be a multiple of ranks · batch where that matters.
        rank, ranks: this process and how many there are; torch.distributed's by default.

    Raises:
        ValueError: what `ViewDataset` raises, a batch below 1, or a rank that is none of `ranks`.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> data = ViewStream(tree, hltm.keep_root(), batch=64, seed=1, targets=3)
        >>> loader = torch.utils.data.DataLoader(data, batch_size=None)
        >>> (a, b), root, places = next(iter(loader))
        >>> a.shape, a.dtype, root.shape, places[:3]
        (torch.Size([64, 8]), torch.uint8, torch.Size([64, 1]), tensor([0, 1, 2]))
    """

    def __init__(
        self,
        tree: LatentTree,
        augmentation: Augmentation | None,
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
    ) -> None:
        check_rows(start, 1 if samples is None else samples)
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        if (rank is None) != (ranks is None):
            raise ValueError(f"give both rank and ranks or neither, got {rank} and {ranks}")
        super().__init__(
            tree,
            augmentation,
            seed=seed,
            start=start,
            views=views,
            targets=targets,
            targets_of=targets_of,
            encode=encode,
            stream=stream,
        )
        self.size, self.samples = batch, samples
        self.rank, self.ranks = _ranks() if rank is None or ranks is None else (rank, ranks)
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"rank must be in 0..{self.ranks - 1}, got {self.rank}")

    def __len__(self) -> int:
        """How many batches this rank reads."""
        if self.samples is None:
            raise TypeError("a stream without an end has no length; give `samples`")
        return len(range(self.rank, -(-self.samples // self.size), self.ranks))

    def __iter__(self) -> Iterator[ViewBatch]:
        worker = get_worker_info()
        mine, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        end = MAX_ROWS - self.start if self.samples is None else self.samples
        for number in count(mine * self.ranks + self.rank, workers * self.ranks):
            low = number * self.size
            if low >= end:
                return
            yield self.batch(np.arange(low, min(low + self.size, end)))


def _ranks() -> tuple[int, int]:
    """This process's rank and their number: 0 of 1 where there is no process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
