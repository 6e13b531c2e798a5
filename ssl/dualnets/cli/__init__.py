"""The command `hltm`: one file per subcommand, discovered; nothing heavy is loaded to answer --help."""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
import sys
from pathlib import Path

USAGE = """usage: hltm COMMAND [OPTIONS]

How do hidden features emerge without labels? Data from hierarchical latent trees,
networks trained on them, and what their units know of the latents.

commands:
{commands}

`hltm COMMAND --help` shows a command's options. The first thing to try:

  hltm run emergence
"""


def commands() -> dict[str, str]:
    """Name -> the first line of its file's docstring, read without importing it."""
    found = {}
    for item in pkgutil.iter_modules(__path__):
        if item.name.startswith("_"):
            continue
        source = (Path(__path__[0]) / f"{item.name}.py").read_text()
        text = ast.get_docstring(ast.parse(source)) or ""
        found[item.name] = text.partition("\n")[0]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; the exit status is 0, 2 for a bad request, 130 for an interruption,
    1 for what was checked and is not so, or for a process that was killed."""
    given = sys.argv[1:] if arguments is None else arguments
    known = commands()
    if not given or given[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:8} {text}" for name, text in known.items())
        print(USAGE.format(commands=lines), end="")
        return 0
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"hltm {version('hltm')}")
        return 0
    if given[0] not in known:
        near = difflib.get_close_matches(given[0], known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return refuse(f"unknown command {given[0]!r}{hint}; there are: {', '.join(known)}")
    command = importlib.import_module(f"{__name__}.{given[0]}")
    try:
        status: int = command.main(given[1:])
    except OSError as error:  # Python says `[Errno 2] No such file or directory: 'name'`
        why = (error.strerror or "").lower()
        return refuse(f"{error.filename}: {why}" if error.filename and why else str(error))
    except (ValueError, MemoryError) as error:
        return refuse(str(error))
    except KeyboardInterrupt:
        print("\nhltm: interrupted; what was finished is stored", file=sys.stderr)
        return 130
    return status


def refuse(message: str) -> int:
    """Say what is wrong in one line; the exit status of a bad request."""
    print(f"hltm: {' '.join(message.split())}", file=sys.stderr)
    return 2
