"""Docstrings are plain text with `code`: characters that reStructuredText reads otherwise are escaped.

An indented block behind a colon and an empty line is code. Mentions of the theory page are links.
"""

import re
from functools import cache

from claim_pages import sections

PLACE = r"(?:Sections?|Equations?) (\d)(?:\.\d+)?"
THEORY = re.compile(
    rf"docs/theory\.md(?:, ({PLACE}))?|({PLACE}(?:(?:,| and|, and| to) \d(?:\.\d+)?)*) of docs/theory\.md"
)
OUTSIDE = re.compile(r"(`+[^`]*`+|\*\*\w[^*`]*\*\*)|([|*]|(?<=\w)_(?!\w))")


anchors = cache(sections)


def linked(line):
    """A line in which the theory page, which lies above the pages with docstrings, is a link."""

    def link(found):
        place, number = (found[1], found[2]) if found[1] else (found[3], found[4])
        if place is None:
            return "`the theory <../theory.html>`__"
        return f"`{place} of the theory <../theory.html#{anchors()[number]}>`__"

    return THEORY.sub(link, line)


def escaped(line):
    """A line whose bars, stars and final underscores are text, but in code, examples and **bold type**."""
    if line.lstrip().startswith((">>>", "...")):
        return line
    return OUTSIDE.sub(lambda found: found[1] or "\\" + found[2], line)


def indent(line):
    return len(line) - len(line.lstrip())


def process(app, what, name, object_, options, lines):
    example, block = False, None  # block: the indentation of the text above a block of code
    for at, line in enumerate(lines):
        if block is not None and (not line.strip() or indent(line) > block):
            continue
        block = None
        after = lines[at + 2] if at + 2 < len(lines) else ""
        if (
            line.rstrip().endswith(":")
            and not lines[at + 1].strip()
            and indent(after) > indent(line)
        ):
            lines[at] = linked(escaped(line.rstrip())) + ":"
            block = indent(line)
            continue
        if line.lstrip().startswith(">>>"):
            example = True
        elif not line.strip():
            example = False  # the output of an example ends with a blank line
        if not example:
            lines[at] = linked(escaped(line))


def setup(app):
    # before napoleon, which reads sections
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
