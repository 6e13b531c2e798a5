"""What an experiment is: a claim, settings as data, and four functions; and the result of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from dualnets.lab.stats import Verdict


class ProgressListener:
    """Receives the progress of one cell; this one ignores it."""

    def updated(self, steps: int) -> None:
        """`steps` more updates are done."""

    def probed(self, step: int, alignment: Mapping[int, float]) -> None:
        """The networks were probed after `step` updates: level -> mean best |correlation|."""


@dataclass(frozen=True)
class Fixed:
    """The one value of a field in a grid, which no flag replaces.

    It is what makes the grid a control or a named variant.
    """

    value: Any


Grid = Mapping[str, Sequence[Any] | Fixed]  # field -> its values; every combination is a cell


def values_of(axis: Sequence[Any] | Fixed) -> list[Any]:
    """The values of a field in a grid."""
    return [axis.value] if isinstance(axis, Fixed) else list(axis)


@dataclass(frozen=True)
class CellResult:
    """The result of one cell.

    Attributes:
        table: tidy rows, without columns for the settings.
        networks: name -> parameters by name; each is stored as a `.safetensors` file.
        notes: what a reader must know, e.g. which members were frozen.
    """

    table: pd.DataFrame
    networks: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Experiment:
    """One claim and how it is tested. Everything but `code` can be read without importing torch.

    Attributes:
        module: the file that declares it, `__name__`; its last part is the experiment's name.
        claim: a sentence that can hold or fail.
        reference: where the paper makes the claim, or that it is ours.
        summary: at most 58 characters, for `hltm list`.
        result_version: raised when the numbers of a cell would change; a part of a cell's name.
        Settings: a frozen dataclass of scalars and names: one ensemble.
        grids: scale -> grids of settings; `Fixed` holds what makes a control.
        code: a module with `run_cell(settings, device, progress) -> CellResult`,
            `summary_table(table)` and `verdict(table)`, imported when one is called; it may also have
            `headline(table)`. Beside it stands a module `<code>_figure` with `draw(table)`.
    """

    module: str
    claim: str
    reference: str
    summary: str
    result_version: int
    Settings: type[Any]
    grids: Mapping[str, Sequence[Grid]]
    code: str

    @property
    def name(self) -> str:
        """The name in Python, on disk and in tables, e.g. `byol_target`."""
        return self.module.rpartition(".")[2]

    @property
    def flag(self) -> str:
        """The name on the command line, e.g. `byol-target`."""
        return self.name.replace("_", "-")

    @property
    def description(self) -> str:
        """The science in a few paragraphs: the docstring of the file that declares it."""
        return import_module(self.module).__doc__ or ""

    def run_cell(
        self, settings: Any, device: torch.device, progress: ProgressListener
    ) -> CellResult:
        """Train and measure one ensemble."""
        return cast("CellResult", self._function("run_cell")(settings, device, progress))

    def summary_table(self, table: pd.DataFrame) -> pd.DataFrame:
        """The short table that a run shows."""
        return self._function("summary_table")(table)

    def plot(self, table: pd.DataFrame) -> Figure:
        """The figure of a run, in the style of all figures."""
        import matplotlib.pyplot as plt

        from dualnets.lab.report.style import house_style

        with house_style():
            figure = self._draw(table)
        plt.close(figure)
        return figure

    def verdict(self, table: pd.DataFrame) -> Verdict:
        """Whether the claim holds, by a rule that was fixed before the run."""
        return cast("Verdict", self._function("verdict")(table))

    def headline(self, table: pd.DataFrame) -> str:
        """A few words about a finished cell: the code's own, or the root's alignment before and after."""
        own = getattr(import_module(self.code), "headline", None)
        return cast("str", (own or _alignment_with_root)(table))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickle the name of the module only, so that cells can be sent to other processes."""
        return declared_in, (self.module,)

    def _draw(self, table: pd.DataFrame) -> Figure:
        return cast("Figure", import_module(f"{self.code}_figure").draw(table))

    def _function(self, name: str) -> Any:
        return getattr(import_module(self.code), name)


def _alignment_with_root(table: pd.DataFrame) -> str:
    """Mean alignment of the best units with the root, before and after training."""
    best = table[table["metric"].isin(("correlation", "correlation_ratio"))]
    root = best[best["level"] == best["level"].max()]
    before = root[root["step"] == 0]["value"].mean()
    after = root[root["step"] == root["step"].max()]["value"].mean()
    return f"root {before:.2f} -> {after:.2f}"


def declared_in(module: str) -> Experiment:
    """The experiment that a module declares as `EXPERIMENT`."""
    return cast("Experiment", import_module(module).EXPERIMENT)
