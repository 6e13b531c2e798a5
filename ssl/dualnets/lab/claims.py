"""Every claim beside what was found: from stored runs, as a table, as Markdown, as small files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dualnets._files import read_json, write_json
from dualnets.lab import runner
from dualnets.lab import store as records
from dualnets.lab.experiment import Experiment
from dualnets.lab.report.page import number

BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
OWN_SEED = 0  # of every scale as it stands
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


def stored(
    experiments: Iterable[Experiment],
    out: str | Path,
    scale: str | None = None,
    seed: int | None = None,
) -> list[Claim]:
    """Every experiment's claim with its newest stored run of the largest scale there is.

    Only runs of a scale as it stands count, not those with settings of their own.

    Args:
        out: the folder of all results.
        scale: only this scale.
        seed: of runs again on other trees, weights and rows: those with this seed, and nothing else
            that differs from the scale.

    Raises:
        ValueError: the seed of the scales themselves.
    """
    changes = {} if seed is None else {"seed": seed}
    check_seed(seed)
    return [_claim(experiment, Path(out), scale, changes) for experiment in experiments]


def check_seed(seed: int | None) -> None:
    """Raise ValueError for the seed that every scale has."""
    if seed == OWN_SEED:
        raise ValueError(f"seed {seed} is that of every scale; claims again need another")


def _claim(experiment: Experiment, out: Path, scale: str | None, changes: dict[str, int]) -> Claim:
    name = experiment.name
    home = out / name
    for wanted in SCALES if scale is None else (scale,):
        run = runner.run_name(experiment, wanted, **changes)
        folder = home / run
        if (folder / records.MANIFEST).is_file():
            manifest = read_json(folder / records.MANIFEST)
            verdict = read_json(folder / records.VERDICT)
            low, high = verdict["interval"] or (None, None)
            return Claim(
                experiment=name,
                claim=experiment.claim,
                place=experiment.reference,
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
    return Claim(experiment=name, claim=experiment.claim, place=experiment.reference)


def save(claims: Iterable[Claim], folder: str | Path, known: Collection[str]) -> list[Claim]:
    """Write each claim that was run as `<experiment>.json`; what a smaller scale found stays unsaid.

    A saved claim is replaced by a run of its scale or a larger one, and stays where there is none;
    files of experiments that are no more go.

    Args:
        claims: some or all.
        folder: where the files are.
        known: the names of all experiments.

    Returns:
        The claims that were written.
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    for old in home.glob("*.json"):
        if old.stem not in known:
            old.unlink()
    saved = {claim.experiment: claim for claim in load(home)}
    written = []
    for claim in claims:
        before = saved.get(claim.experiment)
        if claim.run and (before is None or _size(claim) >= _size(before)):
            write_json(home / f"{claim.experiment}.json", asdict(claim))
            written.append(claim)
    return written


def _size(claim: Claim) -> int:
    return -SCALES.index(claim.scale)


def load(folder: str | Path) -> list[Claim]:
    """Claims as `save` wrote them, by name."""
    return [Claim(**read_json(path)) for path in sorted(Path(folder).glob("*.json"))]


def again(folder: str | Path, seed: int) -> Path:
    """Where claims that were run again with another seed are saved, beside those of the scale."""
    return Path(folder) / f"seed_{seed}"


def table(folder: str | Path) -> str:
    """The claims saved in a folder as a table in Markdown, those run again beside them."""
    seeds = sorted(int(home.name.removeprefix("seed_")) for home in Path(folder).glob("seed_*"))
    return markdown(load(folder), {seed: load(again(folder, seed)) for seed in seeds})


def markdown(claims: Iterable[Claim], repeated: Mapping[int, Iterable[Claim]] | None = None) -> str:
    """The claims as a table in Markdown, without a line break at its end.

    Args:
        claims: one a row.
        repeated: seed -> claims that were run again with it, a column each.
    """
    columns = {
        seed: {claim.experiment: claim for claim in others}
        for seed, others in (repeated or {}).items()
    }
    titles = ["experiment", "claim, and its place", "verdict", "measured", "effect, 95% interval"]
    titles += ["n", "run"]
    titles += [f"again, seed {seed}" for seed in columns]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for claim in claims:
        cells = [
            f"`{claim.experiment.replace('_', '-')}`",
            f"{claim.claim}<br>*{claim.place}*",
            f"**{claim.verdict}**",
            claim.measured,
            claim.shown_effect,
            f"{claim.n} {claim.of}" if claim.n else "",
            f"{claim.scale} {claim.run}",
        ]
        for others in columns.values():
            other = others.get(claim.experiment)
            cells.append(f"**{other.verdict}** {other.shown_effect}" if other else "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def put(text: str, page: str) -> str:
    """A page with the text of a table between its two marks.

    Raises:
        ValueError: a page without the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the marks {BEGIN} and {END} in the page, they are not there")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
