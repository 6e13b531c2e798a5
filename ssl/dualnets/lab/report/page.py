"""A self-contained HTML page of a run: claims, verdicts, figure, explorer, tables, settings."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dualnets.lab.report.document import document, prose
from dualnets.lab.report.explorer import explorer
from dualnets.lab.report.run_settings import settings_html
from dualnets.lab.report.tables import counted, details_table, explained, html_table, number
from hltm._names import visible

if TYPE_CHECKING:
    import pandas as pd

    from dualnets.lab.experiment import Experiment
    from dualnets.lab.verdicts import Verdict


@dataclass(frozen=True)
class Site:
    """The pages that a run's page stands among.

    Attributes:
        index: the address of the page of all runs and claims.
        plotly: the name of the file beside the page that has plotly's script.
    """

    index: str
    plotly: str


def write(
    folder: Path, experiment: Experiment, table: pd.DataFrame, summary: pd.DataFrame,
    verdicts: Sequence[Verdict], manifest: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write a run's `index.html`, which needs neither a network nor other files.

    Args:
        folder: of the run; the figure is in it as `<experiment>.svg`.
        experiment, table, summary, verdicts, manifest: of the run; `summary` is the short table.
    """
    picture = (folder / f"{manifest['experiment']}.svg").read_bytes()
    text = run_page(experiment, table, summary, verdicts, manifest, picture)
    (folder / "index.html").write_text(text, encoding="utf-8")


def run_page(
    experiment: Experiment, table: pd.DataFrame, summary: pd.DataFrame, verdicts: Sequence[Verdict],
    manifest: Mapping[str, Any], picture: bytes, site: Site | None = None,
) -> str:  # fmt: skip
    """The page of a run, as `write` writes it.

    Args:
        experiment, table, summary, verdicts, manifest: of the run; `summary` is the short table.
        picture: its figure, as SVG.
        site: the pages among which it stands; None for a page that stands alone.
    """
    name, cells = manifest["experiment"], manifest["cells"]
    description = "\n".join(f"<p>{prose(text)}</p>" for text in experiment.description)
    notes = [f"cell {cell['cell']}: {note}" for cell in cells for note in cell["notes"]]
    items = "".join(f"<li>{html.escape(visible(note))}</li>" for note in notes)
    origin = [name, f"{manifest['scale']} scale", f"run {manifest['run']}"]
    if manifest.get("date"):
        origin.append(readable_date(manifest["date"]))
    back = f'<a href="{html.escape(site.index)}">All runs and claims</a> · ' if site else ""
    shown, scripts = explorer(experiment, table, cells, site.plotly if site else "")
    several = len(verdicts) > 1
    body = f"""<div class="quiet">{back}{html.escape(" · ".join(origin))}</div>
<h1>{prose(experiment.title)}</h1>
{description}
{"".join(_box(name, verdict, site) for verdict in verdicts)}
{_figure(experiment, summary, manifest, picture)}
{shown}
<h2>Numbers</h2>
{html_table(summary, "Numbers")}
<p class="quiet">{prose(summary.attrs.get("caption", ""), terms=True)}</p>
{f"<h2>Notes</h2><ul>{items}</ul>" if notes else ""}
{"".join(_rule(verdict, several) for verdict in verdicts)}
<h2>Settings</h2>
{settings_html(experiment, [cell["settings"] for cell in cells])}
<h2>Command</h2>
<pre tabindex="0">{html.escape(visible(manifest["command"]))}</pre>
<p class="quiet">{_made(cells)} All {len(table):,} rows are in <code>results.parquet</code> in the run's
folder.</p>
"""
    return document(f"{name}: {', '.join(each.verdict for each in verdicts)}", body, "", scripts)


def readable_date(date: str) -> str:
    """A date of a manifest without its seconds.

    Example:
        >>> readable_date("2026-11-29T05:30:00Z")
        '2026-11-29 05:30 UTC'
    """
    return f"{date[:16].replace('T', ' ')} UTC"


def claim_id(experiment: str, name: str) -> str:
    """The id of a claim on the page of all claims.

    Example:
        >>> claim_id("byol_ablation", "the norm")
        'claim-byol_ablation-the-norm'
    """
    return quote(f"claim-{experiment}-{name.replace(' ', '-')}".removesuffix("-"))


def _box(experiment: str, verdict: Verdict, site: Site | None) -> str:
    """A claim, where it is made, and its verdict."""
    word = explained(verdict.verdict, verdict.verdict)
    beside = "" if site is None else (
        f' <a class="quiet" href="{site.index}#{claim_id(experiment, verdict.name)}">all runs of it</a>'
    )  # fmt: skip
    return f"""<div class="verdict {verdict.verdict}"><b>{word}</b>
<div><strong>{prose(verdict.claim)}.</strong>
<span class="quiet">{html.escape(visible(verdict.reference))}</span><br>
{prose(sentence(verdict), terms=True)}{beside}</div></div>"""


def sentence(verdict: Verdict) -> str:
    """The verdict's reason and effect, each a sentence."""
    text = verdict.reason[:1].upper() + verdict.reason[1:]
    if verdict.effect_value is not None:
        effect = verdict.effect[:1].upper() + verdict.effect[1:]
        text += f". {effect}: {number(verdict.effect_value)}"
        if verdict.interval is not None:
            low, high = map(number, verdict.interval)
            text += f", 95% interval {low} to {high}"
        text += f", n = {counted(verdict.n, verdict.of.removesuffix('s'))}"
    return text + "."


def _figure(
    experiment: Experiment, summary: pd.DataFrame, manifest: Mapping[str, Any], picture: bytes
) -> str:
    """The figure with its caption; a click enlarges it, and links save it and the numbers."""
    name = html.escape(manifest["experiment"], quote=True)
    source = f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"
    numbers = base64.b64encode(summary.to_csv(index=False).encode()).decode()
    caption = html.escape(figure_caption(experiment))
    return f"""<figure><div class="wide"><button type="button" class="enlarge" title="Enlarge the figure">
<img alt="Figure of the run: {caption}" src="{source}"></button></div>
<figcaption><span>{caption}</span>
<a data-save="png" download="{name}.png" href="#">PNG</a>
<a data-save="svg" download="{name}.svg" href="#">SVG</a>
<a download="{name}.csv" href="data:text/csv;base64,{numbers}">numbers as CSV</a></figcaption></figure>"""


def figure_caption(experiment: Experiment) -> str:
    """What an experiment's figure shows: the first paragraph of the docstring of the file that draws it.

    Example:
        >>> from dualnets import experiments
        >>> figure_caption(experiments.load("use"))
        'Aligned and other units by method, level and over training.'
    """
    text = import_module(experiment.figure_module).__doc__ or ""
    first = " ".join(text.partition("\n\n")[0].split())
    words = first.partition(": ")[2] or first
    return words[:1].upper() + words[1:]


def _rule(verdict: Verdict, several: bool) -> str:
    """The rule of a claim, its details, and the curves that must be flat."""
    title = f"The rule: {verdict.name}" if several else "The rule"
    curves = ""
    if verdict.plateau:
        curves = (
            "<p>A verdict about the end of training needs flat curves: over the last half of the updates "
            f"each changes by no more than is allowed.</p>{details_table(verdict.plateau, 'Curves')}"
        )
    return f"""<h2>{html.escape(title)}</h2>
<p>{prose(verdict.rule, terms=True)}</p>
{details_table(verdict.details, title)}
{curves}
"""


def _made(cells: Sequence[Mapping[str, Any]]) -> str:
    """How long the cells took, where, and the versions that they were made with, in HTML."""
    seconds, cpu = (sum(cell[name] for cell in cells) for name in ("seconds", "cpu_seconds"))
    devices = ", ".join(dict.fromkeys(cell["device"] for cell in cells))
    text = f"{counted(len(cells), 'cell')}, {seconds:.0f} s of computation ({cpu:.0f} CPU seconds)"
    text += f" on {devices}"
    made = [cell.get("versions") or {} for cell in cells]
    same, apart = [], []
    for name in dict.fromkeys(name for own in made for name in own):
        counts = Counter(own.get(name) or "not recorded" for own in made)
        if len(counts) > 1:
            each = ", ".join(f"{own} ({counted(count, 'cell')})" for own, count in counts.items())
            apart.append(f"{name} {each}")
        elif "not recorded" not in counts:
            same.append(f"{name} {next(iter(counts))}")
    text += f"; {', '.join(same)}." if same else "."
    if apart:
        text += f" The cells were made with different versions: {'; '.join(apart)}."
    return html.escape(text)
