"""Does the top layer's covariance operator drive the features of the layer below?

A root, latents below it, leaves below each; every hidden unit sees one latent's leaves, and views
keep the root. The expected dynamics of the simple loss are integrated without sampling, in full and
with the top layer's part taken away in three ways: without the operator's blocks between groups,
with the upper weights frozen, and with their norm held constant. Without weight decay all weights
explode and "full" wins by scale alone, so what counts is what scale cannot change: a unit's
selectivity per norm of its weights and its correlation with its latent, at equal time with a
constant norm, and at an equal norm.

Growth rates are d log(s / ||w||) / dt, and likewise of |correlation|, of every intervention in the same
stretch of a tree's time: until the full dynamics have made the first half of their log growth (which,
growth being explosive, takes some .8 of the time). They stand beside what the rule compares, which are
ends, and they are not free of scale: a larger W_2 sends more down.

Found (32 trees, polarity .6, .8, .95, 2 to 20 units): an upper layer that learns takes features
further than a frozen one at the same ||W_2|| in all 24 comparisons, by 12% to 17% in selectivity per
norm and by 0.5% to 7% in correlation. Of that, the coupling between groups is little: at an equal norm,
the full dynamics are ahead of the uncoupled by at most about 3% in selectivity per norm (5 units: 3.2%,
2.7%, 2.5%; p 1e-4 to 2.4e-4 before adjustment; the mean is positive at all 12 settings, but only one
passes the rule), and by -0.6% to 1.4% in correlation. In time it does much more, for it makes W_2 grow:
the mean rate of s / ||w|| is 1.5 to 1.6 times the uncoupled one's with 2 units, 2.9 to 3.0 with 5 and
4.7 to 4.8 with 20, at every polarity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.lab.experiment import CellResult, Grid, ProgressListener
from dualnets.lab.settings import TreeSettings, setting
from dualnets.lab.stats import Estimate, Verdict, exceeds, mean_interval, verdict_of
from dualnets.theory.hierarchy import two_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY = "the top layer's operator speeds up features below it"
CLAIM = "The top-level covariance operator accelerates the learning of low-level features"
REFERENCE = "arXiv 2010.00578, Section 4: two layers under one root"
RESULT_VERSION = 1
SIGNIFICANCE = 0.01
FEWEST = 12
MEASURES = {"per_norm": "selectivity / ||w||", "correlation": "|correlation|"}
# with the operator, without it, and what the two are compared at
PAIRS = (("constant", "frozen", "equal time"), ("full", "uncoupled", "equal norm"))


@dataclass(frozen=True, kw_only=True)
class Settings(TreeSettings):
    """Two-level trees and a network on each."""

    depth: int = setting(2, "levels of the tree below its root; two layers need 2", low=2, high=2)
    branching: int = setting(4, "latents, and leaves of each", low=2, high=8)
    units: int = setting(5, "hidden units per latent", low=1, high=1024)
    members: int = setting(32, "trees, each with a network of its own", low=1, high=1 << 20)
    growth: float = setting(2.0, "||W_2|| grows by this factor until the end", above=1)
    points: int = setting(21, "times that are kept", low=3, high=1001)


def _grid(units: list[int], strengths: list[float], **others: Any) -> list[Grid]:
    """Every width with every polarity, the same for all edges."""
    return [
        {"units": units, "polarity_low": [p], "polarity_high": [p], **others} for p in strengths
    ]


GRIDS: dict[str, list[Grid]] = {
    "smoke": _grid([5], [0.8], members=[12], branching=[2]),
    "default": _grid([2, 5, 10, 20], [0.6, 0.8, 0.95]),
    "paper": _grid([2, 5, 10, 20, 50], [0.5, 0.6, 0.7, 0.8, 0.9, 0.95], members=[100]),
}
RULE = (
    "Two pairs are compared: the full dynamics with constant ||W_2|| against frozen W_2 at equal time, "
    "and the full dynamics against those without blocks between groups at equal ||W_2||. In each, the "
    "best unit's selectivity per norm and |correlation|, mean over latents, must be larger with the "
    "operator (Wilcoxon's exact signed-rank test over trees, one-sided, p < "
    f"{SIGNIFICANCE} after Bonferroni over settings, pairs and measures). Holds if all are, fails if "
    f"none is, open otherwise or with fewer than {FEWEST} trees."
)


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
        found = two_layer.hidden_selectivity(given, path)
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
    return verdict_of(CLAIM, outcome, RULE, reason, what, effect, details)


def plot(table: pd.DataFrame) -> Figure:
    """Paths of the middle setting, and the log ratios and growth rates of all settings."""
    from dualnets.experiments.theorems._top_down_figure import draw

    return draw(list(settings_of(table)), compare, rates)
