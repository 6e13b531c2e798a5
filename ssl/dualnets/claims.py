"""Every claim beside what was found: from stored runs, as a table, as Markdown, as small files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from dualnets import execute, records
from dualnets.page import number

BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
SCALES = ("paper", "default", "smoke")  # the largest that is stored is shown


@dataclass(frozen=True)
class Claim:
    """One experiment's claim and what its newest run says of it.

    Attributes:
        experiment, claim, place: which, in words, and where it is made.
        verdict: `holds`, `fails`, `open`, or `not run`.
        measured: what the effect is.
        effect, low, high: its value and 95% interval; None where it is not defined.
        n, of: how many independent values, of what.
        scale, run, command: the run that it comes from.
    """

    experiment: str
    claim: str
    place: str
    verdict: str = "not run"
    measured: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    of: str = ""
    reason: str = ""
    scale: str = ""
    run: str = ""
    command: str = ""

    @property
    def shown_effect(self) -> str:
        """The effect with its interval."""
        if self.effect is None:
            return "–"
        text = number(self.effect)
        if self.low is not None and self.high is not None:
            text += f" [{number(self.low)}, {number(self.high)}]"
        return text


def stored(out: str | Path, scale: str | None = None) -> list[Claim]:
    """Every experiment's claim with its newest stored run of the largest scale there is.

    Only runs of a scale as it stands count, not those with settings of their own.

    Args:
        out: the folder of all results.
        scale: only this scale.
    """
    return [_claim(name, Path(out), scale) for name in execute.names()]


def _claim(name: str, out: Path, scale: str | None) -> Claim:
    experiment = execute.load(name)
    home = out / name
    for wanted in SCALES if scale is None else (scale,):
        run = execute.run_name(experiment, wanted)
        folder = home / run
        if (folder / records.MANIFEST).is_file():
            manifest = records.read_json(folder / records.MANIFEST)
            verdict = records.read_json(folder / records.VERDICT)
            low, high = verdict["interval"] or (None, None)
            return Claim(
                experiment=name,
                claim=experiment.CLAIM,
                place=experiment.PLACE,
                verdict=verdict["verdict"],
                measured=verdict["effect"],
                effect=verdict["effect_value"],
                low=low,
                high=high,
                n=verdict["n"],
                of=verdict.get("of", "trees"),
                reason=verdict["reason"],
                scale=wanted,
                run=run,
                command=manifest["command"],
            )
    return Claim(experiment=name, claim=experiment.CLAIM, place=experiment.PLACE)


def save(claims: Iterable[Claim], folder: str | Path) -> None:
    """Write each claim that was run as `<experiment>.json`; files of other experiments go."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    kept = set()
    for claim in claims:
        if claim.run:
            file = home / f"{claim.experiment}.json"
            records.write_json(file, asdict(claim))
            kept.add(file)
    for old in set(home.glob("*.json")) - kept:
        old.unlink()


def load(folder: str | Path) -> list[Claim]:
    """Claims as `save` wrote them, by name."""
    return [Claim(**records.read_json(path)) for path in sorted(Path(folder).glob("*.json"))]


def markdown(claims: Iterable[Claim]) -> str:
    """The claims as a table in Markdown, without a line break at its end."""
    lines = [
        "| experiment | claim | verdict | measured | effect, 95% interval | n | scale |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        name = claim.experiment.replace("_", "-")
        cells = [
            f"`{name}`",
            claim.claim,
            f"**{claim.verdict}**",
            claim.measured,
            claim.shown_effect,
            f"{claim.n} {claim.of}" if claim.n else "",
            claim.scale,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def put(table: str, page: str) -> str:
    """A page with the table between its two marks.

    Raises:
        ValueError: a page without the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the marks {BEGIN} and {END} in the page, they are not there")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
