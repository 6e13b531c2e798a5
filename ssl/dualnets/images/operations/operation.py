"""What an operation on pictures is, and how one is written: a word and numbers behind colons."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dualnets._checks import check_number
from dualnets._options import Registry
from hltm._names import brief

if TYPE_CHECKING:
    from torch import Tensor


class Draws(NamedTuple):
    """What an operation draws for N pictures.

    Attributes:
        uniforms: `(N, 4)` float32 in [0, 1).
        normals: from a count to `(N, count)` float32 standard normal numbers.
    """

    uniforms: Tensor
    normals: Callable[[int], Tensor]

    def between(self, at: int, low: float, high: float) -> Tensor:
        """`(N, 1, 1, 1)` numbers in low..high; `at` is the column of `uniforms`."""
        return low + (high - low) * self.uniforms[:, at, None, None, None]

    def coin(self, at: int, probability: float) -> Tensor:
        """`(N, 1, 1, 1)` bool, True with the given probability."""
        return self.uniforms[:, at, None, None, None] < probability


@dataclass(frozen=True)
class Operation(ABC):
    """One random operation on pictures.

    Attributes:
        word: that selects it.
        address: of its random numbers, 0..15; they do not depend on which other operations there are.
    """

    word: ClassVar[str]
    address: ClassVar[int]

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError where a probability, which most operations have, is none."""
        if hasattr(self, "probability"):
            check_number(f"{self.word}'s probability", self.probability, low=0, high=1)

    def check_shape(self, shape: Sequence[int]) -> None:  # noqa: B027, most fit all pictures
        """Raise ValueError where the operation leaves nothing of pictures of the shape (C, H, W)."""

    @abstractmethod
    def __call__(self, pictures: Tensor, draws: Draws) -> Tensor:
        """`(N, C, H, W)` changed pictures; the given ones are not changed in place."""

    def in_grey(self) -> Operation | None:
        """What is left of it for pictures of one channel; None for nothing."""
        return self

    def __str__(self) -> str:
        """The word and the numbers, without those at the end that are the default ones.

        Example:
            >>> from dualnets.images import OPERATIONS
            >>> str(OPERATIONS["crop"](0.5)), str(OPERATIONS["flip"]()), str(OPERATIONS["flip"](0.25))
            ('crop:0.5', 'flip', 'flip:0.25')
        """
        values = [(getattr(self, field.name), field.default) for field in fields(self)]
        while values and values[-1][0] == values[-1][1]:
            values.pop()
        return ":".join([self.word, *(_shown(value) for value, _ in values)])


OPERATIONS: Registry[type[Operation]] = Registry()


def parse_operation(text: str) -> Operation:
    """The operation of a word and its numbers.

    Raises:
        ValueError: an unknown word, too many or too few numbers, or one that is out of range.

    Example:
        >>> import dualnets.images.operations  # where they are
        >>> parse_operation("light:0.4")
        Light(strength=0.4, probability=1.0)
        >>> parse_operation("crop")
        Traceback (most recent call last):
        ValueError: crop needs a number: crop:SCALE
    """
    word, *given = text.strip().split(":")
    if word not in OPERATIONS:
        near = difflib.get_close_matches(word.lower(), OPERATIONS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"unknown operation {brief(repr(word))}{hint}; there are: "
            f"{', '.join(map(usage, OPERATIONS.values()))}"
        )
    kind = OPERATIONS[word]
    places = fields(kind)
    required = [field for field in places if field.default is MISSING]
    if len(given) < len(required):
        raise ValueError(f"{word} needs a number: {usage(kind)}")
    if len(given) > len(places):
        raise ValueError(f"{brief(text)} has too many numbers: {usage(kind)}")
    values: dict[str, Any] = {}
    for field, number in zip(places, given, strict=False):
        convert = int if field.type == "int" else float
        try:
            values[field.name] = convert(number)
        except ValueError:
            expected = "a whole number" if convert is int else "a number"
            hint = " (operations are joined by +)" if "," in number or " " in number else ""
            raise ValueError(
                f"{word}'s {field.name} must be {expected}, got {brief(repr(number))}{hint}"
            ) from None
    return kind(**values)


def usage(kind: type[Operation]) -> str:
    """How an operation is written.

    Example:
        >>> import dualnets.images.operations  # where they are
        >>> usage(OPERATIONS["crop"]), usage(OPERATIONS["light"])
        ('crop:SCALE', 'light:STRENGTH[:PROBABILITY]')
    """
    optional = [field.default is not MISSING for field in fields(kind)]
    parts = [
        "[" * may_lack + f":{field.name.upper()}"
        for field, may_lack in zip(fields(kind), optional, strict=True)
    ]
    return kind.word + "".join(parts) + "]" * sum(optional)


def _shown(value: float) -> str:
    number = value if isinstance(value, int) else float(value)  # numpy's as Python's own
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
