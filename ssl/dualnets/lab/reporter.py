"""Receivers of the progress of a run: terminals, TensorBoard, and those that users write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualnets.lab.experiment import ProgressListener

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from dualnets.lab.runner import Run


class Reporter:
    """Receives the progress of a run; this one ignores it, and a subclass overrides what it needs.

    All calls come from the process that called `dualnets.run`, also where other processes compute the
    cells. `settings` are those of the cell, name -> value, and identify it. An error that a reporter
    raises ends the run; finished cells are stored.

    Weights & Biases, with a run of its own for every cell:

        class ToWandb(dualnets.Reporter):
            runs = {}

            def cell_started(self, settings, steps):
                own = wandb.init(project="hltm", config=dict(settings), reinit="create_new")
                self.runs[str(settings)] = own
                return dualnets.ProgressListener()

            def cell_done(self, settings, table, seconds):
                own = self.runs.pop(str(settings))
                for step, values in table.pivot_table("value", "step", "metric").iterrows():
                    own.log(values.to_dict(), step=step)  # means over members and latents
                own.finish()

    MLflow, with what is known when a cell is done:

        class ToMlflow(dualnets.Reporter):
            def cell_done(self, settings, table, seconds):
                with mlflow.start_run(run_name=settings.get("variant")):
                    mlflow.log_params(settings)
                    curves = table.groupby(["metric", "level", "step"])["value"].mean()
                    for (metric, level, step), value in curves.items():
                        mlflow.log_metric(f"{metric}/level_{level}", value, step=step)

        dualnets.run("losses", reporter=ToMlflow())

    Example:
        >>> class Print(Reporter):
        ...     def plan(self, cells, stored):
        ...         print(f"{len(cells)} cells, {stored} of them stored")
        ...     def cell_done(self, settings, table, seconds):
        ...         print(f"{settings['variant']}: {len(table)} rows in {seconds:.0f} s")
        >>> Print().plan([{"variant": "wide"}], 0)
        1 cells, 0 of them stored
    """

    def damaged(self, folder: Path, reason: str) -> None:
        """Receive that a stored run or cell is damaged, and why; it is set aside and made again."""

    def plan(self, cells: Sequence[Mapping[str, Any]], stored: int) -> None:
        """Receive the settings of all cells of the run, and how many of the cells are stored already.

        Args:
            cells: settings by name.
            stored: cells that are not computed again; nothing further is received of these.
        """

    def cell_started(self, settings: Mapping[str, Any], steps: int) -> ProgressListener:
        """Receive that a cell starts.

        Args:
            settings: of the cell.
            steps: updates that it will make.

        Returns:
            What receives the progress of this cell.
        """
        return ProgressListener()

    def cell_done(self, settings: Mapping[str, Any], table: pd.DataFrame, seconds: float) -> None:
        """Receive the results of a cell, which is stored.

        Args:
            settings: of the cell.
            table: its tidy rows, as `results.parquet` of a run has them.
            seconds: that it took.
        """

    def cell_failed(self, settings: Mapping[str, Any], reason: str) -> None:
        """Receive that a cell could not be computed, and why; the others go on, and the run then fails."""

    def run_done(self, run: Run) -> None:
        """Receive the finished run, with its table, verdicts and folder."""


class Reporters(Reporter):
    """Passes everything on to several reporters, in their order.

    Example:
        >>> both = Reporters([Reporter(), Reporter()])
        >>> both.plan([], 0)
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self.reporters = list(reporters)

    def damaged(self, folder: Path, reason: str) -> None:
        for each in self.reporters:
            each.damaged(folder, reason)

    def plan(self, cells: Sequence[Mapping[str, Any]], stored: int) -> None:
        for each in self.reporters:
            each.plan(cells, stored)

    def cell_started(self, settings: Mapping[str, Any], steps: int) -> ProgressListener:
        return _Listeners([each.cell_started(settings, steps) for each in self.reporters])

    def cell_done(self, settings: Mapping[str, Any], table: pd.DataFrame, seconds: float) -> None:
        for each in self.reporters:
            each.cell_done(settings, table, seconds)

    def cell_failed(self, settings: Mapping[str, Any], reason: str) -> None:
        for each in self.reporters:
            each.cell_failed(settings, reason)

    def run_done(self, run: Run) -> None:
        for each in self.reporters:
            each.run_done(run)


class _Listeners(ProgressListener):
    """Passes the progress of one cell on to several listeners."""

    def __init__(self, listeners: Sequence[ProgressListener]) -> None:
        self.listeners = listeners

    def updated(self, steps: int) -> None:
        for each in self.listeners:
            each.updated(steps)

    def probed(self, step: int, found: Mapping[int, float] | Mapping[str, float]) -> None:
        for each in self.listeners:
            each.probed(step, found)


def as_reporter(given: Reporter | Sequence[Reporter] | None) -> Reporter:
    """One reporter for what `dualnets.run` takes: none, one, or several.

    Raises:
        ValueError: something else.
    """
    if given is None:
        return Reporter()
    several = [given] if isinstance(given, Reporter) else given
    if not isinstance(several, list | tuple) or not all(isinstance(r, Reporter) for r in several):
        raise ValueError(f"reporter must be a dualnets.Reporter or a list of them, got {given!r}")
    return Reporters(several)
