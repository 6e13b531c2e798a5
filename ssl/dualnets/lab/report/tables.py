"""Numbers and tables as text and as HTML: sorted by their headings, and never cut off."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualnets.lab.report.glossary import term_of
from hltm._names import visible

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "–"  # in a table where there is no value
LONG = 48  # characters; a column with longer texts has several lines in a row


def number(value: float) -> str:
    """A number with two decimals; a very small or very large one with a power of ten.

    Example:
        >>> number(0.756), number(3e-15), number(0.0)
        ('0.76', '3.0e-15', '0.00')
    """
    plain = value == 0 or 0.005 <= abs(value) < 1e4
    return f"{value:.2f}" if plain else f"{value:.1e}"


def counted(count: int, of: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "run"), counted(20, "run")
        ('1 run', '20 runs')
    """
    return f"{count} {of}" + "s" * (count != 1)


def shown(value: Any) -> str:
    """The text of one value in a table: three decimals, small probabilities with a power of ten.

    Example:
        >>> shown(0.25), shown(None), shown([1, 2.5]), shown({"depth": 3})
        ('0.250', '–', '1, 2.500', 'depth 3')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(own)}" for name, own in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    if value is None or value != value or value in ("None", "nan"):
        return NOTHING
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
    return str(value)


def explained(text: str, words: str) -> str:
    """A button with this HTML that opens the explanation of a term; the text alone without one."""
    term = term_of(words)
    if term is None:
        return text
    return f'<button type="button" class="term" popovertarget="{term_id(term)}">{text}</button>'


def term_id(term: str) -> str:
    """The id of the element that explains a term.

    Example:
        >>> term_id("gap closed")
        'term-gap-closed'
    """
    return f"term-{term.replace(' ', '-')}"


def scrolling(content: str, label: str) -> str:
    """HTML within a part that scrolls by itself, by keyboard as well, with a shadow where it goes on."""
    name = html.escape(label, quote=True)
    return f'<div class="wide" role="region" tabindex="0" aria-label="{name}">{content}</div>'


def html_table(rows: pd.DataFrame, label: str = "Table") -> str:
    """Rows as HTML that scrolls, texts on the left; equal texts in the first column are shown once.

    Args:
        rows: with unique names of columns.
        label: what the table is, for screen readers.
    """
    text = [len(rows) > 0 and isinstance(rows[column].iloc[0], str) for column in rows]
    kinds = [' class="text"' if is_text else "" for is_text in text]
    long = [is_text and rows[name].astype(str).str.len().max() > LONG
            for is_text, name in zip(text, rows, strict=True)]  # fmt: skip
    inside = [' class="text long"' if own else kind for own, kind in zip(long, kinds, strict=True)]
    head = "".join(
        f"<th{kind} scope=col>{_heading(str(column))}</th>"
        for column, kind in zip(rows.columns, kinds, strict=True)
    )
    lines, before = [], None
    for row in rows.itertuples(index=False):
        values = [shown(value) for value in row]
        again = bool(text and text[0]) and values[0] == before
        before = values[0]
        cells = "".join(
            f"<td{kind}>{html.escape(visible(value))}</td>"
            for kind, value in zip(inside, values, strict=True)
        )
        lines.append(f'<tr class="{"again" if again else "first"}">{cells}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return scrolling(table, label)


def _heading(column: str) -> str:
    """A button that sorts by the column, and a smaller one that explains its term, if it has one."""
    words = html.escape(column.replace("_", " ").strip()) or "part"
    help_sign = explained("?", column).replace(
        "<button", f'<button aria-label="What {words} means"'
    )
    sign = "" if help_sign == "?" else help_sign
    return f'<button type="button" class="sort">{words}</button>{sign}'


def details_table(details: Sequence[Mapping[str, Any]], label: str = "Details") -> str:
    """Details of a verdict as an HTML table, intervals behind their values; empty if there are none.

    A column in which no entry has a value is left out.
    """
    import pandas as pd

    if not details:
        return ""
    joined = [_with_intervals(entry) for entry in details]
    # as objects: in a column of floats, made by a row that has no level, level 1 would be 1.000
    table = pd.DataFrame(joined, dtype=object).dropna(axis=1, how="all")
    return html_table(table, label)


def _with_intervals(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with `low` and `high` in brackets behind what stands before them, `x_low` behind `x`.

    Example:
        >>> _with_intervals({"gap": 0.5, "low": 0.25, "high": None, "n": 12})
        {'gap': '0.500 [0.250, –]', 'n': 12}
    """
    found: dict[str, Any] = {}
    last = ""
    for name, value in entry.items():
        of = last if name == "low" else name.removesuffix("_low")
        if name in ("low", f"{of}_low") and of in found and name.replace("low", "high") in entry:
            high = entry[name.replace("low", "high")]
            if value is not None or high is not None:
                found[of] = f"{shown(found[of])} [{shown(value)}, {shown(high)}]"
        elif not (name == "high" and "low" in entry) and not (
            name.endswith("_high") and f"{name.removesuffix('high')}low" in entry
        ):
            found[name], last = None if value == "" else value, name
    return found
