"""What `hltm probe` prints: means by level for each layer; for many layers one metric of them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dualnets.cli._terminal import plain_table
from dualnets.lab.report.probe_page import CAPTION, by_latent, by_level, numbered, overview
from dualnets.lab.report.tables import shown
from hltm._names import brief

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

LINES = 160  # of tables with all metrics; more are not read on a terminal
LATENTS = 16  # of a layer, that have a line each


def probe_tables(table: pd.DataFrame, written: bool) -> Iterator[RenderableType]:
    """Tables and captions that rich prints.

    Args:
        table: as `hltm.probe.measure` returns it.
        written: whether the whole table is in a file.
    """
    from rich.text import Text

    short, latents = by_level(table), by_latent(table)
    compact = len(short) > LINES
    metrics = short["metric"].nunique()
    cells, notes = numbered(overview(short) if compact else short)
    if compact:
        yield _table(cells, f"{short['metric'].iloc[0]} of {short['layer'].nunique()} layers")
    else:
        for at, (layer, rows) in enumerate(cells.groupby("layer", sort=False)):
            yield _table(rows.drop(columns="layer"), "\n" * (at > 0) + f"layer {brief(layer, 70)}")
            own = (
                latents[latents["layer"] == layer]
                .drop(columns="layer")
                .astype({"level": str, "unit": str})
            )
            if 0 < len(own) <= LATENTS:
                yield _table(
                    own, f"\nbest units of layer {brief(layer, 50)}, by {short['metric'].iloc[0]}"
                )
    members = table["member"].nunique()
    of = f"n = {int(table['n'].max()):,} rows" + f", {members} members" * (members > 1)
    yield Text(f"\n{of}. {CAPTION}", "dim")
    for at, note in enumerate(notes, start=1):
        yield Text(f"{at}: {brief(note, 200)}", "dim")
    if compact:
        where = "are in table.csv" if written else "are written with --out FOLDER"
        yield Text(f"{metrics - 1} more numbers of each layer {where}", "dim")


def _table(cells: pd.DataFrame, title: str) -> RenderableType:
    """Rows as a table; equal texts in the first column are shown once."""
    from rich.text import Text

    first = str(cells.columns[0])
    heads = [str(column).replace("_", " ") for column in cells]
    drawn = plain_table(heads, left=first, title=Text(title))
    # on a narrow terminal names are broken, and numbers stay whole
    drawn.columns[0].no_wrap, drawn.columns[0].overflow = False, "fold"
    before = None
    for row in cells.itertuples(index=False):
        texts = [brief(shown(value)) for value in row]
        drawn.add_row(*map(Text, ("" if texts[0] == before else texts[0], *texts[1:])))
        before = texts[0]
    return drawn
