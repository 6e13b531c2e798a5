"""Find, compare and remove stored runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnets.cli._flags import Flag, parse
from dualnets.cli._run_texts import experiment_of, shown_date, verdict_line

if TYPE_CHECKING:
    from rich.console import Console

    from dualnets.lab.stored_runs import StoredRun

DESCRIPTION = """List the stored runs, newest first: the name to type, experiment, date (UTC), scale, cells,
and size of the run and its cells on disk; the settings that differ from those of the scale; and every
claim with its verdict, effect with a 95% interval, and n.

hltm runs show NAME shows one run, hltm runs diff A B compares two, hltm runs rm NAME ... removes some, and
hltm runs clean what no run needs; each has a --help. NAME is the beginning of a run's name, or
EXPERIMENT/NAME; EXPERIMENT alone will do if it has one run."""
SHOW = "Show a run: command, settings, verdicts, files, cells and time."
DIFF = """Compare two runs: the settings that differ, the claims side by side with the difference of their
effects, and a figure of the curves of their common metrics."""
RM = """Remove runs, and the cells that no other run needs, after a question. Only what runs write is removed,
but for the event files of TensorBoard."""
CLEAN = """Remove the cells that no finished run needs, and what killed processes left more than a day ago,
after a question. A run that was interrupted loses such cells. Those of an experiment that is being computed
on this machine stay; do not clean while another machine computes into the folder."""
OUT = Flag("out", "Folder of all results.", default="runs", metavar="FOLDER")
YES = Flag("yes", "Remove without a question.", switch=True)


def main(arguments: list[str]) -> int:
    """List the runs, or do what the first argument says."""
    actions: dict[str, Callable[[list[str]], int]] = {
        "show": _show, "diff": _diff, "rm": _remove, "clean": _clean,
    }  # fmt: skip
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in actions:
            known = ", ".join(actions)
            raise ValueError(f"expected one of {known} after hltm runs, got {arguments[0]!r}")
        return actions[arguments[0]](arguments[1:])
    return _list(arguments)


def _list(arguments: list[str]) -> int:
    """Print an entry per run."""
    as_json = Flag("json", "Print a JSON list for other programs.", switch=True)
    options = parse([OUT, as_json], arguments, "hltm runs", DESCRIPTION)
    from dualnets.cli._terminal import print_plain, terminal
    from dualnets.lab.stored_runs import find_runs, short_names

    out = options["out"]
    missing = out == OUT.default and not Path(out).exists()  # nothing was run yet
    runs = [] if missing else find_runs(out)
    short = short_names(runs)
    if options["json"]:
        print(json.dumps([_as_json(run, short[run.folder]) for run in runs], indent=2))
        return 0
    console = terminal()
    if not runs:
        print_plain(console, f"{out} holds no runs; hltm run emergence makes one.")
    wide = max((len(name) for name in short.values()), default=0)
    for run in runs:
        _print_entry(console, run, short[run.folder].ljust(wide))
    return 0


def _as_json(run: StoredRun, short: str) -> dict[str, Any]:
    from dualnets.lab.stored_runs import changed_flags

    return {
        "name": short, "run": run.name, "experiment": run.experiment, "date": run.date,
        "scale": run.scale, "changed": changed_flags(run, experiment_of(run)),
        "command": run.manifest.get("command", ""), "cells": len(run.cells or ()), "bytes": run.size,
        "folder": str(run.folder), "damage": run.damage,
        "verdicts": [
            {key: v.get(key) for key in ("name", "claim", "verdict", "effect", "effect_value",
                                         "interval", "n", "of")}
            for v in run.verdicts
        ],
    }  # fmt: skip


def _print_entry(console: Console, run: StoredRun, name: str) -> None:
    """A line about the run, one with what differs, and one per claim."""
    from rich.text import Text

    from dualnets.cli._terminal import print_plain
    from dualnets.lab.report.tables import counted
    from dualnets.lab.stored_runs import changed_flags, flag, shown_size

    shown = f"{flag(run.experiment):20} {shown_date(run.date)}  {run.scale:8}"
    if run.cells is not None:
        shown += f"{counted(len(run.cells), 'cell'):>9}{shown_size(run.size):>9}"
    head = Text.assemble((name, "bold cyan"), f"  {shown}")
    head.rstrip()
    console.print(head, soft_wrap=True)
    if run.damage:
        console.print(Text.assemble("  ", ("damaged: ", "bold red"), run.damage), soft_wrap=True)
        return
    changed = changed_flags(run, experiment_of(run))
    if changed:
        print_plain(console, f"  {' '.join(changed)}")
    longest = max((len(verdict["name"]) for verdict in run.verdicts), default=0)
    for verdict in run.verdicts:
        console.print(verdict_line(verdict, longest), soft_wrap=True)


def _chosen(names: Sequence[str], out: str) -> list[StoredRun]:
    """The runs that are meant, each once."""
    from dualnets.lab.stored_runs import find_runs, named

    runs = find_runs(out)
    found = {run.folder: run for run in (named(name, runs, out) for name in names)}
    return list(found.values())


def _show(arguments: list[str]) -> int:
    """Print what there is to know about one run."""
    name = Flag("name", "Of the run.", positional=True, metavar="NAME", note="(required)")
    options = parse([name, OUT], arguments, "hltm runs show", SHOW)
    if options["name"] is None:
        raise ValueError("name a run, e.g. hltm runs show fa3a; hltm runs lists them")
    (run,) = _chosen([options["name"]], options["out"])

    from dualnets.cli import _run_details
    from dualnets.cli._terminal import terminal

    _run_details.show(terminal(), run, experiment_of(run))
    return 0


def _diff(arguments: list[str]) -> int:
    """Compare two runs."""
    names = Flag("names", "Of the two runs.", positional=True, several=True, default=[], metavar="A B",
                 note="(required)")  # fmt: skip
    picture = Flag("picture", "File of the figure: .png or .svg.", metavar="FILE",
                   note="(default: OUT/comparisons/A-B.png)")  # fmt: skip
    options = parse([names, OUT, picture], arguments, "hltm runs diff", DIFF)
    if len(options["names"]) != 2:
        raise ValueError(
            f"name two runs, e.g. hltm runs diff fa3a 11b2, got {len(options['names'])}"
        )
    chosen = _chosen(options["names"], options["out"])
    if len(chosen) == 1:
        raise ValueError(f"{' and '.join(options['names'])} are one run, expected two")
    for run in chosen:
        if run.damage:
            raise ValueError(f"run {run.name} is damaged: {run.damage}")

    from dualnets.cli import _run_comparison
    from dualnets.cli._terminal import terminal

    target = _run_comparison.target(options["picture"], options["out"], chosen)
    first, second = chosen
    _run_comparison.show(terminal(), first, second, target)
    return 0


def _remove(arguments: list[str]) -> int:
    """Remove runs."""
    names = Flag("names", "Of the runs.", positional=True, several=True, default=[],
                 metavar="NAME", note="(required)")  # fmt: skip
    options = parse([names, YES, OUT], arguments, "hltm runs rm", RM)
    if not options["names"]:
        raise ValueError("name runs, e.g. hltm runs rm fa3a; hltm runs lists them")
    chosen = _chosen(options["names"], options["out"])

    from dualnets.cli import _removal_question
    from dualnets.lab import removal

    return _removal_question.ask(removal.of_runs(options["out"], chosen), yes=options["yes"])


def _clean(arguments: list[str]) -> int:
    """Remove what no run needs."""
    options = parse([YES, OUT], arguments, "hltm runs clean", CLEAN)

    from dualnets.cli import _removal_question
    from dualnets.lab import removal

    return _removal_question.ask(removal.unused(options["out"]), yes=options["yes"])
