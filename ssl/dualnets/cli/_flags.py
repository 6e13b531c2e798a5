"""Flags of a command, parsed: help as it is made, and every mistake as one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

BORDER = re.compile(r"[─╭╮╰╯]{3,}|\+?-{6,}\+?")  # drawn, or typed where that cannot be
NO_NUMBER = re.compile(r"invalid literal for int\(\)|could not convert string to float|no type matching"
                       r"|Could not find valid parse")  # fmt: skip


def parse(
    fields: Sequence[Any], arguments: Sequence[str], command: str, description: str
) -> dict[str, Any]:
    """The value of every field, by name.

    Args:
        fields: as `dataclasses.make_dataclass` takes them, annotated with tyro's.
        arguments: what was typed.
        command: what was typed before them, e.g. `hltm tree`.
        description: on top of the help.

    Raises:
        ValueError: what was typed cannot be parsed; in one line.
        SystemExit: help was asked for, and is printed.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            made: Any = tyro.cli(
                dataclasses.make_dataclass("Flags", fields, kw_only=True),
                args=arguments,
                prog=command,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ValueError(_in_one_line(said.getvalue(), command)) from None
    return dataclasses.asdict(made)


def _in_one_line(box: str, command: str) -> str:
    """The first thing that a box says, with a near name or the kind that was expected."""
    parts = [
        [line.strip(" │|+") for line in part.splitlines() if line.strip(" │|+")]
        for part in BORDER.split(box)
    ]
    parts = [lines for lines in parts if lines]
    # between the title and the pointer to the help
    said = [lines for lines in parts[1:] if not lines[0].startswith("For full helptext")]
    text = " ".join(said[0]) if said else " ".join(box.split())
    more = said[1] if len(said) > 1 else []
    typed = re.match(r"Error parsing (\S+): (.*)", text)
    if typed and NO_NUMBER.search(text):
        flag = typed[1].rpartition("/")[2]
        value = re.search(r"\[(.*?)\]|: ('[^']*')", typed[2])
        kind = next((line.partition(flag + " ")[2] for line in more if flag + " " in line), "")
        kinds = {"INT": "a whole number", "NUMBER": "a number", "FLOAT": "a number"}
        expected = kinds.get(kind.removesuffix(" ..."), kind) + (
            ", or several" * kind.endswith("...")
        )
        text = f"{flag} must be {expected}, got {(value[1] or value[2]) if value else 'another'}"
    elif typed:
        text = f"{typed[1]}: {typed[2]}"
    elif more and more[0].startswith("Perhaps you meant"):
        text += f" (did you mean {more[1].split()[0].rstrip(',')}?)"
    text = text.removesuffix(".").replace("Expected 1 values", "Expected one")
    return f"{text[:1].lower() + text[1:]}; {command} --help shows the options"
