"""A self-contained HTML page of a run: claims, verdicts, figure, table, settings."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from dualnets.lab.experiment import Experiment
    from dualnets.lab.verdicts import Verdict

STYLE = """
:root { --ink: #1d1d1f; --quiet: #6b6b70; --line: #e3e3e6; --ground: #ffffff; --soft: #f6f6f8;
  --rule: #b9b9be; --good: #1a7f5a; --bad: #b3392f; --unsure: #9a6b00; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 27px; line-height: 1.25; margin: 4px 0 6px; }
h2 { font-size: 18px; margin: 40px 0 10px; }
.quiet { color: var(--quiet); font-size: 14px; }
.verdict { display: flex; gap: 18px; align-items: center; margin: 22px 0; padding: 16px 20px;
  border-radius: 10px; background: var(--soft); border-left: 6px solid var(--mark); }
.verdict b { font-size: 22px; color: var(--mark); }
.holds { --mark: var(--good); } .fails { --mark: var(--bad); } .open { --mark: var(--unsure); }
figure { margin: 0; overflow-x: auto; }
figure img { width: 100%; height: auto; display: block; border-radius: 6px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
th { text-align: right; font-weight: 600; border-bottom: 2px solid var(--ink); padding: 5px 10px;
  white-space: nowrap; }
td { text-align: right; border-top: 1px solid var(--rule); padding: 4px 10px; white-space: nowrap; }
td.text, th.text { text-align: left; } tr.again td { border-top: none; }
pre { background: var(--soft); padding: 12px 16px; border-radius: 8px; overflow-x: auto; font-size: 14px; }
details summary { cursor: pointer; color: var(--quiet); }
p, li { overflow-wrap: anywhere; }
@media (max-width: 700px) {
  main { padding: 24px 14px 48px; } td, th { padding: 3px 6px; }
  .verdict { display: block; padding: 12px 14px; }
  figure img { width: 850px; }
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --quiet: #a3a3ab; --line: #3c3c42; --ground: #17171a; --soft: #222226;
    --rule: #4a4a51; --good: #4cc394; --bad: #ef7d72; --unsure: #d9a441; }
}
"""


def write(
    folder: Path, experiment: Experiment, table: pd.DataFrame, summary: pd.DataFrame,
    verdicts: Sequence[Verdict], manifest: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write a run's `index.html`, which needs neither a network nor other files.

    Args:
        folder: of the run; the figure is in it as `<experiment>.svg`.
        experiment, table, summary, verdicts, manifest: of the run; `summary` is the short table.
    """
    name = manifest["experiment"]
    picture = base64.b64encode((folder / f"{name}.svg").read_bytes()).decode()
    description = "\n".join(f"<p>{prose(text)}</p>" for text in experiment.description)
    settings = [cell["settings"] for cell in manifest["cells"]]
    notes = [f"cell {cell['cell']}: {note}" for cell in manifest["cells"] for note in cell["notes"]]
    seconds = sum(cell["seconds"] for cell in manifest["cells"])
    devices = ", ".join(dict.fromkeys(cell["device"] for cell in manifest["cells"]))
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    origin = f"{name} · {manifest['scale']} scale · run {manifest['run']}"
    cpu = sum(cell["cpu_seconds"] for cell in manifest["cells"])
    body = f"""<div class="quiet">{html.escape(origin)}</div>
<h1>{prose(experiment.title)}</h1>
{description}
{"".join(_box(verdict) for verdict in verdicts)}
<figure><img alt="Figure of the run" src="data:image/svg+xml;base64,{picture}"></figure>
<h2>Numbers</h2>
<div class="wide">{html_table(summary)}</div>
{f"<h2>Notes</h2><ul>{items}</ul>" if notes else ""}
{"".join(_rule(verdict, several=len(verdicts) > 1) for verdict in verdicts)}
<h2>Settings</h2>
<div class="wide">{_settings(settings)}</div>
<h2>Command</h2>
<pre>{html.escape(manifest["command"])}</pre>
<p class="quiet">{len(settings)} cells, {seconds:.0f} s of computation ({cpu:.0f} CPU seconds) on
{html.escape(devices)};
{html.escape(", ".join(f"{key} {value}" for key, value in manifest["versions"].items() if value))}.
All {len(table)} rows are in <code>results.parquet</code> beside this page.</p>
"""
    (folder / "index.html").write_text(
        document(f"{name}: {', '.join(verdict.verdict for verdict in verdicts)}", body)
    )


def document(title: str, body: str, style: str = "") -> str:
    """A page that needs neither a network nor other files; `style` is added to that of all pages."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head>
<body><main>
{body}
</main></body></html>
"""


def _box(verdict: Verdict) -> str:
    """A claim, where it is made, and its verdict."""
    return f"""<div class="verdict {verdict.verdict}"><b>{verdict.verdict}</b>
<div><strong>{prose(verdict.claim)}.</strong>
<span class="quiet">{html.escape(verdict.reference)}</span><br>
{prose(sentence(verdict))}</div></div>"""


def prose(text: str) -> str:
    """A text as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _rule(verdict: Verdict, several: bool) -> str:
    """The rule of a claim, its details, and the curves that must be flat."""
    title = f"The rule: {verdict.name}" if several else "The rule"
    curves = ""
    if verdict.plateau:
        curves = (
            "<p>A verdict about the end of training needs flat curves: over the last half of the updates "
            "each changes by no more than is allowed.</p>"
            f'<div class="wide">{details_table(verdict.plateau)}</div>'
        )
    return f"""<h2>{html.escape(title)}</h2>
<p>{prose(verdict.rule)}</p>
<div class="wide">{details_table(verdict.details)}</div>
{curves}
"""


def sentence(verdict: Verdict) -> str:
    """The verdict's reason and effect, each a sentence."""
    text = verdict.reason[:1].upper() + verdict.reason[1:]
    if verdict.effect_value is not None:
        effect = verdict.effect[:1].upper() + verdict.effect[1:]
        text += f". {effect}: {number(verdict.effect_value)}"
        if verdict.interval is not None:
            low, high = map(number, verdict.interval)
            text += f" (95% interval {low} to {high})"
        text += f", n = {verdict.n} {verdict.of}"
    return text + "."


def number(value: float) -> str:
    """A number with two decimals; a very small or very large one with a power of ten.

    Example:
        >>> number(0.756), number(3e-15), number(0.0)
        ('0.76', '3.0e-15', '0.00')
    """
    plain = value == 0 or 0.005 <= abs(value) < 1e4
    return f"{value:.2f}" if plain else f"{value:.1e}"


def shown(value: Any) -> str:
    """The text of one value in a table: three decimals, small probabilities with a power of ten."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value != value:
            return "–"
        return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
    return str(value)


def html_table(rows: pd.DataFrame) -> str:
    """Rows as HTML, text aligned left; equal texts in the first column are shown once."""
    text = [isinstance(rows[column].iloc[0], str) for column in rows]
    kinds = [' class="text"' if is_text else "" for is_text in text]
    head = "".join(
        f"<th{kind}>{html.escape(str(column).replace('_', ' '))}</th>"
        for column, kind in zip(rows.columns, kinds, strict=True)
    )
    lines = []
    before = None
    for row in rows.itertuples(index=False):
        values = [shown(value) for value in row]
        again = text[0] and values[0] == before
        before = values[0]
        if again:
            values[0] = ""
        cells = "".join(
            f"<td{kind}>{html.escape(value)}</td>"
            for kind, value in zip(kinds, values, strict=True)
        )
        lines.append(f'<tr class="{"again" if again else "first"}">{cells}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def details_table(details: Sequence[Mapping[str, Any]]) -> str:
    """Details of a verdict as an HTML table; empty if there are none."""
    import pandas as pd

    # as objects: in a column of floats, made by a row that has no level, level 1 would be 1.000
    return html_table(pd.DataFrame(list(details), dtype=object)) if details else ""


def _settings(cells: list[Mapping[str, Any]]) -> str:
    """The settings that all cells share, but empty ones, then a table of those that differ."""
    import pandas as pd

    table = pd.DataFrame(cells)
    varying = [c for c in table if table[c].astype(str).nunique() > 1]
    same = [c for c in table if c not in varying and table[c].iloc[0] != ""]
    words = ", ".join(f"{c.replace('_', ' ')} {table[c].iloc[0]}" for c in same)
    return f"<p>{html.escape(words)}.</p>" + (html_table(table[varying]) if varying else "")
