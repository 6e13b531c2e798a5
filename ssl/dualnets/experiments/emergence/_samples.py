"""The experiment on samples: cells, the samples that each level needs, and the rules applied."""

from __future__ import annotations

from collections.abc import Collection
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
from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Array, Estimate, Judgement, Outcome, gap_closed, too_few
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


def ends(
    table: pd.DataFrame, *, kinds: Collection[str], fewest: bool = False, levels: int | None = None
) -> dict[str, Estimate]:
    """Gap closed at the table's last step, the mean over all sizes, per kind, m and level.

    Args:
        table: of a run.
        kinds: of training.
        fewest: only with the fewest rules that were run.
        levels: how many of the lowest; all by default.
    """
    found: dict[str, Estimate] = {}
    every = sorted(learned(table, kinds), key=lambda own: own.rules)
    for own in every[:1] if fewest else every:
        for level in own.levels[:levels]:
            values = [*own.fixed[level].T, *([own.fresh[level]] if own.fresh else [])]
            initial = own.initial[level]
            name = f"{own.kind}, m {own.rules}, level {level}"
            found[name] = gap_closed(initial, np.mean(values, axis=0), np.ones_like(initial))
    return found


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
    """The samples needed as part of a verdict's details."""
    found = median_time(own.needed(*levels))
    return {
        "variant": f"{own.kind}, m {own.rules}", "level": ", ".join(map(str, levels)),
        **found.detail("samples_needed"), "gap_closed_by_fresh_samples": own.gap(*levels).value,
    }  # fmt: skip


def _within(found: Estimate, low: float, high: float) -> Outcome:
    """Whether an interval lies within bounds, outside of them, or neither."""
    if low < found.low and found.high < high:
        return "holds"
    return "fails" if found.low > high or found.high < low else "open"


def judge_exponent(table: pd.DataFrame, *, kind: str) -> Judgement:
    """Apply the rule `EXPONENT` or `LOWEST`; the effect is the exponent of m.

    Details have the samples needed beside the published number.

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
    needed = np.stack([own.needed(*levels) for own in cells], axis=1)  # (S, M)
    slope = median_time(_slopes(rules, np.log(needed)))
    wanted = np.array([published(own, levels[0]) for own in cells])
    (exponent,) = _slopes(rules, np.log(wanted)[None])
    details = [
        {**_half(own, *levels), "published": number}
        for own, number in zip(cells, wanted, strict=True)
    ]
    outcome = _within(slope, exponent - TOLERANCE, exponent + TOLERANCE)
    return Judgement(
        outcome, f"the exponent is {slope}, published: {exponent:.2g}", effect, slope, details
    )


def _slopes(x: Array, y: Array) -> Array:
    """`(S,)` slopes of the lines through the points (x, y); infinite where a y is."""
    centred = x - x.mean()
    finite = np.isfinite(y).all(axis=1)
    found: Array = np.where(
        finite, np.where(np.isfinite(y), y, 0.0) @ centred / (centred @ centred), np.inf
    )
    return found


def _power(own: Learned) -> Array:
    """`(S,)` power of m by which the samples needed grow per level; infinite if the highest is censored."""
    low, high = own.levels[0], own.levels[-1]
    needed = (
        np.log(own.needed(high)) / np.log(own.rules),
        np.log(own.needed(low)) / np.log(own.rules),
    )
    with np.errstate(invalid="ignore"):
        found: Array = (needed[0] - needed[1]) / (high - low)
    return np.where(np.isnan(found), np.inf, found)


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
    power = median_time(np.mean([_power(own) for own in judged], axis=0))
    details = [
        {**_half(own, level), "published": published(own, level)}
        for own in cells if own.complete for level in own.levels
    ]  # fmt: skip
    details += [
        {"variant": f"{own.kind}, m {own.rules}", **median_time(_power(own)).detail("power_per_level")}
        for own in cells if own.complete
    ]  # fmt: skip
    outcome = _within(power, claimed - TOLERANCE, claimed + TOLERANCE)
    reason = f"a factor m to the power {power} per level, published: {claimed:g}"
    return Judgement(outcome, reason, effect, power, details)


def judge_views(table: pd.DataFrame) -> Judgement:
    """Apply the rule `VIEWS`; the effect is the smallest median ratio of the samples needed."""
    cells = learned(table, ("simclr", "byol"))
    effect = "samples needed, highest level below the root over lowest, smallest median of methods"
    effect += at_once(len(cells))
    if obstacle := _obstacle(cells, least=2):
        return Judgement("open", obstacle, effect, NOTHING, [])
    more, fewer, details, ratios = [], [], [], []
    for own in cells:
        low, high = own.needed(own.levels[0]), own.needed(own.levels[-1])
        p_more, p_fewer = later(high, low, len(cells)), later(low, high, len(cells))
        both = ~(np.isinf(high) & np.isinf(low))  # of two censored ones no ratio is known
        ratios.append(median_time(high[both] / low[both], len(cells)))
        more += [own.kind] if p_more < SIGNIFICANCE else []
        fewer += [own.kind] if p_fewer < SIGNIFICANCE else []
        details += [_half(own, level) for level in own.levels]
        details.append(
            {
                "variant": own.kind,
                "p_more": p_more,
                "p_fewer": p_fewer,
                **ratios[-1].detail("ratio"),
            }
        )
    outcome: Outcome = "open"
    if len(more) == len(cells):
        outcome = "holds"
    elif fewer and not more:
        outcome = "fails"
    reason = f"the highest level needs more with {', '.join(more) or 'no method'}"
    reason += f", fewer with {', '.join(fewer)}" if fewer else ""
    smallest = min(ratios, key=lambda ratio: ratio.value)
    return Judgement(
        outcome, reason, effect, smallest._replace(n=len(cells[0].initial[1])), details
    )


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
