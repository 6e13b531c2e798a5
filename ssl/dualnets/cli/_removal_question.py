"""What would be removed, with its size, and the question whether to do it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualnets.cli._terminal import print_plain, terminal
from dualnets.lab.report.tables import counted
from dualnets.lab.stored_runs import folder_size, shown_size

if TYPE_CHECKING:
    from dualnets.lab.removal import Removal


def ask(removal: Removal, *, yes: bool) -> int:
    """Show a removal, ask unless `yes`, and remove.

    Raises:
        ValueError: there is something to remove, nobody can be asked, and `yes` is false.
    """
    console = terminal()
    kinds = (
        ("run", "", removal.runs),
        ("cell", " that no other run needs", removal.cells),
        ("folder", " left by killed processes", removal.leftovers),
    )
    for noun, which, folders in kinds:
        if folders:
            print_plain(console, f"{counted(len(folders), noun)}{which}, {_size(folders)}")
        for folder in folders:
            print_plain(console, f"  {folder}  {_size([folder])}", "dim")
    for reason in removal.kept:
        print_plain(console, reason)
    if not removal.folders:
        print_plain(console, "There is nothing to remove.")
        return 0
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():  # None: closed by `<&-`
            raise ValueError("there is no terminal to ask on; --yes removes without a question")
        answer = ""
        with contextlib.suppress(EOFError):  # Ctrl-D
            answer = input("Remove them? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print_plain(console, "Nothing is removed.")
            return 1
    size = _size(removal.folders)
    removal.remove()
    print_plain(console, f"Removed: {size}.")
    return 0


def _size(folders: Sequence[Path]) -> str:
    return shown_size(sum(map(folder_size, folders)))
