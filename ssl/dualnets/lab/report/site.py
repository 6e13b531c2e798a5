"""A folder of pages: one per run, and one over all runs and all claims, which link to each other.

It needs neither a network nor a server. The script that draws charts stands once beside the pages.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dualnets._files import read_json, replace_folder, write_json
from dualnets.lab.claims import ClaimResult, of_verdicts
from dualnets.lab.experiment import Experiment
from dualnets.lab.manifests import DamagedError
from dualnets.lab.report.explorer import packed, plotly_script
from dualnets.lab.report.index import index_page
from dualnets.lab.report.page import Site, run_page
from dualnets.lab.store import Store
from dualnets.lab.stored_runs import StoredRun, find_runs
from dualnets.lab.verdicts import Verdict
from hltm._names import brief, listed

MARK = "report.json"  # a folder that has it is a report, and may be replaced
INDEX, PLOTLY = "index.html", "plotly.js"
THUMBNAIL = (480, 300)  # pixels


@dataclass(frozen=True)
class ReportedRun:
    """A run as the index shows it.

    Attributes:
        experiment: whose run.
        manifest: of the run, with a date.
        claims: its claims with their outcomes.
        page, picture: the names of its files in the report; an empty name where there is no picture.
    """

    experiment: Experiment
    manifest: Mapping[str, Any]
    claims: Sequence[ClaimResult]
    page: str
    picture: str


def check_target(runs: Path, target: Path) -> None:
    """Raise ValueError unless a report of these runs can be written here; OSError if nothing can."""
    if not runs.is_dir():
        raise ValueError(f"there is no folder {runs}; hltm run emergence makes a run in runs/")
    here, there = target.resolve(), runs.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ValueError(f"the report must lie apart from the runs in {runs}, got {target}")
    if target.is_symlink():
        raise ValueError(f"{target} is a link, expected a folder for the report")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, expected a folder for the report")
    if target.exists() and any(target.iterdir()):
        own = _written(target)
        if not own:
            raise ValueError(f"{target} has files and is no report: choose another folder")
        if others := sorted({path.name for path in target.iterdir()} - own):
            raise ValueError(
                f"{target} has files that are not of the report, which would be lost: {listed(others)}"
            )
    parent = next(each for each in here.parents if each.exists())
    try:
        with tempfile.TemporaryDirectory(dir=parent):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {parent}: {error.strerror}") from error


def _written(target: Path) -> set[str]:
    """The names of all files of the report in a folder; none if it is no report."""
    try:
        return {MARK, *map(str, read_json(target / MARK)["files of hltm report"])}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def write(
    runs: Path,
    target: Path,
    experiments: Mapping[str, Experiment],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[ReportedRun], dict[str, str]]:
    """Write the report of all runs, completely or not at all.

    Args:
        runs: the folder of all results.
        target: the folder of the report; an earlier one there is replaced.
        experiments: by name; all claims of theirs are on the index.
        progress: called with the numbers of runs that are done and of all.

    Returns:
        The runs that are shown, newest first, and folder -> reason of those that cannot be shown.

    Raises:
        ValueError: before any work: no folder of runs, or a target that is no report.
        OSError: before any work: the target cannot be written.
    """
    check_target(runs, target)
    shown: list[ReportedRun] = []
    damaged: dict[str, str] = {}
    with replace_folder(target) as folder:
        found = find_runs(runs)
        for done, run in enumerate(found):
            progress(done, len(found))
            try:
                shown.append(_write_run(run, folder, experiments))
            except Exception as error:  # whatever is wrong with one run must not stop the others
                damaged[f"{run.experiment}/{run.name}"] = _reason(error)
        progress(len(found), len(found))
        if find_spec("plotly") is not None:
            script = f"globalThis.explorerPlotly = {json.dumps(packed(plotly_script()))};\n"
            (folder / PLOTLY).write_text(script)
        text = index_page(shown, experiments, damaged)
        (folder / INDEX).write_text(text, encoding="utf-8")
        write_json(folder / MARK, {"files of hltm report": sorted(os.listdir(folder))})
    return shown, damaged


def _write_run(
    stored: StoredRun, folder: Path, experiments: Mapping[str, Experiment]
) -> ReportedRun:
    """Write the page and the small picture of one run."""
    from dualnets.lab.stats import pooled

    if stored.damage:
        raise DamagedError(stored.damage)
    home, name, run = stored.folder, stored.experiment, stored.name
    manifest = {**stored.manifest, "date": stored.date}
    if name not in experiments:
        raise DamagedError(f"there is no experiment {brief(name)}")
    experiment = experiments[name]
    table, _ = Store(home.parent.parent, name).read_run(run)
    verdicts = [Verdict.of_dict(values) for values in stored.verdicts]
    svg = (home / f"{name}.svg").read_bytes()
    site = Site(index=INDEX, plotly=PLOTLY)
    summary = experiment.summary_table(pooled(table))
    text = run_page(experiment, table, summary, verdicts, manifest, svg, site)
    claims = of_verdicts(experiment, manifest, verdicts)
    page, picture = f"{name}-{run}.html", f"{name}-{run}.jpg"
    drawn = home / f"{name}.png"
    if drawn.is_file():
        _write_thumbnail(drawn, folder / picture)
    (folder / page).write_text(
        text, encoding="utf-8"
    )  # the last thing: there is no page without a link
    return ReportedRun(experiment, manifest, claims, page, picture if drawn.is_file() else "")


def _write_thumbnail(source: Path, target: Path) -> None:
    from PIL import Image

    with Image.open(source) as image:
        small = image.convert("RGB")
        small.thumbnail(THUMBNAIL)
        small.save(target, quality=80)


def _reason(error: Exception) -> str:
    """Why a run cannot be shown, in one line."""
    if isinstance(error, DamagedError):
        return str(error)
    if isinstance(error, KeyError):
        return f"{brief(error.args[0])} is missing from its files"
    if isinstance(error, FileNotFoundError):
        return f"{Path(str(error.filename)).name} is missing"
    return brief(" ".join(f"{type(error).__name__}: {error}".split()), 160)
