"""Show every claim with its outcome, from stored runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnets.cli._clusters import check_workers, cluster_flag
from dualnets.cli._flags import Flag, parse

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rich.console import Console

    from dualnets.lab.claims import ClaimResult, SideBySide

DESCRIPTION = """Show every claim with its outcome in stored runs: verdict, what was measured, the effect
with a 95% interval, n, and the run."""
BESIDE = 19  # characters, of where a claim was run
SCALES = ("smoke", "default", "long", "fashion", "paper")
NOTHING_RUN = """
No run in {out} gives a verdict; hltm claims --scale default makes such runs.
What our own runs found is in benchmarks/claims.md in the repository."""
OPTIONS = [
    Flag("out", "Folder of all results.", default="runs", metavar="FOLDER"),
    Flag("scale", "Run what is missing at this scale, and show it: smoke, default, paper, or long and "
         "fashion (Fashion-MNIST), which few have. Without it, the stored runs of all scales that give "
         "verdicts are shown.",
         metavar="NAME"),
    Flag("seed", "Repeat the claims on other trees, weights and rows: runs with this seed in place of the "
         "scale's own, of experiments that have others. The trees of several seeds count together; 0:8 "
         "is 0 to 7.",
         kind=int, several=True, default=[], note=""),
    Flag("markdown", "Write the table into this page, between its marks, and the claims as small files "
         "into the folder of its name, e.g. claims/ beside claims.md; other scales and repetitions with "
         "another seed become columns. - prints the table.", metavar="PAGE"),
    Flag("workers", "Processes that compute cells in parallel; 0 for one per core.", kind=int, default=0),
    cluster_flag("compute cells"),
]  # fmt: skip


def main(arguments: list[str]) -> int:
    """Show the claims; with a scale first run what is missing; with a page write its table."""
    given = _parse(arguments)
    out, scale, seeds, markdown = (given[key] for key in ("out", "scale", "seed", "markdown"))

    from dualnets import experiments
    from dualnets.cli._terminal import print_plain, terminal
    from dualnets.lab import claims

    # 1. Check everything before anything is run.
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"{out} is a file, expected a folder of results")
    page = None if markdown in (None, "-") else Path(markdown)
    if page is not None:
        if not page.is_file():
            raise ValueError(f"there is no page {page} to write the table into")
        if not page.suffix:
            raise ValueError(
                f"the name of the page must have an ending, as claims.md has, got {page}"
            )
        claims.insert_table("", page.read_text())

    # 2. Run what is missing, and read what is stored.
    console = terminal()
    if scale is not None:
        from dualnets.lab.clusters import executor_of

        with executor_of(given["cluster"]) as executor:
            _run_missing(console, scale, out, given["workers"] or None, seeds, executor)
    scales = claims.SCALES if scale is None else (scale,)
    every = [experiments.load(name) for name in experiments.names()]
    found = {each: claims.stored(every, out, each, seeds) for each in scales}
    not_run = [result for results in found.values() for result in results if not result.run]
    for damage in dict.fromkeys(result.reason for result in not_run if result.reason):
        print(f"hltm: {damage}", file=sys.stderr)
    ran = {each: [result for result in results if result.run] for each, results in found.items()}

    # 3. Show it, or write it.
    if markdown is not None and not any(ran.values()):
        raise ValueError(f"{out} holds no run of a whole scale: there is nothing to write")
    if markdown == "-":
        beside = claims.partners_markdown(claims.side_by_side(ran))
        every_run = [result for results in ran.values() for result in results]
        print("\n\n".join(filter(None, [claims.markdown(every_run), beside])))
    elif page is not None:
        folder = page.with_suffix("")
        for each, results in ran.items():
            if results:
                saved = claims.results_folder(folder, each, seeds)
                written = claims.save(results, saved, experiments.names())
                print_plain(
                    console, f"{len(written)} claims of the {each} scale are written to {saved}."
                )
                kept = len(claims.load(saved)) - len(written)
                if kept:
                    print_plain(
                        console, f"{kept} others there are unchanged: {out} holds no run of them."
                    )
        page.write_text(claims.insert_table(claims.table(folder), page.read_text()))
        print_plain(console, f"The table in {page} is written.")
    else:
        first, *others = found.values()
        _show(console, first, [result for results in others for result in results if result.run])
        _show_beside(console, claims.side_by_side(ran))
        if not any(ran.values()):
            print_plain(console, NOTHING_RUN.format(out=out))
    return 0


def _parse(arguments: list[str]) -> dict[str, Any]:
    given = parse(OPTIONS, arguments, "hltm claims", DESCRIPTION)
    if given["scale"] not in (None, *SCALES):
        raise ValueError(f"unknown scale {given['scale']!r}, expected one of {', '.join(SCALES)}")
    check_workers(given["workers"], given["cluster"])
    return given | {"seed": sorted(set(given["seed"]))}  # so that 1 0 is the run that 0 1 is


def _run_missing(
    console: Console, scale: str, out: str, workers: int | None, seeds: Sequence[int],
    executor: Executor | None,
) -> None:  # fmt: skip
    """Run every experiment that has no stored run of the scale; name those that cannot be run."""
    from dualnets import experiments
    from dualnets.cli._reporter import TerminalReporter
    from dualnets.cli._terminal import print_plain
    from dualnets.lab import runner
    from dualnets.lab.claims import can_run
    from dualnets.lab.workers import ExecutorGoneError

    changes: dict[str, Any] = {"seed": seeds} if seeds else {}
    failed = []
    for name in experiments.names():
        experiment = experiments.load(name)
        if not can_run(experiment, scale, seeds):
            continue
        if runner.has_run(experiment, scale, out, **changes):
            continue
        print_plain(console, f"{experiment.flag}: {experiment.title}", "bold")
        try:
            with TerminalReporter(console, experiment) as reporter:
                run = runner.run(
                    experiment, scale=scale, out=out, workers=workers, reporter=reporter,
                    executor=executor, **changes,
                )  # fmt: skip
        except (BrokenPipeError, ExecutorGoneError):
            raise
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            failed.append(name)
            print(f"hltm: {name} could not be run: {error}", file=sys.stderr)
        else:
            for verdict in run.verdicts:
                print_plain(
                    console, f"{verdict.verdict.upper()}. {verdict.claim}: {verdict.reason}"
                )
            print_plain(console, "")
    if failed:
        print(f"hltm: not run: {', '.join(failed)}", file=sys.stderr)


def _show(console: Console, found: list[ClaimResult], others: list[ClaimResult]) -> None:
    """Per claim that was run, verdict, effect and n on a line, the words below it, and other scales' runs;
    then the names of the others."""
    from rich.text import Text

    from dualnets.cli._terminal import print_plain

    def print_below(text: str, style: str = "dim") -> None:
        # every line is indented, and has no blanks at its end, which rich would add
        for line in Text(text, style).wrap(console, console.width - 2):
            line.rstrip()
            console.print(Text("  ").append_text(line))

    colours = {"holds": "green", "fails": "red", "open": "yellow", "not run": "dim"}
    elsewhere = {(other.experiment, other.name) for other in others}
    missing = []
    for claim in found:
        if not claim.run and (claim.experiment, claim.name) not in elsewhere:
            missing.append(claim.title)
            continue
        head = Text.assemble(
            (f"{claim.title:31} ", "bold"),
            (f"{claim.verdict.upper():9}", f"bold {colours[claim.verdict]}"),
        )
        effect = f"{claim.shown_effect}, n = {claim.n} {claim.of}" if claim.run else ""
        fits = len(head) + len(effect) <= console.width
        head.append(effect if fits else "")
        head.rstrip()
        console.print(head)
        if not fits:
            print_below(effect, "")
        print_below(claim.claim, "")
        if claim.run:
            print_below(f"{claim.measured}; {claim.reason}")
        print_below(claim.reference)
        if claim.run:
            # a command is for copying, too
            print_plain(console, f"  {claim.scale} scale, run {claim.run}: {claim.command}", "dim")
        for other in others:
            if (other.experiment, other.name) == (claim.experiment, claim.name):
                text = f"{other.scale} scale: {other.verdict}, {other.shown_effect}, n = {other.n}"
                print_below(f"{text} {other.of}; {other.reason}")
    if missing:
        print_below(f"Not run: {', '.join(missing)}.")
    counts = {kind: sum(claim.verdict == kind for claim in found) for kind in colours}
    console.print(", ".join(f"{count} {kind}" for kind, count in counts.items() if count))


def _show_beside(console: Console, pairs: Sequence[SideBySide]) -> None:
    """Per claim that was run on trees and on pictures: its titles, and a line for each outcome."""
    from dualnets.cli._terminal import print_plain

    if pairs:
        print_plain(console, "\nOn trees, and on pictures:", "bold")
    for pair in pairs:
        print_plain(console, " / ".join(pair.titles))
        outcomes = {"trees": pair.trees}
        outcomes |= {f"pictures, {scale}": own for scale, own in pair.pictures.items()}
        for where, own in outcomes.items():
            print_plain(console, f"  {where:{BESIDE}}{own.shown_outcome}")
