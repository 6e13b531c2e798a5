"""The measuring, summary and verdict of the experiment `top_down`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.stats import Estimate, Verdict, exceeds, mean_interval, verdict_of
from dualnets.theory.hierarchy import two_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from dualnets.experiments.theorems.top_down import (
    EXPERIMENT,
    FEWEST,
    PAIRS,
    RULE,
    SIGNIFICANCE,
    Settings,
)

MEASURES = {"per_norm": "selectivity / ||w||", "correlation": "|correlation|"}


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Integrate every intervention from the same weights over the same times."""
    from dualnets.networks.tree_network import tree_network

    trees = settings.build_trees()
    network = tree_network(trees, units=settings.units, seed=settings.seed, dtype=torch.float64)
    given, start = two_layer.groups(trees), two_layer.layers(network)
    ends = [
        two_layer.time_to_grow(given, start, settings.growth, intervention=intervention)
        for intervention in ("full", "uncoupled")
    ]
    share = torch.linspace(0, 1, settings.points, dtype=torch.float64)
    times = share[:, None] * torch.minimum(*ends)
    ceiling = trees.ceiling(trees.level(1), leaves="own").value.mean(1)
    parts = []
    for intervention in two_layer.INTERVENTIONS:
        path = two_layer.integrate(given, start, times, intervention=intervention)
        found = two_layer.readout(given, path)
        best = {
            "selectivity": found.selectivity,
            "per_norm": found.per_norm,
            "correlation": found.correlation,
        }
        rows = {
            "member": np.tile(trees.members, settings.points),
            "intervention": intervention,
            "share": np.repeat(share.numpy(), len(trees)),
            "time": times.flatten().numpy(),
            "upper_norm": found.upper_norm.flatten().numpy(),
        }
        for name, values in best.items():
            level = values.abs().amax(-1).mean(-1)  # the best unit, mean over latents
            rows[name] = level.flatten().numpy()
            rows[f"{name}_initial"] = level[0].repeat(settings.points).numpy()
        rows["ceiling"] = ceiling.repeat(settings.points).numpy()
        parts.append(pd.DataFrame(rows))
    return CellResult(pd.concat(parts, ignore_index=True))


# what the table says


def settings_of(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """What tells settings apart, and their rows."""
    names = [item.name for item in fields(Settings)]
    varying = [name for name in names if table[name].nunique() > 1]
    if {"polarity_low", "polarity_high"} <= {*varying} and table["polarity_low"].equals(
        table["polarity_high"]
    ):
        varying.remove("polarity_high")
    for _, rows in table.groupby("cell", sort=False):
        yield {name: rows[name].tolist()[0] for name in varying}, rows


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per member, pair and measure: the measure with the operator and without it."""
    found = []
    for member, own in rows.groupby("member"):
        paths = {name: part.sort_values("share") for name, part in own.groupby("intervention")}
        for with_it, without, at in PAIRS:
            a, b = paths[with_it], paths[without]
            norm = min(a["upper_norm"].max(), b["upper_norm"].max())
            for measure in MEASURES:
                values = [
                    float(path[measure].iloc[-1])
                    if at == "equal time"
                    else float(np.interp(norm, path["upper_norm"], path[measure]))
                    for path in (a, b)
                ]
                start = float(a[measure].iloc[0])
                found.append(
                    {
                        "member": member,
                        "pair": f"{with_it} / {without}",
                        "at": at,
                        "measure": measure,
                        "with": values[0],
                        "without": values[1],
                        "initial": start,
                        "log_gain": float(np.log(values[0] / values[1])),
                    }
                )
    return pd.DataFrame(found)


def rates(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per member, intervention and measure: its growth rate, the mean of d log / dt.

    Over one stretch for all interventions: until the first stored time at which the full dynamics have
    made half of the log growth that they make until the end; all of the time where they make none.
    """
    found = []
    for member, own in rows.groupby("member"):
        paths = {name: part.sort_values("share") for name, part in own.groupby("intervention")}
        for measure in MEASURES:
            leads = np.log((paths["full"][measure] / paths["full"][measure].iloc[0]).to_numpy())
            half = leads[-1] / 2 * (1 - 1e-9)  # met at a stored time, whatever the rounding
            last = int(np.argmax(leads >= half)) if leads[-1] > 0 else len(leads) - 1
            for name, path in paths.items():
                values, times = path[measure].to_numpy(), path["time"].to_numpy()
                rate = float(np.log(values[last] / values[0]) / (times[last] - times[0]))
                found.append(
                    {"member": member, "intervention": name, "measure": measure, "rate": rate,
                     "until": float(path["share"].iloc[last])}
                )  # fmt: skip
    return pd.DataFrame(found)


def _rates(grown: pd.DataFrame, measure: str, pair: str) -> tuple[Estimate, Estimate, Estimate]:
    """Growth rates with the operator and without, and their paired difference."""
    chosen = grown[grown["measure"] == measure]
    wide = chosen.pivot(index="member", columns="intervention", values="rate")
    a, b = (wide[name].to_numpy() for name in pair.split(" / "))
    return mean_interval(a), mean_interval(b), mean_interval(a - b)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per setting, pair and measure: ends and early growth rates with and without the operator."""
    found = []
    for setting_, rows in settings_of(table):
        grown = rates(rows)
        for (pair, measure), part in compare(rows).groupby(["pair", "measure"], sort=False):
            gain = mean_interval(part["log_gain"].to_numpy())
            with_it, without, faster = _rates(grown, measure, pair)
            found.append(
                {
                    "pair": pair,
                    "measure": MEASURES[measure],
                    **{name.replace("_", " "): str(value) for name, value in setting_.items()},
                    "initial": part["initial"].mean(),
                    "with": part["with"].mean(),
                    "without": part["without"].mean(),
                    "log ratio": _percent(gain),
                    "rate with": _finely(with_it),
                    "rate without": _finely(without),
                    "difference of rates": _finely(faster),
                    "n": gain.n,
                }
            )
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "Exact expectations: the null is 0. Log ratio: of the values with and without, at equal time "
        "(constant / frozen) or equal ||W_2|| (full / uncoupled); rates: d log / dt in the first half of "
        "the full dynamics' log growth"
    )
    return result


def _finely(rate: Estimate) -> str:
    return f"{rate.value:.4f} [{rate.low:.4f}, {rate.high:.4f}]"


def _percent(gain: Estimate) -> str:
    return f"{gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]"


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    made = compare(table)
    gain = made.groupby(["pair", "measure"])["log_gain"].mean()
    shown = ", ".join(
        f"{pair} {value:+.3f}" for (pair, m), value in gain.items() if m == "correlation"
    )
    return f"log ratio of |correlation|: {shown}"


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE."""
    details: list[dict[str, Any]] = []
    cells = list(settings_of(table))
    tests = len(cells) * len(PAIRS) * len(MEASURES)
    pooled = []
    for setting_, rows in cells:
        made, grown = compare(rows), rates(rows)
        pooled.append(made)
        for (pair, measure), part in made.groupby(["pair", "measure"], sort=False):
            p = min(exceeds(part["with"].to_numpy(), part["without"].to_numpy()) * tests, 1.0)
            gain = mean_interval(part["log_gain"].to_numpy())
            details.append(
                {
                    **setting_,
                    "pair": pair,
                    "measure": MEASURES[measure],
                    "log_ratio": gain.value,
                    "low": gain.low,
                    "high": gain.high,
                    "p": p,
                    "faster": p < SIGNIFICANCE,
                    "rates": [_finely(rate) for rate in _rates(grown, measure, pair)],
                    "n": gain.n,
                }
            )
    faster = [entry["faster"] for entry in details]
    n = min(entry["n"] for entry in details)
    every = pd.concat(pooled)
    chosen = every[(every["measure"] == "correlation") & (every["at"] == "equal time")]
    effect = mean_interval(chosen.groupby("member")["log_gain"].mean().to_numpy())
    by_pair = {
        f"{a} / {b}": [e["faster"] for e in details if e["pair"] == f"{a} / {b}"]
        for a, b, _ in PAIRS
    }
    count = ", ".join(
        f"{sum(won)} of {len(won)} {pair.replace(' / ', ' against ')}"
        for pair, won in by_pair.items()
    )
    if n < FEWEST:
        outcome, reason = "open", f"{n} trees are fewer than {FEWEST}"
    elif all(faster):
        outcome, reason = "holds", f"features are further with the operator: {count}"
    elif not any(faster):
        outcome, reason = "fails", f"features are further with the operator: {count}"
    else:
        outcome, reason = "open", f"features are further with the operator: {count}"
    what = "log ratio of |correlation|, constant norm against frozen, mean over settings"
    return verdict_of(EXPERIMENT.claim, outcome, RULE, reason, what, effect, details)


def plot(table: pd.DataFrame) -> Figure:
    """Paths of the middle setting, and the log ratios and growth rates of all settings."""
    from dualnets.experiments.theorems._top_down_figure import draw

    return draw(list(settings_of(table)), compare, rates)
