"""The progress of runs as TensorBoard's event files; an optional dependency, extra `tensorboard`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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

FOLDER = "tensorboard"  # in the folder of the experiment
LONGEST = 80  # characters of the name of a cell's folder, before the cell's own name


class TensorBoardReporter(Reporter):
    """Writes event files into `<out>/<experiment>/tensorboard/<what varies>-<cell>/`.

    While a cell trains there is the alignment per level at every probe (`training/level_1`), and at its
    end the mean of every metric per level and step (`correlation/level_1`). `tensorboard --logdir
    runs/emergence/tensorboard` shows them. A cell that is computed again replaces its curves.

    Args:
        out: the folder of all results.
        experiment: whose run.

    Raises:
        ValueError: the package `tensorboard` is not installed.
    """

    def __init__(self, out: str | Path, experiment: Experiment) -> None:
        if find_spec("tensorboard") is None:
            raise ValueError(
                "event files need the package tensorboard: pip install 'hltm[tensorboard]'"
            )
        self.home = Store(out, experiment.name).home / FOLDER
        self.experiment = experiment
        self.shown: list[str] = []
        self.writers: dict[str, Any] = {}

    def plan(self, cells: Sequence[Mapping[str, Any]], stored: int) -> None:
        self.shown = shown_settings(cells)

    def cell_started(self, settings: Mapping[str, Any], steps: int) -> ProgressListener:
        from torch.utils.tensorboard import SummaryWriter

        cell = cell_name(self.experiment, self.experiment.Settings(**settings))
        words = [f"{name}={settings[name]}" for name in self.shown]
        # names of files, wherever the folder is copied to
        label = re.sub(r"[^A-Za-z0-9=.,+-]+", "_", ",".join(words))[:LONGEST]
        folder = self.home / "-".join(filter(None, [label, cell]))
        # what an earlier computation of this cell wrote is not shown any more
        writer = SummaryWriter(str(folder), purge_step=0)
        self.writers[str(settings)] = writer
        return _Curves(writer)

    def cell_done(self, settings: Mapping[str, Any], table: pd.DataFrame, seconds: float) -> None:
        writer = self.writers.pop(str(settings))
        if {"metric", "level", "step", "value"} <= set(table):
            rows = table.dropna(subset=["value"])
            means = rows.groupby(["metric", "level", "step"], observed=True)["value"].mean()
            for (metric, level, step), value in means.items():
                writer.add_scalar(f"{metric}/level_{level}", value, int(step))
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
