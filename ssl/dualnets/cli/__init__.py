"""The command `hltm`: each file here is a subcommand, imported when it is used."""

from __future__ import annotations

import ast
import difflib
import importlib
import io
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualnets._memory_errors import name_memory_errors

USAGE = """usage: hltm COMMAND [OPTIONS]

How do hidden features emerge without labels? Data from hierarchical latent
trees, networks trained on them, and how well units align with the latents.

commands:
{commands}

`hltm COMMAND --help` shows a command's options, `hltm --version` the version.
To start with:

  hltm run emergence
"""
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # of threads, for OpenMP and GNU's
CLOSED_PIPE = 141  # the status of a process that a closed pipe ended: 128 + SIGPIPE


def commands() -> dict[str, str]:
    """Name -> the first line of its file's docstring, read without importing it."""
    found = {}
    for item in pkgutil.iter_modules(__path__):
        if item.name.startswith("_"):
            continue
        source = (Path(__path__[0]) / f"{item.name}.py").read_text(encoding="utf-8")
        text = ast.get_docstring(ast.parse(source)) or ""
        found[item.name] = text.partition("\n")[0]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: what was typed after `hltm`; by default that of this process.

    Returns:
        The exit status: 0; 1 if a check or a cell failed; 2 for a request that
        cannot be met, explained in one line on standard error; 130 for an interruption; 141 where
        the reader of standard output is gone, as in `hltm list | head -1`.
    """
    if sys.stdout is None:  # closed by `>&-`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without Greek letters shows `?`
        sys.stdout.reconfigure(errors="replace")
    _wait_asleep()
    try:
        status = _status(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # here, where a closed pipe can still be caught
    except OSError as error:
        # the interpreter flushes once more when it ends, and would complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return CLOSED_PIPE
        return _refuse(f"cannot write to standard output: {(error.strerror or '').lower()}")
    return status


def _wait_asleep() -> None:
    """Let torch's threads sleep where they wait for each other, unless the user has decided that.

    By default they wait awake. Where another process holds a core, the one that works then waits for those
    that wait: with one such process, operations on two threads took 12 to 17 times as long.
    """
    if not {*WAITING} & {*os.environ}:
        os.environ.update(WAITING)  # read when torch is imported


def _status(arguments: list[str]) -> int:
    known = commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:8} {text}" for name, text in known.items())
        print(USAGE.format(commands=lines), end="")
        return 0
    name, *rest = arguments
    if name == "--version":
        from hltm import __version__

        print(f"hltm {__version__}")
        return 0
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return _refuse(f"unknown command {name!r}{hint}; there are: {', '.join(known)}")
    try:
        with _terminated_as_interrupted(), name_memory_errors("this"):
            status: int = importlib.import_module(f"{__name__}.{name}").main(rest)
    except SystemExit as end:  # the help text is printed
        return int(end.code or 0)
    except BrokenPipeError:
        raise
    except OSError as error:  # Python's own text is `[Errno 2] No such file or directory: 'name'`
        from hltm._names import brief

        reason, path = (error.strerror or "").lower(), brief(error.filename, 200)
        return _refuse(f"{path}: {reason}" if error.filename and reason else reason or str(error))
    except (ValueError, MemoryError) as error:
        return _refuse(str(error))
    except RuntimeError as error:
        from dualnets.lab.workers import WorkerError

        if not isinstance(error, WorkerError):
            raise
        text = " ".join(str(error).split()).rstrip(".")
        stop = "" if text.endswith("?") else "."
        print(f"hltm: {text}{stop} Finished cells are stored, and the same command continues from "
              "there", file=sys.stderr)  # fmt: skip
        return 1
    except KeyboardInterrupt:
        print("\nhltm: interrupted; what was finished is stored", file=sys.stderr)
        return 130
    return status


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, with which machines and their queues end a process, do what Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # no other may set it
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _refuse(message: str) -> int:
    """Print what is wrong in one line, with its paths as they are; the exit status of a mistake."""
    print("hltm:", " ".join(line.strip() for line in message.splitlines()), file=sys.stderr)
    return 2
