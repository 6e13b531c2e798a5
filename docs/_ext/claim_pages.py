"""A page per experiment under results/claims, written from the stored outcomes in benchmarks/claims.

The pages are made before the build reads its sources and are not kept in git. A page is rewritten only if its
text changes, so that a second build reads nothing again.
"""

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from written_pages import write_pages

from dualnets import experiments
from dualnets.lab.claims import (
    SCALES,
    ClaimResult,
    load,
    partners_markdown,
    results_folder,
    side_by_side,
)
from dualnets.lab.grids import values_by_field
from dualnets.lab.report.tables import number

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "benchmarks" / "claims"
HISTORY = ROOT / "benchmarks" / "claims_history.jsonl"
SOURCE = "https://github.com/hltm-developers/hltm/blob/main"
COLOURS = {"holds": "#2f9e5b", "fails": "#d64545", "open": "#c98a00"}


@dataclass(frozen=True)
class Outcome:
    """What one stored run gave for a claim: which run in words, its claim, and the day it was stored."""

    scale: str
    seeds: tuple[int, ...]
    claim: ClaimResult
    date: str

    @property
    def where(self):
        """The run in words, e.g. `default scale, seeds 0 and 1 together`."""
        if not self.seeds:
            return f"{self.scale} scale"
        seeds = " and ".join(map(str, self.seeds))
        together = " together" if len(self.seeds) > 1 else ""
        return f"{self.scale} scale, seed{'s' * bool(together)} {seeds}{together}"


def history():
    """All outcomes that were ever stored, oldest first: dictionaries with `date`, `scale` and `seeds`."""
    lines = HISTORY.read_text(encoding="utf-8").splitlines() if HISTORY.exists() else []
    return [json.loads(line) for line in lines]


def places():
    """Scale and seeds of every folder of stored outcomes."""
    for scale in SCALES:
        yield scale, ()
        folders = results_folder(STORED, scale).glob("seed_*")
        every = [tuple(map(int, path.name.split("_")[1:])) for path in folders]
        yield from ((scale, seeds) for seeds in sorted(every, key=lambda own: (len(own), own)))


def outcomes():
    """Experiment -> name of a claim -> its outcomes, that of the default scale first."""
    dates = {key(past): past["date"] for past in history()}
    found = {}
    for scale, seeds in places():
        for claim in load(results_folder(STORED, scale, seeds)):
            place = {"scale": scale, "seeds": list(seeds)}
            date = dates.get(key(place | {name: getattr(claim, name) for name in NAMED}), "")
            own = found.setdefault(claim.experiment, {}).setdefault(claim.name, [])
            own.append(Outcome(scale, seeds, claim, date))
    return found


NAMED = ("experiment", "name", "run", "verdict")


def key(past):
    """What makes an outcome another one: the run, which names its rule too, and the verdict."""
    return past["scale"], tuple(past["seeds"]), *(past[name] or "" for name in NAMED)


# Text


def sections():
    """Number of a section of the theory page -> the anchor of its heading."""
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (\d)\. (.*)$", page, re.MULTILINE)
    return {n: re.sub(r"[^\w -]", "", f"{n}. {title}".lower()).replace(" ", "-")
            for n, title in titles}  # fmt: skip


def prose(text, anchors, *, cell=False):
    """Plain text as Markdown: papers and sections of the theory page are links, other marks are text."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [part if part.startswith("`") else re.sub(r"([\\*_$<>\[\]{}~#])", r"\\\1", part)
             for part in parts]  # fmt: skip
    found = "".join(plain)
    found = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", found)

    def section(match):
        return f"[{match[0]}](../../theory.md#{anchors[match[1]]})"

    found = re.sub(r"docs/theory\.md, (?:Sections?|Equations?) (\d)(?:\.\d+)?", section, found)
    return found.replace("|", "\\|") if cell else found


def effect(past):
    """The effect of a past outcome with its interval."""
    if past["effect"] is None:
        return "–"
    text = number(past["effect"])
    if past["low"] is not None and past["high"] is not None:
        text += f" [{number(past['low'])}, {number(past['high'])}]"
    return text


def table(titles, rows):
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def figure(found):
    """Effects and intervals of a claim's runs as a small picture, which takes the colours of the page."""
    runs = [own for own in found if own.claim.effect is not None]
    ends = [end for own in runs for end in (own.claim.effect, own.claim.low, own.claim.high)
            if end is not None]  # fmt: skip
    if len(runs) < 2:
        return ""
    low, high = min(0.0, *ends), max(0.0, *ends)
    wide = (high - low) or 1.0

    def x(value):
        return round(270 + 340 * (value - low) / wide, 1)

    height = 26 * len(runs) + 30
    lines = [f'<svg viewBox="0 0 640 {height}" role="img" '
             'aria-label="Effects with 95% intervals" '
             'font-size="13" fill="currentColor" font-family="sans-serif">',
             f'<line x1="{x(0)}" x2="{x(0)}" y1="4" y2="{height - 22}" stroke="currentColor" '
             'stroke-opacity=".35" stroke-dasharray="3 3"/>']  # fmt: skip
    for at, own in enumerate(runs):
        y, colour, claim = 26 * at + 18, COLOURS.get(own.claim.verdict, "gray"), own.claim
        lines.append(f'<text x="0" y="{y + 4}">{escape(own.where)}</text>')
        if claim.low is not None and claim.high is not None:
            lines.append(f'<line x1="{x(claim.low)}" x2="{x(claim.high)}" y1="{y}" y2="{y}" '
                         f'stroke="{colour}" stroke-width="2.5"/>')  # fmt: skip
        lines.append(f'<circle cx="{x(claim.effect)}" cy="{y}" r="4.5" fill="{colour}"><title>'
                     f"{claim.verdict}, {escape(claim.shown_effect)}</title></circle>")  # fmt: skip
    for end in {low, 0.0, high}:
        lines.append(f'<text x="{x(end)}" y="{height - 4}" text-anchor="middle" opacity=".75">'
                     f"{number(end) if end else 0}</text>")  # fmt: skip
    return "\n".join(['<figure class="effects">', *lines, "</svg>", "</figure>"])


# Pages


def settings(experiment, scale):
    """The settings that a scale of an experiment gives itself, as a table."""
    named = dict.fromkeys(name for grid in experiment.grids[scale] for name in grid)
    values = values_by_field(experiment, scale)
    rows = []
    for name, lists in values.items():
        if name in named:
            shown = " or ".join(", ".join(map(str, own)) for own in lists)
            rows.append([f"`{name.replace('_', '-')}`", prose(shown, {}, cell=True)])
    return table(["setting", f"values at the {scale} scale"], rows)


def section(own, claim, past, anchors):
    """One claim: its outcomes, its rule, and earlier outcomes."""
    first = own[0].claim
    lines = [f"## {heading(first)}", f"**{prose(first.claim, anchors)}.**",
             f"Where the claim is made: {prose(first.reference, anchors)}.",
             f"The effect is: {prose(first.measured, anchors)}."]  # fmt: skip
    if first.partner:
        other = first.partner.partition(":")[0].replace("-", "_")
        lines.append(f"The same claim on trees: [{first.partner}]({other}.md).")
    rows, reasons = [], []
    for outcome in own:
        c = outcome.claim
        if c.reason:
            reasons.append(f"- {outcome.where}: {prose(c.reason, anchors)}.")
        rows.append([
            outcome.where, f"**{c.verdict}**", c.shown_effect, f"{c.n} {c.of}",
            {None: "", True: "yes", False: "no"}[c.flat],
            f"{outcome.date}, `{c.run}`" if outcome.date else f"`{c.run}`",
        ])  # fmt: skip
    titles = ["run", "verdict", "effect, 95% interval", "n", "flat", "stored"]
    lines += [table(titles, rows), figure(own), "How the rule came out:", "\n".join(reasons)]
    if claim is not None:
        lines += ["**The rule**, fixed before the run:",
                  f"> {prose(claim.rule.text, anchors)}"]  # fmt: skip
    now = {key({"scale": o.scale, "seeds": o.seeds, **{n: getattr(o.claim, n) for n in NAMED}})
           for o in own}  # fmt: skip
    earlier = [each for each in past if key(each) not in now]
    if earlier:
        lines += ["**Earlier outcomes**, of earlier rules or runs:", earlier_table(earlier)]
    return "\n\n".join(filter(None, lines))


def earlier_table(past):
    rows = [[each["date"], Outcome(each["scale"], tuple(each["seeds"]), None, "").where,
             prose(each["claim"], {}, cell=True), f"**{each['verdict']}**", effect(each),
             f"{each['n']} {each['of']}", f"`{each['run']}`"] for each in past]  # fmt: skip
    return table(["stored", "scale", "claim as it was", "verdict", "effect", "n", "run"], rows)


def page(name, claims, past, anchors):
    """The page of one experiment."""
    experiment = experiments.load(name)
    rules = {claim.name: claim for claim in experiment.claims}
    first = next(iter(claims.values()))[0].claim
    seconds = {(o.where, o.claim.run): (o, o.claim.cpu_seconds)
               for own in claims.values() for o in own}  # fmt: skip
    commands = "\n".join(f"# {o.where}, {s:.0f} CPU seconds\n{o.claim.command}"
                         for o, s in seconds.values())  # fmt: skip
    source = f"{SOURCE}/ssl/{experiment.module.replace('.', '/')}.py"
    lines = [f"# {experiment.flag}", f"**{prose(experiment.title, anchors)}**"]
    lines += [prose(paragraph, anchors) for paragraph in experiment.description]
    rows = [[f"[{own[0].claim.title}](#{slug(own[0].claim)})", f"**{own[0].claim.verdict}**",
             own[0].claim.shown_effect, f"{own[0].claim.n} {own[0].claim.of}"]
            for own in claims.values()]  # fmt: skip
    lines += [table(["claim", f"verdict, {first.scale} scale", "effect", "n"], rows),
              "These commands repeat the stored runs:", f"```sh\n{commands}\n```"]  # fmt: skip
    picture = ROOT / "docs" / f"{name}.png"
    if picture.exists():
        lines.append(f"![What `hltm run {experiment.flag}` draws](../../{picture.name})")
    of_claim = [[each for each in past if (each["name"] or "") == n] for n in claims]
    lines += [section(own, rules.get(n), before, anchors)
              for (n, own), before in zip(claims.items(), of_claim, strict=True)]  # fmt: skip
    gone = [each for each in past if (each["name"] or "") not in claims]
    if gone:
        lines += ["## Claims that were replaced",
                  "These claims had another name or another rule. Their outcomes are kept.",
                  earlier_table(gone)]  # fmt: skip
    lines += ["## Settings", f"`hltm run {experiment.flag} --help` lists all settings, and "
              f"[the experiment's file]({source}) declares them.",
              settings(experiment, first.scale)]  # fmt: skip
    return "\n\n".join(lines) + "\n"


def heading(claim):
    """The title of a claim's section; the only claim of an experiment has no name."""
    return claim.title if claim.name else "The claim"


def slug(claim):
    title = heading(claim)
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def index(found, anchors):
    """The page with all claims in one line each, and the list of the experiments' pages."""
    every = [(name, own) for name, claims in found.items() for own in claims.values()]
    pictures = {name for name, _ in every if name.startswith("image_")}
    lines = ["# All claims", "Each line has a claim and what its stored run of the default scale says; the "
             "last column has the verdict of the trees of seeds 0 and 1 together, where there is one. "
             "[How a verdict is made](../../understand/verdicts.md) explains the words."]  # fmt: skip
    for title, of_pictures in (("On trees", False), ("On pictures", True)):
        own = [(name, runs) for name, runs in every if (name in pictures) == of_pictures]
        counts = {verdict: sum(runs[0].claim.verdict == verdict for _, runs in own)
                  for verdict in COLOURS}  # fmt: skip
        total = "{holds} hold, {fails} fail and {open} are open".format(**counts)
        rows = []
        for name, runs in own:
            claim = runs[0].claim
            pooled = [run.claim.verdict for run in runs if len(run.seeds) > 1]
            rows.append([f"[{claim.title}]({name}.md#{slug(claim)})",
                         prose(claim.claim, anchors, cell=True), f"**{claim.verdict}**",
                         claim.shown_effect, ", ".join(pooled)])  # fmt: skip
        titles = ["claim", "in words", "verdict", "effect, 95% interval", "pooled"]
        lines += [f"## {title}", f"Of {len(own)} claims {total}.", table(titles, rows)]
    stored = {scale: load(results_folder(STORED, scale)) for scale in SCALES}
    beside = partners_markdown(side_by_side(stored)).replace(" < ", " \\< ")
    lines += ["## Side by side", "Claims on trees, and the same claims asked of pictures.", beside]
    names = "\n".join(found)
    lines.append(f"```{{toctree}}\n:hidden:\n{names}\n```")
    return "\n\n".join(lines) + "\n"


def pages():
    """Name of a page in results/claims -> its text."""
    anchors, past = sections(), history()
    found = dict(sorted(outcomes().items()))
    known = set(experiments.names())
    made = {
        name: page(name, claims, [each for each in past if each["experiment"] == name], anchors)
        for name, claims in found.items()
        if name in known
    }
    return {"index": index({name: found[name] for name in made}, anchors), **made}


def write(app):
    write_pages(app, "claims", pages())


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
