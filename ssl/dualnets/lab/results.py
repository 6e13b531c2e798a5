"""One tidy table over stored runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualnets.lab.manifests import DamagedError
from dualnets.lab.store import RENAMED, RESULTS
from dualnets.lab.stored_runs import StoredRun, find_runs
from dualnets.lab.stored_settings import of_today

if TYPE_CHECKING:
    import pandas as pd

OF_A_RUN = ("experiment", "run", "date", "scale")  # the first columns
Known = Mapping[str, type[Any]]  # experiment -> its Settings, which name and complete older ones


def results(
    out: str | os.PathLike[str], experiment: str | None = None, known: Known | None = None
) -> pd.DataFrame:
    """All rows of all runs of a folder, or of one experiment; see `dualnets.results`."""
    found = [run for run in find_runs(out) if experiment in (None, run.experiment)]
    for run in found:
        if run.damage:
            warnings.warn(f"{run.folder} is left out: {run.damage}", stacklevel=3)
    return table_of([run for run in reversed(found) if not run.damage], known)


def table_of(
    runs: Sequence[StoredRun], known: Known | None = None, *, strict: bool = False
) -> pd.DataFrame:
    """All rows of these runs, with the settings that vary between any of their cells.

    Settings come from manifests, since in tables they are fifty columns that hardly vary.

    Args:
        runs: none of them known to be damaged.
        known: experiment -> its Settings.
        strict: whether a run whose table turns out to be damaged is an error, in place of a warning.

    Raises:
        DamagedError: such a table, where `strict`.
    """
    import pandas as pd

    cells = {
        cell["cell"]: of_today(cell["settings"], known[run.experiment])
        if known and run.experiment in known
        else dict(cell["settings"])
        for run in runs
        for cell in run.manifest["cells"]
    }
    names = list(dict.fromkeys(name for own in cells.values() for name in own))
    varying = [n for n in names if len({repr(o[n]) for o in cells.values() if n in o}) > 1]
    # tables of earlier versions name some settings otherwise
    left_out = {*names, *(name for run in runs for own in run.settings for name in own)}
    table = _concatenated(list(_measured(runs, left_out, strict)))
    if "cell" not in table:
        return table
    at = table["cell"].cat.codes.to_numpy()
    own = [cells.get(cell, {}) for cell in table["cell"].cat.categories]
    settings = {name: _column([o.get(name) for o in own]).take(at).array for name in varying}
    front = list(table.columns[: table.columns.get_loc("cell")])
    parts = [table[front], pd.DataFrame(settings), table.drop(columns=front)]
    return pd.concat(parts, axis=1)


def _measured(
    runs: Iterable[StoredRun], left_out: set[str], strict: bool
) -> Iterable[pd.DataFrame]:
    """Of every run's table the columns that are no settings, behind those of the run."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    for run in runs:
        try:
            with open(run.folder / RESULTS, "rb") as file:
                schema = pq.read_schema(file)
                names = [n for n in schema.names if n not in left_out.union(OF_A_RUN)]
                texts = [n for n in names if "string" in str(schema.field(n).type)]
                if not {"cell", "metric"} & {*names} <= {*texts}:
                    raise pa.ArrowInvalid("its cells or metrics are no names")
                rows = pq.ParquetFile(file, read_dictionary=texts).read(names).to_pandas()
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            if strict:
                raise DamagedError(f"run {run.folder} is damaged: {RESULTS}: {reason}") from None
            warnings.warn(f"{run.folder} is left out: {RESULTS}: {reason}", stacklevel=5)
            continue
        about = (run.experiment, run.name, run.date, run.scale)
        for at, (name, value) in enumerate(zip(OF_A_RUN, about, strict=True)):
            rows.insert(at, name, pd.Categorical.from_codes([0] * len(rows), [value]))
        yield rows


def _concatenated(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; every column of texts has the same categories in all of them."""
    import pandas as pd

    if not parts:
        return pd.DataFrame({name: [] for name in OF_A_RUN})
    texts = {n for part in parts for n in part if isinstance(part[n].dtype, pd.CategoricalDtype)}
    for name in texts:
        own = [part for part in parts if name in part]
        for part in own:
            if not isinstance(part[name].dtype, pd.CategoricalDtype):
                part[name] = part[name].map(str, na_action="ignore").astype("category")
            if name == "metric" and not RENAMED.keys().isdisjoint(part[name].cat.categories):
                part[name] = part[name].astype(object).replace(RENAMED).astype("category")
        every = sorted({text for part in own for text in part[name].cat.categories})
        for part in own:
            part[name] = part[name].cat.set_categories(every)
        for part in parts:
            if name not in part:
                part[name] = pd.Categorical.from_codes([-1] * len(part), every)
    table = pd.concat(parts, ignore_index=True)
    table["date"] = pd.to_datetime(table["date"].astype(object))
    return table


def _column(values: Sequence[Any]) -> pd.Series:
    """Values of a setting, one per cell: texts and switches as categories, numbers as numbers."""
    import pandas as pd

    given = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return pd.Series([float("nan") if v is None else v for v in values])
    if all(isinstance(value, bool) for value in values):
        return pd.Series(values)
    shown = [value if value is None else str(value) for value in values]
    return pd.Series(pd.Categorical(shown))
