"""Families of trees as options: their arguments become flags, one command line for all of them."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from hltm import LatentTree

DEFAULT = "symmetric-binary"
DEFAULTS: dict[str, Any] = {"depth": 3, "seed": 0}  # where a family asks for one


@dataclasses.dataclass(frozen=True)
class Flag:
    """One option of a family: an argument, or one end of an argument that is a range."""

    name: str
    argument: str
    kind: type
    default: Any
    ranged: bool = False


def families() -> dict[str, Callable[..., LatentTree]]:
    """Name -> function, of each family whose every required argument can be an option."""
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


def flags(make: Callable[..., LatentTree]) -> Iterator[Flag]:
    """The options of a family: its arguments that are numbers, texts or ranges of numbers."""
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
            yield Flag(name, name, plain[0], default)


def asked(arguments: list[str]) -> tuple[str, Callable[..., LatentTree]]:
    """The family named among the arguments, before its own options are known.

    Raises:
        ValueError: no such family.
    """
    offered = families()
    name = (value_of("--family", arguments) or DEFAULT).replace("_", "-")
    if name not in offered:
        raise ValueError(f"unknown family {name!r}, expected one of {', '.join(offered)}")
    return name, offered[name]


def value_of(key: str, arguments: list[str]) -> str | None:
    """What is given for an option, before the options are known; None where it is not given."""
    for i, argument in enumerate(arguments):
        found, equals, value = argument.partition("=")
        if found == key:
            return value if equals else "".join(arguments[i + 1 : i + 2])
    return None


def _meanings(make: Callable[..., LatentTree]) -> dict[str, str]:
    """Argument -> what its docstring says of it."""
    lines = (inspect.getdoc(make) or "").partition("Args:\n")[2].partition("\n\n")[0].splitlines()
    found: dict[str, str] = {}
    for line in lines:
        key, colon, text = line.strip().partition(": ")
        if colon and line.startswith("    ") and not line.startswith("     "):
            found[key] = text.replace("`", "")
        elif found:
            found[list(found)[-1]] += " " + line.strip().replace("`", "")
    return found


def keywords(wanted: Iterable[Flag], options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a family from the options given: ranges as pairs."""
    found: dict[str, Any] = {}
    for flag in wanted:
        value = options[flag.name]
        found[flag.argument] = (*found.get(flag.argument, ()), value) if flag.ranged else value
    return found


def fields(name: str, make: Callable[..., LatentTree]) -> list[tuple[Any, ...]]:
    """Fields of the options of a family, for `dataclasses.make_dataclass`."""
    meanings = _meanings(make)
    found = [option("family", str, name, "Which family of trees.")]
    for flag in flags(make):
        meaning = meanings.get(flag.argument, "")
        if flag.ranged:
            meaning = f"The {flag.name.rpartition('_')[2]}est {flag.argument}."
        found.append(option(flag.name, flag.kind, flag.default, meaning))
    return found


def option(key: str, kind: type, default: Any, meaning: str, **more: Any) -> tuple[Any, ...]:
    """A field with its help; required where the default is `inspect.Parameter.empty`.

    Args:
        more: for `tyro.conf.arg`.
    """
    import tyro

    more.setdefault(
        "metavar", {int: "INT", float: "NUMBER", bool: "{True,False}"}.get(kind, "TEXT")
    )
    held = kind | None if default is None else kind
    annotated = Annotated[held, tyro.conf.arg(help=meaning, **more)]  # type: ignore[valid-type]
    required = default is inspect.Parameter.empty
    return (key, annotated) if required else (key, annotated, default)
