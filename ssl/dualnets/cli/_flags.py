"""The flags of a command: a help text, and one line for every mistake."""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from dualnets._options import SCALARS

METAVARS: dict[type, str] = {int: "INT", float: "NUMBER", bool: "{True,False}", str: "TEXT"}
HELP = ("-h", "--help")
WIDEST = 100  # columns; longer lines are hard to read
MEANINGS = 26  # column at which the meanings of flags begin
NEGATIVE = re.compile(r"-(\.?\d|inf$|nan$)")  # how a negative number begins
RANGE = re.compile(r"(-?\d+):(-?\d+)", re.ASCII)
LONGEST_RANGE = 1 << 16  # a typing error would fill the memory
MISSING = object()  # the value of a flag that was given without one


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: in Python; the flag has hyphens.
        meaning: for the help text.
        kind: of its value: int, float, bool or str.
        default: its value where it is not given.
        metavar: shown for the value in the help text; by default one for the kind.
        choices: the values there are.
        several: whether it takes any number of values, which are a list; whole numbers also as a range
            such as 0:8, which ends before its end, as Python's.
        switch: whether it takes no value, and is True where it is given.
        required: whether it must be given.
        positional: whether it is given without its name.
        short: another name, e.g. `-n`.
        note: in the help text in place of the default; "" for nothing.
        group: its heading in the help text.
    """

    name: str
    meaning: str
    _: KW_ONLY
    kind: type = str
    default: Any = None
    metavar: str | None = None
    choices: Sequence[str] | None = None
    several: bool = False
    switch: bool = False
    required: bool = False
    positional: bool = False
    short: str | None = None
    note: str | None = None
    group: str = "options"

    @property
    def flag(self) -> str:
        """How it is given, e.g. `--polarity-low`."""
        return f"--{self.name.replace('_', '-')}"

    def shown_value(self) -> str:
        """What the help text shows for its value."""
        if self.switch:
            return ""
        choices = "{" + ",".join(self.choices) + "}" if self.choices else None
        return (self.metavar or choices or METAVARS[self.kind]) + " ..." * self.several

    def converted(self, text: str) -> Any:
        """The value of a text.

        Raises:
            argparse.ArgumentTypeError: the text is not such a value.
        """
        expected = SCALARS[self.kind]
        if self.several and self.kind is int and (bounds := RANGE.fullmatch(text)):
            return self._range(int(bounds[1]), int(bounds[2]))
        if self.choices is not None:
            expected = f"one of {', '.join(self.choices)}"
            if text in self.choices:
                return text
        elif self.kind is bool:
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
        else:
            try:
                return self.kind(text)
            except ValueError:
                pass
        expected += ", or several" * (self.several and self.choices is None)
        if self.several and self.kind is int and ":" in text:
            expected += ", or a range such as 0:8"
        name = self.name.upper() if self.positional else self.flag
        raise argparse.ArgumentTypeError(f"{name} must be {expected}, got {text!r}")

    def _range(self, first: int, end: int) -> range:
        """The whole numbers from the first up to the end, without the end."""
        if not 0 < end - first <= LONGEST_RANGE:
            count = f"has {end - first:,} numbers" if end > first else "is empty"
            raise argparse.ArgumentTypeError(
                f"{self.flag} {first}:{end} {count}, expected FIRST:END with 1 to {LONGEST_RANGE:,} "
                "numbers; 0:8 is 0 to 7"
            )
        return range(first, end)


def grouped(heading: str, *options: Flag) -> list[Flag]:
    """The same options under a heading of the help text."""
    return [replace(option, group=heading) for option in options]


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors, and leaves help texts to this module."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False, exit_on_error=False)
        # argparse takes -1e-3 and -inf for flags; what looks like a number is a value
        self._negative_number_matcher = NEGATIVE

    def error(self, message: str) -> Any:
        raise ValueError(message)


def asks_for_help(arguments: Iterable[str]) -> bool:
    """Whether one of the arguments is `-h` or `--help`."""
    return any(argument in HELP for argument in arguments)


def parse(
    options: Sequence[Flag], arguments: Sequence[str], command: str, description: str
) -> dict[str, Any]:
    """The value of every option, by name.

    Args:
        options: what the command takes.
        arguments: what was typed after the command.
        command: e.g. `hltm tree`.
        description: paragraphs for the top of the help text.

    Raises:
        ValueError: the arguments cannot be parsed; its text is one line.
        SystemExit: help was asked for and is printed.
    """
    if asks_for_help(arguments):
        print(help_text(options, command, description), end="")
        raise SystemExit(0)
    try:
        return _parse(options, arguments)
    except ValueError as error:
        raise ValueError(f"{error}; {command} --help shows the options") from None


def _parse(options: Sequence[Flag], arguments: Sequence[str]) -> dict[str, Any]:
    parser = _Parser()
    for option in options:
        _add(parser, option)
    try:
        found, left = parser.parse_known_args([_with_hyphens(text) for text in arguments])
    except argparse.ArgumentError as error:
        own = isinstance(error.__context__, argparse.ArgumentTypeError)  # it names the flag already
        if own:
            raise ValueError(error.message) from None
        value = error.message.partition("explicit argument ")[2]  # a switch with a value
        raise ValueError(f"{error.argument_name} takes no value, got {value}") from None
    left = [text for text in left if text != "--"]
    if left:
        flags = [option.flag for option in options if not option.positional]
        raise ValueError(_unknown(left[0], flags))
    given = vars(found)
    for option in options:
        if option.several and option.kind is int and given[option.name]:
            spread = (v if isinstance(v, range) else [v] for v in given[option.name])
            given[option.name] = [*itertools.chain.from_iterable(spread)]
        if given[option.name] is MISSING:
            raise ValueError(f"{option.flag} needs a value")
        if given[option.name] == [] and given[option.name] is not option.default:
            raise ValueError(f"{option.flag} needs a value, or several")
        if option.required and given[option.name] is None:
            raise ValueError(f"{option.flag} is required")
    return given


def _add(parser: argparse.ArgumentParser, option: Flag) -> None:
    names = [option.name] if option.positional else [option.flag]
    names = [option.short, *names] if option.short else names
    more: dict[str, Any] = {} if option.positional else {"dest": option.name}
    if option.switch:
        parser.add_argument(*names, action="store_true", **more)
        return
    # "?" and MISSING instead of argparse's own check, whose message could not be distinguished from others
    nargs, const = ("*", None) if option.several else ("?", MISSING)
    convert: Callable[[str], Any] = option.converted
    parser.add_argument(
        *names, nargs=nargs, const=const, default=option.default, type=convert, **more
    )


def _with_hyphens(text: str) -> str:
    """`--polarity_low=1` as `--polarity-low=1`: either way of writing a flag is understood."""
    if not text.startswith("--"):
        return text
    flag, equals, value = text.partition("=")
    return flag.replace("_", "-") + equals + value


def _unknown(text: str, flags: Sequence[str]) -> str:
    if not text.startswith("-"):
        return f"unexpected argument {text!r}"
    flag = text.partition("=")[0]
    near = difflib.get_close_matches(flag, flags, n=1)
    return f"unknown option {flag}" + (f" (did you mean {near[0]}?)" if near else "")


def help_text(options: Sequence[Flag], command: str, description: str) -> str:
    """The help of a command: usage, description, and its options by groups."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    named = "".join(f" {option.shown_value()}" for option in options if option.positional)
    usage = f"{command} [-h]" + " [OPTIONS]" * bool(options) + named
    lines = [f"usage: {usage}"]
    for paragraph in description.strip().split("\n\n"):
        lines += ["", *_wrapped(paragraph, width)]
    groups: dict[str, list[Flag]] = {}
    for option in options:
        groups.setdefault(option.group, []).append(option)
    for heading, members in groups.items():
        lines += ["", f"{heading}:"]
        for option in members:
            lines += _described(option, width)
    return "\n".join(lines) + "\n"


def _described(option: Flag, width: int) -> list[str]:
    """The lines of one option: its flag, and to the right or below it its meaning and default."""
    start = MEANINGS if width >= 70 else 10  # on a narrow terminal the meaning is below the flag
    flag = option.shown_value()
    if not option.positional:
        flag = f"{option.short}, " * bool(option.short) + f"{option.flag} {flag}".rstrip()
    default = f"(default: {option.default})"
    if option.switch or option.required or option.default in (None, ""):
        default = "(required)" if option.required else ""
    meaning = _wrapped(
        f"{option.meaning} {default if option.note is None else option.note}", width - start
    )
    if len(flag) + 4 <= start:
        return [
            ("  " + flag).ljust(start) + line if at == 0 else " " * start + line
            for at, line in enumerate(meaning)
        ]
    # a list of choices that is too long for a line is broken behind a comma
    heads = _wrapped(flag if len(flag) + 2 <= width else flag.replace(",", ", "), width - 6)
    return [
        *("  " + "    " * (at > 0) + head for at, head in enumerate(heads)),
        *(" " * start + line for line in meaning),
    ]


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of a paragraph, broken at blanks only: a flag or a path stays whole."""
    return textwrap.wrap(
        " ".join(text.split()), width, break_long_words=False, break_on_hyphens=False
    )
