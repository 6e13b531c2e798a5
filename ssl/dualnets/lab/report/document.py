"""The frame of every page: one file that needs no network, its style, its script, and its terms explained."""

from __future__ import annotations

import html
import re
from functools import cache
from importlib.resources import files

from dualnets.lab.report.glossary import PROSE, TERMS, term_of
from dualnets.lab.report.tables import explained, term_id
from hltm._names import visible


@cache
def asset(name: str) -> str:
    """The text of a file beside this one, e.g. `page.css`."""
    return files("dualnets.lab.report").joinpath(name).read_text(encoding="utf-8")


def document(title: str, body: str, style: str = "", scripts: str = "") -> str:
    """A page that needs neither a network nor other files.

    Args:
        title: plain text.
        body: HTML, in which buttons that `explained` made open the explanations of their terms.
        style: CSS that is added to that of all pages.
        scripts: HTML behind the script of all pages.

    Example:
        >>> page = document("a < b", "<p>text</p>")
        >>> "<title>a &lt; b</title>" in page, "<p>text</p>" in page
        (True, True)
    """
    used = (term for term in TERMS if f'popovertarget="{term_id(term)}"' in body)
    terms = "".join(
        f'<div popover id="{term_id(term)}"><strong>{html.escape(term)}</strong>'
        f"{html.escape(TERMS[term])}</div>"
        for term in used
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{asset("page.css")}{style}</style></head>
<body><main>
{body}
</main>{terms}
<script>{asset("page.js")}</script>{scripts}</body></html>
"""


def prose(text: str, *, terms: bool = False) -> str:
    """A text as HTML, with what stands between backticks as code.

    Args:
        text: plain text.
        terms: whether each term, where it first stands, is a button that opens its explanation.

    Example:
        >>> prose("1 < `a & b`")
        '1 &lt; <code>a &amp; b</code>'
    """
    seen: set[str | None] = set()

    def mark(found: re.Match[str]) -> str:
        term = term_of(found[0])
        if term in seen:
            return found[0]
        seen.add(term)
        return explained(found[0], found[0])

    line = visible(" ".join(text.split()))
    parts = re.split(r"`([^`]+)`", html.escape(line))  # every other one is code
    for at in range(0, len(parts), 2):
        parts[at] = PROSE.sub(mark, parts[at]) if terms else parts[at]
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
