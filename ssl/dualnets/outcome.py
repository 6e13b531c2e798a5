"""What an experiment hands over: grids, and the outcome of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


class Progress:
    """Hears how a cell goes; this one says nothing."""

    def updated(self, steps: int) -> None:
        """So many more updates are done."""

    def seen(self, step: int, alignment: Mapping[int, float]) -> None:
        """The networks were probed after `step` updates: level -> mean best |correlation|."""


@dataclass(frozen=True)
class Pinned:
    """The value that makes a grid a control: a flag that sets the field elsewhere leaves it alone."""

    value: Any


Grid = Mapping[str, Sequence[Any] | Pinned]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one cell.

    Attributes:
        table: tidy rows, without the settings' columns.
        networks: name -> parameters by name, to be stored beside it.
        notes: what a reader must know, e.g. which members were frozen.
    """

    table: pd.DataFrame
    networks: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
