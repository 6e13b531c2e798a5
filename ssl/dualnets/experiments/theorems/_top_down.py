"""Two layers with and without the top layer's operator: cells and rule of `top_down`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.theorems.top_down import PAIRS, Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import Judgement, Outcome, exceeds, mean_interval, too_few
from dualnets.lab.tidy import tidy

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
    """The settings in which cells differ, and their rows."""
    varying = [item.name for item in fields(Settings) if table[item.name].nunique() > 1]
    equal = table["polarity_low"].equals(table["polarity_high"])
    if equal and "polarity_high" in varying:  # one polarity, the same for all edges
        varying.remove("polarity_high")
    for _, rows in table.groupby("cell", sort=False):
        yield {name: rows[name].tolist()[0] for name in varying}, rows


def _paths(rows: pd.DataFrame) -> Iterator[tuple[Any, dict[Any, pd.DataFrame]]]:
    """Every member with its interventions' rows in the order of time."""
    for member, own in rows.sort_values("share", kind="stable").groupby("member"):
        yield member, dict(iter(own.groupby("intervention")))


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per member, pair and measure: the measure with the operator and without it."""
    found = []
    for member, paths in _paths(rows):
        for with_it, without, at in PAIRS:
            pair = paths[with_it], paths[without]
            norm = min(path["upper_norm"].max() for path in pair)
            for measure in MEASURES:
                ends = [
                    float(path[measure].iloc[-1])
                    if at == "equal time"
                    else float(np.interp(norm, path["upper_norm"], path[measure]))
                    for path in pair
                ]
                found.append({
                    "member": member, "pair": f"{with_it} / {without}", "at": at, "measure": measure,
                    "with": ends[0], "without": ends[1], "initial": float(pair[0][measure].iloc[0]),
                    "log_gain": float(np.log(ends[0] / ends[1])),
                })  # fmt: skip
    return pd.DataFrame(found)


def rates(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per member, intervention and measure: its growth rate, the mean of d log / dt.

    Over one interval of time for all interventions: until the first stored time at which the full dynamics
    have made half of the log growth that they make until the end; all of the time where they make none.
    """
    found = []
    for member, paths in _paths(rows):
        for measure in MEASURES:
            leads = np.log((paths["full"][measure] / paths["full"][measure].iloc[0]).to_numpy())
            half = leads[-1] / 2 * (1 - 1e-9)  # met at a stored time, whatever the rounding
            last = int(np.argmax(leads >= half)) if leads[-1] > 0 else len(leads) - 1
            for name, path in paths.items():
                values, times = path[measure].to_numpy(), path["time"].to_numpy()
                rate = float(np.log(values[last] / values[0]) / (times[last] - times[0]))
                found.append({
                    "member": member, "intervention": name, "measure": measure, "rate": rate,
                    "until": float(path["share"].iloc[last]),
                })  # fmt: skip
    return pd.DataFrame(found)


def _comparisons(
    table: pd.DataFrame,
) -> Iterator[tuple[dict[str, Any], str, str, pd.DataFrame, list[str]]]:
    """Every setting, pair and measure: the members' comparison, and their growth rates.

    The rates are those with the operator and without it, and their paired difference.
    """
    for setting, rows in settings_of(table):
        grown = rates(rows).pivot(
            index="member", columns=["measure", "intervention"], values="rate"
        )
        for (pair, measure), part in compare(rows).groupby(["pair", "measure"], sort=False):
            a, b = (grown[measure, name].to_numpy() for name in pair.split(" / "))
            shown = [f"{mean_interval(values):.4f}" for values in (a, b, a - b)]
            yield setting, pair, measure, part, shown


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per setting, pair and measure: ends and early growth rates with and without the operator."""
    found = []
    for setting, pair, measure, part, (with_it, without, faster) in _comparisons(table):
        gain = mean_interval(part["log_gain"].to_numpy())
        found.append({
            "pair": pair, "measure": MEASURES[measure],
            **{name.replace("_", " "): str(value) for name, value in setting.items()},
            **part[["initial", "with", "without"]].mean(), "log ratio": f"{gain:+.1%}",
            "rate with": with_it, "rate without": without, "difference of rates": faster,
            "n": gain.n,
        })  # fmt: skip
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "Exact expectations: the null is 0. Log ratio: of the values with and without, at equal time "
        "(constant / frozen) or equal ||W_2|| (full / uncoupled); rates: d log / dt in the first half of "
        "the full dynamics' log growth"
    )
    return result


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    made = compare(table)
    gain = made.groupby(["pair", "measure"])["log_gain"].mean()
    shown = ", ".join(
        f"{pair} {value:+.3f}" for (pair, m), value in gain.items() if m == "correlation"
    )
    return f"log ratio of |correlation|: {shown}"


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule."""
    outcome: Outcome
    details: list[dict[str, Any]] = []
    found = list(_comparisons(table))
    for setting, pair, measure, part, speeds in found:
        p = exceeds(part["with"].to_numpy(), part["without"].to_numpy(), len(found))
        gain = mean_interval(part["log_gain"].to_numpy())
        details.append({
            **setting, "pair": pair, "measure": MEASURES[measure], **gain.detail("log_ratio"),
            "p": p, "faster": p < SIGNIFICANCE, "rates": speeds,
        })  # fmt: skip
    every = pd.concat([part for *_, part, _ in found])
    chosen = every[(every["measure"] == "correlation") & (every["at"] == "equal time")]
    effect = mean_interval(chosen.groupby("member")["log_gain"].mean().to_numpy())
    won = {
        pair: [entry["faster"] for entry in details if entry["pair"] == pair]
        for pair in (f"{a} / {b}" for a, b, _ in PAIRS)
    }
    count = ", ".join(
        f"{sum(faster)} of {len(faster)} {pair.replace(' / ', ' against ')}"
        for pair, faster in won.items()
    )
    reason = f"features are further with the operator: {count}"
    faster = [entry["faster"] for entry in details]
    if few := too_few(min(entry["n"] for entry in details)):
        outcome, reason = "open", few
    else:
        outcome = "holds" if all(faster) else "open" if any(faster) else "fails"
    what = "log ratio of |correlation|, constant norm against frozen, mean over settings"
    return Judgement(outcome, reason, what, effect, details)
