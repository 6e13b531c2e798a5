"""The settings on a run's page: what differs from the default scale, what differs between cells, the rest.

Shown is what has an effect: a setting that has none in a cell, or that leaves a choice to something else
(None, an empty text), is not shown for it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from dualnets.lab.grids import cells
from dualnets.lab.report.tables import NOTHING, html_table, shown
from dualnets.lab.stored_settings import of_today

if TYPE_CHECKING:
    from dualnets.lab.experiment import Experiment

MANY = 12  # cells; a table of more is folded
Own = Mapping[str, Any]  # the settings of one cell that have an effect


def rebuilt(experiment: Experiment, stored: Mapping[str, Any]) -> Any:
    """Settings of today's kind from stored ones, perhaps with the names and values of an earlier version.

    Returns:
        An instance of `experiment.Settings`; None where the stored ones are refused today.

    Example:
        >>> from dualnets import experiments
        >>> rebuilt(experiments.load("byol_batchnorm"), {"target_momentum": 0.5}).ema_decay
        0.5
    """
    today = of_today(stored, experiment.Settings)
    try:
        return experiment.Settings(**{f.name: today[f.name] for f in fields(experiment.Settings)})
    except (TypeError, ValueError):
        return None


def with_effect(settings: Any) -> dict[str, Any]:
    """The settings of a cell that have an effect.

    Example:
        >>> from dualnets import experiments
        >>> own = with_effect(experiments.load("emergence").Settings())
        >>> own["optimizer"], "beta1" in own
        ('sgd', False)
    """
    unused = settings.unused() if hasattr(settings, "unused") else {}
    return {k: v for k, v in asdict(settings).items() if k not in unused and v not in (None, "")}


def settings_html(experiment: Experiment, stored: Sequence[Mapping[str, Any]]) -> str:
    """The part of a page about the settings of all cells."""
    own = [with_effect(built) if (built := rebuilt(experiment, each)) is not None
           else {k: v for k, v in each.items() if v not in (None, "")} for each in stored]  # fmt: skip
    usual = [with_effect(each) for each in cells(experiment, "default", {})]
    varying = [name for name in _names(own) if len(_values(own, name)) > 1]
    varying.sort(key=lambda name: name != "variant")  # which says in a word what the others do
    parts = [_against_default(own, usual)]
    if varying:
        table = _table([{name: each.get(name) for name in varying} for each in own])
        if len(own) > MANY:
            table = _folded(f"What differs between the {len(own)} cells", table)
        parts.append(f"<p>The cells differ in {_listed(varying)}.</p>{table}")
    same = [name for name in _names(own) if name not in varying]
    rest = _table(
        [{"setting": _words(name), "value": shown_setting(own[0], name)} for name in same]
    )
    parts.append(_folded(f"The {len(same)} settings that all cells share", rest))
    return "".join(parts)


def _against_default(own: Sequence[Own], usual: Sequence[Own]) -> str:
    """A table of the settings that have other values than at the default scale."""
    rows = []
    for name in dict.fromkeys([*_names(own), *_names(usual)]):
        here, there = (
            [value for value in _values(each, name) if value != NOTHING] for each in (own, usual)
        )
        if here and {*here} != {*there}:
            rows.append({"setting": _words(name), "here": ", ".join(here),
                         "at the default scale": ", ".join(there) or NOTHING})  # fmt: skip
    if not rows:
        return "<p>The settings are those of the default scale.</p>"
    return f"<p>What differs from the default scale:</p>{_table(rows)}"


def _names(own: Sequence[Own]) -> list[str]:
    return list(dict.fromkeys(name for each in own for name in each))


def _values(own: Sequence[Own], name: str) -> list[str]:
    """The different values of a setting, as texts, in the order of the cells."""
    return list(dict.fromkeys(shown_setting(each, name) for each in own))


def shown_setting(own: Own, name: str) -> str:
    """The value of a setting as text, a dash where it has no effect."""
    value = own.get(name)
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    import pandas as pd

    texts = [{name: f"{v:g}" if isinstance(v, float) else v for name, v in row.items()}
             for row in rows]  # fmt: skip
    return html_table(pd.DataFrame(texts, dtype=object), "Settings")


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _listed(names: Sequence[str]) -> str:
    words = [html.escape(_words(name)) for name in names]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
