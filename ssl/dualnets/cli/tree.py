"""Show a tree: its shape, exact correlations and ceilings, and a picture of it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from rich.table import Table

    from hltm import LatentTree
    from hltm.ceiling import Ceiling

DEFAULT = "symmetric-binary"
DEFAULTS: dict[str, Any] = {"depth": 3, "seed": 0}  # where a family asks for one
LISTED = 127  # nodes up to which each has a line of its own
DEEPEST = 10  # levels up to which a line has room for the branches that lead to it
USAGE = """usage: hltm tree [--family NAME] [OPTIONS]

Show a tree of a family: its shape, the exact correlation of every node with its
parent and the root, and its ceilings: the best correlation with it that any
function of its own leaves, or of all leaves, can have.

families: {names}

`hltm tree --family NAME --help` shows a family's options.
"""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One option of a family: an argument, or one end of an argument that is a range."""

    name: str
    argument: str
    kind: type
    default: Any
    ranged: bool = False


def main(arguments: list[str]) -> int:
    """Print a tree of the family asked for; draw it where a file is named."""
    offered = families()
    if arguments in (["-h"], ["--help"]):
        print(USAGE.format(names=", ".join(offered)), end="")
        return 0
    name = _asked(arguments)
    if name not in offered:
        raise ValueError(f"unknown family {name!r}, expected one of {', '.join(offered)}")
    wanted = list(flags(offered[name]))
    options = _parse(name, offered[name], wanted, arguments)
    tree = offered[name](**_keywords(wanted, options))
    title = f"{name}, seed {options['seed']}" if "seed" in options else name
    own = tree.ceiling(tree.latents, samples=options["samples"])

    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"{title}: {repr(tree).partition('(')[2][:-1]}\n", style="bold", markup=False)
    listed = len(tree.topology) <= LISTED and tree.topology.depth <= DEEPEST
    every = tree.ceiling(tree.latents, leaves="all", samples=options["samples"])
    console.print((_nodes if listed else _levels)(tree, own, every))
    console.print("\n".join(_notes(tree, own, every, listed)), style="dim")
    if options["picture"]:
        from hltm.picture import tree_figure

        figure = tree_figure(
            tree, values=dict(zip(tree.latents, own.value.tolist(), strict=True)),
            label="ceiling, own leaves", limits=(0, 1), title=title,
        )  # fmt: skip
        figure.savefig(options["picture"])
        console.print(f"\n  {options['picture']}", soft_wrap=True)
    return 0


def families() -> dict[str, Callable[..., LatentTree]]:
    """Name -> function, of each family whose every required argument can be an option."""
    import hltm.families

    found = {}
    for item in pkgutil.iter_modules(hltm.families.__path__):
        make = getattr(importlib.import_module(f"hltm.families.{item.name}"), item.name)
        possible = {flag.argument for flag in flags(make)}
        required = [
            name
            for name, parameter in inspect.signature(make).parameters.items()
            if parameter.default is parameter.empty
        ]
        if possible.issuperset(required):
            found[item.name.replace("_", "-")] = make
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


def _asked(arguments: list[str]) -> str:
    """The family named among the arguments, before its own options are known."""
    for i, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        if key == "--family":
            return (value if equals else "".join(arguments[i + 1 : i + 2])).replace("_", "-")
    return DEFAULT


def _parse(
    name: str, make: Callable[..., LatentTree], wanted: list[Flag], arguments: list[str]
) -> dict[str, Any]:
    import tyro

    from hltm.ceiling import SAMPLES

    meanings = _meanings(make)

    def option(key: str, kind: type, default: Any, meaning: str) -> tuple[Any, ...]:
        metavar = {int: "INT", float: "NUMBER", bool: "{True,False}"}.get(kind, "TEXT")
        held = kind | None if default is None else kind
        annotated = Annotated[held, tyro.conf.arg(help=meaning, metavar=metavar)]  # type: ignore[valid-type]
        required = default is inspect.Parameter.empty
        return (key, annotated) if required else (key, annotated, default)

    fields = [option("family", str, name, "Which family of trees.")]
    for flag in wanted:
        meaning = meanings.get(flag.argument, "")
        if flag.ranged:
            meaning = f"The {flag.name.rpartition('_')[2]}est {flag.argument}."
        fields.append(option(flag.name, flag.kind, flag.default, meaning))
    fields += [
        option("samples", int, SAMPLES, "Samples of a ceiling that cannot be enumerated."),
        option("picture", str, "", "File to draw the tree into: .png, .svg or .pdf."),
    ]
    made: Any = tyro.cli(
        dataclasses.make_dataclass("Options", fields, kw_only=True),
        args=arguments,
        prog="hltm tree",
        description=(inspect.getdoc(make) or "").partition("\n\nArgs:")[0],
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return dataclasses.asdict(made)


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


def _keywords(wanted: list[Flag], options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a family from the options given: ranges as pairs."""
    found: dict[str, Any] = {}
    for flag in wanted:
        value = options[flag.name]
        found[flag.argument] = (*found.get(flag.argument, ()), value) if flag.ranged else value
    return found


def _nodes(tree: LatentTree, own: Ceiling, every: Ceiling) -> Table:
    """A line per node, in the order of a walk, with the branches that lead to it."""
    from rich.text import Text

    table = _table("node", "states", *_headings(tree), "own", "all")
    parent, root = _associations(tree)
    for v, branches in _walk(tree):
        latent = v in tree.latents
        table.add_row(
            Text.assemble((branches, "dim"), tree.topology.names[v]),
            str(tree.tables.cardinality[v]),
            f"{parent[v]:.3f}" if v else "",
            f"{root[v]:.3f}" if v else "",
            *(_ceiling(bound, v) if latent else "" for bound in (own, every)),
        )
    return table


def _levels(tree: LatentTree, own: Ceiling, every: Ceiling) -> Table:
    """A line per level: means over its nodes, of magnitudes."""
    table = _table("level", "nodes", *_headings(tree, "mean "), "own", "all")
    parent, root = _associations(tree)
    for level in range(tree.topology.depth, -1, -1):
        nodes = list(tree.level(level))
        means = [f"{abs(found[nodes]).mean():.3f}" if nodes[0] else "" for found in (parent, root)]
        bounds = ["", ""]
        if level > 0:
            bounds = [f"{float(bound.value[nodes].mean()):.3f}" for bound in (own, every)]
        table.add_row(str(level), str(len(nodes)), *means, *bounds)
    return table


def _headings(tree: LatentTree, mean: str = "") -> tuple[str, str]:
    if tree.tables.binary:
        bars = "|" if mean else ""
        return f"{mean}{bars}r{bars} parent", f"{mean}{bars}r{bars} root"
    return f"{mean}R parent", f"{mean}I root"


def _associations(tree: LatentTree) -> tuple[Any, Any]:
    """`(V,)` association of every node with its parent, and with the root."""
    from hltm.picture import strengths

    every = range(len(tree.topology))
    known = tree.correlation if tree.tables.binary else tree.mutual_information
    return strengths(tree), known(tree.root, every).numpy()


def _walk(tree: LatentTree) -> Iterator[tuple[int, str]]:
    """Nodes in the order of a walk, each with the branches to print before its name."""
    waiting = [(0, "", "")]
    while waiting:
        v, branches, below = waiting.pop()
        yield v, branches
        children = [int(c) for c in tree.topology.children[v]]
        for c in reversed(children):
            last = c == children[-1]
            waiting.append((c, below + ("└─" if last else "├─"), below + ("  " if last else "│ ")))


def _ceiling(bound: Ceiling, v: int) -> str:
    error = float(bound.standard_error[v])
    return f"{float(bound.value[v]):.3f}" + (f" ± {error:.3f}" if error else "")


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column == "node" else "right", no_wrap=True)
    return table


def _notes(tree: LatentTree, own: Ceiling, every: Ceiling, listed: bool) -> Iterator[str]:
    """What the columns are."""
    yield ""
    if tree.tables.binary:
        yield "r: exact correlation with the parent and with the root"
    else:
        yield "R: exact maximal correlation with the parent; I: mutual information in nats"
    yield "own, all: its best correlation with any function of its own leaves, of all leaves"
    if listed and bool(own.standard_error.any() or every.standard_error.any()):
        yield "± standard error, where the leaves' states are too many to enumerate"
