"""The outcome of every claim: read from stored runs, as a table in Markdown, and as small JSON files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dualnets._files import read_json, write_json
from dualnets.lab.experiment import Experiment
from dualnets.lab.grids import run_name
from dualnets.lab.report.page import number
from dualnets.lab.store import MANIFEST, VERDICT, Store
from hltm._paths import local_path

BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
OWN_SEED = 0  # the seed of every scale
SCALES = ("paper", "default", "smoke")  # largest first


@dataclass(frozen=True)
class Claim:
    """One experiment's claim and its outcome in one run.

    Attributes:
        experiment, claim, reference: its name, what it claims, and where the claim is made.
        verdict: `holds`, `fails`, `open`, or `not run`.
        measured: what the effect is, in words.
        effect, low, high: its value and 95% interval; None where it is not defined.
        n, of: the number of independent values, and what they are.
        reason: why the verdict is what it is.
        scale, run, command: of the run; empty where there is none.
    """

    experiment: str
    claim: str
    reference: str
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
    """Every experiment's claim with its outcome in the stored run of the largest scale.

    Only runs of a whole scale count, not those with other settings.

    Args:
        experiments: whose claims.
        out: the folder of all results.
        scale: read runs of this scale only.
        seed: read repetitions instead: runs with this seed, that is on other trees, weights and rows,
            which otherwise have the settings of the scale.

    Raises:
        ValueError: the seed that every scale has.
    """
    changes = {} if seed is None else {"seed": seed}
    check_seed(seed)
    home = local_path(out)
    return [_claim(experiment, home, scale, changes) for experiment in experiments]


def check_seed(seed: int | None) -> None:
    """Raise ValueError for the seed that every scale has."""
    if seed == OWN_SEED:
        raise ValueError(f"seed {seed} is that of every scale; a repetition needs another")


def _claim(experiment: Experiment, out: Path, scale: str | None, changes: dict[str, int]) -> Claim:
    store = Store(out, experiment.name)
    for wanted in SCALES if scale is None else (scale,):
        run = run_name(experiment, wanted, **changes)
        if store.has_run(run):
            manifest = read_json(store.run(run) / MANIFEST)
            verdict = read_json(store.run(run) / VERDICT)
            low, high = verdict["interval"] or (None, None)
            return Claim(
                experiment=experiment.name,
                claim=experiment.claim,
                reference=experiment.reference,
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
    return Claim(experiment.name, experiment.claim, experiment.reference)


def save(claims: Iterable[Claim], folder: str | Path, known: Collection[str]) -> list[Claim]:
    """Write each claim that was run as `<experiment>.json`.

    A saved claim is replaced only by a run of its scale or of a larger one. Files of experiments that
    no longer exist are deleted.

    Args:
        claims: some or all of them, run or not.
        folder: where the files are; made if missing.
        known: the names of all experiments.

    Returns:
        The claims that were written.
    """
    home = local_path(folder)
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


def repetition_folder(folder: str | Path, seed: int) -> Path:
    """The folder in which repetitions with another seed are saved, inside that of the claims."""
    return Path(folder) / f"seed_{seed}"


def table(folder: str | Path) -> str:
    """The claims saved in a folder as a table in Markdown, with a column for each repetition."""
    seeds = sorted(int(home.name.removeprefix("seed_")) for home in Path(folder).glob("seed_*"))
    return markdown(load(folder), {seed: load(repetition_folder(folder, seed)) for seed in seeds})


def markdown(claims: Iterable[Claim], repeated: Mapping[int, Iterable[Claim]] | None = None) -> str:
    """The claims as a table in Markdown, without a line break at its end.

    Args:
        claims: one per row.
        repeated: seed -> the same claims in runs with this seed, one column per seed.
    """
    columns = {
        seed: {claim.experiment: claim for claim in others}
        for seed, others in (repeated or {}).items()
    }
    titles = ["experiment", "claim and reference", "verdict", "measured", "effect, 95% interval"]
    titles += ["n", "run"]
    titles += [f"again, seed {seed}" for seed in columns]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for claim in claims:
        cells = [
            f"`{claim.experiment.replace('_', '-')}`",
            f"{claim.claim}<br>*{claim.reference}*",
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


def insert_table(text: str, page: str) -> str:
    """A page with this text in place of what stands between its two marks, BEGIN and END.

    Raises:
        ValueError: the page does not have the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the marks {BEGIN} and {END} in the page")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
