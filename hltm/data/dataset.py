"""Torch data sets of views: nothing is stored; every row is drawn from its address when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np
import torch.distributed
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from hltm.data.view_batches import Targets, TargetsOf, ViewBatch, ViewReader
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import MAX_ROWS, Stream
from hltm.tree import LatentTree


class ViewDataset(ViewReader, Dataset[ViewBatch]):
    """A map-style data set: a fixed set of P rows, with new views in every epoch.

    Item i is a `ViewBatch` (views, targets, place) of row start + i of the endless data set of the
    seed: the states that `tree.sample` and `tree.views` draw there. In epoch e the C views have the
    numbers C e + 1 .. C e + C. A loader fetches a batch in one call (`__getitems__`) and works with
    torch's own collation, samplers and workers. Rows in order are fastest: of scattered rows, the
    blocks of 128 rows around them are drawn whole.

    Args:
        augment: the augmentation of a view; None for the data themselves as the only view.
        samples: P, the number of rows.
        views: C, the number of views; 2 by default.
        targets: `root`, `latents` (all of them), a level, or a list of nodes.
        targets_of: `data`, for nodes that no view redraws; or `view`, for the states in each view.
        encode: from `(B, X)` integer states, -1 where missing, to inputs `(B, …)`, e.g.
            `hltm.encode.signs`. If it has parameters `rows` or `view`, it is called with the
            numbers of the rows and of the view, as `hltm.encode.embeddings` needs them. None leaves
            the states as they are.
        stream: the purpose of the rows; rows of different streams are independent.

    Raises:
        ValueError: stacked trees, samples or views below 1, unknown targets, or targets of the data
            that a view may redraw.

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

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> ViewBatch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[ViewBatch]:
        """The items of several places, drawn in one call; a torch loader uses this where it exists."""
        places = [range(self.samples)[i] for i in indices]
        found = self.batch(np.array(places, dtype=np.int64))
        views = zip(*[view.unbind(0) for view in found.views], strict=True)
        return [
            ViewBatch(*item) for item in zip(views, found.targets.unbind(0), places, strict=True)
        ]


class ViewStream(ViewReader, IterableDataset[ViewBatch]):
    """An iterable-style data set: whole batches of fresh rows, in order, endless or of a given length.

    Batch b starts at row start + b · batch. At its step t, rank r of R reads batch R t + r whatever
    the number of workers: ranks and workers together read each row once, and a rank reads the same
    batches in the same order with any number of workers. Give it to a loader with
    `batch_size=None`.

    Args:
        tree, augment, seed, start, views, targets, targets_of, encode, stream: as `ViewDataset`.
        batch: B, the rows of a batch; the last batch of `samples` may have fewer.
        samples: the number of rows of all ranks together; None for no end. Ranks may differ by one
            batch unless it is a multiple of ranks · batch.
        rank, ranks: the number of this process and the number of processes; those of
            torch.distributed by default.

    Raises:
        ValueError: as `ViewDataset`; a batch below 1, or a rank outside 0..ranks - 1.

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
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        if (rank is None) != (ranks is None):
            raise ValueError(f"set both rank and ranks or neither, got {rank} and {ranks}")
        super().__init__(
            tree, augment, samples=MAX_ROWS - start if samples is None else samples, seed=seed,
            start=start, views=views, targets=targets, targets_of=targets_of, encode=encode,
            stream=stream,
        )  # fmt: skip
        self.size, self.endless = batch, samples is None
        self.rank, self.ranks = _ranks() if rank is None or ranks is None else (rank, ranks)
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"rank must be in 0..{self.ranks - 1}, got {self.rank}")

    def __len__(self) -> int:
        """The number of batches that this rank reads."""
        if self.endless:
            raise TypeError("an endless stream has no length; set samples")
        return len(range(self.rank, -(-self.samples // self.size), self.ranks))

    def __iter__(self) -> Iterator[ViewBatch]:
        worker = get_worker_info()
        mine, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in count(mine * self.ranks + self.rank, workers * self.ranks):
            low = number * self.size
            if low >= self.samples:
                return
            yield self.batch(np.arange(low, min(low + self.size, self.samples)))


def _ranks() -> tuple[int, int]:
    """The rank of this process and the number of ranks: 0 and 1 where there is no process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
