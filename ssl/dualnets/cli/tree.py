"""Show a tree: its shape, exact correlations, ceilings, and a figure."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnets.cli import _families, _tree_files
from dualnets.cli._flags import HELP, Flag, parse
from hltm._paths import local_path

if TYPE_CHECKING:
    from rich.table import Table

    from hltm import LatentTree
    from hltm.inference.ceiling import Ceiling

LISTED = 127  # the most nodes that have a line each; larger trees are shown by level
DEEPEST = 10  # the most levels for whose branches a line has room
SAMPLES = 1 << 15  # of the ceilings, by default
WORK = 1 << 25  # nodes times samples of the ceilings, unless more samples are asked for
FEWEST = 128  # samples of a tree of any size
USAGE = """usage: hltm tree [--family NAME | --tree FILE] [OPTIONS]

Show a tree of a family or of a file: its shape, the exact correlation of every
node with its parent and with the root, and its ceilings: the highest
correlation that any function of its own leaves, or of all leaves, can have with
it.

families: {names}
files: {formats}

`hltm tree --family NAME --help` shows a family's options, `hltm tree --tree
FILE --help` those of a file. `--save FILE` writes the tree in the format of its
suffix, `--picture FILE` draws it.
"""
OF_A_FILE = """Show the tree of a file: {formats}.

With several trees over one shape, one of them is shown, and all are saved unless --member names one.
Newick is saved with lengths of the convention and rate in which they are read."""


def main(arguments: list[str]) -> int:
    """Print a tree of a family or of a file; save and draw it where files are named for that."""
    if len(arguments) == 1 and arguments[0] in HELP:
        names = ", ".join(_families.families())
        print(USAGE.format(names=names, formats=_tree_files.FORMATS), end="")
        return 0
    options, make, name = _parse(arguments)
    _check_picture(options["picture"])
    if options["save"]:
        _tree_files.check_target(options["save"])
    made = _tree_files.load(options) if make is None else make(**_families.keywords(make, options))
    tree, title = _one(made, options.get("member"), name)
    if "seed" in options:
        title += f", seed {options['seed']}"
    if options["save"]:
        _tree_files.save(made if options.get("member") is None else tree, options)
    samples = _samples(tree, options["samples"])

    from dualnets.cli._terminal import print_plain, terminal

    console = terminal()
    console.print(f"{title}: {repr(tree).partition('(')[2][:-1]}\n", style="bold", markup=False)
    listed = len(tree.topology) <= LISTED and tree.topology.depth <= DEEPEST
    if samples * len(tree.topology) > WORK // 2:  # more than a moment
        doing = f"ceilings of {len(tree.latents):,} latents from {samples:,} samples (--samples) …"
        print(doing, file=sys.stderr, flush=True)
    own = tree.ceiling(tree.latents, samples=samples)
    every = tree.ceiling(tree.latents, leaves="all", samples=samples)
    console.print((_nodes if listed else _levels)(tree, own, every))
    console.print("\n".join(_notes(tree, own, every, listed, samples)), style="dim")
    if options["save"] or options["picture"]:
        console.print()
    if options["save"]:
        print_plain(console, f"  {options['save']}")
    if options["picture"]:
        from hltm.plot import tree_figure

        figure = tree_figure(
            tree, values=dict(zip(tree.latents, own.value.tolist(), strict=True)),
            label="ceiling, own leaves", limits=(0, 1), title=title,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
            figure.savefig(options["picture"])
        print_plain(console, f"  {options['picture']}")
    return 0


def _parse(arguments: list[str]) -> tuple[dict[str, Any], Callable[..., LatentTree] | None, str]:
    """The options, the function that makes a tree of the family (None with --tree), and a title."""
    output = [
        Flag("samples", "Samples for a ceiling that cannot be computed by enumeration.", kind=int,
             note=f"(default: {SAMPLES}; above {WORK // SAMPLES} nodes fewer)", group="output"),
        Flag("save", f"File to write the tree to: {_tree_files.WRITTEN}.", default="",
             metavar="FILE", group="output"),
        Flag("picture", "File to draw the tree into: .png, .svg or .pdf.", default="", metavar="FILE",
             group="output"),
    ]  # fmt: skip
    file = _tree_files.named(arguments)
    if file is None:
        name, make = _families.requested(arguments)
        description = (inspect.getdoc(make) or "").partition("\n\nArgs:")[0]
        command = "hltm tree" + f" --family {name}" * (name != _families.DEFAULT)
        options = [*_families.options(name, make), *output]
        return parse(options, arguments, command, description), make, name
    options = [
        _tree_files.option("The file.", "tree"),
        *_tree_files.reading("tree"),
        Flag("member", "Which of several trees, from 0.", kind=int, group="tree"),
        *output,
    ]
    description = OF_A_FILE.format(formats=_tree_files.FORMATS)
    found = parse(options, arguments, "hltm tree --tree FILE", description)
    return found, None, Path(found["tree"]).name


def _one(tree: LatentTree, member: int | None, title: str) -> tuple[LatentTree, str]:
    """One tree of several, and the title with its number."""
    count = len(tree.members)
    if member is not None and not 0 <= member < count:
        raise ValueError(f"--member must be in 0..{count - 1}, got {member}")
    if not tree.stacked:
        return tree, title
    return tree[member or 0], f"{title}, member {member or 0} of {count}"


def _samples(tree: LatentTree, asked: int | None) -> int:
    """Samples for ceilings: by default fewer of large trees, so that the command takes seconds."""
    if asked is not None and asked < 2:
        raise ValueError(f"--samples must be at least 2, got {asked}")
    return asked or min(SAMPLES, max(WORK // len(tree.topology), FEWEST))


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
        latent, name = v in tree.latents, tree.topology.names[v]
        table.add_row(
            Text.assemble((branches, "dim"), name if name.isprintable() else repr(name)),
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


def _notes(
    tree: LatentTree, own: Ceiling, every: Ceiling, listed: bool, samples: int
) -> Iterator[str]:
    """Explanations of the columns."""
    yield ""
    if tree.tables.binary:
        yield "r: exact correlation with the parent and with the root"
    else:
        yield "R: exact maximal correlation with the parent; I: mutual information in nats"
    it = "it" if tree.tables.binary else "any function of it"
    yield f"own, all: highest correlation of any function of its own leaves, of all leaves, with {it}"
    errors = [float(bound.standard_error.max()) for bound in (own, every)]
    if listed and any(errors):
        yield "±: standard error, where the leaves have too many states to enumerate; none exceeds 1"
    elif any(errors):
        yield (
            f"Where the leaves have too many states to enumerate, they are {samples:,} samples; the "
            f"standard error of a node is at most {max(errors):.3f}."
        )
