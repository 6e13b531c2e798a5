"""The interface that the site shows, and the names in its docstrings that the site does not have."""

import inspect
import re
from pathlib import Path
from pkgutil import resolve_name

DOCS = Path(__file__).resolve().parents[1]
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: (\S+)\n((?:   +:.*\n)*)", re.MULTILINE)
NAME = re.compile(r"`((?:hltm|dualnets)(?:\.\w+)+)[(`]")


def directives():
    """The (kind, name, options) of every directive of a page that shows a docstring."""
    for page in sorted(DOCS.rglob("*.md")):
        yield from DIRECTIVE.findall(page.read_text(encoding="utf-8"))


def shown():
    """Name -> docstring, of everything that a page shows."""
    found = {}
    for kind, name, options in directives():
        value = resolve_name(name)
        found[name] = "" if kind == "data" else getattr(value, "__doc__", None) or ""
        members = re.search(r":members:(.*)", options)
        if members is not None:
            listed = [member.strip() for member in members[1].split(",") if member.strip()]
            for member in listed or [each for each in vars(value) if not each.startswith("_")]:
                text = inspect.getdoc(inspect.getattr_static(value, member))
                found |= {f"{name}.{member}": text} if text else {}
    return found


def dead_names(shown):
    """(where, name) of every name in the docstrings that are shown which is not shown itself.

    A package is there where the reference has its page.
    """
    values = {id(resolve_name(name)) for name in shown}
    for where, text in shown.items():
        for name in NAME.findall(text):
            there = (DOCS / "reference" / f"{name.replace('.', '_')}.md").exists()
            if not (there or name in shown or _place(name) in values):
                yield where, name


def _place(name):
    """Where the object of a name is in memory; None if there is none."""
    try:
        return id(resolve_name(name))
    except (AttributeError, ModuleNotFoundError):
        return None
