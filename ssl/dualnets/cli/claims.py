"""Show every claim beside what was found, from stored runs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dualnets.cli._flags import parse

if TYPE_CHECKING:
    from rich.console import Console

    from dualnets.lab.claims import Claim


@dataclasses.dataclass(frozen=True)
class Flags:
    """What the command takes."""

    out: str
    scale: str | None
    seed: int | None
    markdown: str | None
    workers: int

    @property
    def changes(self) -> dict[str, Any]:
        """What of the scale's settings is replaced."""
        return {} if self.seed is None else {"seed": self.seed}


def main(arguments: list[str]) -> int:
    """Show the claims; with a scale run what is missing; with a page write its table."""
    flags = _parse(arguments)

    from rich.console import Console

    from dualnets.lab import claims

    console = Console(highlight=False)
    if Path(flags.out).exists() and not Path(flags.out).is_dir():
        raise ValueError(f"{flags.out} is a file, expected a folder of results")
    page = None
    if flags.markdown not in (None, "-"):
        page = Path(str(flags.markdown))
        if not page.is_file():
            raise ValueError(f"there is no page {page} to write the table into")
        claims.put("", page.read_text())  # its marks are looked for before anything is run
    claims.check_seed(flags.seed)
    if flags.scale is not None:
        _run_missing(console, flags)
    from dualnets import experiments

    found = claims.stored(
        map(experiments.load, experiments.names()), flags.out, flags.scale, flags.seed
    )
    ran = [claim for claim in found if claim.run]
    if flags.markdown is not None and not ran:
        raise ValueError(f"{flags.out} holds no run of a whole scale: there is nothing to write")
    if flags.markdown == "-":
        print(claims.markdown(ran))
    elif page is not None:
        results = page.parent / "benchmarks" / "claims"
        saved = results if flags.seed is None else claims.again(results, flags.seed)
        written = claims.save(ran, saved, experiments.names())
        page.write_text(claims.put(claims.table(results), page.read_text()))
        console.print(f"{page} and {len(written)} of the results in {saved} are written.")
        kept = len(list(saved.glob("*.json"))) - len(written)
        if kept:
            console.print(
                f"{kept} stay as they were: there is no run of their scale in {flags.out}."
            )
    else:
        _show(console, found)
        if not ran:
            console.print(f"{flags.out} holds no run of a whole scale; --scale default runs them.")
    return 0


def _parse(arguments: list[str]) -> Flags:
    import tyro

    flags: list[Any] = [
        ("out", Annotated[str, tyro.conf.arg(
            help="Folder of all results.", metavar="FOLDER")], "runs"),
        ("scale", Annotated[str | None, tyro.conf.arg(
            help="Run what is missing at this scale, and show it: smoke, default or paper. Without "
            "it, the largest stored runs are shown.", metavar="NAME")], None),
        ("seed", Annotated[int | None, tyro.conf.arg(
            help="The claims again on other trees, weights and rows: runs with this seed in place of "
            "the scale's own.", metavar="INT")], None),
        ("markdown", Annotated[str | None, tyro.conf.arg(
            help="Put the table into this page, between its marks, and the small results into "
            "benchmarks/claims beside it, runs of another seed as a column; - prints it.",
            metavar="PAGE")], None),
        ("workers", Annotated[int, tyro.conf.arg(
            help="Processes that compute cells side by side; 0 for one a core.")], 0),
    ]  # fmt: skip
    given = parse(
        flags, arguments, "hltm claims",
        "Every claim beside what was found, from stored runs: verdict, what was measured, its effect "
        "with a 95% interval, n, and the run.",
    )  # fmt: skip
    scales = ("smoke", "default", "paper")
    if given["scale"] not in (None, *scales):
        raise ValueError(f"unknown scale {given['scale']!r}, expected one of {', '.join(scales)}")
    if given["workers"] < 0:
        raise ValueError(f"workers must be at least 0, got {given['workers']}")
    return Flags(**given)


def _run_missing(console: Console, flags: Flags) -> None:
    """Run what has no stored run of the scale; an experiment that cannot be run is named."""
    from dualnets import experiments
    from dualnets.cli.run import TerminalReporter, headline_of
    from dualnets.lab import runner

    assert flags.scale is not None
    failed = []
    for name in experiments.names():
        experiment = experiments.load(name)
        if runner.has_run(experiment, flags.scale, flags.out, **flags.changes):
            continue
        console.print(f"[bold]{name.replace('_', '-')}[/]: {experiment.claim}")
        try:
            with TerminalReporter(console, headline_of(experiment)) as reporter:
                run = runner.run(
                    experiment, scale=flags.scale, out=flags.out, workers=flags.workers or None,
                    reporter=reporter, **flags.changes,
                )  # fmt: skip
            console.print(f"{run.verdict.verdict.upper()}. {run.verdict.reason}\n")
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            failed.append(name)
            print(f"hltm: {name} could not be run: {error}", file=sys.stderr)
    if failed:
        print(f"hltm: not run: {', '.join(failed)}", file=sys.stderr)


def _show(console: Console, found: list[Claim]) -> None:
    """One entry per claim: verdict, effect and n on a line, the words below it."""
    from rich.text import Text

    def below(text: str, style: str = "dim") -> None:
        # indented where it wraps, too; off a terminal without the blanks that pad a line
        for line in Text(text, style).wrap(console, console.width - 2):
            line.rstrip()
            console.print(Text("  ").append_text(line))

    colours = {"holds": "green", "fails": "red", "open": "yellow", "not run": "dim"}
    for claim in found:
        name = claim.experiment.replace("_", "-")
        head = Text.assemble(
            (f"{name:22}", "bold"), (f"{claim.verdict.upper():9}", f"bold {colours[claim.verdict]}")
        )
        if claim.run:
            head.append(f"{claim.shown_effect}, n = {claim.n} {claim.of}")
        console.print(head)
        below(claim.claim, "")
        if claim.run:
            below(f"{claim.measured}; {claim.reason}")
        below(claim.place)
        if claim.run:
            below(f"{claim.scale} scale, run {claim.run}: {claim.command}")
    counts = {kind: sum(claim.verdict == kind for claim in found) for kind in colours}
    console.print(", ".join(f"{count} {kind}" for kind, count in counts.items() if count))
