"""What an experiment is: claims, settings as data, and the functions of a cell; and a cell's result."""

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

    from dualnets.lab.rules import Claim
    from dualnets.lab.verdicts import Verdict


class ProgressListener:
    """Receives the progress of one cell; this one ignores it."""

    def updated(self, steps: int) -> None:
        """`steps` more updates are done."""

    def probed(self, step: int, found: Mapping[int, float] | Mapping[str, float]) -> None:
        """The networks were probed after `step` updates: level -> mean best |correlation|, or a score."""


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
    """Claims and how they are tested. Everything but `code` can be read without importing torch.

    Attributes:
        module: the file that declares it, `__name__`; its last part is the experiment's name.
        claims: what is tested, each with its rule.
        summary: at most 58 characters, for `hltm list`.
        result_version: raised when the numbers of a cell would change; a part of a cell's name.
        Settings: a frozen dataclass of scalars and names: one ensemble.
        grids: scale -> grids of settings; `Fixed` holds what makes a control.
        code: a module with `run_cell(settings, device, progress) -> CellResult` and
            `summary_table(table)`, imported when one is called; it may also have `headline(table)`.
            Beside it stands a module `<code>_figure` with `draw(table)`.
    """

    module: str
    claims: tuple[Claim, ...]
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
    def title(self) -> str:
        """What is asked: the first paragraph of the docstring of the file that declares it."""
        return self._paragraphs()[0]

    @property
    def description(self) -> list[str]:
        """The science in a few paragraphs: those after the title."""
        return self._paragraphs()[1:]

    @property
    def figure_module(self) -> str:
        """The module that draws the figure; its docstring says what is on it."""
        return f"{self.code}_figure"

    def _paragraphs(self) -> list[str]:
        text = (import_module(self.module).__doc__ or self.summary).strip()
        return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]

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

    def verdicts(self, table: pd.DataFrame, own: str = "") -> list[Verdict]:
        """Whether each claim holds, by a rule that was fixed before the run.

        Args:
            table: of a run; the trees of several seeds count together.
            own: why the settings of the run allow no verdict; empty if they do.
        """
        from dualnets.lab.verdicts import verdict_on

        return [verdict_on(claim, table, own) for claim in self.claims]

    def headline(self, table: pd.DataFrame) -> str:
        """A few words about a finished cell: the code's own, or the root's alignment before and after."""
        own = getattr(import_module(self.code), "headline", None)
        return cast("str", (own or _alignment_with_root)(table))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickle the name of the module only, so that cells can be sent to other processes."""
        return declared_in, (self.module,)

    def _draw(self, table: pd.DataFrame) -> Figure:
        return cast("Figure", import_module(self.figure_module).draw(table))

    def _function(self, name: str) -> Any:
        return getattr(import_module(self.code), name)


def _alignment_with_root(table: pd.DataFrame) -> str:
    """Mean alignment of the best units with the root, before and after training, of what did not diverge."""
    best = table[table["metric"].isin(("correlation", "correlation_ratio"))]
    root = best[(best["level"] == best["level"].max()) & (best["step"] == best["step"].max())]
    kept = root[root["value"].notna()]
    before, after = kept["initial"].mean(), kept["value"].mean()
    lost = f"{len(root) - len(kept)} of {len(root)} diverged"
    if kept.empty:
        return lost
    return f"root {before:.2f} -> {after:.2f}" + f", {lost}" * (len(kept) < len(root))


def declared_in(module: str) -> Experiment:
    """The experiment that a module declares as `EXPERIMENT`."""
    return cast("Experiment", import_module(module).EXPERIMENT)
