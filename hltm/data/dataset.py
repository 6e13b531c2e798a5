"""Torch data sets of views: nothing is stored; every row is drawn from its address when it is read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from hltm._integers import as_integer
from hltm.data.batch_items import BatchItems, item_of, items_of
from hltm.data.passes import PassCounter, check_loaders, current_reader
from hltm.data.view_batches import ViewBatch, ViewReader
from hltm.sampling.philox import MAX_VIEWS

Places = slice | Sequence[int] | np.ndarray | Tensor
BLOCK = 1024  # rows that a loop over a data set draws at a time


class EpochReader(ViewReader):
    """Rows whose views change from pass to pass: in epoch e they have the views C e + 1 .. C e + C."""

    endless = False

    passes: PassCounter

    def _set_up(self) -> None:
        check_loaders()
        self.passes = PassCounter()

    @property
    def epoch(self) -> int:
        """The epoch e that a direct read shows: the one set, or that of the pass which began last."""
        return self.passes.current

    def set_epoch(self, epoch: int | None) -> None:
        """Read in this epoch from now on, in all workers; None for a new one in each pass again.

        Raises:
            TypeError: no integer.
            ValueError: an epoch below 0, or views beyond 2^24 - 1.
        """
        number = None if epoch is None else self._checked(epoch)
        self.passes.pin(number, goes_on=self.endless)

    def _checked(self, epoch: int) -> int:
        """An epoch, as an int, that has views."""
        last = (MAX_VIEWS - 1) // self.views - 1
        return as_integer("epoch", epoch, 0, last)

    def batch(self, places: np.ndarray) -> ViewBatch:
        """The rows at `(B,)` int64 places in the data set, in the present epoch, drawn in one call."""
        return self._draw(places, self.epoch)


class ViewDataset(EpochReader, Dataset[ViewBatch]):
    """A map-style data set: a fixed set of P rows, with new views in every pass.

    Item i is a `ViewBatch` (views, targets, place) of row start + i of the endless data set of the
    seed: the states that `tree.sample` and `tree.views` draw there. A slice or a list of places gives
    a whole batch. In epoch e the C views have the numbers C e + 1 .. C e + C.

    A loader fetches a batch in one call and hands it on whole, with torch's own collation, samplers,
    subsets and workers; other collations find a sequence of items. Rows in order are fastest: of
    scattered rows, the blocks of 128 rows around them are drawn whole.

    **Epochs.** Each pass of a torch loader is an epoch, counted from 0 over all loaders of the data
    set, also those of its subsets, in the order in which they begin: a pass that is left half-way
    counts, and one of which nothing is read does not. So does a loop `for item in data`. The numbers
    depend neither on the workers, persistent or not, nor on the order of rows; each rank counts its
    own loaders, so ranks that begin as many passes are in the same epoch. Direct reads, such as
    `data[3]`, show the present epoch and count nothing; so do those of loaders that are not built on
    torch's, and a warning comes where they have read every row twice in an epoch. `set_epoch(e)`
    reads in one epoch until it is set again, also in workers that run; after `set_epoch(None)` the
    next pass is epoch e + 1.

    A run that is resumed in a new process, also by Lightning, which stores no state of data sets, needs
    `state_dict` and `load_state_dict`, or `set_epoch`, to go on with new views.

    Set the epoch yourself in loops of your own over places, for validation rows that should never
    change (a data set of their own), and for two loaders that begin at the same instant in workers:
    either may be the first. Give each a `copy.deepcopy` of the data set to count them apart.

    Args:
        augment: the augmentation of a view; None for the data themselves as the only view.
        samples: P, the number of rows.
        views: C, the number of views; 2 by default.
        targets: `root`, `latents` (all of them), a level, or a list of nodes, which may be empty.
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
        >>> from torch.utils.data import DataLoader
        >>> tree = hltm.symmetric_binary(depth=3, polarity=0.9, seed=0)
        >>> data = ViewDataset(
        ...     tree, hltm.keep_root(), samples=1000, seed=1, encode=hltm.encode.signs
        ... )
        >>> data
        ViewDataset(1000 rows, 2 views of keep-root, targets root)
        >>> loader = DataLoader(data, batch_size=100, shuffle=True)
        >>> for (a, b), root, places in loader:  # epoch 0; the next loop is epoch 1
        ...     assert a.shape == b.shape == (100, 8)
        >>> root.equal(tree.sample(1000, seed=1).root[places].long())
        True
    """

    _direct = -1, 0  # an epoch, and how many rows were read in it by their places
    _warned = False

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int | Places) -> ViewBatch:
        places, reader = find_places(index, self.samples), current_reader()
        found = self._draw(places.reshape(-1), self.passes.of(reader))
        if reader is None:
            self._count_direct(places.size)
        return found if places.ndim else item_of(found, 0)

    def __getitems__(self, indices: Sequence[int]) -> BatchItems[ViewBatch]:
        """The items of several places, drawn in one call; a torch loader uses this where it exists."""
        return BatchItems(self[indices], len(indices))

    def _count_direct(self, rows: int) -> None:
        """Warn once where a loop over places has read so much in a counted epoch that its views repeat."""
        if self.augment is None or rows == self.samples or self.passes.pinned is not None:
            return
        epoch, before = self._direct
        read = rows + (before if epoch == self.epoch else 0)
        self._direct = self.epoch, read
        if read > 2 * self.samples and not self._warned:
            self._warned = True
            warnings.warn(
                f"{read} rows were read by their places, of {self.samples} in epoch {self.epoch}: their "
                "views repeat; call set_epoch in loops of your own, or use a torch loader, of which "
                "each pass has new views",
                stacklevel=3,
            )

    def __iter__(self) -> Iterator[ViewBatch]:
        """All items in order, in an epoch of their own."""
        epoch = self.passes.of(LoopReader())
        for low in range(0, self.samples, BLOCK):
            places = np.arange(low, min(low + BLOCK, self.samples))
            yield from items_of(self._draw(places, epoch))

    def state_dict(self) -> dict[str, int]:
        """What a resumed run needs to go on with new views: the epoch of the next pass.

        To do the rest of an interrupted pass again, set its epoch, which is one less.
        """
        return {"epoch": self.passes.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass be the epoch of a `state_dict`; an epoch that was set is set no longer.

        Raises:
            ValueError: no state of a `ViewDataset`.
        """
        if set(state) != {"epoch"}:
            raise ValueError(f"expected a state such as {{'epoch': 3}}, got {state!r:.100}")
        self.passes.start_at(self._checked(state["epoch"]))


class LoopReader:
    """One loop over a data set, which is a pass."""


def find_places(index: Any, samples: int) -> np.ndarray:
    """Places 0..samples-1 that an index stands for, int64: `()` of an integer, `(B,)` of several.

    Args:
        index: an integer, a slice, integers in a list, array or tensor, or `(samples,)` booleans;
            negative places count from the end.

    Raises:
        IndexError: a place outside the data set, or booleans for another number of rows.
        TypeError: anything else.

    Example:
        >>> find_places(slice(2), 10), find_places([7, -3], 10)
        (array([0, 1]), array([7, 7]))
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(samples), dtype=np.int64)
    given = np.asarray(index)
    if given.dtype == bool and given.ndim == 1:
        if len(given) != samples:
            raise IndexError(f"expected {samples} booleans, one per row, got {len(given)}")
        return np.flatnonzero(given)
    if given.size == 0 and given.ndim == 1:
        return np.zeros(0, dtype=np.int64)
    if given.dtype.kind not in "iu" or given.ndim > 1:
        raise TypeError(f"expected a place, a slice or a list of places, got {index!r:.100}")
    wrong = (given < -samples) | (given >= samples)
    if wrong.any():
        raise IndexError(f"places must be in {-samples}..{samples - 1}, got {given[wrong][0]}")
    places = given.astype(np.int64)
    return np.asarray(places + samples * (places < 0))
