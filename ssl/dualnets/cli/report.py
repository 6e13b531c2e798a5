"""Make a folder of pages of all stored runs and claims."""

from __future__ import annotations

import sys

from dualnets.cli._flags import Flag, parse

DESCRIPTION = """Make a folder of pages: one per stored run, with its explorer, and index.html over all
runs and all claims. The folder needs neither a network nor a server: open its index.html, or copy it
to any web server. A report that is there already is replaced."""
OPTIONS = [
    Flag("runs", "Folder of all results.", default="runs", metavar="RUNS", positional=True),
    Flag("out", "Folder of the report.", short="-o", default="report", metavar="FOLDER"),
]


def main(arguments: list[str]) -> int:
    """Write the report; name the runs that cannot be shown."""
    given = parse(OPTIONS, arguments, "hltm report", DESCRIPTION)

    from hltm._paths import local_path

    runs, target = local_path(given["runs"]), local_path(given["out"])

    from dualnets import experiments
    from dualnets.cli._terminal import print_plain, progress_bar, terminal
    from dualnets.lab.report import site
    from dualnets.lab.report.tables import counted

    site.check_target(runs, target)
    known = {name: experiments.load(name) for name in experiments.names()}
    console = terminal()
    with progress_bar(console, "runs") as bar:
        task = bar.add_task("report", total=None, rate="")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        shown, damaged = site.write(runs, target, known, show)
    for folder, reason in damaged.items():
        print(f"hltm: {folder} cannot be shown: {reason}", file=sys.stderr)
    size = sum(path.stat().st_size for path in target.iterdir()) / 1e6
    runs_shown = counted(len(shown), "run")
    print_plain(console, f"{target / site.INDEX}: {runs_shown}, {size:.1f} MB")
    return 0
