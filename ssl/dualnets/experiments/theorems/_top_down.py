"""Two layers with and without the top layer's operator: cells and rules of `top_down`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dualnets.experiments.theorems.top_down import COUPLED, PAIRS, Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.ratios import ratio_interval
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import Array, Estimate, Judgement, Outcome, mean_interval, too_few
from dualnets.lab.tidy import tidy
from dualnets.lab.variants import at_once

MEASURES = {"per_norm": "selectivity / ||w||", "correlation": "|correlation|"}


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Integrate every intervention from the same weights over the same times."""
    from dualnets.networks.tree_network import tree_network
    from dualnets.theory import two_layer

    trees = settings.build_trees()
    network = tree_network(trees, units=settings.units, seed=settings.seed, dtype=torch.float64)
    given, start = two_layer.groups(trees), two_layer.layers(network)
    ends = [
        two_layer.time_to_grow(given, start, settings.growth, intervention=intervention)
        for intervention in ("full", "uncoupled")
    ]
    share = torch.linspace(0, 1, settings.points, dtype=torch.float64)[:, None]  # (T, 1)
    times = share * torch.minimum(*ends)  # (T, S)
    ceiling = trees.ceiling(trees.level(1), leaves="own").value.mean(1)
    parts = []
    for intervention in two_layer.INTERVENTIONS:
        path = two_layer.integrate(given, start, times, intervention=intervention)
        found = two_layer.hidden_selectivity(given, path)
        columns: dict[str, Any] = {
            "member": trees.members, "intervention": intervention, "share": share, "time": times,
            "upper_norm": found.upper_norm,
        }  # fmt: skip
        for name in ("selectivity", "per_norm", "correlation"):
            # the best unit, mean over latents: (T, S)
            best = getattr(found, name).abs().amax(-1).mean(-1)
            columns |= {name: best, f"{name}_initial": best[0]}
        columns["ceiling"] = ceiling
        parts.append(tidy({"point": range(len(times)), "tree": trees.members}, columns))
    return CellResult(pd.concat(parts, ignore_index=True).drop(columns=["point", "tree"]))


def settings_of(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The settings in which cells differ, and their rows; cells that differ in their seed are one."""
    names = [item.name for item in fields(Settings) if item.name != "seed"]
    varying = [name for name in names if table[name].nunique() > 1]
    if table["polarity_low"].equals(table["polarity_high"]) and "polarity_high" in varying:
        varying.remove("polarity_high")  # one polarity, the same for all edges
    for _, part in table.groupby(varying, sort=False) if varying else [((), table)]:
        yield {name: part[name].tolist()[0] for name in varying}, part


def _paths(rows: pd.DataFrame, column: str) -> tuple[NDArray[np.int64], dict[str, Array]]:
    """The members of one setting and, by intervention, a column of theirs over time: `(S,)`, `(S, T)`."""
    wide = rows.pivot(index="member", columns=["intervention", "share"], values=column)
    names = dict.fromkeys(rows["intervention"])
    return wide.index.to_numpy(), {name: wide[name].sort_index(axis=1).to_numpy() for name in names}


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per member, pair and measure: the measure with the operator and without it."""
    members, norms = _paths(rows, "upper_norm")
    parts = []
    for (pair, at), measure in product(PAIRS.items(), MEASURES):
        names = pair.split(" / ")
        paths = [_paths(rows, measure)[1][name] for name in names]
        ends = [path[:, -1] for path in paths]
        if at == "equal norm":
            reached = np.minimum(*(norms[name].max(1) for name in names))
            ends = [
                np.array([np.interp(*of_tree) for of_tree in zip(reached, norms[name], path, strict=True)])
                for name, path in zip(names, paths, strict=True)
            ]  # fmt: skip
        parts.append(pd.DataFrame({
            "member": members, "pair": pair, "at": at, "measure": measure, "with": ends[0],
            "without": ends[1], "initial": paths[0][:, 0], "log_gain": np.log(ends[0] / ends[1]),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def rates(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per member, intervention and measure: its growth rate, the mean of d log / dt.

    Over one interval of time for all interventions: until the first stored time at which the full dynamics
    have made half of the log growth that they make until the end; all of the time where they make none.
    """
    shares = np.sort(rows["share"].unique())
    members, times = _paths(rows, "time")
    each = np.arange(len(members))
    parts = []
    for measure in MEASURES:
        _, paths = _paths(rows, measure)
        leads = np.log(paths["full"] / paths["full"][:, :1])
        half = leads[:, -1:] / 2 * (1 - 1e-9)  # met at a stored time, whatever the rounding
        last = np.where(leads[:, -1] > 0, (leads >= half).argmax(1), len(shares) - 1)
        for name, path in paths.items():
            growth, time = np.log(path[each, last] / path[:, 0]), times[name]
            parts.append(pd.DataFrame({
                "member": members, "intervention": name, "measure": measure,
                "rate": growth / (time[each, last] - time[:, 0]), "until": shares[last],
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def rate_pairs(found: pd.DataFrame, pair: str, measure: str = "per_norm") -> list[Any]:
    """`(S,)` each, of the `rates` of one setting those with the operator and those without it."""
    own = found[found["measure"] == measure]
    return [own[own["intervention"] == name]["rate"].to_numpy() for name in pair.split(" / ")]


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per setting, pair and measure: ends and early growth rates with and without the operator."""
    found = []
    for setting, rows in settings_of(table):
        grown = rates(rows)
        for (pair, measure), part in compare(rows).groupby(["pair", "measure"], sort=False):
            gain = mean_interval(part["log_gain"].to_numpy())
            a, b = rate_pairs(grown, pair, measure)
            found.append({
                "pair": pair, "measure": MEASURES[measure],
                **{name.replace("_", " "): str(value) for name, value in setting.items()},
                **part[["initial", "with", "without"]].mean(), "log ratio": f"{gain:+.1%}",
                "rate with": f"{mean_interval(a):.4f}", "rate without": f"{mean_interval(b):.4f}",
                "ratio of rates": str(ratio_interval(a, b)), "n": gain.n,
            })  # fmt: skip
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "Exact expectations: the null is 0. Log ratio: of the values with and without, at equal time "
        "(constant / frozen) or equal ||W_2|| (full / uncoupled); rates: d log / dt in the first half of "
        "the full dynamics' log growth, whose ratio without an effect is 1"
    )
    return result


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    return f"growth rate full / uncoupled: {ratio_interval(*rate_pairs(rates(table), COUPLED)):.2f}"


def faster(table: pd.DataFrame) -> Judgement:
    """Whether features grow faster with the operator; the effect is the smallest ratio of rates."""
    cells = list(settings_of(table))
    details, effects = [], []
    for setting, rows in cells:
        a, b = rate_pairs(rates(rows), COUPLED)
        effects.append(ratio_interval(a, b, len(cells)))
        details.append({
            **setting, **effects[-1].detail("ratio_of_rates"),
            "rate_with": float(a.mean()), "rate_without": float(b.mean()),
        })  # fmt: skip
    what = "ratio of growth rates, full to uncoupled dynamics, smallest of all settings"
    return _judged(details, effects, what, 1 + NEGLIGIBLE)


def further(table: pd.DataFrame, *, pair: str) -> Judgement:
    """How much further features are with the operator; the effect is the smallest log ratio."""
    cells = list(settings_of(table))
    details, effects = [], []
    for setting, rows in cells:
        made = compare(rows).query("pair == @pair and measure == 'per_norm'")
        effects.append(mean_interval(made["log_gain"].to_numpy(), len(cells)))
        details.append({**setting, **effects[-1].detail("log_ratio")})
    what = f"log ratio, {pair.replace(' / ', ' to ')}, smallest of all settings"
    return _judged(details, effects, what, NEGLIGIBLE)


def _judged(
    details: list[dict[str, Any]], effects: list[Estimate], what: str, bound: float
) -> Judgement:
    """Holds if every effect is above the bound with its whole interval, fails if every one is below it."""
    above, below = ([e.low > bound for e in effects], [e.high < bound for e in effects])
    low, high = (pick(effect.value for effect in effects) for pick in (min, max))
    reason = (
        f"{low:.2g} to {high:.2g}, above {bound:.2g} in {sum(above)} and below it in {sum(below)} of "
        f"{len(effects)} settings"
    )
    outcome: Outcome = "open"
    if few := too_few(min(effect.n for effect in effects)):
        reason = few
    elif all(above) or all(below):
        outcome = "holds" if all(above) else "fails"
    smallest = min(effects, key=lambda effect: effect.value)
    return Judgement(outcome, reason, what + at_once(len(effects)), smallest, details)
