"""A batch as a sequence of items, which torch's default collation takes whole instead of joining it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.utils.data._utils.collate import collate, default_collate_fn_map

NUMBERS = ("places", "rows")  # fields that number the rows: integers of single ones
B = TypeVar("B", bound=tuple[Any, ...])  # a named tuple of tensors, or of lists of tensors


class BatchItems(Sequence[B]):
    """The items of a batch, made when they are asked for.

    Torch's default collation returns `whole`; any other function finds a sequence of items.

    Attributes:
        whole: the batch.
        samples: B, the number of its items.
    """

    def __init__(self, whole: B, samples: int) -> None:
        self.whole, self.samples = whole, samples

    def __len__(self) -> int:
        return self.samples

    @overload
    def __getitem__(self, index: int) -> B: ...
    @overload
    def __getitem__(self, index: slice) -> list[B]: ...
    def __getitem__(self, index: int | slice) -> B | list[B]:
        chosen = range(self.samples)[index]
        if isinstance(chosen, int):
            return item_of(self.whole, chosen)
        return items_of(self.whole)[index]

    def __iter__(self) -> Iterator[B]:
        return iter(items_of(self.whole))

    def __repr__(self) -> str:
        return f"{self.samples} items of {self.whole!r}"


def item_of(batch: B, i: int) -> B:
    """Row i of a batch, without the axis B."""
    fields = cast(Any, batch)._asdict().items()
    return cast(Any, batch)._make(_row(part, i, name in NUMBERS) for name, part in fields)


def _row(part: Any, i: int, number: bool) -> Any:
    if isinstance(part, Tensor):
        return int(part[i]) if number else part[i]
    return type(part)(each[i] for each in part)


def items_of(batch: B) -> list[B]:
    """All rows of a batch, without the axis B; faster than one after the other."""
    columns: list[Any] = []
    for name, part in cast(Any, batch)._asdict().items():
        if isinstance(part, Tensor):
            columns.append(part.tolist() if name in NUMBERS else part.unbind(0))
        else:
            rows = zip(*(each.unbind(0) for each in part), strict=True)
            columns.append(map(type(part), rows) if part else repeat(part))
    return list(map(cast(Any, batch)._make, zip(*columns, strict=False)))


def collate_batch(
    items: Sequence[Any], *, collate_fn_map: dict[Any, Callable[..., Any]] | None = None
) -> Any:
    """The batch that the items come from; other items are joined field by field, as torch does."""
    if isinstance(items, BatchItems):
        return items.whole
    parts = (collate(part, collate_fn_map=collate_fn_map) for part in zip(*items, strict=True))
    return type(items[0])(*parts)


def batch_type(kind: type[B]) -> type[B]:
    """Let a named tuple be taken whole by torch's default collation, compare by content, and print briefly.

    Comparing tuples of tensors raises, because the comparison of two tensors is a tensor.
    """

    def equal(self: Any, other: object) -> bool:
        return type(other) is kind and same(tuple(self), tuple(cast(Any, other)))

    def unequal(self: Any, other: object) -> bool:
        return not equal(self, other)

    def in_words(self: Any) -> str:
        fields = (f"{name}={_shown(part)}" for name, part in zip(self._fields, self, strict=True))
        return f"{kind.__name__}({', '.join(fields)})"

    def content_hash(self: Any) -> int:
        return hash(in_words(self))

    default_collate_fn_map[kind] = collate_batch
    methods = {"eq": equal, "ne": unequal, "repr": in_words, "hash": content_hash}
    for name, method in methods.items():
        setattr(kind, f"__{name}__", method)
    return kind


def same(a: Any, b: Any) -> bool:
    """Whether two batches, or parts of them, have the same content.

    Example:
        >>> same([torch.zeros(2)], [torch.zeros(2)]), same([torch.zeros(2)], [torch.zeros(3)])
        (True, False)
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and not isinstance(a, Tensor) and bool(a == b)


def _shown(part: Any) -> str:
    """A part of a batch in a few words: the shape and type of a tensor."""
    if isinstance(part, Tensor):
        return f"{tuple(part.shape)} {str(part.dtype).removeprefix('torch.')}"
    return f"[{', '.join(map(_shown, part))}]" if isinstance(part, (list, tuple)) else repr(part)
