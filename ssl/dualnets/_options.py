"""Options of a frozen dataclass: its scalar fields, as flags of a command line and settings need them.

A method, a loss, a norm or an optimiser is a frozen dataclass. Name, type and default of an option stand
in its field, the meaning stands in the `Attributes:` section of its docstring, and nothing stands twice.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from inspect import cleandoc, get_annotations
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

Kind = TypeVar("Kind", bound=type)
SCALARS: dict[type, str] = {  # what a value of each kind must be, in words
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


class Option(NamedTuple):
    """One scalar field of a dataclass.

    Attributes:
        field: its name in the dataclass.
        flag: its name among all settings; the field's own unless `option` gave another.
        kind: `bool`, `int`, `float` or `str`.
        optional: whether None is a value, too.
        default: of the field.
        choices: the words that it takes; None where any value of its kind may be right.
        applies_to: other fields of the dataclass -> the values at which this field has an effect.
        meaning: the first sentence about it in the docstring.
    """

    field: str
    flag: str
    kind: type
    optional: bool
    default: Any
    choices: tuple[str, ...] | None
    applies_to: Mapping[str, Any]
    meaning: str


@dataclass(frozen=True)
class Above:
    """The numbers above a bound, as the values at which another option has an effect."""

    bound: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and value > self.bound

    def __str__(self) -> str:
        return f"above {self.bound}"


def option(
    default: Any,
    *,
    flag: str | None = None,
    choices: tuple[str, ...] | None = None,
    applies_to: Mapping[str, Any] | None = None,
) -> Any:
    """A dataclass field with more of an `Option` than its name, type and default.

    A flag's name is given where the field's own would be ambiguous among the settings of all methods, its
    choices where the type does not have them.
    """
    metadata = {"flag": flag, "choices": choices, "applies_to": applies_to or {}}
    return field(default=default, metadata=metadata)


@cache
def options(kind: type) -> tuple[Option, ...]:
    """The options of a dataclass, in the order of its fields; fields of other types are left out.

    Example:
        >>> from dualnets.optim.optimizers import SGD
        >>> [(found.flag, found.kind.__name__, found.default) for found in options(SGD)][:3]
        [('lr', 'float', 0.1), ('weight_decay', 'float', 0.0), ('clip', 'float', None)]
    """
    found = []
    # the nearest class that explains a field has the word
    meanings = [described(base.__doc__ or "", "Attributes") for base in kind.__mro__]
    for item in fields(kind):
        if not item.init or item.default is MISSING:
            continue
        home = next(c for c in kind.__mro__ if item.name in get_annotations(c))
        types, words = _types(item.type, home)
        words = item.metadata.get("choices") or words
        scalar = str if words else next((t for t in types if t in SCALARS), None)
        if scalar is None:
            continue
        found.append(
            Option(
                field=item.name,
                flag=item.metadata.get("flag") or item.name,
                kind=scalar,
                optional=NoneType in types,
                default=item.default,
                choices=words,
                applies_to=item.metadata.get("applies_to", {}),
                meaning=next((_sentence(m[item.name]) for m in meanings if item.name in m), ""),
            )
        )
    return tuple(found)


def described(docstring: str, heading: str) -> dict[str, str]:
    """Name -> its description in one section of a docstring.

    Args:
        docstring: of a function or a class.
        heading: of the section, such as `Attributes`.

    Example:
        >>> described(described.__doc__ or "", "Args")["docstring"]
        'of a function or a class.'
    """
    section = re.search(rf"^{heading}:\n((?: +.*\n?|\n(?= ))*)", cleandoc(docstring), re.M)
    entry = r"^ {4}(\w[\w, ]*): (.*(?:\n {8,}.*)*)"
    entries = re.findall(entry, section[1], re.M) if section else []
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


class Registry(dict[str, Kind]):
    """Classes by the names that select them on a command line, in the order of their definition.

    Example:
        >>> SHAPES: Registry[type] = Registry()
        >>> @SHAPES.register("square")
        ... class Square: ...
        >>> SHAPES["square"].__name__
        'Square'
    """

    def register(self, name: str) -> Callable[[Kind], Kind]:
        """Decorate a class that `name` selects."""

        def keep(kind: Kind) -> Kind:
            self[name] = kind
            return kind

        return keep


def _types(annotation: Any, home: type) -> tuple[tuple[Any, ...], tuple[str, ...] | None]:
    """The members of a field's type, and the words of a Literal among them."""
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, vars(sys.modules[home.__module__]))
        except NameError:  # imported for type checkers only, so no scalar
            return (), None
    if get_origin(annotation) is Literal:
        return (str,), get_args(annotation)
    return get_args(annotation) or (annotation,), None


def _sentence(text: str) -> str:
    """The first sentence, without its full stop."""
    return re.split(r"\.(?:\s|$)", text, maxsplit=1)[0]
