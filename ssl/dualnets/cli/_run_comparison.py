"""Two stored runs on a terminal, side by side, and the figure of their curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnets.cli._run_texts import effect, experiment_of, shown_date
from dualnets.cli._terminal import plain_table, print_plain
from dualnets.lab.comparison import ALL, common_curves, compared_claims, differing_settings
from dualnets.lab.report.tables import number
from dualnets.lab.stored_runs import flag, short_names
from hltm._paths import local_path

if TYPE_CHECKING:
    from rich.console import Console

    from dualnets.lab.comparison import Curves
    from dualnets.lab.stored_runs import StoredRun

SUFFIXES = (".png", ".svg")


def target(given: str | None, out: str, runs: Sequence[StoredRun]) -> Path:
    """The file of the figure; that of the user is checked, that in `out` may be made with its folder.

    Raises:
        ValueError: the name of another kind of file, or of one in a folder that is not there.
    """
    if given is None:
        return local_path(out) / "comparisons" / f"{'-'.join(run.name for run in runs)}.png"
    path = local_path(given)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"picture must end in {' or '.join(SUFFIXES)}, got {given!r}")
    if not path.parent.is_dir():
        raise ValueError(f"picture {given}: there is no folder {path.parent}")
    return path


def show(console: Console, a: StoredRun, b: StoredRun, picture: Path) -> None:
    """Print how two runs differ, and draw the curves that they have in common."""
    experiments = [experiment_of(run) for run in (a, b)]
    known = {own.name: own.Settings for own in experiments if own is not None}
    short = short_names([a, b])
    names = [f"{flag(run.experiment)}/{short[run.folder]}" for run in (a, b)]
    for letter, name, run in zip("AB", names, (a, b), strict=True):
        print_plain(console, f"{letter}: {name}, {shown_date(run.date)}, {run.scale} scale", "bold")
        print_plain(console, f"   {run.manifest['command']}")
    console.print()
    _show_settings(console, a, b, known)
    _show_claims(console, a, b)
    curves = common_curves(a, b, known)
    if curves is None:
        print_plain(console, "The two tables have no metric over steps in common: no figure.")
        return
    _show_curves(console, curves)

    from dualnets.lab.report import overlay_figure
    from dualnets.lab.report.style import house_style

    figure = overlay_figure.draw(
        curves, [f"{letter}: {n}" for letter, n in zip("AB", names, strict=True)]
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    with house_style():
        figure.savefig(picture)
    print_plain(console, f"\n  {picture}")


def _show_settings(
    console: Console, a: StoredRun, b: StoredRun, known: dict[str, type[Any]]
) -> None:
    """A row per setting whose values differ."""
    from rich import box
    from rich.table import Table

    differing = differing_settings(a, b, known)
    if not differing:
        print_plain(console, "The settings of their cells are the same.\n")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("settings that differ", "A", "B"):
        table.add_column(column, overflow="fold", no_wrap=column not in "AB")
    from rich.text import Text

    for name, values in differing.items():
        cells = (", ".join(own) or "–" for own in values)
        table.add_row(*map(Text, (name.replace("_", "-"), *cells)))
    console.print(table)
    console.print()


def _show_claims(console: Console, a: StoredRun, b: StoredRun) -> None:
    """A row per claim, with both verdicts and effects, and the difference of the effects."""
    from rich.text import Text

    if a.experiment != b.experiment:
        what = f"{flag(a.experiment)} and {flag(b.experiment)} are two experiments"
        print_plain(console, f"{what}: their claims cannot be compared, common metrics can.\n")
        return
    table = plain_table(["claim", "A", "B", "B - A"], left="claim")
    for claim in compared_claims(a, b):
        own = [f"{v['verdict']} {effect(v).partition(', n')[0]}" if v else "–" for v in claim[1:]]
        difference = "–" if claim.difference is None else number(claim.difference)
        table.add_row(*map(Text, (claim.name or "the claim", *own, difference)))
    console.print(table)
    console.print()


def _show_curves(console: Console, curves: Curves) -> None:
    """Say which curves the figure has, and which it leaves out."""
    from dualnets.lab.report.overlay_figure import MOST_GROUPS, MOST_METRICS

    metrics = [name.replace("_", " ") for name in curves.metrics]
    print_plain(console, f"curves in common, means over latents: {', '.join(metrics)}")
    for what, found, most in (
        ("metrics", metrics, MOST_METRICS), ("cells", curves.groups, MOST_GROUPS)
    ):  # fmt: skip
        if len(found) > most:
            print_plain(console, f"not drawn: {what}: {', '.join(found[most:])}")
    if curves.groups == [ALL]:
        print_plain(console, "means over all cells of a run")
    if curves.pooled:
        names = ", ".join(name.replace("_", "-") for name in curves.pooled)
        print_plain(console, f"means over the values of {names}, of which none is in both runs")
