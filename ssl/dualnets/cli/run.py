"""Run an experiment: table, figure, page and verdict."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from dualnets import experiments
from dualnets.cli._bar import progress_bar
from dualnets.cli._flags import parse
from dualnets.lab import runner
from dualnets.lab.experiment import Fixed, ProgressListener
from dualnets.lab.report.page import shown
from dualnets.lab.workers import WorkerDiedError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

USAGE = """usage: hltm run EXPERIMENT [OPTIONS]

Run an experiment and leave its table, figure, page and verdict under runs/.
What is stored already is not computed again.

experiments: {names}

`hltm run EXPERIMENT --help` shows its settings; every setting is a flag that
takes one value or several, e.g. --units 2 10.
"""
TEXTS = ("loss", "network", "data", "identity", "where", "what", "verdict")  # columns of words
OPTIONS = ("scale", "device", "out", "fresh", "workers")


def main(arguments: list[str]) -> int:
    """Run the experiment named first, with the settings after it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        names = ", ".join(name.replace("_", "-") for name in experiments.names())
        print(USAGE.format(names=names), end="")
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise ValueError(f"name the experiment before {arguments[0]}, e.g. hltm run emergence")
    experiment = experiments.load(arguments[0])
    options, changes = _parse(experiment, arguments[0], arguments[1:])

    from rich.console import Console

    console = Console(highlight=False)
    reporter = TerminalReporter(console, headline_of(experiment))
    try:
        with reporter:
            run = runner.run(experiment, reporter=reporter, **options, **changes)
    except KeyboardInterrupt:
        print("\nhltm: interrupted; finished cells are stored and the same command goes on from "
              "there", file=sys.stderr)  # fmt: skip
        return 130
    except WorkerDiedError as error:
        print(f"hltm: {error} Finished cells are stored and the same command goes on from there",
              file=sys.stderr)  # fmt: skip
        return 1
    _show(console, experiment, run)
    return 0


def _parse(
    experiment: Any, name: str, arguments: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the run, and the settings that were given, each a list of values."""
    import tyro

    values = {scale: runner.grid_values(experiment, scale) for scale in experiment.grids}
    of_all_scales = [grid for grids in experiment.grids.values() for grid in grids]
    hints = get_type_hints(experiment.Settings)
    flags: list[Any] = [
        ("scale", Annotated[str, tyro.conf.arg(
            help=f"How large a grid: {', '.join(experiment.grids)}.", metavar="NAME")], "default"),
        ("device", Annotated[str, tyro.conf.arg(
            help="Where to compute: auto, cpu or cuda.", metavar="NAME")], "auto"),
        ("out", Annotated[str, tyro.conf.arg(
            help="Folder of all results.", metavar="FOLDER")], "runs"),
        ("fresh", Annotated[bool, tyro.conf.arg(
            help="Compute again what is stored.")], False),
        ("workers", Annotated[int, tyro.conf.arg(
            help="Processes that compute cells side by side; 0 for one a core.")], 0),
    ]  # fmt: skip
    for item in dataclasses.fields(experiment.Settings):
        if all(isinstance(grid.get(item.name), Fixed) for grid in of_all_scales):
            if f"--{item.name.replace('_', '-')}" in arguments:
                raise ValueError(runner.cannot_be_set(item.name))
            continue
        kind = hints[item.name]
        choices = item.metadata.get("choices")
        element = Literal[choices] if choices else kind
        lists = values["default"][item.name]
        default = " | ".join(" ".join(map(str, found)) for found in lists)
        arg = tyro.conf.arg(
            help=item.metadata["meaning"],
            help_behavior_hint=f"(default: {default})",
            metavar=f"{_metavar(kind, choices)} ...",
        )
        flags.append((item.name, Annotated[tuple[element, ...], arg], ()))  # type: ignore[valid-type]
    description = f"{experiment.claim}.\n\n{(experiment.description).strip()}"
    given = parse(flags, arguments, f"hltm run {name}", description)
    # a flag without a value parses to no values, as one that is not given does
    named = {text.removeprefix("--").replace("-", "_") for text in arguments if text[:2] == "--"}
    options = {key: given.pop(key) for key in OPTIONS}
    options["workers"] = options["workers"] or None
    return options, {key: value for key, value in given.items() if value != () or key in named}


def _metavar(kind: type, choices: Sequence[str] | None) -> str:
    if choices:
        return "{" + ",".join(choices) + "}"
    return {int: "INT", float: "NUMBER", bool: "{True,False}"}.get(kind, "TEXT")


class CellBar(ProgressListener):
    """The bar of one cell: its rate, its time left, and how far the root has come."""

    def __init__(self, bar: Any, task: Any, name: str, members: int) -> None:
        self.bar, self.task, self.name, self.members = bar, task, name, members

    def updated(self, steps: int) -> None:
        self.bar.advance(self.task, steps)
        (task,) = (task for task in self.bar.tasks if task.id == self.task)
        if task.speed:
            self.bar.update(self.task, rate=f"{task.speed * self.members:,.0f}/s")

    def seen(self, step: int, alignment: Mapping[int, float]) -> None:
        root = alignment[max(alignment)]
        self.bar.update(self.task, description=f"{self.name}  |corr| with the root {root:.2f}")


class TerminalReporter(runner.Reporter):
    """ProgressListener with rate and time left on a terminal, one line per finished cell anywhere."""

    def __init__(self, console: Console, headline: Callable[[pd.DataFrame], str]) -> None:
        self.console, self.headline = console, headline
        self.bar = progress_bar(console, "updates")
        self.tasks: dict[str, Any] = {}
        self.done = self.started = self.count = 0

    def __enter__(self) -> TerminalReporter:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def plan(self, cells: Sequence[Mapping[str, Any]], stored: int) -> None:
        self.count = len(cells)
        self.done = self.started = stored
        self.varying = [key for key in cells[0] if len({str(cell[key]) for cell in cells}) > 1]
        self.free = _free(cells) if "variant" in self.varying else self.varying
        text = f"{len(cells)} cells"
        if "members" in cells[0]:
            text += f" of {cells[0]['members']} trees"
        self.console.print(text + (f", {stored} of them stored" if stored else ""))

    def cell_started(self, settings: Mapping[str, Any], steps: int) -> ProgressListener:
        self.started += 1
        name = f"cell {self.started}/{self.count}"
        task = self.bar.add_task(name, total=max(steps, 1), rate="")
        self.tasks[str(settings)] = task
        return CellBar(self.bar, task, name, int(settings.get("members", 1)))

    def cell_done(self, settings: Mapping[str, Any], table: pd.DataFrame, seconds: float) -> None:
        self.done += 1
        self.bar.remove_task(self.tasks.pop(str(settings)))
        # a variant's name says what its settings are
        varying = [key for key in self.varying if key in ("variant", *self.free)]
        what = ", ".join(f"{key.replace('_', '-')} {settings[key]}" for key in varying)
        parts = ": ".join(filter(None, [what, self.headline(table)]))
        self.console.print(f"{self.done}/{self.count}  {parts}  ({seconds:.0f} s)")


def _free(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that differ between cells of one variant."""
    of_variant: dict[Any, list[Mapping[str, Any]]] = {}
    for cell in cells:
        of_variant.setdefault(cell["variant"], []).append(cell)
    return [
        key
        for key in cells[0]
        if any(len({str(cell[key]) for cell in same}) > 1 for same in of_variant.values())
    ]


def headline_of(experiment: Any) -> Callable[[pd.DataFrame], str]:
    """What is said of a finished cell: the experiment's own words, or how the root fared."""

    def root(table: pd.DataFrame) -> str:
        ends = table[table["metric"].isin(("best_abs_correlation", "best_correlation_ratio"))]
        top = ends[ends["level"] == ends["level"].max()]
        first = top[top["step"] == 0]["value"].mean()
        last = top[top["step"] == top["step"].max()]["value"].mean()
        return f"root {first:.2f} -> {last:.2f}"

    found: Callable[[pd.DataFrame], str] = getattr(experiment, "headline", root)
    return found


def _show(console: Console, experiment: Any, run: runner.Run) -> None:
    """The final table, the verdict, and where everything lies."""
    from dualnets.lab.report.page import sentence

    if run.reused:
        console.print("This run is finished; nothing was computed (--fresh computes it again).")
    console.print()
    for table in terminal_tables(runner.summary_table(experiment, run), console.width):
        console.print(table)
        console.print()
    colour = {"holds": "green", "fails": "red", "open": "yellow"}[run.verdict.verdict]
    console.print(f"{experiment.claim}:", style="bold")
    console.print(f"[bold {colour}]{run.verdict.verdict.upper()}[/]. {sentence(run.verdict)}")
    console.print()
    for file in ("index.html", f"{run.experiment}.png", "results.parquet", "verdict.json"):
        console.print(f"  {run.folder / file}", soft_wrap=True)


def terminal_tables(summary: pd.DataFrame, width: int = 80) -> Iterator[Any]:
    """The summary as tables, one for each combination of settings that differ.

    What stands left of a column `network` are such settings; without one there is a single table.
    Columns that do not fit the width go below, beside the same first columns.
    """
    columns = list(summary.columns)
    settings = columns[: columns.index("network")] if "network" in columns else []
    caption = summary.attrs.get("caption")
    if not settings:
        yield from _fitting_tables(summary, None, caption, width)
        return
    for key, rows in summary.groupby(settings, sort=False):
        title = ", ".join(f"{name} {value}" for name, value in zip(settings, key, strict=True))
        yield from _fitting_tables(rows.drop(columns=settings), title, caption, width)


def _fitting_tables(
    rows: pd.DataFrame, title: str | None, caption: str | None, width: int
) -> Iterator[Any]:
    """One table, or several with the same first columns, up to the first of fractions; its caption."""
    from rich.text import Text

    if caption is None and "n" in rows:
        trees = ", ".join(map(str, sorted(set(rows["n"]))))
        of = " of levels ≥ 2" if any("≥ 2" in str(column) for column in rows) else ""
        caption = f"means over n = {trees} trees; gap closed{of} with its 95% interval"
        if {"before", "root", "spread", "rank"} <= set(rows):
            caption += (
                "; before, root: best |correlation| with the root, untrained and trained; spread, rank: "
                "of what the loss compares, a spread of 0 is a collapse"
            )
        rows = rows.drop(columns="n")
    elif caption is not None and "n trees" in caption and rows["n"].nunique() == 1:
        caption = caption.replace("n trees", f"n = {rows['n'].iloc[0]} trees")
        rows = rows.drop(columns="n")
    texts = {str(name): [shown(value) for value in rows[name]] for name in rows}
    # a column is as wide as its cells and the longest word of its name, which is broken at spaces
    wide = {name: max(map(len, (*column, *name.split(" ")))) for name, column in texts.items()}
    fractions = [at for at, kind in enumerate(rows.dtypes) if kind.kind == "f"]
    shared = list(texts)[: max(fractions[0], 1)] if fractions else list(texts)[:1]
    parts = [list(shared)]
    for name in list(texts)[len(shared) :]:
        if sum(wide[n] + 1 for n in [*parts[-1], name]) > width + 1 and parts[-1] != shared:
            parts.append(list(shared))
        parts[-1].append(name)
    for part in parts:
        yield _terminal_table({n: texts[n] for n in part}, wide, title)
    if caption is not None:
        yield Text(caption, "dim italic")


def _terminal_table(
    texts: Mapping[str, Sequence[str]],
    wide: Mapping[str, int],
    title: str | None,
) -> Any:
    """One table; what repeats in the first column stands once."""
    from rich import box
    from rich.table import Table

    drawn = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=0, title=title, title_justify="left"
    )
    for at, name in enumerate(texts):
        justify: Any = "left" if at == 0 or name in TEXTS else "right"
        head = "\n".join(textwrap.wrap(name, wide[name]))
        drawn.add_column(head, justify=justify, no_wrap=True)
    first = next(iter(texts.values()))
    before = None
    for cells in zip(*texts.values(), strict=True):
        again = cells[0] == before
        if before is not None and not again and len(set(first)) < len(first):
            drawn.add_section()
        drawn.add_row("" if again else cells[0], *cells[1:])
        before = cells[0]
    return drawn
