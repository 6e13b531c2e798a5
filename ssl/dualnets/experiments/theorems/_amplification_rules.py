"""The rules of `amplification`: growth by eigenvalue, who stays first, how often the forecast is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from dualnets.experiments.theorems.amplification import DIRECTION, UNIT
from dualnets.lab.all_or_none import all_or_none
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import Array, Estimate, Judgement, adjusted, exceeds, mean_interval, stats

LEVELS = ["normalize", "units", "level"]  # what is judged apart


def amplified(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network, level and tree: rank correlation of eigenvalue and growth, mean over time."""
    rows = table[(table["kind"] == DIRECTION) & np.isfinite(table["value"])]
    keys = [*LEVELS, "member", "step"]
    found = [
        {**dict(zip(keys, key, strict=True)), "rank": stats.spearmanr(part["initial"], part["value"])[0]}
        for key, part in rows.groupby(keys)
        if min(part["initial"].nunique(), part["value"].nunique()) > 2
    ]  # fmt: skip
    made = pd.DataFrame(found, columns=[*keys, "rank"])
    return made.groupby(keys[:-1])["rank"].mean().reset_index()


def winners(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network, level and tree: who has won at the last step, mean over latents.

    `first_stays` and `forecast_hits` are shares of latents, `above_chance` is what the first has over one in
    n, `advantage` what the forecast has over the ranking before training.
    """
    keys = [*LEVELS, "member"]
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
            first_stays=(initial.argmax(1) == won).astype(float),
            forecast_hits=(forecast.argmax(1) == won).astype(float),
            initial=initial.max(1), value=value.max(1),
        )  # fmt: skip
        parts.append(part)
    made = pd.concat(parts).groupby(keys).mean().reset_index()
    return made.assign(
        above_chance=made["first_stays"] - 1 / made["units"],
        advantage=made["forecast_hits"] - made["first_stays"],
    )


def growth(table: pd.DataFrame) -> Judgement:
    """Whether growth follows eigenvalues; the effect is the smallest rank correlation of all levels."""
    plain = table[~table["normalize"]]
    # at the top V[fbar] ⊗ 1 is of rank one in every output: its eigenvalues have no order
    below = amplified(plain[plain["level"] < plain["level"].max()])
    what = "rank correlation of eigenvalues and growth rates, smallest of all levels"
    reason = "growth follows eigenvalues at {} of {} levels"
    return _judged(below, "rank", lambda v, n: exceeds(v, 0.0, n), what, reason)


def first(table: pd.DataFrame) -> Judgement:
    """Whether the first stay first; the effect is the smallest share above chance of all levels."""
    what = "share of latents whose best unit stays the best, less chance, smallest of all levels"
    reason = "the first stay first at {} of {} levels"
    return _judged(winners(table), "above_chance", _p_positive, what, reason)


def forecast(table: pd.DataFrame) -> Judgement:
    """Whether the forecast is better than the ranking before; the effect is its smallest lead."""
    leads = [part["advantage"].to_numpy() for _, part in winners(table).groupby(LEVELS)]
    behind = sum(_p_positive(-lead, len(leads)) < SIGNIFICANCE for lead in leads)
    what = (
        "share of winners that the forecast names, less that of the ranking, smallest of all levels"
    )
    reason = f"the forecast is ahead of the ranking at {{}} of {{}} levels and behind at {behind}"
    return _judged(winners(table), "advantage", _p_positive, what, reason)


def shares(table: pd.DataFrame, *, of: str) -> dict[str, Estimate]:
    """Output, units and level -> a column of `winners`, mean over trees, at the last step of a table."""
    return {
        f"{output(normalize)} outputs, {units} units, level {level}": mean_interval(part[of].to_numpy())
        for (normalize, units, level), part in winners(table).groupby(LEVELS)
    }  # fmt: skip


def output(normalize: bool) -> str:
    """The kind of a network's outputs."""
    return "normalised" if normalize else "plain"


def _judged(
    found: pd.DataFrame, column: str, p: Callable[[Array, int], float], what: str, reason: str
) -> Judgement:
    """Whether a column is above 0 at every level, by a test of its values over trees."""
    groups = list(found.groupby(LEVELS))
    details: list[dict[str, Any]] = []
    effects = []
    for (normalize, units, level), part in groups:
        values = part[column].to_numpy()
        effects.append(mean_interval(values, len(groups)))
        details.append({
            "output": output(normalize), "units": int(units), "level": int(level),
            **effects[-1].detail(), "p": p(values, len(groups)),
        })  # fmt: skip
    return all_or_none(details, effects, what, reason)


def _p_positive(values: Array, among: int) -> float:
    """P of Student's test that a mean over trees is above 0, one-sided; P is multiplied by `among`.

    The values of a single latent are 0 or 1, which signed ranks cannot order.
    """
    if values.std() == 0:
        return float(values.mean() <= 0)
    return adjusted(float(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue), among)
