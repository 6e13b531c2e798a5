"""Families of trees as options: the arguments of the function that makes a tree become flags."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from dualnets.cli._flags import Option

if TYPE_CHECKING:
    from hltm import LatentTree

DEFAULT = "symmetric-binary"
DEFAULTS: dict[str, Any] = {"depth": 3, "seed": 0}  # of arguments that families require


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a family: an argument, or one end of an argument that is a range."""

    name: str
    argument: str
    kind: type
    default: Any
    ranged: bool = False


def families() -> dict[str, Callable[..., LatentTree]]:
    """Name -> function, of each family whose required arguments can all be flags."""
    import hltm.families

    found = {}
    for name, make in hltm.families.FAMILIES.items():
        possible = {flag.argument for flag in flags(make)}
        required = [
            name
            for name, parameter in inspect.signature(make).parameters.items()
            if parameter.default is parameter.empty
        ]
        if possible.issuperset(required):
            found[name.replace("_", "-")] = make
    return found


def flags(make: Callable[..., LatentTree], taken: Container[str] = ()) -> Iterator[Flag]:
    """The flags of a family: its arguments that are numbers, texts or ranges of numbers.

    Args:
        make: the function that makes its trees.
        taken: names of other flags of the command; an argument with such a name becomes `--tree-NAME`.
    """
    hints = get_type_hints(make)
    for name, parameter in inspect.signature(make).parameters.items():
        default, hint = parameter.default, hints[name]
        if default is parameter.empty or default is None:
            default = DEFAULTS.get(name, default)
        union = get_origin(hint) in (types.UnionType, typing.Union)
        kinds = get_args(hint) if union else (hint,)
        ranges = [get_args(k) for k in kinds if get_origin(k) is tuple]
        plain = [k for k in kinds if k in (bool, int, float, str)]
        if name == "members":
            continue
        if ranges and len(ranges[0]) == 2 and ranges[0][0] in (int, float):
            ends = default if isinstance(default, tuple) else (default, default)
            for end, value in zip(("low", "high"), ends, strict=True):
                yield Flag(f"{name}_{end}", name, ranges[0][0], value, True)
        elif plain:
            yield Flag(f"tree_{name}" if name in taken else name, name, plain[0], default)


def requested(arguments: list[str]) -> tuple[str, Callable[..., LatentTree]]:
    """The family that is named among the arguments, before they are parsed, and its function.

    Raises:
        ValueError: there is no such family.
    """
    known = families()
    name = (value_of("--family", arguments) or DEFAULT).replace("_", "-")
    if name not in known:
        raise ValueError(f"unknown family {name!r}, expected one of {', '.join(known)}")
    return name, known[name]


def value_of(flag: str, arguments: list[str]) -> str | None:
    """The value of one flag, before the arguments are parsed; None where it is not given."""
    for i, argument in enumerate(arguments):
        found, equals, value = argument.partition("=")
        if found == flag:
            return value if equals else "".join(arguments[i + 1 : i + 2])
    return None


def options(name: str, make: Callable[..., LatentTree], taken: Container[str] = ()) -> list[Option]:
    """The options of a family, `--family` among them; `taken` as in `flags`."""
    meanings = _meanings(make)
    found = [Option(name="family", default=name, meaning="Which family of trees.", group="tree")]
    for flag in flags(make, taken):
        meaning = meanings.get(flag.argument, "")
        if flag.ranged:
            meaning = f"The {flag.name.rpartition('_')[2]}est {flag.argument}."
        required = flag.default is inspect.Parameter.empty
        default = None if required else flag.default
        found.append(
            Option(name=flag.name, kind=flag.kind, default=default, required=required,
                   meaning=meaning[:1].upper() + meaning[1:], group="tree")
        )  # fmt: skip
    return found


def _meanings(make: Callable[..., LatentTree]) -> dict[str, str]:
    """Argument -> its description in the docstring."""
    lines = (inspect.getdoc(make) or "").partition("Args:\n")[2].partition("\n\n")[0].splitlines()
    found: dict[str, str] = {}
    for line in lines:
        key, colon, text = line.strip().partition(": ")
        if colon and line.startswith("    ") and not line.startswith("     "):
            found[key] = text.replace("`", "")
        elif found:
            found[list(found)[-1]] += " " + line.strip().replace("`", "")
    return found


def keywords(wanted: Iterable[Flag], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a family from the values of its flags; the ends of a range as a pair."""
    found: dict[str, Any] = {}
    for flag in wanted:
        value = given[flag.name]
        found[flag.argument] = (*found.get(flag.argument, ()), value) if flag.ranged else value
    return found
