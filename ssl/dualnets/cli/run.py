"""Run an experiment: table, figure, page and verdicts."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dualnets import experiments
from dualnets.cli._clusters import check_workers, cluster_flag
from dualnets.cli._flags import HELP, Flag, asks_for_help, grouped, parse
from dualnets.lab.experiment import Experiment
from dualnets.lab.fields import applies_to, conditions, kind_of
from dualnets.lab.grids import settable_fields, shown_values, variants

if TYPE_CHECKING:
    from rich.console import Console

    from dualnets.lab.reporter import Reporter
    from dualnets.lab.runner import Run

USAGE = """usage: hltm run EXPERIMENT [OPTIONS]

Run an experiment and leave its table, figure, page and verdicts under runs/.
What is stored already is not computed again.

experiments:
{names}

`hltm run EXPERIMENT --help` shows its settings; every setting is a flag that
takes one value or several, e.g. --units 2 10.
"""
LONGEST = 60  # characters of a condition in the help; a longer one names most of the methods
SETTINGS = """Every setting takes one value or several, e.g. --units 2 10, whole numbers also as a range, e.g.
--seed 0:8 for 0 to 7, and every combination is a cell. The defaults are those of the {scale} scale, with |
between its grids{variants}. Settings that have no effect on any cell are not shown: give others to see what
applies to them{example}."""
EXAMPLES = {"loss": "triplet", "optimizer": "adam", "network": "mlp"}


def main(arguments: list[str]) -> int:
    """Run the experiment that is named first, with the settings after it."""
    if not arguments or arguments[0] in HELP:
        names = ", ".join(name.replace("_", "-") for name in experiments.names())
        lines = textwrap.fill(
            names, 80, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
        print(USAGE.format(names=lines), end="")
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise ValueError(f"name the experiment before {arguments[0]}, e.g. hltm run emergence")
    experiment = experiments.load(arguments[0])
    options, changes = _parse(experiment, arguments[1:])

    from dualnets.cli._reporter import TerminalReporter
    from dualnets.cli._terminal import terminal
    from dualnets.lab import runner
    from dualnets.lab.clusters import executor_of

    console = terminal()
    track, dry, cluster = (options.pop(name) for name in ("track", "dry_run", "cluster"))
    if dry:
        _show_plan(console, experiment, options, changes)
        return 0
    reporters: list[Reporter] = []
    if track is not None:
        from dualnets.lab.tensorboard import TensorBoardReporter

        reporters.append(TensorBoardReporter(options["out"], experiment))
    try:
        with (
            executor_of(cluster) as executor,
            TerminalReporter(console, experiment) as reporter,
        ):
            run = runner.run(
                experiment, reporter=[reporter, *reporters], executor=executor, **options, **changes
            )
    except KeyboardInterrupt:
        print("\nhltm: interrupted; finished cells are stored, and the same command continues from "
              "there", file=sys.stderr)  # fmt: skip
        return 130
    _show(console, experiment, run)
    return 0


def _parse(experiment: Experiment, arguments: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the run, and the settings that are given, each a list of values."""
    command = f"hltm run {experiment.flag}"
    of_the_run, settings = _options(experiment), _settings(experiment, [])
    texts = {}
    if asks_for_help(arguments):
        rest = [text for text in arguments if text not in HELP]
        try:
            given = parse([*of_the_run, *settings], rest, command, "")
        except ValueError:  # help is given whatever else is wrong
            given = {}
        changes = {option.name: given[option.name] for option in settings if given.get(option.name)}
        shown = settable_fields(experiment, changes)
        scale = str(given.get("scale"))
        scale = scale if scale in experiment.grids else "default"
        settings = [own for own in _settings(experiment, shown, scale) if own.name in shown]
        named = variants(experiment, scale)
        if not named:
            of_the_run = [option for option in of_the_run if option.name != "only"]
        possible = [f", e.g. --{k} {v} --help" for k, v in EXAMPLES.items() if k in shown]
        texts = {
            "scale": scale,
            "variants": " and each with the variants that have it" * bool(named),
            "example": next(iter(possible), ""),
        }
    claims = [f"{claim.text} ({claim.reference})." for claim in experiment.claims]
    paragraphs = [experiment.title, *claims, *experiment.description]
    description = "\n\n".join([*paragraphs, SETTINGS.format_map(texts)]) if texts else ""
    try:
        given = parse([*of_the_run, *settings], arguments, command, description)
    except ValueError as error:
        raise ValueError(_of_other_experiments(experiment, str(error)) or str(error)) from None
    options = {option.name: given.pop(option.name) for option in of_the_run}
    check_workers(options["workers"], options["cluster"])
    options["workers"] = options["workers"] or None
    return options, {name: values for name, values in given.items() if values is not None}


def _of_other_experiments(experiment: Experiment, message: str) -> str:
    """The error of an unknown option that is a setting of other experiments; empty if it is none."""
    unknown = re.match(r"unknown option --([a-z0-9-]+)", message)
    name = unknown[1].replace("-", "_") if unknown else ""
    having = [
        other.replace("_", "-")
        for other in experiments.names()
        if name in {item.name for item in fields(experiments.load(other).Settings)}
    ]
    if not having:
        return ""
    more = f" and {len(having) - 4} more" * (len(having) > 4)
    return f"{experiment.flag} has no setting --{unknown[1]}; {', '.join(having[:4])}{more} have it"  # type: ignore[index]


def _options(experiment: Experiment) -> list[Flag]:
    """The options that are not settings."""
    names = ", ".join(map(shlex.quote, variants(experiment, "default")))
    return grouped(
        "options of the run",
        Flag("scale", f"How large a grid: {', '.join(experiment.grids)}.", default="default",
             metavar="NAME"),
        Flag("device", "Where to compute: auto, cpu, cuda (all cards), cuda:1, mps or xpu.",
             default="auto", metavar="NAME"),
        Flag("out", "Folder of all results.", default="runs", metavar="FOLDER"),
        Flag("fresh", "Compute again what is stored.", switch=True),
        Flag("only", f"Variants to run, of {names}; verdicts are open then.", several=True, default=[],
             metavar="VARIANT", note=""),
        Flag("dry_run", "Show the cells, which of them are stored, and an estimate of time, memory and "
             "disk from stored cells; compute and write nothing.", switch=True),
        Flag("track", "Write the curves of all cells as TensorBoard's event files into "
             "OUT/EXPERIMENT/tensorboard/.",
             choices=("tensorboard",)),
        Flag("workers", "Processes that compute cells in parallel; 0 for one per core or card.", kind=int,
             default=0),
        cluster_flag("compute cells"),
    )  # fmt: skip


def _settings(experiment: Experiment, shown: Sequence[str], scale: str = "default") -> list[Flag]:
    """Every setting as an option that takes several values; `shown`: those that the help explains."""
    needed = conditions(experiment.Settings)
    found = []
    for item in fields(experiment.Settings):
        kind, _ = kind_of(item)
        # None leaves a choice to what the setting describes, which its meaning explains
        default = shown_values(experiment, scale, item.name) if item.name in shown else ""
        choosers = {other for alternative in needed.get(item.name, ()) for other in alternative}
        condition = applies_to(experiment.Settings, item.name) if choosers & {*shown} else ""
        if len(condition) > LONGEST:
            condition = ""
        found.append(
            Flag(
                item.name,
                item.metadata["meaning"] + f"; for {condition}" * bool(condition),
                kind=kind,
                choices=item.metadata.get("choices"),
                several=True,
                note=f"(default: {default})" * bool(default),
                group=_group(experiment.Settings, item.name),
            )
        )
    return found


def _group(settings: type, name: str) -> str:
    """A heading for a setting, after the class that declares it, e.g. `network settings`."""
    for kind in settings.__mro__:
        if name in inspect.get_annotations(kind):
            words = re.findall("[A-Z][a-z]*", kind.__name__.removesuffix("Settings"))
            return f"{' '.join(words).lower()} settings" if words else "settings of this experiment"
    raise AttributeError(f"{settings.__name__} has no field {name}")


def _show_plan(
    console: Console, experiment: Experiment, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Print what a run would do."""
    from dualnets.cli._terminal import print_plain
    from dualnets.lab.dry_run import plan

    found = plan(experiment, **options, **changes)
    for cell in found.cells:
        what = ", ".join(f"{key.replace('_', '-')} {cell.settings[key]}" for key in found.shown)
        marks = "  (control)" * cell.control + "  (stored)" * cell.stored
        print_plain(console, f"{cell.name}  {what}{marks}")
    print_plain(console, "")
    for line in found.summary():
        print_plain(console, line)


def _show(console: Console, experiment: Experiment, run: Run) -> None:
    """Print the final table, the verdicts, and the paths of the files."""
    from rich.text import Text

    from dualnets.cli._run_texts import COLOURS
    from dualnets.cli._tables import terminal_tables
    from dualnets.cli._terminal import print_plain
    from dualnets.lab.report.page import sentence
    from dualnets.lab.runner import summary_table

    if run.reused:
        print_plain(
            console, "This run is finished; nothing was computed (--fresh computes it again)."
        )
    console.print()
    for table in terminal_tables(summary_table(experiment, run), console.width):
        console.print(table)
        console.print()
    for verdict in run.verdicts:
        console.print(Text(f"{verdict.claim}:", "bold"))
        word = (verdict.verdict.upper(), f"bold {COLOURS[verdict.verdict]}")
        console.print(Text.assemble(word, f". {sentence(verdict)}"))
        console.print()
    for file in ("index.html", f"{run.experiment}.png", "results.parquet", "verdict.json"):
        print_plain(console, f"  {run.folder / file}")
