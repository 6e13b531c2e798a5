"""Write rows of a tree's data set to files, or check such files."""

from __future__ import annotations

import inspect
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dualnets.cli import _families
from dualnets.cli._bar import progress_bar
from dualnets.cli._flags import parse

if TYPE_CHECKING:
    from rich.console import Console

    from hltm import DataFolder, LatentTree

# each paragraph is one line: tyro does not wrap them
DESCRIPTION = """Write rows of a tree's data set to files, with latents and augmented views.

`hltm tree --help` names the families. --seed is the tree's, not the rows'.

A call that was cut off goes on from there when it is given again.

`hltm sample --verify OUT` checks what is written."""
VERIFY = """Check a folder's checksums, and draw random rows again from their addresses.

The exit status is 0 if the files are what they claim, 1 if not."""
REQUIRED = "(required)"


def main(arguments: list[str]) -> int:
    """Export what is asked for, or verify a folder."""
    from rich.console import Console

    console = Console(highlight=False)
    if "--verify" in arguments:
        return _verify(console, arguments)
    options, make = _parse(arguments)
    if not options["out"]:
        raise ValueError("name the folder to write to, e.g. hltm sample -n 1_000_000 out/")
    if options["n"] is None:
        raise ValueError("say how many rows to write, e.g. -n 1_000_000")
    tree = _tree(make, options)
    started = time.perf_counter()
    try:
        data = _export(console, tree, options)
    except KeyboardInterrupt:
        print("\nhltm: interrupted; finished files are kept and the same command goes on from "
              "there", file=sys.stderr)  # fmt: skip
        return 130
    _show(console, data, options["out"], time.perf_counter() - started)
    return 0


def _parse(arguments: list[str]) -> tuple[dict[str, Any], Any]:
    """The options, and the function that makes a tree of the family; None with --tree."""

    from hltm.data.export.recipe import SUFFIXES

    option = _families.option
    saved = _families.value_of("--tree", arguments)
    if saved is None:
        name, make = _families.asked(arguments)
        fields = _families.fields(name, make)
        if "members" in inspect.signature(make).parameters:
            text = "Trees of one shape with tables of their own, n rows each."
            fields.append(
                option("members", int, None, text, help_behavior_hint="(default: one tree)")
            )
    else:
        if _families.value_of("--family", arguments) is not None:
            raise ValueError("give --tree or --family, not both")
        make, fields = None, []
    text = "File of a saved tree, instead of a family."
    fields += [
        option("tree", str, "", text, metavar="FILE", help_behavior_hint=""),
        option("n", int, None, "How many rows.", aliases=("-n",), help_behavior_hint=REQUIRED),
        option("draw_seed", int, 0, "Seed of the rows: 64 bits."),
        option("start", int, 0, "The first row."),
        option("views", int, 0, "Augmented draws of the leaves beside each row."),
        option("augment", str, "", "What a view draws again, e.g. keep-root or resample-leaves:0.2.",
               help_behavior_hint=""),
        option("nodes", str, "all", "Latents to keep: all, leaves (none), or names: 0,1,2."),
        option("format", str, "npz", "Of the files.", metavar="{" + ",".join(SUFFIXES) + "}"),
        option("rows_per_shard", int, None, "Rows of a file.",
               help_behavior_hint="(default: 2^20, fewer above 256 MiB)"),
        option("verify", bool, False, "Check OUT instead; see hltm sample --verify --help.",
               metavar=None, help_behavior_hint=""),
        _out("Folder to write to; made if missing."),
    ]  # fmt: skip
    return parse(fields, arguments, "hltm sample", DESCRIPTION), make


def _out(meaning: str) -> tuple[Any, ...]:
    """The folder, named without a flag."""
    import tyro

    arg = tyro.conf.arg(help=meaning, metavar="OUT", help_behavior_hint=REQUIRED)
    return ("out", tyro.conf.Positional[Annotated[str, arg]], "")


def _tree(make: Any, options: dict[str, Any]) -> LatentTree:
    """The tree asked for."""
    import hltm

    if make is None:
        try:
            return hltm.load_tree(options["tree"])
        except OSError as error:
            raise OSError(f"cannot read {options['tree']}: {error.strerror}") from error
    keywords = _families.keywords(_families.flags(make), options)
    if options.get("members") is not None:
        keywords["members"] = options["members"]
    tree: LatentTree = make(**keywords)
    return tree


def _export(console: Console, tree: LatentTree, options: dict[str, Any]) -> DataFolder:
    """Write the files, showing how far it is, how fast, and how long it will take."""
    import hltm
    from hltm.sampling.augment import parse

    augment = parse(options["augment"]) if options["augment"] else None
    nodes = (
        options["nodes"] if options["nodes"] in ("all", "leaves") else options["nodes"].split(",")
    )
    with RowsBar(console) as bar:
        try:
            return hltm.export(
                tree, options["out"], options["n"], seed=options["draw_seed"],
                start=options["start"], views=options["views"], augment=augment, nodes=nodes,
                format=options["format"], rows_per_shard=options["rows_per_shard"], progress=bar.at,
            )  # fmt: skip
        except KeyError as error:  # a node that the tree does not have
            raise ValueError(error.args[0]) from error


class RowsBar:
    """Rows written, on a terminal: a bar with rate and time left."""

    def __init__(self, console: Console) -> None:
        self.bar = progress_bar(console, "rows")
        self.task: Any = None

    def __enter__(self) -> RowsBar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def at(self, done: int, total: int) -> None:
        """So many rows are written; those of the first call were there before."""
        if self.task is None:
            self.task = self.bar.add_task("writing", total=total, completed=done, rate="")
            return
        self.bar.update(self.task, completed=done)
        speed = self.bar.tasks[0].speed
        if speed:
            self.bar.update(self.task, rate=f"{speed:,.0f}/s")


def _show(console: Console, data: DataFolder, out: str, seconds: float) -> None:
    """What lies where, and what to do with it."""
    shards = data.manifest["shards"]
    size = sum(entry["bytes"] for entry in shards) / 1e6
    files = f"{len(shards):,} {data.recipe.file_format} file{'s' * (len(shards) != 1)}"
    rows = sum(entry["rows"] for entry in shards)
    held = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in data.recipe.widths.items())
    console.print(f"{rows:,} rows in {files}, {size:,.1f} MB, {seconds:.1f} s")
    console.print(f"states of a row: {held}", style="dim")
    console.print(f"\n  {out}", soft_wrap=True, markup=False)
    console.print("\nhltm.load reads it in Python; hltm sample --verify checks it.", style="dim")


def _verify(console: Console, arguments: list[str]) -> int:
    """Check a folder and say in words what was found."""

    import hltm

    option = _families.option
    fields = [
        option("verify", bool, False, "What to do.", metavar=None, help_behavior_hint=""),
        option("rows", int, 1000, "How many random rows to draw again."),
        option("seed", int, 0, "Which rows."),
        _out("Folder that hltm sample or hltm.export wrote."),
    ]
    given = parse(fields, arguments, "hltm sample", VERIFY)
    if not given["out"]:
        raise ValueError("name the folder to check, e.g. hltm sample --verify out/")
    found = hltm.verify(Path(given["out"]), rows=given["rows"], seed=given["seed"])
    for line in str(found).splitlines():
        console.print(line, markup=False)
    return 0 if found.ok else 1
