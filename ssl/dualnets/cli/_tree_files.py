"""Trees in files as options: `--tree FILE`, and what the file leaves open."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dualnets.cli import _families
from dualnets.cli._flags import Flag, grouped
from hltm._paths import local_path

if TYPE_CHECKING:
    from hltm import LatentTree

FORMATS = "JSON, Newick, NEXUS, BIF, GraphML or GML"
WRITTEN = ".json, .nwk, .bif, .graphml or .gml"


def named(arguments: list[str]) -> str | None:
    """The file of `--tree`, before the arguments are parsed; None where a family is asked for.

    Raises:
        ValueError: both are given.
    """
    file = _families.value_of("--tree", arguments)
    if file is not None and _families.value_of("--family", arguments) is not None:
        raise ValueError("give --tree or --family, not both")
    return file


def option(meaning: str, group: str) -> Flag:
    """The option `--tree`."""
    return Flag("tree", meaning, default="", metavar="FILE", group=group)


def reading(group: str) -> list[Flag]:
    """The options of reading a tree: keywords of `hltm.load_tree`, for some formats only."""
    return grouped(
        group,
        Flag("lengths", "Newick, NEXUS: what branch lengths are: paralinear, or expected-changes per "
             "site.", note="(default: paralinear)"),
        Flag("rate", "Newick, NEXUS: lengths are multiplied by it.", kind=float,
             note="(default: 1)"),
        Flag("states", "Newick, NEXUS: states of every node.", kind=int, note="(default: 2)"),
        Flag("negative", "Newick, NEXUS: refuse negative lengths, or take them as zero.",
             note="(default: refuse)"),
        Flag("keep_underscores", "Newick, NEXUS: underscores in names are not read as blanks.",
             switch=True),
        Flag("root", "GraphML, GML: the root, where edges have no direction.", metavar="NODE"),
    )  # fmt: skip


def load(given: dict[str, Any]) -> LatentTree:
    """The tree of `--tree`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no tree, or an option has no effect on its format.
    """
    import hltm
    from hltm.formats.files import lengths_are_read

    if not given["tree"]:
        raise ValueError("--tree needs a value")
    names = [option.name for option in reading("tree")]
    # 0 equals False, and is a value that the reader refuses
    options = {n: given[n] for n in names if given[n] is not None and given[n] is not False}
    tree = hltm.load_tree(given["tree"], **options)
    if not {"lengths", "states"} <= options.keys() and lengths_are_read(given["tree"]):
        # a phylogeny that is read by another convention looks like any tree
        states = int(tree.tables.cardinality[0])
        said = f"{options.get('lengths', 'paralinear')}, {states} states"
        print(f"branch lengths are read as {said} (--lengths, --states)", file=sys.stderr)
    return tree


def check_target(path: str) -> None:
    """Raise ValueError, before any work, unless a tree can be written to this file."""
    from hltm.formats.files import writer_of

    target = local_path(path)
    writer_of(path)
    if not target.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {target.parent}")


def save(tree: LatentTree, given: dict[str, Any]) -> None:
    """Write the file of `--save`; Newick has lengths of the convention in which they were read."""
    from hltm.formats.files import writer_of
    from hltm.formats.newick_writing import to_newick

    names = ("lengths", "rate") if writer_of(given["save"]) is to_newick else ()
    tree.save(given["save"], **{n: given[n] for n in names if given.get(n) is not None})
