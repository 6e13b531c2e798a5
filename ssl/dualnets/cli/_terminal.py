"""What every command prints with: a console on which paths can be copied, and a progress bar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text


def terminal() -> Console:
    """A console for standard output; where its reader has gone, printing raises BrokenPipeError."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process here; `main` does it for every command

    return Terminal(highlight=False)


def print_plain(console: Console, text: str, style: str | None = None) -> None:
    """Print a line that is neither wrapped nor cut nor read as markup, so that paths can be copied."""
    console.print(text, style=style, markup=False, emoji=False, soft_wrap=True)


def plain_table(columns: Iterable[str], *, left: str, title: Text | None = None) -> Table:
    """An empty table with a line below its head; numbers are aligned right, the column `left` left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False,
                  padding=(0, 1, 0, 0))  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == left else "right", no_wrap=True)
    return table


def progress_bar(console: Console, unit: str) -> Progress:
    """A progress bar with the fraction done, the rate and the time left.

    Its tasks have a field `rate`, a text. It is erased at the end, and shows nothing off a terminal.
    """
    from rich import progress

    columns: list[Any] = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=12),
        progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(compact=True),
    ]
    return progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    )
