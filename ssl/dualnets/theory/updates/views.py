"""Where samples and their views come from: a tree, or any torch data set with a random transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dualnets.theory.updates.connection import shown_members
from dualnets.theory.updates.enumeration import ViewTable, enumerate_views
from dualnets.theory.updates.fitting import check_augmentation, check_members, check_trees
from hltm.model.tables import Tables
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import Stream, check_seed
from hltm.tree import LatentTree


class ViewPair(Protocol):
    """Independent samples, and views of each that are independent given the sample."""

    def draw(
        self, n: int, *, seed: int, start: int = 0, count: int = 2, negatives: bool = False
    ) -> list[Tensor]:
        """`count` views of the samples start .. start + n - 1 of an endless sequence.

        Args:
            n: B, how many samples.
            seed: 64 bits; the same seed, the same sequence.
            start: the first sample.
            count: views of each.
            negatives: whether from another sequence, independent of the first.

        Returns:
            `count` tensors `(B, ...)`, or `(S, B, ...)`.
        """


@dataclass(frozen=True, eq=False)
class TreeViews:
    """A tree and what its views draw again.

    Attributes:
        tree: one tree or S.
        augmentation: of the views; it may not miss leaves.

    Example:
        >>> import hltm
        >>> data = TreeViews(hltm.symmetric_binary(depth=3, polarity=0.9, seed=0), hltm.keep_root())
        >>> [tuple(view.shape) for view in data.draw(5, seed=1)]
        [(5, 8), (5, 8)]
        >>> data.table().view.shape
        torch.Size([2, 256])
    """

    tree: LatentTree
    augmentation: Augmentation

    def __post_init__(self) -> None:
        check_trees(self.tree)
        check_augmentation(self.augmentation)
        if self.augmentation.missing_rates(self.tree).any():
            raise ValueError(f"networks read whole samples, but {self.augmentation} misses leaves")

    def draw(
        self, n: int, *, seed: int, start: int = 0, count: int = 2, negatives: bool = False
    ) -> list[Tensor]:
        """Leaves of `count` views of rows of the endless data set of the seed."""
        stream = Stream.NEGATIVES if negatives else Stream.DATA
        rows = self.tree.draw(n, seed=seed, start=start, stream=stream)
        views = self.tree.views(rows, self.augmentation, count=count)
        return [view.leaves for view in views]

    def table(self) -> ViewTable:
        """Every class of samples and every view, for expectations without sampling noise."""
        return enumerate_views(self.tree, self.augmentation)

    def for_members(self, members: tuple[int, ...]) -> TreeViews:
        """The same tree for every member of an ensemble, each on rows of its own."""
        if self.tree.stacked:
            check_members(self.tree.members, members)
            return self
        one = self.tree.tables
        shared = Tables(one.topology, one.cardinality, one.flat.expand(len(members), -1))
        return TreeViews(LatentTree(shared, members, True), self.augmentation)


@dataclass(frozen=True, eq=False)
class DatasetViews:
    """Any torch data set under a random transform: samples are its items, drawn with replacement.

    An item that is a tuple or list, e.g. (image, label), gives its first entry. The transform may
    use torch's global generator: it is set from the seed and put back afterwards.

    Attributes:
        dataset: map-style, with a length.
        transform: from one item to one view of it; with `batched`, from `(B, ...)` items to views.
        batched: whether the transform takes many items at once (and treats each on its own).

    Example:
        >>> data = DatasetViews(
        ...     torch.utils.data.TensorDataset(torch.eye(4)), lambda x: x + torch.randn(4)
        ... )
        >>> a, b = data.draw(3, seed=0)
        >>> a.shape, a.equal(data.draw(3, seed=0)[0]), a.equal(b)
        (torch.Size([3, 4]), True, False)
    """

    dataset: Dataset[Any]
    transform: Callable[[Any], Tensor]
    batched: bool = False

    def __post_init__(self) -> None:
        if not (hasattr(self.dataset, "__getitem__") and hasattr(self.dataset, "__len__")):
            raise TypeError(
                "expected a data set with items and a length, which samples are drawn from, got "
                f"{type(self.dataset).__name__}"
            )
        if not callable(self.transform):
            raise TypeError(f"transform must be a function of one item, got {self.transform!r}")

    def draw(
        self, n: int, *, seed: int, start: int = 0, count: int = 2, negatives: bool = False
    ) -> list[Tensor]:
        """`count` views of n items; `start` only says which part of the endless sequence they are."""
        address = [check_seed(seed), start, int(negatives)]
        random = np.random.default_rng(address)
        size = len(self.dataset)  # type: ignore[arg-type]
        if size < 1:
            raise ValueError("the data set has no items")
        items = [self._item(int(i)) for i in random.integers(size, size=n)]
        with torch.random.fork_rng():
            torch.manual_seed(int(random.integers(2**63)))
            if self.batched:
                together = torch.stack([torch.as_tensor(item) for item in items])
                return [self._view(together) for _ in range(count)]
            return [torch.stack([self._view(item) for item in items]) for _ in range(count)]

    def _view(self, given: Any) -> Tensor:
        made = self.transform(given)
        if not isinstance(made, Tensor) or (self.batched and len(made) != len(given)):
            shown = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            what = f"a tensor with {len(given)} rows" if self.batched else "a tensor"
            raise TypeError(f"the transform must give {what}, got {shown}")
        return made

    def _item(self, index: int) -> Any:
        item = self.dataset[index]
        return item[0] if isinstance(item, (tuple, list)) else item


Data = ViewTable | TreeViews | DatasetViews | ViewPair


def exact_table(data: Data) -> ViewTable:
    """The table of a tree's views, or the one that is given.

    Raises:
        TypeError: what is no data.
        ValueError: data that cannot be enumerated.
    """
    _check_data(data)
    if isinstance(data, ViewTable):
        return data
    if isinstance(data, TreeViews):
        return data.table()
    raise ValueError(
        f"{type(data).__name__} cannot be enumerated: ask for an estimate with batches=…"
    )


def table_inputs(network: nn.Module, table: ViewTable) -> Tensor:
    """The table's leaves as the network reads them, with S in front where it has members.

    Raises:
        ValueError: tables of several trees for a network without members, or of another number.
    """
    members = shown_members(network)
    if table.stacked and (members is None or len(table.probability) != len(members)):
        raise ValueError(_misfit(len(table.probability), members))
    return table.leaves if members is None else table.leaves.expand(len(members), -1, -1)


def drawn(
    network: nn.Module,
    data: Data,
    n: int,
    *,
    seed: int,
    start: int,
    count: int = 2,
    negatives: bool = False,
) -> list[Tensor]:
    """ViewPair as the network reads them, with S in front where it has members.

    Raises:
        TypeError: what is no data.
        ValueError: a table, which holds no samples, or several trees for a network without members
            or of another number.
    """
    _check_data(data)
    if isinstance(data, ViewTable):
        raise ValueError("a table holds expectations, not samples: give the tree's views")
    members = shown_members(network)
    if isinstance(data, TreeViews):
        if data.tree.stacked and (members is None or len(data.tree.members) != len(members)):
            raise ValueError(_misfit(len(data.tree.members), members))
        data = data if members is None else data.for_members(members)
        return data.draw(n, seed=seed, start=start, count=count, negatives=negatives)
    found = data.draw(n, seed=seed, start=start, count=count, negatives=negatives)
    return found if members is None else [view.expand(len(members), *view.shape) for view in found]


def _check_data(data: object) -> None:
    if isinstance(data, (ViewTable, TreeViews, DatasetViews)):
        return
    if isinstance(data, LatentTree):
        hint = ": give TreeViews(tree, augmentation)"
    elif isinstance(data, Dataset):
        hint = ": give DatasetViews(dataset, transform)"
    elif callable(getattr(data, "draw", None)):
        return  # anybody's ViewPair
    else:
        hint = ""
    raise TypeError(
        f"expected TreeViews, DatasetViews or a ViewTable, got {type(data).__name__}{hint}"
    )


def _misfit(trees: int, members: tuple[int, ...] | None) -> str:
    count = "without members" if members is None else f"of {len(members)} members"
    return f"{trees} trees do not fit a network {count}"


def batch_axis(network: nn.Module) -> int:
    """Where the samples are in what the network reads: behind S where it has it."""
    return int(shown_members(network) is not None)
