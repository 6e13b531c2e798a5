"""Strings of a grammar, written to a file: `hltm sample --grammar`."""

from __future__ import annotations

import re

from dualnets.cli._flags import Flag, grouped, parse
from dualnets.cli._terminal import print_plain, terminal

DESCRIPTION = """Write strings of a probabilistic context-free grammar to a Parquet file.

A line of the grammar's file is such as S -> NP VP [0.7] | 'go' [0.3], with terminals in quotes. Columns are
row, token_0, token_1, … (null behind the end of a string) and, for every span I-J, label_I_J: 0 where the
tokens I..J-1 are no constituent, and otherwise 1 + the number of their symbol."""
SPAN = re.compile(r"(\d+)-(\d+)", re.ASCII)


def write_sentences(arguments: list[str]) -> int:
    """Write the strings that the arguments ask for; the exit status."""
    options = [
        *grouped(
            "strings",
            Flag("grammar", "The grammar's file.", required=True, metavar="FILE"),
            Flag("n", "How many strings.", short="-n", kind=int, required=True),
            Flag("max_length", "The most tokens of a string; longer ones are drawn again.", kind=int,
                 required=True),
            Flag("draw_seed", "Seed of the strings: 64 bits.", kind=int, default=0),
            Flag("start", "The first row.", kind=int, default=0),
            Flag("spans", "Places of constituents to label, such as 0-2,3-5.", default="",
                 note="(default: none)"),
        ),
        *grouped(
            "file",
            Flag("out", "File to write.", default="", metavar="OUT", positional=True, note="(required)"),
        ),
    ]  # fmt: skip
    given = parse(options, arguments, "hltm sample --grammar", DESCRIPTION)
    if not given["out"]:
        raise ValueError("name the file to write, e.g. strings.parquet")
    import hltm

    data = hltm.SentenceDataset(
        hltm.PCFG.load(given["grammar"]), samples=given["n"], seed=given["draw_seed"],
        max_length=given["max_length"], spans=_spans(given["spans"]), start=given["start"],
    )  # fmt: skip
    data.save(given["out"])
    console = terminal()
    console.print(f"{len(data):,} strings of at most {data.max_length} tokens")
    print_plain(console, f"\n  {given['out']}")
    console.print("\nhltm.SentenceDataset.load reads it in Python.", style="dim")
    return 0


def _spans(text: str) -> list[tuple[int, int]]:
    """The spans of a text such as 0-2,3-5."""
    found = []
    for part in text.split(",") if text else []:
        span = SPAN.fullmatch(part.strip())
        if span is None:
            raise ValueError(f"--spans must be such as 0-2,3-5, got {text!r}")
        found.append((int(span[1]), int(span[2])))
    return found
