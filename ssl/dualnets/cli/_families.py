"""Families of trees as options: the arguments of the function that makes a tree become flags."""

from __future__ import annotations

import ast
import builtins
import inspect
import types
import typing
from collections.abc import Callable, Container
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from dualnets._options import described
from dualnets.cli._flags import Flag

if TYPE_CHECKING:
    from hltm import LatentTree

DEFAULT = "symmetric-binary"
DEFAULTS: dict[str, Any] = {"depth": 3, "seed": 0}  # of arguments that families require
GROUP = "tree"


def families() -> dict[str, Callable[..., LatentTree]]:
    """Name -> function, of each family whose required arguments can all be flags."""
    from hltm.families import NAMES

    found = {}
    for name in NAMES:
        make = _declared(name)
        parameters = inspect.signature(make).parameters.values()
        required = {p.name for p in parameters if p.default is p.empty}
        if required <= flags(make).keys():
            found[name.replace("_", "-")] = make
    return found


def _declared(name: str) -> Callable[..., LatentTree]:
    """The function of a family as its file declares it, which imports the file when it is called.

    So a help text does not wait for torch.
    """
    import hltm.families

    source = (Path(hltm.families.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    made = ast.parse("from __future__ import annotations")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            call = f"given = locals()\nfrom hltm.families import FAMILIES\nreturn FAMILIES[{name!r}](**given)"
            node.body[1:] = ast.parse(call).body
            made.body.append(node)
    namespace: dict[str, Any] = {}
    exec(compile(made, f"<hltm.families.{name}>", "exec"), namespace)  # our own file
    make: Callable[..., LatentTree] = namespace[name]
    return make


class _Names(dict[str, Any]):
    """The names in type hints: those of Python, and a type that no flag has for all others."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, list)


def flags(make: Callable[..., LatentTree], taken: Container[str] = ()) -> dict[str, list[Flag]]:
    """Argument of a family -> its flags: one for a number or a text, two for the ends of a range.

    Args:
        make: the function that makes its trees.
        taken: names of other flags of the command; an argument with such a name becomes `--tree-NAME`.
    """
    hints, meanings = (
        get_type_hints(make, localns=_Names()),
        described(inspect.getdoc(make) or "", "Args"),
    )
    found = {}
    for name, parameter in inspect.signature(make).parameters.items():
        default, hint = parameter.default, hints[name]
        if default is parameter.empty or default is None:
            default = DEFAULTS.get(name, default)
        union = get_origin(hint) in (types.UnionType, typing.Union)
        kinds = get_args(hint) if union else (hint,)
        ranges = [get_args(kind) for kind in kinds if get_origin(kind) is tuple]
        plain = [kind for kind in kinds if kind in (bool, int, float, str)]
        if name == "members":
            continue
        if ranges and len(ranges[0]) == 2 and ranges[0][0] in (int, float):
            ends = default if isinstance(default, tuple) else (default, default)
            found[name] = [
                _option(f"{name}_{end}", f"The {end}est {name}.", ranges[0][0], value)
                for end, value in zip(("low", "high"), ends, strict=True)
            ]
        elif plain:
            flag = f"tree_{name}" if name in taken else name
            found[name] = [_option(flag, meanings.get(name, ""), plain[0], default)]
    return found


def _option(name: str, meaning: str, kind: type, default: Any) -> Flag:
    required = default is inspect.Parameter.empty
    text = meaning.replace("`", "")
    if text.startswith("of "):  # in a docstring it continues the argument's name
        text = f"{name.replace('_', ' ')} {text}"
    return Flag(name, text[:1].upper() + text[1:], kind=kind, required=required, group=GROUP,
                default=None if required else default)  # fmt: skip


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


def options(name: str, make: Callable[..., LatentTree], taken: Container[str] = ()) -> list[Flag]:
    """The options of a family, `--family` among them; `taken` as in `flags`."""
    family = Flag("family", "Which family of trees.", default=name, group=GROUP)
    return [family, *chain.from_iterable(flags(make, taken).values())]


def keywords(
    make: Callable[..., LatentTree], given: dict[str, Any], taken: Container[str] = ()
) -> dict[str, Any]:
    """The arguments of a family from the values of its flags; the ends of a range as a pair."""
    found = {}
    for argument, own in flags(make, taken).items():
        values = tuple(given[option.name] for option in own)
        found[argument] = values if len(values) > 1 else values[0]
    return found
