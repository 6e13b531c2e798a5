"""A batch as a sequence of items, which torch's default collation takes whole instead of joining it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.utils.data._utils.collate import collate, default_collate_fn_map


class Batch(Protocol):
    """A named tuple of tensors, or of lists of tensors, that knows its rows."""

    def item(self, i: int) -> Self:
        """Row i, without the axis B."""
        ...

    def items(self) -> list[Self]:
        """All rows, which takes less time than one after the other."""
        ...


B = TypeVar("B", bound=Batch)


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
            return self.whole.item(chosen)
        return self.whole.items()[index]

    def __iter__(self) -> Iterator[B]:
        return iter(self.whole.items())

    def __repr__(self) -> str:
        return f"{self.samples} items of {self.whole!r}"


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
