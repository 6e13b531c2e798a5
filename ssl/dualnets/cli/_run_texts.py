"""What several commands print of stored runs: verdicts, effects, dates and numbers of things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualnets.lab.experiment import Experiment
    from dualnets.lab.stored_runs import StoredRun

COLOURS = {"holds": "green", "fails": "red", "open": "yellow"}


def verdict_line(verdict: Mapping[str, Any], longest: int = 0) -> Any:
    """A claim's name, verdict, effect and n, as rich prints it; `longest`: characters of the names."""
    from rich.text import Text

    word, name = verdict["verdict"], verdict["name"]
    shown = f"{name.ljust(longest)}  " if name else ""
    return Text.assemble(f"  {shown}", (f"{word:5}", COLOURS.get(word, "")), f"  {effect(verdict)}")


def effect(verdict: Mapping[str, Any]) -> str:
    """The effect with its interval, and n.

    Example:
        >>> effect({"effect_value": 0.5, "interval": [0.25, 0.75], "n": 8, "of": "trees"})
        '0.50 [0.25, 0.75], n = 8 trees'
    """
    from dualnets.lab.report.tables import counted, number

    value, interval = verdict.get("effect_value"), verdict.get("interval")
    text = "–" if value is None else number(value)
    if interval:
        text += f" [{number(interval[0])}, {number(interval[1])}]"
    of = str(verdict.get("of", "trees")).removesuffix("s")
    return f"{text}, n = {counted(verdict['n'], of)}"


def shown_date(date: str) -> str:
    """A date of a manifest without seconds, e.g. 2026-11-29 05:30."""
    return date[:16].replace("T", " ")


def experiment_of(run: StoredRun) -> Experiment | None:
    """The experiment as it is today; None if there is none of the name any more."""
    from dualnets import experiments

    return experiments.load(run.experiment) if run.experiment in experiments.names() else None
