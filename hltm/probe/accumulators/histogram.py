"""Streaming histograms of units given the state of each target, in bins that adapt to all rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hltm._compile import compiled
from hltm.probe.accumulators.cells import Cells, Fold, Ordered, fold, in_threads, mid_ranks
from hltm.probe.accumulators.checks import check_pair, check_states

BUFFER = 8192  # rows kept as they are
FINE = 512  # bins of the summary of all rows before those, at least


class StreamingHistogram:
    """Counts of (cell of a unit, state of a target), whatever the batches and the order of rows.

    Cells are as in `hltm.probe.accumulators.cells`: one for every value that comes often, equal shares
    of the rows for all others. Up to `BUFFER` rows are kept, and everything is exact. When more come,
    those kept are put into fine cells, which hold the counts of what is in them. Later, cells that are
    next to each other and light are put together, and one that grows heavy is divided; counts are moved,
    never lost. Fine cells depend on the order of rows, but not on how rows are batched; `uncertain` says
    how much they leave open.

    Memory is `(…, U, BUFFER)` activations and `(…, T, BUFFER)` states; beyond `BUFFER` rows also
    `(…, U, FINE to 2 FINE, T, K)` float64. All of it lies in the memory of the CPU.

    Args:
        bins: of the result, at least 2; the fine ones are `FINE` or as many, whichever is more.
        states: K, the largest number of states of a target.

    Raises:
        ValueError: fewer than 2 bins or states; in `update`, as `check_pair` and `check_states`.

    Example:
        >>> histogram = StreamingHistogram(bins=2)
        >>> histogram.update(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0, 0, 1, 0]]))
        >>> histogram.result().squeeze()  # cells by states
        tensor([[2., 0.],
                [1., 1.]], dtype=torch.float64)
    """

    def __init__(self, bins: int, states: int = 2) -> None:
        if bins < 2 or states < 2:
            raise ValueError(f"bins and states must be at least 2, got {bins} and {states}")
        self.bins, self.states, self.fine = bins, states, max(bins, FINE)
        self.samples = self.kept = 0
        self.rows = torch.zeros((), dtype=torch.float64)  # (…, T, K), of every state
        self.activations: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.cells: Cells | None = None
        self.counts = np.zeros(0)  # (units, cells, T · K)
        self.moved = np.zeros(())  # (units, T · K), of cells that were divided

    def update(self, activations: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        a = check_pair(activations, targets)
        check_states(targets, self.states)
        a = a.detach()
        z = targets.detach().to(torch.int32)
        self.rows = (
            self.rows + torch.stack([(z == k).sum(-1) for k in range(self.states)], -1).cpu()
        )
        self.samples += a.shape[-1]
        start = 0
        while start < a.shape[-1]:
            if self.kept == BUFFER:
                self.cells, self.counts, self.moved = self._folded()
                self.activations, self.targets, self.kept = [], [], 0
            rows = slice(start, start + BUFFER - self.kept)
            # a copy: the batch may be a view of memory that is written again
            self.activations.append(a[..., rows].to("cpu", copy=True))
            self.targets.append(z[..., rows].to("cpu", copy=True))
            self.kept += self.activations[-1].shape[-1]
            start += self.activations[-1].shape[-1]

    def result(self) -> Tensor:
        """`(…, U, C, T, K)` float64 counts in at most 2 `bins` - 1 cells; units that have fewer cells
        than others have empty ones behind them."""
        a, z = self._rows()
        if self.cells is None:
            found = fold(Cells.empty(a[..., 0].numel(), _dtype(a)), Ordered.of(a), self.bins)
            return self._shaped(self._counted(found, np.zeros(0), z)[0])
        cells, counts, _ = self._folded()
        none = Ordered.of(a[..., :0].to(torch.promote_types(a.dtype, _torch(cells))))
        return self._shaped(self._counted(fold(cells, none, self.bins), counts, z[..., :0])[0])

    def rank_sums(self) -> Tensor:
        """`(…, U, T, K)` float64: the sum, over the rows of a state, of 2 · mid-rank - (rows + 1).

        Values in one cell count as equal.
        """
        a, z = self._rows()
        if self.cells is None:
            ranks = mid_ranks(a).double()
            each = [ranks @ (z == k).double().mT for k in range(self.states)]
            return torch.stack(each, -1)
        cells, counts, _ = self._folded()
        weight = torch.from_numpy(cells.weight)
        ranks = 2 * weight.cumsum(-1) - weight - self.samples
        return self._shaped(ranks[:, None] @ torch.from_numpy(counts))[..., 0, :, :]

    def uncertain(self) -> tuple[Tensor, Tensor]:
        """Rows that fine cells leave uncertain; nothing up to `BUFFER` rows.

        Returns:
            `(…, U, C, T, K)` the counts of cells of several values, whose rows' order is not known, 0 for
            other cells; and `(…, U, T, K)` the rows that were in a cell when it was divided, which may be
            at a wrong place. Both float64.
        """
        a, _ = self._rows()
        if self.cells is None:
            none = torch.zeros(*a.shape[:-1], 1, *self.rows.shape[-2:], dtype=torch.float64)
            return none, none[..., 0, :, :]
        cells, counts, moved = self._folded()
        several = counts * (cells.low < cells.high)[..., None]
        return self._shaped(several), self._shaped(moved[:, None])[..., 0, :, :]

    def _rows(self) -> tuple[Tensor, Tensor]:
        """The rows that are kept."""
        if len(self.activations) > 1:
            self.activations = [torch.cat(self.activations, -1)]
            self.targets = [torch.cat(self.targets, -1)]
        return self.activations[0], self.targets[0]

    def _folded(self) -> tuple[Cells, np.ndarray, np.ndarray]:
        """The fine cells, their counts and what was moved, with the rows that are kept in them."""
        a, z = self._rows()
        old = self.cells or Cells.empty(a[..., 0].numel(), _dtype(a))
        kind = torch.promote_types(a.dtype, _torch(old))
        old = old._replace(low=old.low.astype(_dtype(kind)), high=old.high.astype(_dtype(kind)))
        found = fold(old, Ordered.of(a.to(kind)), self.fine)
        counts, moved = self._counted(found, self.counts, z)
        return found.cells, counts, self.moved + moved

    def _counted(
        self, found: Fold, counts: np.ndarray, targets: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts in new cells, of old cells and of rows, `(units, cells, T · K)`; and those of cells
        that are divided, `(units, T · K)`."""
        units, cells = found.cells.low.shape
        z = targets[None].flatten(0, -3).numpy()
        new = np.zeros((units, cells, z.shape[1] * self.states))
        moved = np.zeros((units, new.shape[2]))
        old = counts.reshape(units, -1, new.shape[2])
        # each array by itself: numba 0.59 takes tuples of arrays for those of another call
        head, tail, cell = found.head, found.tail, found.cell
        in_threads(
            lambda low, high: _count(head, tail, cell, old, z, self.states, low, high, new, moved),
            units,
        )
        return new, moved

    def _shaped(self, counts: np.ndarray | Tensor) -> Tensor:
        """`(…, U, C, T, K)` from `(units, C, T · K)`."""
        lead = self.activations[0].shape[:-1]
        return torch.as_tensor(counts).reshape(*lead, counts.shape[1], -1, self.states)


def _dtype(of: Tensor | torch.dtype) -> np.dtype:
    kind = of.dtype if isinstance(of, Tensor) else of
    return np.dtype(np.float64 if kind == torch.float64 else np.float32)


def _torch(cells: Cells) -> torch.dtype:
    return torch.float64 if cells.low.dtype == np.float64 else torch.float32


@compiled()
def _count(heads, tails, cells, old, targets, states, start, stop, new, moved):  # type: ignore[no-untyped-def]
    per = len(new) // len(targets)  # units that have the same targets
    for u in range(start, stop):
        for f in range(old.shape[1]):
            head, tail = heads[u, f], tails[u, f]
            if head < 0:
                continue  # no cell
            for k in range(new.shape[2]):
                new[u, head, k] += old[u, f, k] / 2
                new[u, tail, k] += old[u, f, k] / 2
                if head != tail:
                    moved[u, k] += old[u, f, k]
        cell = cells[u]
        for t in range(targets.shape[1]):
            z = targets[u // per, t]
            for b in range(len(cell)):
                new[u, cell[b], t * states + z[b]] += 1.0
