"""The outcomes of all claims: read from stored runs, kept as small JSON files, and as a table in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dualnets._files import read_json, write_json
from dualnets.lab.experiment import Experiment
from dualnets.lab.grids import run_name, values_by_field
from dualnets.lab.report.tables import number
from dualnets.lab.rules import claim_title
from dualnets.lab.store import Store
from dualnets.lab.stored_runs import read_run
from dualnets.lab.verdicts import Verdict
from hltm._paths import local_path

BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
SCALES = (
    "default",
    "long",
    "fashion",
    "paper",
)  # that give verdicts; the first is that of the table's rows


@dataclass(frozen=True)
class ClaimResult:
    """One claim and its outcome in one run.

    Attributes:
        experiment, name: whose claim, and its name there; empty where it is the only one.
        claim, reference: what is claimed, and where.
        verdict: `holds`, `fails`, `open`, or `not run`.
        measured: what the effect is, in words.
        effect, low, high: its value and 95% interval; None where it is not defined.
        n, of: the number of independent values, and what they are.
        reason: why the verdict is what it is, or that a run is damaged.
        flat: whether all curves are flat at the end of training; None where the claim is not about it.
        scale, run, command: of the run; empty where there is none.
        cpu_seconds: that the run took.
        partner: the title of the same claim on other data; empty where there is none.
    """

    experiment: str
    name: str
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
    flat: bool | None = None
    scale: str = ""
    run: str = ""
    command: str = ""
    cpu_seconds: float = 0.0
    partner: str = ""

    @property
    def title(self) -> str:
        """Experiment and claim as they are called, e.g. `top-down: growth`.

        Example:
            >>> ClaimResult("top_down", "growth", "A claim", "ours").title
            'top-down: growth'
        """
        return claim_title(self.experiment, self.name)

    @property
    def shows_reason(self) -> bool:
        """Whether a table must say why: the claim does not plainly hold, or some trees were lost."""
        return self.verdict != "holds" or "diverged or collapsed" in self.reason

    @property
    def shown_effect(self) -> str:
        """The effect with its interval."""
        if self.effect is None:
            return "–"
        text = number(self.effect)
        if self.low is not None and self.high is not None:
            text += f" [{number(self.low)}, {number(self.high)}]"
        return text

    @property
    def shown_outcome(self) -> str:
        """The verdict, the effect with its interval, and n; a dash where nothing was run."""
        return f"{self.verdict} {self.shown_effect}, n = {self.n} {self.of}" if self.run else "–"


def stored(
    experiments: Iterable[Experiment],
    out: str | Path,
    scale: str = SCALES[0],
    seeds: Sequence[int] = (),
) -> list[ClaimResult]:
    """Every claim with its outcome in the stored run of a scale.

    Only runs of a whole scale count, not those with other settings. Experiments that do not have the
    scale, or whose own seeds are asked for, are left out.

    Args:
        experiments: whose claims.
        out: the folder of all results.
        scale: of the runs.
        seeds: read repetitions instead: runs with these seeds, that is on other trees, weights and rows,
            which otherwise have the settings of the scale; the trees of several seeds count together.
    """
    changes = {"seed": list(seeds)} if seeds else {}
    home = local_path(out)
    return [
        result
        for experiment in experiments
        if can_run(experiment, scale, seeds)
        for result in _of_run(experiment, home, scale, changes)
    ]


def can_run(experiment: Experiment, scale: str, seeds: Sequence[int]) -> bool:
    """Whether an experiment has the scale and, if seeds are given, not all of them there."""
    if not seeds or scale not in experiment.grids:
        return scale in experiment.grids
    return not any(set(seeds) <= set(own) for own in values_by_field(experiment, scale)["seed"])


def _of_run(
    experiment: Experiment, out: Path, scale: str, changes: Mapping[str, Sequence[int]]
) -> list[ClaimResult]:
    """The claims of one experiment, run or not; a run that is damaged counts as none."""
    store = Store(out, experiment.name)
    run = run_name(experiment, scale, **changes)
    stored = read_run(store.run(run)) if store.has_run(run) else None
    damage = f"run {stored.folder} is damaged: {stored.damage}" if stored and stored.damage else ""
    if stored is None or damage:
        return [
            ClaimResult(
                experiment.name, claim.name, claim.text, claim.reference, partner=claim.partner,
                reason=damage,
            )
            for claim in experiment.claims
        ]  # fmt: skip
    verdicts = [Verdict.of_dict(values) for values in stored.verdicts]
    found = of_verdicts(experiment, stored.manifest, verdicts)
    return [replace(own, scale=scale, run=run) for own in found]


def of_verdicts(
    experiment: Experiment, manifest: Mapping[str, Any], verdicts: Iterable[Verdict]
) -> list[ClaimResult]:
    """The claims of a run with their outcomes, from its manifest and its verdicts."""
    partners = {claim.name: claim.partner for claim in experiment.claims}
    seconds = round(sum(cell["cpu_seconds"] for cell in manifest["cells"]), 1)
    return [
        ClaimResult(
            experiment.name, v.name, v.claim, v.reference, v.verdict, v.effect, v.effect_value,
            low=v.interval[0] if v.interval else None, high=v.interval[1] if v.interval else None,
            n=v.n, of=v.of, reason=v.reason, flat=v.flat, scale=manifest["scale"], run=manifest["run"],
            command=manifest["command"], cpu_seconds=seconds, partner=partners.get(v.name, ""),
        )
        for v in verdicts
    ]  # fmt: skip


def save(
    results: Iterable[ClaimResult], folder: str | Path, known: Collection[str]
) -> list[ClaimResult]:
    """Write the claims of each experiment that was run as `<experiment>.json`, in place of older ones.

    Files of experiments that no longer exist are deleted.

    Args:
        results: some or all of them, run or not.
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
    written: dict[str, list[ClaimResult]] = {}
    for result in results:
        if result.run:
            written.setdefault(result.experiment, []).append(result)
    for experiment, found in written.items():
        write_json(home / f"{experiment}.json", [asdict(result) for result in found])
    return [result for found in written.values() for result in found]


def load(folder: str | Path) -> list[ClaimResult]:
    """Claims as `save` wrote them, by experiment."""
    paths = sorted(Path(folder).glob("*.json"))
    return [ClaimResult(**values) for path in paths for values in read_json(path)]


def results_folder(folder: str | Path, scale: str, seeds: Sequence[int] = ()) -> Path:
    """Where the claims of a scale and of seeds are saved, inside the folder of all.

    Example:
        >>> results_folder("claims", "default").as_posix()
        'claims'
        >>> results_folder("claims", "long", [0, 1]).as_posix()
        'claims/long/seed_0_1'
    """
    home = Path(folder) if scale == SCALES[0] else Path(folder) / scale
    return home / f"seed_{'_'.join(map(str, seeds))}" if seeds else home


def table(folder: str | Path) -> str:
    """The claims saved in a folder as a table in Markdown, with a column for other scales and seeds each.

    Claims that have a partner follow in a second table, side by side with it.
    """
    columns: dict[str, list[ClaimResult]] = {}
    for scale in SCALES:
        home = results_folder(folder, scale)
        if scale != SCALES[0] and (found := load(home)):
            columns[f"{scale} scale"] = found
        of_scale = "again" if scale == SCALES[0] else f"{scale} scale"
        stored_seeds = ([int(s) for s in path.name.split("_")[1:]] for path in home.glob("seed_*"))
        for seeds in sorted(stored_seeds, key=lambda own: (len(own), own)):
            names = ", ".join(map(str, seeds))
            which = f"seeds {names} pooled" if len(seeds) > 1 else f"seed {names}"
            columns[f"{of_scale}, {which}"] = load(results_folder(folder, scale, seeds))
    scales = {scale: load(results_folder(folder, scale)) for scale in SCALES}
    beside = partners_markdown(side_by_side(scales))
    return "\n\n".join(filter(None, [markdown(load(folder), columns), beside]))


@dataclass(frozen=True)
class SideBySide:
    """A claim on trees, and the same on pictures at every scale.

    Attributes:
        trees: the claim on trees, at the first scale.
        pictures: scale -> the same claim on pictures.
    """

    trees: ClaimResult
    pictures: Mapping[str, ClaimResult]

    @property
    def titles(self) -> tuple[str, str]:
        """The title of either claim."""
        return self.trees.title, next(iter(self.pictures.values())).title


def side_by_side(results: Mapping[str, Sequence[ClaimResult]]) -> list[SideBySide]:
    """The claims that have a partner, each beside it, in the order of the former.

    Args:
        results: scale -> claims, with that of the partners first. A partner that is not among these is left
            out.
    """
    (first, *_) = results.values()
    trees = {result.title: result for result in first}
    found: dict[tuple[str, str], dict[str, ClaimResult]] = {}
    for scale, claims in results.items():
        for claim in claims:
            if claim.partner in trees:
                found.setdefault((claim.title, claim.partner), {})[scale] = claim
    return [SideBySide(trees[partner], own) for (_, partner), own in found.items()]


def partners_markdown(pairs: Sequence[SideBySide]) -> str:
    """Claims side by side as a table in Markdown; empty if there are none."""
    scales = [scale for scale in SCALES if any(scale in pair.pictures for pair in pairs)]
    titles = ["on trees, on pictures", "on trees", *(f"on pictures, {scale}" for scale in scales)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for pair in pairs:
        every = [pair.trees, *(pair.pictures.get(scale) for scale in scales)]
        cells = [f"**{own.verdict}**{own.shown_outcome.removeprefix(own.verdict)}"
                 if own and own.run else "" for own in every]  # fmt: skip
        lines.append(f"| {' | '.join(['<br>'.join(f'`{t}`' for t in pair.titles), *cells])} |")
    return "\n".join(lines) if pairs else ""


def markdown(
    results: Iterable[ClaimResult], others: Mapping[str, Sequence[ClaimResult]] | None = None
) -> str:
    """The claims as a table in Markdown, without a line break at its end.

    Args:
        results: one per row.
        others: title -> the same claims in other runs, one column each.
    """
    columns = {
        title: {(other.experiment, other.name): other for other in found}
        for title, found in (others or {}).items()
    }
    titles = ["claim", "in words, and where it is made", "verdict", "measured"]
    titles += ["effect, 95% interval", "n", "flat", "run", *columns]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for result in results:
        cells = [
            f"`{result.title}`",
            f"{result.claim}<br>*{result.reference}*",
            f"**{result.verdict}**" + (f"<br>{result.reason}" if result.shows_reason else ""),
            result.measured,
            result.shown_effect,
            f"{result.n} {result.of}" if result.n else "",
            {None: "", True: "yes", False: "no"}[result.flat],
            f"{result.scale} {result.run}, {result.cpu_seconds:.0f} CPU s",
        ]
        for found in columns.values():
            other = found.get((result.experiment, result.name))
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
