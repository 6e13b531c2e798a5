"""The experiment on samples: cells, the samples that each level needs, and the rules applied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.emergence._invariance import Probe
from dualnets.experiments.emergence._samples_needed import INVARIANCE, Learned, learned, published
from dualnets.experiments.emergence.samples import CLASS, TOLERANCE, Settings
from dualnets.lab.ablation_cell import collapse_rows
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import snapshot_steps
from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE, Deferred
from dualnets.lab.stats import NOTHING, Array, Estimate, Judgement, Outcome, too_few
from dualnets.lab.tidy import tidy
from dualnets.lab.time_to_threshold import later, median_time, time_in_words
from dualnets.lab.variants import RANK, SPREAD, at_once
from dualnets.training.trajectory import describe_frozen, trajectory


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble; measure the invariance of every level to synonyms, and collapse."""
    trees, method, seed = settings.build_trees(), settings.build_method(), settings.seed
    hidden = settings.predict == "leaf"
    probe = Probe.draw(trees, settings.evaluation_samples, seed=seed, hidden=hidden)
    parts = []
    for snapshot in trajectory(
        settings.build_network(trees, seed, device), method, trees, seed=seed,
        snapshots=snapshot_steps(settings), progress=progress.updated, **settings.training(),
    ):  # fmt: skip
        found = probe.measure(snapshot.network)
        progress.probed(snapshot.step, {level: float(v.mean()) for level, v in found.items()})
        for level, values in found.items():
            nodes = list(trees.level(level))
            nodes = nodes[-settings.branching : -1] if hidden else nodes
            index = {"member": trees.members, "step": snapshot.step, "level": level,
                     "node": [trees.topology.names[v] for v in nodes], "metric": INVARIANCE,
                     "candidates": "parent's block"}  # fmt: skip
            parts.append(tidy(index, {"value": values, "n": settings.evaluation_samples}))
        if settings.method != "supervised" or settings.samples == 0:
            # a few samples may all have one label, and one output for it is no collapse
            parts.append(collapse_rows(snapshot, method, trees, seed))
    table = pd.concat(parts, ignore_index=True)
    table["initial"] = table.groupby(["metric", "node", "member"])["value"].transform("first")
    table["ceiling"] = np.where(table["metric"] == INVARIANCE, 1.0, np.nan)
    frozen = describe_frozen(trees.members, snapshot.frozen_at)
    return CellResult(
        table, {"final": dict(snapshot.network.named_parameters())}, [frozen] if frozen else []
    )


def headline(table: pd.DataFrame) -> str:
    """The invariance to synonyms of the lowest and of the highest level at the end of a cell."""
    last = table[(table["step"] == table["step"].max()) & (table["metric"] == INVARIANCE)]
    means = last.groupby("level")["value"].mean()
    return "invariance " + ", ".join(
        f"{value:.2f} (level {level})" for level, value in means.items()
    )


def effect(table: pd.DataFrame, *, judge: Deferred) -> dict[str, Estimate]:
    """What must be flat: the effect of a rule, at the table's last step."""
    found = judge(table)
    return {found.effect: found.estimate}


def _obstacle(cells: list[Learned], least: int, levels: int | None = None) -> str:
    """Why cells do not decide a rule about the lowest levels, by default all; empty if they can."""
    if len(cells) < least or not all(own.complete for own in cells):
        return "fixed and fresh samples were not both run"
    few = too_few(min(len(own.initial[own.levels[0]]) for own in cells))
    bare = [
        f"{own.kind}, m {own.rules}, level {level}"
        for own in cells
        for level in own.levels[:levels]
        if not own.gap(level).value > NEGLIGIBLE
    ]
    return few or (f"fresh samples close too little of the gap ({'; '.join(bare)})" if bare else "")


def _half(own: Learned, *levels: int) -> dict[str, Any]:
    """The samples needed as part of a verdict's details, with the published number."""
    return {
        "variant": f"{own.kind}, m {own.rules}", "level": ", ".join(map(str, levels)),
        **median_time(own.needed(*levels)).detail("samples_needed"),
        "gap_closed_by_fresh_samples": own.gap(*levels).value, "published": published(own, levels[0]),
    }  # fmt: skip


def median_between(least: Array, most: Array, among: int = 1) -> Estimate:
    """The median of numbers that are known to lie between bounds, with an interval for whatever they are.

    Args:
        least, most: `(S,)`, infinite where there is no bound.
        among: as in `median_time`.

    Returns:
        The median, NaN unless the bounds have the same.
    """
    low, high = median_time(least, among), median_time(most, among)
    value = high.value if low.value == high.value else float("nan")
    return Estimate(value, low.low, high.high, low.n)


def _judged(
    effect: str, found: Estimate, claimed: float, details: list[dict[str, Any]]
) -> Judgement:
    """Whether an interval lies within TOLERANCE of a number, wholly outside, or neither."""
    low, high = claimed - TOLERANCE, claimed + TOLERANCE
    outcome: Outcome = "open"
    if low < found.low and found.high < high:
        outcome = "holds"
    elif found.low > high or found.high < low:
        outcome = "fails"
    reason = f"between {found.low:.2f} and {found.high:.2f} (95%), published: {claimed:.2f}"
    return Judgement(outcome, reason, effect, found, details)


def judge_exponent(table: pd.DataFrame, *, kind: str) -> Judgement:
    """Apply the rule `EXPONENT` or `LOWEST`; the effect is the exponent of m.

    Args:
        table: of a run.
        kind: of training: the class (the mean of all levels is judged), or a hidden leaf (the lowest level).
    """
    cells = sorted(learned(table, (kind,)), key=lambda own: own.rules)
    effect = f"exponent of m in the samples needed ({kind}), median over trees"
    if obstacle := _obstacle(cells, least=2, levels=None if kind == CLASS else 1):
        return Judgement("open", obstacle, effect, NOTHING, [])
    levels = cells[0].levels if kind == CLASS else cells[0].levels[:1]
    rules = np.log([own.rules for own in cells])
    least, most = np.log([own.bounds(*levels) for own in cells]).transpose(1, 2, 0)  # (S, M) each
    wanted = np.log([[published(own, levels[0]) for own in cells]])
    (claimed,), _ = slopes(rules, wanted, wanted)
    details = [_half(own, *levels) for own in cells]
    return _judged(effect, median_between(*slopes(rules, least, most)), float(claimed), details)


def slopes(x: Array, least: Array, most: Array) -> tuple[Array, Array]:
    """`(S,)` bounds of the slopes of the lines through points (x, y), of y between `(S, X)` bounds."""
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    rising, falling = weights > 0, weights < 0  # a weight of 0 times an infinite bound is left out

    def total(up: Array, down: Array) -> Array:
        found: Array = up[:, rising] @ weights[rising] + down[:, falling] @ weights[falling]
        return found

    return total(least, most), total(most, least)


def powers(own: Learned) -> tuple[Array, Array]:
    """`(S,)` bounds of the power of m by which the samples needed grow per level."""
    low, high = own.levels[0], own.levels[-1]
    lowest, highest = (np.log(own.bounds(level)) / np.log(own.rules) for level in (low, high))
    apart = high - low
    return (highest[0] - lowest[1]) / apart, (highest[1] - lowest[0]) / apart


def judge_levels(
    table: pd.DataFrame, *, kind: str, claimed: float, fewest: bool = False
) -> Judgement:
    """Apply `TOGETHER` or `LEVEL_BY_LEVEL`; the effect is the power of m per level.

    Args:
        table: of a run.
        kind: of training.
        claimed: the power.
        fewest: whether only the fewest rules that were run are judged; the others are among the details.
    """
    cells = sorted(learned(table, (kind,)), key=lambda own: own.rules)
    effect = f"power of m by which the samples needed grow per level ({kind}), median over trees"
    judged = cells[:1] if fewest else cells
    if obstacle := _obstacle(judged, least=1):
        return Judgement("open", obstacle, effect, NOTHING, [])
    found = median_between(*np.mean([powers(own) for own in judged], axis=0))
    complete = [own for own in cells if own.complete]
    details = [_half(own, level) for own in complete for level in own.levels]
    details += [
        {"variant": f"{own.kind}, m {own.rules}",
         **median_between(*powers(own)).detail("power_per_level")}
        for own in complete
    ]  # fmt: skip
    return _judged(effect, found, claimed, details)


def judge_views(table: pd.DataFrame) -> Judgement:
    """Apply the rule `VIEWS`; the effect is the smallest power of m per level."""
    cells = learned(table, ("simclr", "byol"))
    effect = "power of m by which the samples needed grow per level, smallest median of methods"
    effect += at_once(len(cells))
    if obstacle := _obstacle(cells, least=2):
        return Judgement("open", obstacle, effect, NOTHING, [])
    more, fewer, details, found = [], [], [], []
    for own in cells:
        low, high = own.needed(own.levels[0]), own.needed(own.levels[-1])
        p_more, p_fewer = later(high, low, len(cells)), later(low, high, len(cells))
        found.append(median_between(*powers(own), len(cells)))
        more += [own.kind] if p_more < SIGNIFICANCE else []
        fewer += [own.kind] if p_fewer < SIGNIFICANCE else []
        details += [_half(own, level) for level in own.levels]
        details.append({"variant": own.kind, "p_more": p_more, "p_fewer": p_fewer,
                        **found[-1].detail("power_per_level")})  # fmt: skip
    outcome: Outcome = "open"
    if len(more) == len(cells):
        outcome = "holds"
    elif fewer and not more:
        outcome = "fails"
    reason = f"the highest level needs more with {', '.join(more) or 'no method'}"
    reason += f", fewer with {', '.join(fewer)}" if fewer else ""
    return Judgement(outcome, reason, effect, min(found, key=lambda one: one.low), details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of training and m: gap closed by fresh samples and samples needed, level by level."""
    found = []
    for own in learned(table):
        row: dict[str, Any] = {"variant": f"{own.kind}, m {own.rules}"}
        for level in own.levels:
            row[f"level {level}: gap closed, fresh"] = str(own.gap(level)) if own.fresh else "–"
            needed = "–"
            if own.complete:
                needed = time_in_words(median_time(own.needed(level)), own.samples[-1])
            row[f"level {level}: samples"] = needed
        last = own.rows[-1]
        now = last[(last["step"] == last["step"].max()) & (last["node"] == "embedding")]
        row |= {
            "spread": f"{now[now['metric'] == SPREAD]['value'].mean():.2f}",
            "rank": f"{now[now['metric'] == RANK]['value'].mean():.1f}",
            "n": len(own.initial[own.levels[0]]),
        }
        found.append(row)
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "samples: with which the invariance to synonyms grows half as much as with fresh samples, median "
        "over n trees and its 95% interval (>: more than the largest set); gap closed: by fresh samples, to "
        "1; spread and rank: of the embedding, with fresh samples"
    )
    return made
