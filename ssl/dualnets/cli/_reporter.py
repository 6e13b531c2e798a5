"""The progress of a run on a terminal: a bar per cell that is being computed, a line per finished one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualnets.cli._terminal import print_plain, progress_bar
from dualnets.lab.experiment import Experiment, ProgressListener
from dualnets.lab.free_settings import shown_settings
from dualnets.lab.report.tables import counted
from dualnets.lab.reporter import Reporter

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from rich.console import Console


class CellBar(ProgressListener):
    """The progress bar of one cell: its rate, its time left, and the alignment with the root."""

    def __init__(self, bar: Any, task: Any, name: str, members: int) -> None:
        self.bar, self.task, self.name, self.members = bar, task, name, members

    def updated(self, steps: int) -> None:
        self.bar.advance(self.task, steps)
        (task,) = (task for task in self.bar.tasks if task.id == self.task)
        if task.speed:
            self.bar.update(self.task, rate=f"{task.speed * self.members:,.0f}/s")

    def probed(self, step: int, found: Mapping[int, float] | Mapping[str, float]) -> None:
        score, value = list(found.items())[-1]  # the highest level
        words = score if isinstance(score, str) else "|corr| with the root"
        self.bar.update(self.task, description=f"{self.name}  {words} {value:.2f}")


class TerminalReporter(Reporter):
    """Shows progress bars on a terminal, and prints a line per finished cell anywhere."""

    def __init__(self, console: Console, experiment: Experiment) -> None:
        self.console, self.experiment = console, experiment
        self.bar = progress_bar(console, "updates")
        self.tasks: dict[str, Any] = {}
        self.done = self.started = self.count = 0

    def __enter__(self) -> TerminalReporter:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def damaged(self, folder: Path, reason: str) -> None:
        print_plain(self.console, f"{folder} is damaged: {reason}; it is set aside and made again")

    def plan(self, cells: Sequence[Mapping[str, Any]], stored: int) -> None:
        self.count = len(cells)
        self.done = self.started = stored
        self.shown = shown_settings(cells)
        text = counted(len(cells), "cell")
        if "members" in cells[0]:
            members = getattr(self.experiment.Settings, "MEMBERS", "trees")
            text += f" of {cells[0]['members']} {members}"
        print_plain(self.console, text + (f", {stored} of them stored" if stored else ""))

    def cell_started(self, settings: Mapping[str, Any], steps: int) -> ProgressListener:
        self.started += 1
        name = f"cell {self.started}/{self.count}"
        task = self.bar.add_task(name, total=max(steps, 1), rate="")
        self.tasks[str(settings)] = task
        return CellBar(self.bar, task, name, int(settings.get("members", 1)))

    def cell_done(self, settings: Mapping[str, Any], table: pd.DataFrame, seconds: float) -> None:
        self._end(settings, f"{self.experiment.headline(table)}  ({seconds:.0f} s)")

    def cell_failed(self, settings: Mapping[str, Any], reason: str) -> None:
        self._end(settings, f"failed: {reason}")

    def _end(self, settings: Mapping[str, Any], text: str) -> None:
        """Print a line for a cell in place of its bar."""
        self.done += 1
        self.bar.remove_task(self.tasks.pop(str(settings)))
        what = ", ".join(f"{key.replace('_', '-')} {settings[key]}" for key in self.shown)
        line = f"{self.done}/{self.count}  {': '.join(filter(None, [what, text]))}"
        self.console.print(line, markup=False)
