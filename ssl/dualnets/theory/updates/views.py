"""Sources of samples and their views: a tree, or any torch data set with a random transform.

`image_views` has another: pictures of a data set of this library.

A sample x has views x', x'', drawn independently from p_aug(. | x). A tree's views can also be
enumerated, so that expectations are sums; see `enumeration`.

Axes: S member, B sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from dualnets.theory.updates.any_network import stacked_members
from dualnets.theory.updates.enumeration import ViewTable, enumerate_views
from dualnets.theory.updates.fitting import check_members, check_trees
from hltm.model.tables import Tables
from hltm.sampling.augment import Augmentation, check_augmentation
from hltm.sampling.philox import Stream, check_seed
from hltm.tree import LatentTree


class ViewSource(Protocol):
    """Independent samples, and views of each sample that are independent given the sample."""

    def draw(
        self, samples: int, *, seed: int, start: int = 0, count: int = 2, negatives: bool = False
    ) -> list[Tensor]:
        """`count` views of the samples start .. start + samples - 1 of an endless sequence.

        Args:
            samples: B, the number of samples.
            seed: 64 bits; the same seed gives the same sequence.
            start: the number of the first sample.
            count: the number of views of each sample.
            negatives: draw from a second sequence, independent of the first.

        Returns:
            `count` tensors `(B, ...)`, or `(S, B, ...)`.
        """


@dataclass(frozen=True, eq=False)
class TreeViews:
    """Samples of a tree, and views of them under an augmentation.

    Attributes:
        tree: one tree or S.
        augment: the augmentation of the views; it may not make leaves missing.

    Raises:
        TypeError: arguments that are not a tree or an augmentation.
        ValueError: an augmentation that makes leaves missing.

    Example:
        >>> import hltm
        >>> data = TreeViews(hltm.symmetric_binary(depth=3, polarity=0.9, seed=0), hltm.keep_root())
        >>> [tuple(view.shape) for view in data.draw(5, seed=1)]
        [(5, 8), (5, 8)]
        >>> data.table().view.shape
        torch.Size([2, 256])
    """

    tree: LatentTree
    augment: Augmentation

    def __post_init__(self) -> None:
        check_trees(self.tree)
        check_augmentation(self.augment)
        if self.augment.missing_rates(self.tree).any():
            raise ValueError(
                f"networks need whole samples, but {self.augment} makes leaves missing"
            )

    def draw(
        self, samples: int, *, seed: int, start: int = 0, count: int = 2, negatives: bool = False
    ) -> list[Tensor]:
        """Leaves of `count` views of samples of the endless data set of the seed."""
        stream = Stream.NEGATIVES if negatives else Stream.DATA
        rows = self.tree.draw(samples, seed=seed, start=start, stream=stream)
        views = self.tree.views(rows, self.augment, count=count)
        return [view.leaves for view in views]

    def table(self) -> ViewTable:
        """Every class of samples and every view, for expectations without sampling noise."""
        return enumerate_views(self.tree, self.augment)

    def for_members(self, members: tuple[int, ...]) -> TreeViews:
        """The same tree for every member of an ensemble, with samples of its own for each member.

        Raises:
            ValueError: several trees that are not those of the members.
        """
        if self.tree.stacked:
            check_members(self.tree.members, members)
            return self
        one = self.tree.tables
        shared = Tables(one.topology, one.cardinality, one.flat.expand(len(members), -1))
        return TreeViews(LatentTree(shared, members, True), self.augment)


@dataclass(frozen=True, eq=False)
class DatasetViews:
    """Any torch data set under a random transform: samples are its items, drawn with replacement.

    Of an item that is a tuple or list, e.g. (image, label), the first entry is taken. The transform
    may use torch's global generator: its state is set from the seed and restored afterwards.

    Attributes:
        dataset: map-style, with a length.
        transform: from one item to one view of it; with `batched`, from `(B, ...)` items to views.
        batched: whether the transform takes many items at once, each independently of the others.

    Raises:
        TypeError: a data set without items or length, or a transform that cannot be called.

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
                "expected a data set with items and a length, from which samples are drawn, got "
                f"{type(self.dataset).__name__}"
            )
        if not callable(self.transform):
            raise TypeError(f"transform must be a function of one item, got {self.transform!r}")

    def draw(
        self, samples: int, *, seed: int, start: int = 0, count: int = 2, negatives: bool = False
    ) -> list[Tensor]:
        """`count` views of random items; another `start` gives other items, independent of these.

        Raises:
            TypeError: a transform that does not return a tensor for its items.
            ValueError: an empty data set.
        """
        random = np.random.default_rng([check_seed(seed), start, int(negatives)])
        size = len(self.dataset)  # type: ignore[arg-type]
        if size < 1:
            raise ValueError("the data set has no items")
        chosen = random.integers(size, size=samples)
        if isinstance(self.dataset, TensorDataset):  # all at once: a loop over items is slow
            items: Any = self.dataset.tensors[0][torch.from_numpy(chosen)]
        else:
            items = [self._item(int(i)) for i in chosen]
            items = torch.stack([torch.as_tensor(i) for i in items]) if self.batched else items
        with torch.random.fork_rng():
            torch.manual_seed(int(random.integers(2**63)))
            if self.batched:
                return [self._view(items) for _ in range(count)]
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


Data = ViewTable | TreeViews | DatasetViews | ViewSource


def exact_table(data: Data) -> ViewTable:
    """The table of a tree's views; a table is returned as it is.

    Raises:
        TypeError: data of another kind.
        ValueError: data that cannot be enumerated.
    """
    _check_data(data)
    if isinstance(data, ViewTable):
        return data
    if isinstance(data, TreeViews):
        return data.table()
    hint = ", or give its table(…)" if hasattr(data, "table") else ""
    raise ValueError(f"{type(data).__name__} cannot be enumerated: estimate with batches=…{hint}")


def table_inputs(network: nn.Module, table: ViewTable) -> Tensor:
    """The table's leaves as inputs of the network, with S in front where the network has that axis.

    Raises:
        ValueError: a table of several trees, for a network without the S axis or of another length.
    """
    members = stacked_members(network)
    if table.stacked and (members is None or len(table.probability) != len(members)):
        raise ValueError(_misfit(len(table.probability), members))
    leaves = table.leaves
    return leaves if members is None else leaves.expand(len(members), *leaves.shape)


def draw_views(
    network: nn.Module,
    data: Data,
    samples: int,
    *,
    seed: int,
    start: int,
    count: int = 2,
    negatives: bool = False,
) -> list[Tensor]:
    """Views of drawn samples as inputs of the network, with S in front where it has that axis.

    Args: as `ViewSource.draw`.

    Raises:
        TypeError: data of another kind.
        ValueError: a table, which holds no samples, or several trees, for a network without the S
            axis or of another length.
    """
    _check_data(data)
    if isinstance(data, ViewTable):
        raise ValueError("a table holds expectations, not samples: give TreeViews instead")
    members = stacked_members(network)
    if isinstance(data, TreeViews):
        _check_trees_of(data.tree, members)
    if members is not None and (own := getattr(data, "for_members", None)) is not None:
        return own(members).draw(  # samples of its own for each member
            samples, seed=seed, start=start, count=count, negatives=negatives
        )
    found = data.draw(samples, seed=seed, start=start, count=count, negatives=negatives)
    return found if members is None else [view.expand(len(members), *view.shape) for view in found]


def _check_trees_of(tree: LatentTree, members: tuple[int, ...] | None) -> None:
    """Raise ValueError where several trees do not fit a network of these members."""
    if tree.stacked and (members is None or len(tree.members) != len(members)):
        raise ValueError(_misfit(len(tree.members), members))


def _check_data(data: object) -> None:
    """Raise TypeError unless this is a source of views or a table of them."""
    hint = ""
    if isinstance(data, LatentTree):  # it draws samples, but an augmentation makes the views
        hint = ": give TreeViews(tree, augmentation)"
    elif type(data).__name__ == "LabelledImages":  # by name, without an import of pictures
        hint = ": give ImageViews(images, augmentation)"
    elif isinstance(data, Dataset):
        hint = ": give DatasetViews(dataset, transform)"
    elif isinstance(data, ViewTable) or callable(getattr(data, "draw", None)):
        return
    raise TypeError(
        f"expected TreeViews, DatasetViews or a ViewTable, got {type(data).__name__}{hint}"
    )


def _misfit(trees: int, members: tuple[int, ...] | None) -> str:
    count = "without members" if members is None else f"of {len(members)} members"
    return f"{trees} trees do not fit a network {count}"
