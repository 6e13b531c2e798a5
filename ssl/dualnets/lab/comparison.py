"""Two stored runs side by side: settings, claims, and the curves that they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dualnets.lab.free_settings import shown_settings
from dualnets.lab.results import table_of
from dualnets.lab.stored_runs import StoredRun
from dualnets.lab.stored_settings import in_effect

if TYPE_CHECKING:
    import pandas as pd

ALL = "all cells"  # the name of a group where nothing distinguishes the cells of both runs
CURVE = ("metric", "step", "value", "member")  # the columns of a table that has curves
FIRST = ("correlation", "correlation_ratio", "linear all", "spread", "effective_rank")


class ComparedClaim(NamedTuple):
    """A claim of both runs, or of one: None where a run has none of its name."""

    name: str
    a: Mapping[str, Any] | None
    b: Mapping[str, Any] | None

    @property
    def difference(self) -> float | None:
        """The effect of the second run minus that of the first; None unless both are known."""
        if self.a is None or self.b is None:
            return None
        first, second = self.a.get("effect_value"), self.b.get("effect_value")
        return None if first is None or second is None else second - first


class Curves(NamedTuple):
    """The curves that two runs have in common.

    Attributes:
        metrics: the names of the metrics, the best known first.
        groups: names of what is compared with itself, such as variants.
        table: columns run (0 or 1), group, metric, step, member and value, the mean over nodes and cells.
        pooled: settings over whose values the cells of a group are pooled, since no value is in both runs.
    """

    metrics: list[str]
    groups: list[str]
    table: pd.DataFrame
    pooled: list[str]


def differing_settings(
    a: StoredRun, b: StoredRun, known: Mapping[str, type[Any]]
) -> dict[str, tuple[list[str], list[str]]]:
    """Setting -> its values in the cells of either run, where these are not the same.

    Args:
        a, b: the runs.
        known: experiment -> its Settings as they are today. A setting that an experiment does not have
            has no values there.
    """
    own = [_settings(run, known) for run in (a, b)]
    names = dict.fromkeys(name for cells in own for cell in cells.values() for name in cell)
    found = {}
    for name in names:
        values = [
            list(dict.fromkeys(str(cell[name]) for cell in cells.values() if name in cell))
            for cells in own
        ]
        if set(values[0]) != set(values[1]):
            found[name] = (values[0], values[1])
    return found


def compared_claims(a: StoredRun, b: StoredRun) -> list[ComparedClaim]:
    """The claims of two runs of one experiment, by name; none of two experiments."""
    if a.experiment != b.experiment:
        return []
    first, second = ({v["name"]: v for v in run.verdicts} for run in (a, b))
    return [ComparedClaim(n, first.get(n), second.get(n)) for n in dict.fromkeys([*first, *second])]


def common_curves(a: StoredRun, b: StoredRun, known: Mapping[str, type[Any]]) -> Curves | None:
    """The curves of the metrics that both runs have; None where they have none in common.

    Cells are compared with those of the same values of all settings, but the seed, that vary within a run.
    """
    import pandas as pd

    cells = [_settings(run, known) for run in (a, b)]
    tables = [table_of([run], strict=True) for run in (a, b)]
    if not all({*CURVE, "cell"} <= {*table} for table in tables):
        return None
    shared = set(tables[0]["metric"].cat.categories) & set(tables[1]["metric"].cat.categories)
    steps = {m: min(t["step"][t["metric"] == m].nunique() for t in tables) for m in shared}
    # what was measured at the first and the last step alone is hardly a curve
    metrics = sorted(
        (m for m in shared if steps[m] > 1),
        key=lambda m: (steps[m] < 3, FIRST.index(m) if m in FIRST else len(FIRST), m),
    )
    if not metrics:
        return None
    keys, pooled = _keys(*cells)
    names = [_group_names(own, keys) for own in cells]
    groups = [g for g in dict.fromkeys(names[0].values()) if g in names[1].values()]
    parts = []
    for at, (table, own) in enumerate(zip(tables, names, strict=True)):
        rows = table[table["metric"].isin(metrics)]
        part = pd.DataFrame(
            {"run": at, "group": rows["cell"].astype(object).map(own if groups else lambda _: ALL)}
            | {name: rows[name] for name in CURVE}
        ).astype({"metric": object})
        seeds = {cell: str(settings.get("seed")) for cell, settings in cells[at].items()}
        part["member"] = part["member"].astype(str) + "/" + rows["cell"].astype(object).map(seeds)
        parts.append(part[part["group"].isin(groups or [ALL])])
    by = ["run", "group", "metric", "step", "member"]
    return Curves(
        metrics,
        groups or [ALL],
        pd.concat(parts).groupby(by, as_index=False)["value"].mean(),
        pooled,
    )


def _settings(run: StoredRun, known: Mapping[str, type[Any]]) -> dict[str, dict[str, Any]]:
    """Cell -> the settings that have an effect there."""
    names = [cell["cell"] for cell in run.manifest["cells"]]
    return dict(zip(names, in_effect(run.settings, known.get(run.experiment)), strict=True))


def _keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The settings by which cells of two runs are matched, and those that vary and have no common value."""
    varying = dict.fromkeys(
        name for cells in (a, b) for name in shown_settings(list(cells.values())) if name != "seed"
    )
    keys: list[str] = []
    pooled: list[str] = []
    for name in varying:
        first, second = ({str(cell.get(name)) for cell in cells.values()} for cells in (a, b))
        (keys if first & second else pooled).append(name)
    return keys, pooled


def _group_names(cells: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> dict[str, str]:
    """Cell -> the name of its group: the values by which it is matched."""
    return {
        cell: ", ".join(
            str(own[k]) if k == "variant" else f"{k.replace('_', '-')} {own[k]}"
            for k in keys
            if k in own
        )
        or ALL
        for cell, own in cells.items()
    }
