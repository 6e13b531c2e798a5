"""One stored run on a terminal: command, settings, verdicts, files, cells and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualnets.cli._run_texts import effect, shown_date, verdict_line
from dualnets.cli._terminal import print_plain
from dualnets.lab.dry_run import shown_seconds
from dualnets.lab.free_settings import shown_settings
from dualnets.lab.report.tables import counted
from dualnets.lab.stored_runs import changed_flags, flag, folder_size, shown_size
from dualnets.lab.stored_settings import in_effect

if TYPE_CHECKING:
    from rich.console import Console

    from dualnets.lab.experiment import Experiment
    from dualnets.lab.report.tables import counted
from dualnets.lab.stored_runs import StoredRun


def show(console: Console, run: StoredRun, experiment: Experiment | None) -> None:
    """Print a run; of a damaged one what is known."""
    print_plain(console, f"{flag(run.experiment)}/{run.name}", "bold")
    print_plain(console, f"{shown_date(run.date)} UTC, {run.scale or 'unknown'} scale")
    if run.damage:
        print_plain(console, f"damaged: {run.damage}", "bold red")
    else:
        print_plain(console, f"{run.manifest['command']}\n")
        _show_settings(console, run, experiment)
        _show_verdicts(console, run.verdicts)
        _show_cells(console, run)
    print_plain(console, "\nfiles:", "bold")
    for file in sorted(path for path in run.folder.iterdir() if not path.name.startswith(".")):
        size = folder_size(file) if file.is_dir() else file.lstat().st_size
        print_plain(console, f"  {file}  {shown_size(size)}")


def _show_settings(console: Console, run: StoredRun, experiment: Experiment | None) -> None:
    """First the settings that differ from those of the scale, then those that vary, then the others."""
    changed = changed_flags(run, experiment)
    of_scale = f"from those of the {run.scale} scale"
    text = " ".join(changed) if changed else "none"
    _print_wrapped(console, f"settings that differ {of_scale}: ", text)
    cells = in_effect(run.settings, experiment.Settings if experiment else None)
    every = [{name.replace("_", "-"): value for name, value in cell.items()} for cell in cells]
    varying = shown_settings(every)
    if varying:
        values = [f"{n} {_values(every, n)}" for n in varying]
        _print_wrapped(console, "settings that vary between cells: ", "; ".join(values))
    names = dict.fromkeys(name for cell in every for name in cell)
    same = [n for n in names if len({repr(c[n]) for c in every if n in c}) == 1]
    _print_wrapped(console, "the others: ", "; ".join(f"{n} {_values(every, n)}" for n in same))
    console.print()


def _values(cells: Sequence[Mapping[str, Any]], name: str) -> str:
    return ", ".join(dict.fromkeys(str(cell[name]) for cell in cells if name in cell))


def _show_verdicts(console: Console, verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Per claim its sentence, the verdict with effect and n, what the effect is, and the reason."""
    for verdict in verdicts:
        _print_wrapped(console, "", f"{verdict['claim']}.", "bold")
        console.print(verdict_line(verdict), soft_wrap=True)
        measured = f"{verdict['effect']}; " if effect(verdict)[0] != "–" else ""
        _print_wrapped(console, "", f"  {measured}{verdict['reason']}", "dim")
        console.print()


def _show_cells(console: Console, run: StoredRun) -> None:
    """How many cells, what they took, and where they were computed."""
    cells = run.manifest["cells"]
    seconds = sum(cell["seconds"] for cell in cells)
    devices = Counter(str(cell.get("device", "unknown")) for cell in cells)
    where = ", ".join(devices)
    print_plain(
        console,
        f"{counted(len(cells), 'cell')}, {shown_seconds(seconds)} of computation on {where}, "
        f"{shown_size(run.size)} on disk",
    )


def _print_wrapped(console: Console, head: str, text: str, style: str = "") -> None:
    """A paragraph that begins with a heading, its further lines indented."""
    from rich.text import Text

    whole = Text.assemble((head, style or "bold"), (text, style))
    for at, line in enumerate(whole.wrap(console, console.width - 2)):
        line.rstrip()
        console.print(Text("  " * bool(at)).append_text(line))
