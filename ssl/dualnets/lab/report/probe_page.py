"""The tables of a probe by level, as the terminal and pages show them, and a page of a probe."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from dualnets.lab.report.document import document
from dualnets.lab.report.tables import html_table
from hltm._names import brief, visible
from hltm.probe.table import gap_closed

if TYPE_CHECKING:
    import pandas as pd

FIRST = 40  # rows of the whole table that the page shows
OPEN = 4  # layers whose parts of the page are open; of more, each opens when it is clicked
CAPTION = (
    "Means over the latents of a level and over members. Null: the 95% quantile of the score of "
    "meaningless units. Ceiling: the best score of any function of the leaves, where one is known."
)
STYLE = """
h1, h2, summary { overflow-wrap: anywhere; }
table { width: auto; } td { border-top-color: var(--line); }
figure { margin: 18px 0; } figure img { width: auto; max-width: 100%; }
@media (max-width: 700px) {
  table { font-size: 12px; } td, th { padding: 3px; } figure img { max-width: 850px; }
}
details { margin: 14px 0; } details h2 { display: inline; }
a { color: inherit; }
"""


def by_level(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `hltm.probe.measure` in short: a row for each layer, metric and level.

    Returns:
        layer, metric, level (-1 for a number of the layer as a whole; these come last), the means
        value, null, initial and ceiling, gap_closed = Σ (value - initial) / Σ (ceiling - initial), of
        which those without any number are left out, and note: why a number is missing.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> short = by_level(hltm.probe.measure(draw.leaves.float(), tree, draw=draw))
        >>> short[short["metric"] == "correlation"]["level"].tolist()
        [2, 1]
        >>> list(short.columns)
        ['layer', 'metric', 'level', 'value', 'null', 'ceiling', 'note']
    """
    numbers = ["value", "null", "initial", "ceiling", "gap_closed"]
    full = table.assign(level=table["level"].where(table["node"] != "", -1))
    key = ["layer", "metric", "level"]
    groups = full.groupby(key, sort=False)
    means = groups[numbers].mean()
    # sums are divided: the mean of ratios would be that of the latents with hardly any gap
    known = full.dropna(subset=["value", "initial", "ceiling"])
    means["gap_closed"] = gap_closed(known.groupby(key)[["value", "initial", "ceiling"]].sum())
    means = means.dropna(axis=1, how="all")
    notes = groups["note"].agg(lambda found: "; ".join(filter(None, dict.fromkeys(found))))
    return means.join(notes).reset_index()


def numbered(short: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Cells to show, with a number for each note, and the notes in the order of their numbers."""
    notes = list(filter(None, dict.fromkeys(short["note"])))
    shown = short.astype(object)
    shown["level"] = [str(level) if level >= 0 else "" for level in short["level"]]
    shown["note"] = [str(notes.index(note) + 1) if note else "" for note in short["note"]]
    whole = (short["level"] < 0) & (short["value"] % 1 == 0)  # counts
    shown["value"] = (
        short["value"].astype(object).mask(whole, short["value"].round().map("{:.0f}".format))
    )
    return shown if notes else shown.drop(columns="note"), notes


def overview(short: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first metric, for all layers."""
    return short[short["metric"] == short["metric"].iloc[0]].drop(columns="metric")


def by_latent(table: pd.DataFrame) -> pd.DataFrame:
    """The best unit of each latent by the first metric: a row for each layer and latent of one member.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> draw = tree.sample(1000, seed=1)
        >>> rows = by_latent(hltm.probe.measure(draw.leaves.float(), tree, draw=draw))
        >>> rows["node"].tolist(), list(rows.columns)
        (['0', '1', '2'], ['layer', 'node', 'level', 'unit', 'value', 'null', 'ceiling'])
    """
    columns = ["layer", "node", "level", "unit", "value", "null", "initial", "ceiling"]
    rows = table[(table["metric"] == table["metric"].iloc[0]) & (table["node"] != "")]
    if table["member"].nunique() > 1:
        rows = rows.iloc[:0]
    return rows[columns].dropna(axis=1, how="all").reset_index(drop=True)


def write(path: Path, table: pd.DataFrame, pictures: Mapping[int | str, Path], tree: str) -> None:
    """Write the page of a probe: for each layer its means by level, and a heatmap.

    Args:
        path: of the page; `table.csv` is beside it.
        table: as `hltm.probe.measure` returns it.
        pictures: layer -> PNG file of its heatmap, beside the page.
        tree: a description of the tree.
    """
    short = by_level(table)
    shown, notes = numbered(short)
    members = table["member"].nunique()
    rows = f"n = {int(table['n'].max()):,} rows" + f", {members} members" * (members > 1)
    parts = [
        f'<div class="quiet">{html.escape(tree)}, {rows}</div>',
        f"<h1>Alignment of units with latents</h1><p>{CAPTION}</p>",
    ]
    if len(pictures) > 1:
        one, _ = numbered(overview(short))
        metric = html.escape(visible(short["metric"].iloc[0]).replace("_", " "))
        names = one.assign(layer=list(map(brief, one["layer"])))
        parts.append(f"<h2>Best unit by {metric}</h2>{html_table(names)}")
    for layer, picture in pictures.items():
        own = shown[short["layer"] == layer].drop(columns="layer")
        image = base64.b64encode(picture.read_bytes()).decode()
        body = (
            f'{html_table(own)}<figure><a href="{quote(picture.name)}">'
            f'<img alt="Heatmap of units by latents" src="data:image/png;base64,{image}"></a></figure>'
        )
        heading = f"<h2>Layer {html.escape(brief(layer, 80))}</h2>"
        if len(pictures) > OPEN:
            body = f"<details><summary>{heading}</summary>{body}</details>"
            heading = ""
        parts.append(heading + body)
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(f"<h2>Notes</h2><ol>{items}</ol>")
    first = table.head(FIRST).dropna(axis=1, how="all")
    first = first.assign(**{k: list(map(brief, first[k])) for k in ("layer", "node")})
    parts.append(
        f"<details><summary>The first rows of {len(table):,}; all are in "
        f'<a href="table.csv">table.csv</a></summary>{html_table(first)}</details>'
    )
    path.write_text(document("hltm probe", "\n".join(parts), STYLE), encoding="utf-8")
