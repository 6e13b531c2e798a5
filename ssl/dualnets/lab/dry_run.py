"""What a run would do, without doing it: its cells, and estimates from cells that are stored."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dualnets.lab.experiment import Experiment, Fixed
from dualnets.lab.free_settings import shown_settings
from dualnets.lab.grids import VARIANT, cell_name, cells, value_lists
from dualnets.lab.report.tables import counted
from dualnets.lab.store import Store
from dualnets.lab.stored_runs import StoredCell, shown_size, stored_cells
from dualnets.lab.workers import cards_of, worker_count

# settings to which time is proportional; the size of files is to the second
WORK = ("steps", "members", "batch")
FAR = 4.0  # ratio beyond which the fixed costs of the stored cells spoil an estimate
NEAREST = 5  # stored cells that an estimate is the median of


class Estimate(NamedTuple):
    """What a cell takes.

    Attributes:
        seconds: of computation.
        memory: bytes; None where no stored cell has them.
        disk: bytes.
        ratio: how many times as much work it is as the stored cells that were read.
    """

    seconds: float
    memory: float | None
    disk: float
    ratio: float


class PlannedCell(NamedTuple):
    """A cell of a run: its name, its settings, and whether it is stored and would be read.

    It is a control where its grid has an augmentation that flags do not replace.
    """

    name: str
    settings: Mapping[str, Any]
    stored: bool
    control: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        cells: all of them, in order.
        shown: the settings that distinguish them.
        workers: processes that would compute cells at once.
        known: stored cells of the experiment, from which estimates are made.
        estimates: one for each cell that would be computed; empty without stored cells.
    """

    cells: list[PlannedCell]
    shown: list[str]
    workers: int
    known: int
    estimates: list[Estimate]

    def summary(self) -> Iterator[str]:
        """The lines of a terminal."""
        missing = sum(not cell.stored for cell in self.cells)
        yield f"{counted(len(self.cells), 'cell')}: {len(self.cells) - missing} stored, {missing} to compute"
        if not missing:
            return
        if not self.estimates:
            yield "time and memory: nothing is known, since no cell of this experiment is stored"
            return
        seconds = sum(own.seconds for own in self.estimates)
        longest = max(own.seconds for own in self.estimates)
        wall = max(seconds / self.workers, longest)
        at_once = f", {shown_seconds(wall)} with {self.workers} processes" * (self.workers > 1)
        largest = max(own.ratio for own in self.estimates)
        about = "at most about" if largest > FAR else "about"
        yield f"time: {about} {shown_seconds(seconds)} of computation{at_once}"
        peaks = [own.memory for own in self.estimates if own.memory is not None]
        if peaks:
            yield f"memory: about {shown_size(max(peaks))} for each process"
        else:
            yield "memory: nothing is known, since the stored cells did not measure it"
        yield f"disk: about {shown_size(sum(own.disk for own in self.estimates))}"
        yield f"(from {counted(self.known, 'stored cell')}, in proportion to {', '.join(WORK)})"
        if largest > FAR:
            yield f"These cells are up to {largest:,.0f} times as large as the stored ones, whose time"
            yield "includes start, compilation and probes, which grow less: they may take far less."


def plan(
    experiment: Experiment,
    *,
    scale: str = "default",
    device: str = "auto",
    out: str | Path = "runs",
    fresh: bool = False,
    workers: int | None = 1,
    only: Sequence[str] = (),
    **changes: Any,
) -> Plan:
    """What `dualnets.lab.runner.run` would do with these arguments; computes and writes nothing.

    Time, memory and disk are those of the stored cells of the experiment whose settings differ least, in
    proportion to their updates, members and batches.

    Raises:
        ValueError: as of `run`.
    """
    from hltm._devices import check_device  # loads torch

    wanted = cells(experiment, scale, value_lists(changes), only)
    store = Store(out, experiment.name)
    named = {cell_name(experiment, settings): asdict(settings) for settings in wanted}
    controls = [
        axis.value
        for grid in experiment.grids[scale]
        if VARIANT not in grid and isinstance(axis := grid.get("augment"), Fixed)
    ]
    planned = [
        PlannedCell(
            name,
            settings,
            not fresh and store.has_cell(name),
            settings.get("augment") in controls,
        )
        for name, settings in named.items()
    ]
    missing = [cell for cell in planned if not cell.stored]
    known = stored_cells(store)
    return Plan(
        cells=planned,
        shown=shown_settings(list(named.values())),
        workers=worker_count(workers, len(missing), cards_of(check_device(device)), scale),
        known=len(known),
        estimates=[_estimate(cell.settings, known) for cell in missing] if known else [],
    )


def _estimate(settings: Mapping[str, Any], known: Sequence[StoredCell]) -> Estimate:
    """What a cell takes: the median of those stored cells that differ in the fewest settings."""

    def distance(cell: StoredCell) -> tuple[int, float]:
        other = cell.settings
        differing = sum(other.get(name) != value for name, value in settings.items())
        return differing - (other.get("seed") != settings.get("seed")), -cell.modified

    nearest = sorted(known, key=distance)[:NEAREST]
    fewest = distance(nearest[0])[0]
    alike = [cell for cell in nearest if distance(cell)[0] == fewest]
    peaks = [cell.peak_memory for cell in alike if cell.peak_memory]
    return Estimate(
        statistics.median(cell.seconds * _ratio(settings, cell.settings, WORK) for cell in alike),
        max(peaks) if peaks else None,
        statistics.median(cell.size * _ratio(settings, cell.settings, WORK[1:2]) for cell in alike),
        max(_ratio(settings, cell.settings, WORK) for cell in alike),
    )


def _ratio(new: Mapping[str, Any], old: Mapping[str, Any], names: Sequence[str]) -> float:
    """How many times as large the product of these settings is."""
    found = 1.0
    for name in names:
        before, after = old.get(name), new.get(name)
        if isinstance(before, int | float) and isinstance(after, int | float) and before * after:
            found *= after / before
    return found


def shown_seconds(seconds: float) -> str:
    """A time as one reads it.

    Example:
        >>> shown_seconds(7.4), shown_seconds(150), shown_seconds(7300)
        ('7 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
