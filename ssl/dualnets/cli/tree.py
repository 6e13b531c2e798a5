"""Show a tree: its shape, exact correlations, ceilings, and a figure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dualnets.cli import _families
from dualnets.cli._flags import HELP, Option, parse
from hltm._paths import local_path

if TYPE_CHECKING:
    from rich.table import Table

    from hltm import LatentTree
    from hltm.inference.ceiling import Ceiling

LISTED = 127  # the most nodes that have a line each; larger trees are shown by level
DEEPEST = 10  # the most levels for whose branches a line has room
USAGE = """usage: hltm tree [--family NAME] [OPTIONS]

Show a tree of a family: its shape, the exact correlation of every node with its
parent and with the root, and its ceilings: the highest correlation that any
function of its own leaves, or of all leaves, can have with it.

families: {names}

`hltm tree --family NAME --help` shows a family's options.
"""


def main(arguments: list[str]) -> int:
    """Print a tree of a family; draw it if a file is named."""
    if len(arguments) == 1 and arguments[0] in HELP:
        print(USAGE.format(names=", ".join(_families.families())), end="")
        return 0
    name, make = _families.requested(arguments)
    options = _parse(name, make, arguments)
    _check_picture(options["picture"])
    tree = make(**_families.keywords(make, options))
    title = f"{name}, seed {options['seed']}" if "seed" in options else name
    own = tree.ceiling(tree.latents, samples=options["samples"])

    from dualnets.cli._terminal import print_plain, terminal

    console = terminal()
    console.print(f"{title}: {repr(tree).partition('(')[2][:-1]}\n", style="bold", markup=False)
    listed = len(tree.topology) <= LISTED and tree.topology.depth <= DEEPEST
    every = tree.ceiling(tree.latents, leaves="all", samples=options["samples"])
    console.print((_nodes if listed else _levels)(tree, own, every))
    console.print("\n".join(_notes(tree, own, every, listed)), style="dim")
    if options["picture"]:
        from hltm.plot import tree_figure

        figure = tree_figure(
            tree, values=dict(zip(tree.latents, own.value.tolist(), strict=True)),
            label="ceiling, own leaves", limits=(0, 1), title=title,
        )  # fmt: skip
        figure.savefig(options["picture"])
        print_plain(console, f"\n  {options['picture']}")
    return 0


def _parse(name: str, make: Callable[..., LatentTree], arguments: list[str]) -> dict[str, Any]:
    from hltm.inference.ceiling import SAMPLES

    options = [
        *_families.options(name, make),
        Option("samples", "Samples for a ceiling that cannot be computed by enumeration.", kind=int,
               default=SAMPLES, group="output"),
        Option("picture", "File to draw the tree into: .png, .svg or .pdf.", default="", metavar="FILE",
               group="output"),
    ]  # fmt: skip
    description = (inspect.getdoc(make) or "").partition("\n\nArgs:")[0]
    command = "hltm tree" + f" --family {name}" * (name != _families.DEFAULT)
    return parse(options, arguments, command, description)


def _check_picture(picture: str) -> None:
    """Raise ValueError, before any work, unless a picture can be drawn into this file."""
    if not picture:
        return
    path = local_path(picture)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"picture must end in .png, .svg or .pdf, got {picture!r}")
    if not path.parent.is_dir():
        raise ValueError(f"picture {picture}: there is no folder {path.parent}")


def _nodes(tree: LatentTree, own: Ceiling, every: Ceiling) -> Table:
    """A line per node, parents first and depth first, with the branches that lead to it."""
    from rich.text import Text

    from dualnets.cli._terminal import plain_table

    table = plain_table(["node", "states", *_headings(tree), "own", "all"], left="node")
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
    """A line per level: means of magnitudes over its nodes."""
    from dualnets.cli._terminal import plain_table

    table = plain_table(["level", "nodes", *_headings(tree, "mean "), "own", "all"], left="node")
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
    from hltm.plot import strengths

    every = range(len(tree.topology))
    known = tree.correlation if tree.tables.binary else tree.mutual_information
    return strengths(tree), known(tree.root, every).numpy()


def _walk(tree: LatentTree) -> Iterator[tuple[int, str]]:
    """Nodes, parents first and depth first, each with the branches to print before its name."""
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


def _notes(tree: LatentTree, own: Ceiling, every: Ceiling, listed: bool) -> Iterator[str]:
    """Explanations of the columns."""
    yield ""
    if tree.tables.binary:
        yield "r: exact correlation with the parent and with the root"
    else:
        yield "R: exact maximal correlation with the parent; I: mutual information in nats"
    yield "own, all: highest correlation of any function of its own leaves, of all leaves, with it"
    if listed and bool(own.standard_error.any() or every.standard_error.any()):
        yield "±: standard error, where the leaves have too many states to enumerate"
