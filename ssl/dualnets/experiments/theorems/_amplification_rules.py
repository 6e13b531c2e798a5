"""The rules of `amplification`: growth by eigenvalue, who stays first, how often the forecast is right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from dualnets.experiments.theorems.amplification import DIRECTION, UNIT
from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    adjusted,
    exceeds,
    mean_interval,
    pooled,
    stats,
    too_few,
)
from dualnets.lab.variants import at_once

Key = tuple[str, int, int]  # the kind of outputs, units, level


def networks(table: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Every network of all seeds: the kind of its outputs, its units, and its rows."""
    for (normalize, units), rows in pooled(table).groupby(["normalize", "units"]):
        yield "normalised" if normalize else "plain", int(units), rows


def _spearman(a: pd.Series, b: pd.Series) -> float:
    if len(a) < 3 or a.nunique() < 2 or b.nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def amplified(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network, level and tree: rank correlation of eigenvalue and growth, mean over time."""
    rows = table[(table["kind"] == DIRECTION) & np.isfinite(table["value"])]
    keys = ["normalize", "units", "level", "member", "step"]
    found = [
        {**dict(zip(keys, key, strict=True)), "rank": _spearman(part["initial"], part["value"])}
        for key, part in rows.groupby(keys)
    ]
    made = pd.DataFrame(found, columns=[*keys, "rank"])
    return made.groupby(keys[:-1])["rank"].mean().reset_index()


def winners(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network, level and tree: who has won at the last step, mean over latents.

    `advantage` is that of the forecast over the ranking before training.
    """
    keys = ["normalize", "units", "level", "member"]
    parts = []
    for (_, units), rows in table[table["kind"] == UNIT].groupby(["normalize", "units"]):
        last = rows[rows["step"] == rows["step"].max()]
        last = last.sort_values(["level", "member", "latent", "place"])
        initial, forecast, value = (
            last[name].to_numpy().reshape(-1, int(units))
            for name in ("initial", "forecast", "value")
        )  # (latents of all trees, units)
        won = value.argmax(1)
        part = last[keys].iloc[:: int(units)].assign(
            rank=_rank_correlations(initial, value),
            first_stays=(initial.argmax(1) == won).astype(float),
            forecast_hits=(forecast.argmax(1) == won).astype(float),
            forecast=forecast.max(1), initial=initial.max(1), value=value.max(1),
        )  # fmt: skip
        parts.append(part)
    made = pd.concat(parts).groupby(keys).mean().reset_index()
    return made.assign(advantage=made["forecast_hits"] - made["first_stays"])


def _rank_correlations(a: Array, b: Array) -> Array:
    """`(N,)` Spearman's rank correlations of the rows of `(N, U)` arrays; NaN where all are equal."""
    one, two = (stats.rankdata(each, axis=1) - (a.shape[1] + 1) / 2 for each in (a, b))
    size = np.sqrt((one**2).sum(1) * (two**2).sum(1))
    found: Array = (one * two).sum(1) / np.where(size > 0, size, np.nan)
    return found


def growth(table: pd.DataFrame) -> Judgement:
    """Whether growth follows eigenvalues; the effect is the smallest rank correlation of all levels."""
    ranks = {
        # at the top V[fbar] ⊗ 1 is of rank one in every output: its eigenvalues have no order
        (output, units, int(level)): part["rank"].to_numpy()
        for output, units, rows in networks(table)
        if output == "plain"
        for level, part in amplified(rows[rows["level"] < rows["level"].max()]).groupby("level")
    }
    tests = {key: exceeds(rank, 0.0, len(ranks)) for key, rank in ranks.items()}
    what = "rank correlation of eigenvalues and growth rates, smallest of all levels"
    return _judged(ranks, tests, what, "growth follows eigenvalues at {} of {} levels")


def first(table: pd.DataFrame) -> Judgement:
    """Whether the first stay first; the effect is the smallest share above chance of all levels."""
    above = {key: part["first_stays"].to_numpy() - 1 / key[1] for key, part in _levels(table)}
    tests = {key: _p_positive(values, len(above)) for key, values in above.items()}
    what = "share of latents whose best unit stays the best, less chance, smallest of all levels"
    return _judged(above, tests, what, "the first stay first at {} of {} levels")


def forecast(table: pd.DataFrame) -> Judgement:
    """Whether the forecast is better than the ranking before; the effect is its smallest lead."""
    lead = {key: part["advantage"].to_numpy() for key, part in _levels(table)}
    tests = {key: _p_positive(values, len(lead)) for key, values in lead.items()}
    behind = sum(_p_positive(-values, len(lead)) < SIGNIFICANCE for values in lead.values())
    what = (
        "share of winners that the forecast names, less that of the ranking, smallest of all levels"
    )
    reason = f"the forecast is ahead of the ranking at {{}} of {{}} levels and behind at {behind}"
    return _judged(lead, tests, what, reason)


def shares(table: pd.DataFrame, *, of: str) -> dict[str, Estimate]:
    """Output, units and level -> a column of `winners`, mean over trees, at the last step of a table."""
    return {
        f"{output} outputs, {units} units, level {level}": mean_interval(part[of].to_numpy())
        for (output, units, level), part in _levels(table)
    }


def _levels(table: pd.DataFrame) -> list[tuple[Key, pd.DataFrame]]:
    return [
        ((output, units, int(level)), part)
        for output, units, rows in networks(table)
        for level, part in winners(rows).groupby("level")
    ]


def _judged(values: dict[Key, Array], tests: dict[Key, float], what: str, reason: str) -> Judgement:
    """Holds if every level has p < SIGNIFICANCE; fails if none has and all effects are negligible."""
    if not values:
        return Judgement("open", "no network of this kind was trained", what, NOTHING, [])
    effects = {key: mean_interval(each, len(values)) for key, each in values.items()}
    details = [
        {"output": key[0], "units": key[1], "level": key[2], **effect.detail(), "p": tests[key]}
        for key, effect in effects.items()
    ]
    passed = [p < SIGNIFICANCE for p in tests.values()]
    reason = reason.format(sum(passed), len(passed))
    outcome: Outcome = "open"
    if few := too_few(min(effect.n for effect in effects.values())):
        reason = few
    elif all(passed):
        outcome = "holds"
    elif not any(passed) and all(effect.high < NEGLIGIBLE for effect in effects.values()):
        outcome = "fails"
    smallest = min(effects.values(), key=lambda effect: effect.value)
    return Judgement(outcome, reason, what + at_once(len(values)), smallest, details)


def _p_positive(values: Array, among: int) -> float:
    """P of Student's test that a mean over trees is above 0, one-sided; P is multiplied by `among`.

    The values of a single latent are 0 or 1, which signed ranks cannot order.
    """
    kept = values[np.isfinite(values)]
    if len(kept) < 2:
        return 1.0
    if kept.std() == 0:
        return float(kept.mean() <= 0)
    return adjusted(float(stats.ttest_1samp(kept, 0.0, alternative="greater").pvalue), among)
