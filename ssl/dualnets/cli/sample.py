"""Write rows of a tree's data set to files; join or check such files."""

from __future__ import annotations

import functools
import inspect
import sys
import time
from typing import TYPE_CHECKING, Any

from dualnets.cli import _families, _tree_files
from dualnets.cli._clusters import check_workers, cluster_flag
from dualnets.cli._flags import Flag, grouped, parse
from dualnets.cli._sentences import write_sentences
from dualnets.cli._terminal import print_plain, progress_bar, terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from contextlib import AbstractContextManager

    from rich.console import Console
    from rich.progress import Progress

    from hltm import DataFolder, LatentTree

DESCRIPTION = """Write rows of a tree's data set to files, with latents and augmented views.

`hltm tree --help` names the families, and --tree FILE --help shows what reading a file takes. --seed
is the seed of the tree, --draw-seed that of the rows.

A call that was interrupted continues where it stopped when it is repeated.

`hltm sample --join PART PART --out OUT` makes one folder of several, and `hltm sample --verify OUT`
checks files that are written. `hltm sample --grammar FILE` writes strings of a context-free grammar."""
FORMATS = ("npz", "parquet", "safetensors", "huggingface", "csv")
TAKEN = ("nodes",)  # --nodes names latents to keep; how many nodes a tree has is --tree-nodes
VERIFY = """Check a folder's checksums, and draw random rows again from their addresses.

The exit status is 0 if the files are what they claim to be, 1 if not."""
JOIN = """Join folders of consecutive rows, e.g. made on several machines with --start, into a new one.

It has the content of one call for all rows, to the last byte."""


def main(arguments: list[str]) -> int:
    """Write the files of a data set, join folders of them, or verify one."""
    if "--verify" in arguments:
        return _verify(arguments)
    if "--join" in arguments:
        return _join(arguments)
    if any(argument.partition("=")[0] == "--grammar" for argument in arguments):
        return write_sentences(arguments)
    options, make = _parse(arguments)
    if not options["out"]:
        raise ValueError("name the folder to write to, e.g. hltm sample -n 1_000_000 out/")
    if options["n"] is None:
        raise ValueError("give the number of rows to write, e.g. -n 1_000_000")
    if options["views"] > 0 and not options["augment"]:
        raise ValueError(f"--views {options['views']} needs --augment, e.g. --augment keep-root")
    if options["augment"] and not options["views"]:
        raise ValueError(
            f"--augment {options['augment']} has no effect without --views, e.g. --views 2"
        )
    check_workers(options["workers"], options["cluster"], fewest=1)
    tree, console = _tree(make, options), terminal()
    return _written(console, options["out"], lambda: _export(console, tree, options))


def _written(console: Console, out: str, write: Callable[[], DataFolder]) -> int:
    """Write a folder and show it; the exit status."""
    started = time.perf_counter()
    try:
        data = write()
    except KeyboardInterrupt:
        print("\nhltm: interrupted; finished files are kept, and the same command continues from "
              "there", file=sys.stderr)  # fmt: skip
        return 130
    _show(console, data, out, time.perf_counter() - started)
    return 0


def _parse(arguments: list[str]) -> tuple[dict[str, Any], Any]:
    """The options, and the function that makes a tree of the family; None with --tree."""
    file, name = _tree_files.named(arguments), ""
    if file is None:
        name, make = _families.requested(arguments)
        of_the_tree = _families.options(name, make, TAKEN)
        if "members" in inspect.signature(make).parameters:
            of_the_tree.append(
                Flag("members", "Trees of one shape with tables of their own, n rows each.", kind=int,
                     note="(default: one tree)", group="tree")
            )  # fmt: skip
    else:
        make, of_the_tree = None, _tree_files.reading("tree")
    options = [
        _tree_files.option(f"File of a tree instead of a family: {_tree_files.FORMATS}.", "tree"),
        *of_the_tree,
        *grouped(
            "rows",
            Flag("n", "How many rows.", short="-n", kind=int, note="(required)"),
            Flag("draw_seed", "Seed of the rows: 64 bits.", kind=int, default=0),
            Flag("start", "The first row.", kind=int, default=0),
            Flag("views", "Augmented draws of the leaves for each row.", kind=int, default=0),
            Flag("augment", "What a view draws again, e.g. keep-root or resample-leaves:0.2.", default=""),
            Flag("nodes", "Latents to keep beside the leaves: all, leaves (none), or names: 0,1,2.",
                 default="all"),
        ),
        *grouped(
            "files",
            _out("Folder to write to; made if missing."),
            Flag("format", "Format of the files.", default="npz", metavar="{" + ",".join(FORMATS) + "}"),
            Flag("columns", "arrays, one column for each group of nodes, or nodes, one for each node.",
                 metavar="{arrays,nodes}", note="(default: arrays; nodes in CSV)"),
            Flag("rows_per_shard", "Rows of one file.", kind=int,
                 note="(default: 2^20, fewer above 256 MiB)"),
            Flag("workers", "Processes that write files in parallel.", kind=int, default=1),
            cluster_flag("write files"),
            Flag("join", "Join folders instead; see hltm sample --join --help.", switch=True),
            Flag("verify", "Check OUT instead; see hltm sample --verify --help.", switch=True),
            Flag("grammar", "Write strings of a grammar instead; see hltm sample --grammar --help.",
                 switch=True),
        ),
    ]  # fmt: skip
    chosen = _families.value_of("--family", arguments)
    command = "hltm sample" + (f" --family {name}" if chosen and make else "")
    return parse(options, arguments, command, DESCRIPTION), make


def _out(meaning: str) -> Flag:
    """The folder, which is given without a flag."""
    return Flag("out", meaning, default="", metavar="OUT", positional=True, note="(required)")


def _tree(make: Any, options: dict[str, Any]) -> LatentTree:
    """The tree of the file, or a tree of the family."""
    if make is None:
        return _tree_files.load(options)
    keywords = _families.keywords(make, options, TAKEN)
    if options.get("members") is not None:
        keywords["members"] = options["members"]
    tree: LatentTree = make(**keywords)
    return tree


def _export(console: Console, tree: LatentTree, options: dict[str, Any]) -> DataFolder:
    """Write the files with a progress bar."""
    import hltm
    from hltm.sampling.augment import parse

    augment = parse(options["augment"]) if options["augment"] else None
    nodes = (
        options["nodes"] if options["nodes"] in ("all", "leaves") else options["nodes"].split(",")
    )
    if isinstance(nodes, list) and "leaves" in nodes and "leaves" not in tree.topology.names:
        raise ValueError(
            f"--nodes {options['nodes']}: leaves are always kept, so name the latents alone, e.g. --nodes 0"
        )
    with _executor(options) as executor, progress_bar(console, "rows") as bar:
        try:
            return hltm.export(
                tree, options["out"], options["n"], seed=options["draw_seed"],
                start=options["start"], views=options["views"], augment=augment, nodes=nodes,
                format=options["format"], columns=options["columns"],
                rows_per_shard=options["rows_per_shard"],
                progress=functools.partial(show_rows, bar), executor=executor,
            )  # fmt: skip
        except KeyError as error:  # a node that the tree does not have
            raise ValueError(error.args[0]) from error


def _executor(options: dict[str, Any]) -> AbstractContextManager[Executor | None]:
    """Processes or a cluster that write the files; None for this process alone."""
    from dualnets.lab.clusters import executor_of
    from dualnets.lab.workers import LocalProcesses

    count = options["workers"]
    return LocalProcesses(count) if count > 1 else executor_of(options["cluster"])


def show_rows(bar: Progress, done: int, total: int) -> None:
    """Show that `done` of `total` rows are written; those of the first call were there before."""
    if not bar.tasks:
        bar.add_task("writing", total=total, completed=done, rate="")
        return
    task = bar.tasks[0]
    bar.update(task.id, completed=done)
    if task.speed:
        bar.update(task.id, rate=f"{task.speed:,.0f}/s")


def _show(console: Console, data: DataFolder, out: str, seconds: float) -> None:
    """Print what is written, where it is, and how to read it."""
    shards = data.manifest["shards"]
    size = sum(entry["bytes"] for entry in shards)
    shown = f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
    files = f"{len(shards):,} {data.recipe.file_format} file{'s' * (len(shards) != 1)}"
    rows = sum(entry["rows"] for entry in shards)
    held = ", ".join(
        f"{n} in {name.replace('_', ' ')}" if name.startswith("view_") else f"{n} {name}"
        for name, n in data.recipe.widths.items()
    )
    console.print(f"{rows:,} rows in {files}, {shown}, {seconds:.1f} s")
    console.print(f"states of a row: {held}", style="dim")
    print_plain(console, f"\n  {out}")
    console.print("\nhltm.load reads it in Python; hltm sample --verify checks it.", style="dim")


def _join(arguments: list[str]) -> int:
    """Join folders into a new one."""
    import hltm

    options = grouped(
        "files",
        Flag("join", "The folders to join, in any order.", several=True, metavar="PART"),
        Flag("out", "The new folder.", required=True, metavar="OUT"),
    )
    given = parse(options, arguments, "hltm sample", JOIN)
    console = terminal()

    def write() -> DataFolder:
        with progress_bar(console, "rows") as bar:
            return hltm.join(
                given["join"], given["out"], progress=functools.partial(show_rows, bar)
            )

    return _written(console, given["out"], write)


def _verify(arguments: list[str]) -> int:
    """Check a folder and print what is found."""
    import hltm

    options = grouped(
        "files",
        _out("Folder that hltm sample or hltm.export wrote."),
        Flag("verify", "Check OUT.", switch=True),
        Flag("rows", "How many random rows to draw again.", kind=int, default=1000),
        Flag("seed", "Seed that chooses the rows.", kind=int, default=0),
    )
    given = parse(options, arguments, "hltm sample", VERIFY)
    if not given["out"]:
        raise ValueError("name the folder to check, e.g. hltm sample --verify out/")
    found = hltm.verify(given["out"], rows=given["rows"], seed=given["seed"])
    console = terminal()
    for line in str(found).splitlines():
        print_plain(console, line)
    return 0 if found.ok else 1
