"""The page over all runs and all claims: each claim with its runs, each run with its claims, newest first."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from dualnets.lab.report.document import document, prose
from dualnets.lab.report.page import claim_id, readable_date
from dualnets.lab.report.tables import counted, explained
from dualnets.lab.rules import claim_title

if TYPE_CHECKING:
    from dualnets.lab.claims import ClaimResult
    from dualnets.lab.experiment import Experiment
    from dualnets.lab.report.site import ReportedRun
    from dualnets.lab.rules import Claim

VERDICTS = ("holds", "fails", "open", "not run")
FILTER = f"""<div class="filter" role="search">
<input type="search" aria-label="Words in a claim or a run" placeholder="Filter by words">
<select aria-label="Verdict"><option value="">every verdict</option>
{"".join(f'<option value="{each.replace(" ", "-")}">{each}</option>' for each in VERDICTS)}</select>
<output class="quiet" aria-live="polite"></output></div>"""


def index_page(
    runs: Sequence[ReportedRun], experiments: Mapping[str, Experiment], damaged: Mapping[str, str]
) -> str:
    """The page.

    Args:
        runs: newest first.
        experiments: by name, with claims that were run or not.
        damaged: folder -> why the run in it cannot be shown.
    """
    outcomes: dict[tuple[str, str], list[tuple[ReportedRun, ClaimResult]]] = {}
    for run in runs:
        for result in run.claims:
            outcomes.setdefault((run.experiment.name, result.name), []).append((run, result))
    claims = [(each, claim) for each in experiments.values() for claim in each.claims]
    ran = [each for each in claims if (each[0].name, each[1].name) in outcomes]
    others = [each for each in claims if each not in ran]
    entries = "".join(_claim(e, c, outcomes.get((e.name, c.name), [])) for e, c in [*ran, *others])
    lost = "".join(
        f"<li><code>{html.escape(folder)}</code>: {html.escape(reason)}</li>"
        for folder, reason in damaged.items()
    )
    body = f"""<h1>Runs and claims</h1>
<p class="quiet">{counted(len(runs), "run")}, {counted(len(claims), "claim")}, of which {len(ran)} were run.
<a href="#claims">Claims</a> · <a href="#runs">Runs</a></p>
{FILTER}
{f"<h2>Runs that cannot be shown</h2><ul>{lost}</ul>" if damaged else ""}
<h2 id="runs">Runs</h2>{"".join(map(_run, runs))}
<h2 id="claims">Claims</h2>{entries}"""
    return document("Runs and claims", body)


def _verdict(word: str) -> str:
    return f'<span class="word {word}">{explained(word, word)}</span>'


def _measured(result: ClaimResult) -> str:
    """The effect, its interval and n, as HTML."""
    n = counted(result.n, result.of.removesuffix("s"))
    if result.effect is None:
        return "no effect is defined"
    return html.escape(f"{result.shown_effect}, n = {n}")


def _origin(run: ReportedRun) -> str:
    """Of which scale a run is, and when it was made."""
    return f"{run.manifest['scale']} scale · {readable_date(run.manifest['date'])}"


def _run(run: ReportedRun) -> str:
    """One run: its picture, what it is, and its claims, each of which links to all of its runs."""
    manifest, experiment = run.manifest, run.experiment
    page = quote(run.page)
    picture = ""
    if run.picture:
        picture = (
            f'<a href="{page}"><img loading="lazy" src="{quote(run.picture)}" '
            f'alt="Figure of {html.escape(experiment.flag)}"></a>'
        )
    items = "".join(
        f'<li>{_verdict(result.verdict)} <a href="#{claim_id(experiment.name, result.name)}">'
        f"{html.escape(result.claim)}</a>: {_measured(result)}</li>"
        for result in run.claims
    )
    words = {result.verdict for result in run.claims}
    origin = f"{_origin(run)} · {counted(len(manifest['cells']), 'cell')}"
    return f"""<article class="run" id="run-{quote(str(manifest["run"]))}"
data-verdicts="{" ".join(sorted(words))}">{picture}
<div><a href="{page}"><strong>{experiment.flag}</strong></a>
<span class="quiet">{html.escape(origin)}</span><br>{prose(experiment.title)}<ul>{items}</ul>
<code class="quiet">{html.escape(manifest["command"])}</code></div></article>"""


def _claim(
    experiment: Experiment, claim: Claim, found: Sequence[tuple[ReportedRun, ClaimResult]]
) -> str:
    """One claim, and its outcome in every run."""
    items = "".join(
        f'<li>{_verdict(result.verdict)} {_measured(result)}: <a href="{quote(run.page)}">'
        f"{html.escape(_origin(run))}</a></li>"
        for run, result in found
    )
    words = sorted({result.verdict for _, result in found}) or ["not-run"]
    title = html.escape(claim_title(experiment.name, claim.name))
    return f"""<article class="claim" id="{claim_id(experiment.name, claim.name)}"
data-verdicts="{" ".join(words)}"><p><code>{title}</code> <strong>{prose(claim.text)}.</strong>
<span class="quiet">{html.escape(claim.reference)}</span></p>
{f"<ul>{items}</ul>" if found else f'<p class="quiet">not run: hltm run {experiment.flag}</p>'}</article>"""
