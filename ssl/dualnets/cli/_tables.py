"""Tables on a terminal: as many below each other as the width needs, with nothing cut off."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualnets.lab.report.glossary import legend
from dualnets.lab.report.tables import shown

if TYPE_CHECKING:
    import pandas as pd

N_MEMBERS = re.compile(r"\bn (trees|networks)\b")  # not within "between trees"
# columns of words, which are aligned left
TEXTS = ("loss", "network", "data", "identity", "where", "what", "verdict")


def terminal_tables(summary: pd.DataFrame, width: int = 80) -> Iterator[Any]:
    """The summary as tables, captions and a legend that rich prints, a table per combination of settings.

    Columns to the left of a column `network` are such settings; without one there is a single table.
    Columns that do not fit into the width follow in another table with the same first columns, without the
    rows that have nothing in it.
    """
    columns = list(summary.columns)
    settings = columns[: columns.index("network")] if "network" in columns else []
    caption = summary.attrs.get("caption")
    if not settings:
        yield from _fitting_tables(summary, None, caption, width)
    else:
        for key, rows in summary.groupby(settings, sort=False):
            title = ", ".join(f"{name} {value}" for name, value in zip(settings, key, strict=True))
            yield from _fitting_tables(rows.drop(columns=settings), title, caption, width)
    if explained := legend(name for name in columns if name != "n"):
        from rich.text import Text

        yield Text("\n").join(
            Text.assemble((f"{term}: ", "bold dim"), (text, "dim"))
            for term, text in explained.items()
        )


def _fitting_tables(
    rows: pd.DataFrame, title: str | None, caption: str | None, width: int
) -> Iterator[Any]:
    """One table, or several with the same first columns (those before the first fraction); a caption."""
    from rich.text import Text

    if caption is None and "n" in rows:
        trees = ", ".join(map(str, sorted(set(rows["n"]))))
        of = " of levels ≥ 2" if any("≥ 2" in str(column) for column in rows) else ""
        caption = f"means over n = {trees} trees; gap closed{of} with its 95% interval"
        if {"before", "root"} <= set(rows):
            caption += "; before, root: best |correlation| with the root, untrained and trained"
        rows = rows.drop(columns="n")
    elif caption is not None and N_MEMBERS.search(caption) and rows["n"].nunique() == 1:
        caption = N_MEMBERS.sub(rf"n = {rows['n'].iloc[0]} \1", caption)
        rows = rows.drop(columns="n")
    texts = {str(name): [shown(value) for value in rows[name]] for name in rows}
    # a column is as wide as its cells and the longest word of its name, which is wrapped at spaces
    wide = {name: max(map(len, (*column, *name.split(" ")))) for name, column in texts.items()}
    fractions = [at for at, kind in enumerate(rows.dtypes) if kind.kind == "f"]
    shared = list(texts)[: max(fractions[0], 1)] if fractions else list(texts)[:1]
    parts = [list(shared)]
    for name in list(texts)[len(shared) :]:
        if sum(wide[n] + 1 for n in [*parts[-1], name]) > width + 1 and parts[-1] != shared:
            parts.append(list(shared))
        parts[-1].append(name)
    for part in parts:
        # of several tables each has the rows about which it says something
        own = [texts[name] for name in part if name not in shared or len(parts) == 1]
        kept = [at for at in range(len(rows)) if any(column[at] for column in own)]
        yield _terminal_table({n: [texts[n][at] for at in kept] for n in part}, wide, title)
    if caption is not None:
        yield Text(caption, "dim italic")


def _terminal_table(
    texts: Mapping[str, Sequence[str]], wide: Mapping[str, int], title: str | None
) -> Any:
    """One table; equal texts in the first column are shown once."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=0, title=title, title_justify="left"
    )
    for at, name in enumerate(texts):
        justify: Any = "left" if at == 0 or name in TEXTS else "right"
        head = "\n".join(textwrap.wrap(name, wide[name]))
        drawn.add_column(head, justify=justify, no_wrap=True)
    first = next(iter(texts.values()))
    before = None
    for cells in zip(*texts.values(), strict=True):
        again = cells[0] == before
        if before is not None and not again and len(set(first)) < len(first):
            drawn.add_section()
        drawn.add_row(*map(Text, ("" if again else cells[0], *cells[1:])))  # text, not markup
        before = cells[0]
    return drawn
