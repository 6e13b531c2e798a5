"""The progress of runs as TensorBoard's event files; an optional dependency, extra `tensorboard`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnets.lab.experiment import Experiment, ProgressListener
from dualnets.lab.free_settings import shown_settings
from dualnets.lab.grids import cell_name
from dualnets.lab.reporter import Reporter
from dualnets.lab.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from dualnets.lab.runner import Run

FOLDER = "tensorboard"  # in the folder of the experiment
LONGEST = 80  # characters of the name of a cell's folder, before the cell's own name


class TensorBoardReporter(Reporter):
    """Writes event files into `<out>/<experiment>/tensorboard/<what varies>-<cell>/`.

    While a cell trains there is the alignment per level at every probe (`training/level_1`), and at its
    end the mean of every metric per level and step (`correlation/level_1`). Cells that were stored before
    follow at the end of the run; a cell that is computed again replaces its curves. `tensorboard --logdir
    runs/emergence/tensorboard` shows them.

    Args:
        out: the folder of all results.
        experiment: whose run.

    Raises:
        ValueError: the package `tensorboard` is not installed.
    """

    def __init__(self, out: str | Path, experiment: Experiment) -> None:
        if find_spec("tensorboard") is None:
            raise ValueError(
                "event files need the package tensorboard: python -m pip install tensorboard"
            )
        self.home = Store(out, experiment.name).home / FOLDER
        self.experiment = experiment
        self.shown: list[str] = []
        self.writers: dict[str, Any] = {}

    def plan(self, cells: Sequence[Mapping[str, Any]], stored: int) -> None:
        self.shown = shown_settings(cells)

    def cell_started(self, settings: Mapping[str, Any], steps: int) -> ProgressListener:
        cell = cell_name(self.experiment, self.experiment.Settings(**settings))
        self.writers[str(settings)] = self._writer(cell, settings, self.shown)
        return _Curves(self.writers[str(settings)])

    def cell_done(self, settings: Mapping[str, Any], table: pd.DataFrame, seconds: float) -> None:
        _write_table(self.writers.pop(str(settings)), table)

    def cell_failed(self, settings: Mapping[str, Any], reason: str) -> None:
        self.writers.pop(str(settings)).close()

    def run_done(self, run: Run) -> None:
        known = [f.name for f in fields(self.experiment.Settings) if f.name in run.table]
        cells = run.table.drop_duplicates("cell").set_index("cell")[known].to_dict("index")
        shown = shown_settings(list(cells.values()))
        for cell, rows in run.table.groupby("cell"):
            if not any(self.home.glob(f"*{cell}")):  # it was stored before
                _write_table(self._writer(str(cell), cells[cell], shown), rows)

    def _writer(self, cell: str, settings: Mapping[str, Any], shown: Sequence[str]) -> Any:
        """The writer of a cell's folder, whose name has the settings that are shown."""
        from torch.utils.tensorboard import SummaryWriter

        words = ",".join(f"{name}={settings[name]}" for name in shown)
        # names of files, wherever the folder is copied to
        label = re.sub(r"[^A-Za-z0-9=.,+-]+", "_", words)[:LONGEST]
        folder = self.home / "-".join(filter(None, [label, cell]))
        # what an earlier computation of this cell wrote is not shown any more
        return SummaryWriter(str(folder), purge_step=0)


def _write_table(writer: Any, table: pd.DataFrame) -> None:
    """Write the mean of every metric per level and step, and close the files."""
    if {"metric", "level", "step", "value"} <= set(table):
        rows = table.dropna(subset=["value"])
        means = rows.groupby(["metric", "level", "step"], observed=True)["value"].mean()
        for (metric, level, step), value in means.items():
            writer.add_scalar(f"{metric}/level_{level:g}", value, int(step))
    writer.close()


class _Curves(ProgressListener):
    """The alignment of one cell while it trains."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def probed(self, step: int, found: Mapping[int, float] | Mapping[str, float]) -> None:
        for what, value in found.items():
            name = what if isinstance(what, str) else f"level_{what}"
            self.writer.add_scalar(f"training/{name.replace(' ', '_')}", value, step)
        self.writer.flush()  # so that a run that is killed leaves what it has shown
