"""Growth along the operator's directions, and which units win: cells and rules of `amplification`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from dualnets import theory
from dualnets.experiments.theorems.amplification import Settings
from dualnets.lab.experiment import CellResult, ProgressListener
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
    too_few,
)
from dualnets.lab.tidy import tidy
from dualnets.lab.variants import at_once
from dualnets.theory.hierarchy.forecast import Forecast
from dualnets.training.trajectory import describe_frozen, log_spaced, trajectory

if TYPE_CHECKING:
    from hltm.tree import LatentTree

DIRECTION, UNIT = "direction", "unit"
# added to the seed of the forecast's samples, so that the last probe reads none of them
ELSEWHERE = 1 << 63


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train, measure growth along the operator's directions, and compare units before and after."""
    trees = settings.build_trees()
    network = settings.build_network(trees, settings.seed, device)
    augment = settings.build_augmentation()
    elsewhere = (settings.seed + ELSEWHERE) % (1 << 64)
    n = settings.evaluation_samples
    before = theory.forecast(
        network, trees, augment, growth=settings.growth, samples=n, seed=elsewhere
    )
    path = trajectory(
        network, settings.build_method(), trees, seed=settings.seed, progress=progress.updated,
        # and after half of the updates, for the plateau
        snapshots=[*log_spaced(settings.steps, settings.snapshots), settings.steps // 2],
        **settings.training(),
    )  # fmt: skip
    parts: list[pd.DataFrame] = []
    earlier: tuple[int, list[Any], Any] | None = None
    for snapshot in path:
        if not settings.normalize:
            if earlier is not None:
                parts.append(growth_rates(*earlier, snapshot.step, snapshot.network, settings.lr))
            directions = operator_directions(snapshot.network, trees, n=n // 2, seed=elsewhere)
            earlier = snapshot.step, directions, snapshot.network
        if snapshot.step in (settings.steps // 2, settings.steps):
            after = theory.forecast(
                snapshot.network, trees, augment, growth=0.0, samples=n, seed=settings.seed
            )
            parts += [
                _units(trees, level, before[level], after[level], snapshot.step) for level in before
            ]
        last = snapshot
    frozen = describe_frozen(trees.members, last.frozen_at)
    return CellResult(pd.concat(parts, ignore_index=True), notes=[frozen] if frozen else [])


def _units(
    trees: LatentTree, level: int, before: Forecast, after: Forecast, step: int
) -> pd.DataFrame:
    """Every unit of a level: |correlation| with its latent before, after `step` updates, and as forecast."""
    _, latents, units = before.present.shape
    index = {"kind": UNIT, "member": trees.members, "level": level, "latent": range(latents),
             "place": range(units)}  # fmt: skip
    columns = {"initial": before.present, "forecast": before.correlations, "value": after.present,
               "step": step}  # fmt: skip
    return tidy(index, columns)


def operator_directions(
    network: Any, trees: LatentTree, *, n: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per layer the eigenvalues `(S, R)` and eigenvectors `(S, R, D)` of V[Kbar], for keep-root views.

    Kbar_± are estimated from n samples; D counts the layer's weights, R the outputs.
    """
    from hltm.sampling.philox import Stream
    from hltm.sampling.sample import sample

    draw = sample(trees.tables, trees.members, n, seed=seed, stream=Stream.EVALUATION)
    outputs = network(draw.leaves)
    on = draw.root.to(outputs).unsqueeze(-1)
    # the gradient of E[f | root = 1] - E[f | root = 0], output by output, is Kbar_+ - Kbar_-
    gap = (on * outputs).sum(1) / on.sum(1) - ((1 - on) * outputs).sum(1) / (1 - on).sum(1)
    weights = list(network.weights)
    rows = [
        torch.autograd.grad(gap[:, o].sum(), weights, retain_graph=True)
        for o in range(gap.shape[1])
    ]
    found = []
    for layer in range(len(weights)):
        gradients = [row[layer].flatten(1) for row in rows]
        connection = torch.stack(gradients, dim=1).double()  # (S, R, D)
        _, size, vectors = torch.linalg.svd(connection, full_matrices=False)
        found.append((size.square() / 4, vectors))  # the root's states are equally likely
    return found


def growth_rates(
    start: int, directions: list[Any], before: Any, end: int, after: Any, lr: float
) -> pd.DataFrame:
    """Growth rates of the weights along directions, per unit of time, from one snapshot to the next.

    Args:
        start, end: updates before both snapshots; their times are these times the learning rate.
        directions: eigenvalues and eigenvectors at the start, of `operator_directions`.
        before, after: the networks.
        lr: the learning rate.
    """
    parts = []
    for layer, (eigenvalues, vectors) in enumerate(directions):
        sizes = [
            torch.einsum("srd,sd->sr", vectors, net.weights[layer].detach().flatten(1).double())
            for net in (before, after)
        ]
        rate = (sizes[1].abs() / sizes[0].abs()).log() / ((end - start) * lr)
        eigenvalues = eigenvalues.cpu()
        index = {"kind": DIRECTION, "member": after.members, "level": layer + 1, "latent": -1,
                 "place": range(rate.shape[1])}  # fmt: skip
        # the simple loss moves the weight along 2 V[Kbar] w (docs/theory.md, Equation 3.5)
        columns = {"initial": eigenvalues, "forecast": 2 * eigenvalues, "value": rate.cpu(),
                   "step": start}  # fmt: skip
        parts.append(tidy(index, columns))
    return pd.concat(parts)


def _networks(table: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
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


def out_of_sample(rows: pd.DataFrame, source: str) -> float:
    """R² of the final alignment from a line through `source`, fitted on the other half of the trees."""
    even = rows["member"] % 2 == 0
    error = total = 0.0
    for half in (even, ~even):
        fit, test = rows[~half], rows[half]
        if len(fit) < 3 or fit[source].nunique() < 2:
            return float("nan")
        slope, cut = np.polyfit(fit[source], fit["value"], 1)
        error += float(((test["value"] - cut - slope * test[source]) ** 2).sum())
        total += float(((test["value"] - fit["value"].mean()) ** 2).sum())
    return 1 - error / total


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per cell and level: growth along directions, who wins, and how often the forecast is right."""
    found = []
    for output, units, rows in _networks(table):
        grown = amplified(rows)
        for level, part in winners(rows).groupby("level"):
            growth = mean_interval(grown[grown["level"] == level]["rank"].to_numpy())
            found.append({
                "network": f"{output} {units}", "level": level,
                "initial": part["initial"].mean(), "final": part["value"].mean(),
                "growth ~ eigenvalue": str(growth) if growth.n else "–",
                "before ~ after": str(mean_interval(part["rank"].to_numpy())),
                "first stays": part["first_stays"].mean(),
                "forecast hits": part["forecast_hits"].mean(),
                "forecast - first": str(mean_interval(part["advantage"].to_numpy())),
                "chance": 1 / units,
                "R² forecast": out_of_sample(part, "forecast"),
                "R² initial": out_of_sample(part, "initial"),
                "n": len(part),
            })  # fmt: skip
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "rank correlations within trees, null 0; first stays, forecast hits: shares of latents whose "
        "winner was the best unit before, or the forecast's; R² of the winner's |correlation| on trees "
        "left out of the fit, chance 0"
    )
    return result


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    won = winners(table)
    return (
        f"first stays {won['first_stays'].mean():.2f}, forecast hits {won['forecast_hits'].mean():.2f}, "
        f"chance {1 / table['units'].iloc[0]:.2f}"
    )


def growth(table: pd.DataFrame) -> Judgement:
    """Whether growth follows eigenvalues; the effect is the smallest rank correlation of all levels."""
    ranks = {
        # at the top V[fbar] ⊗ 1 is of rank one in every output: its eigenvalues have no order
        (output, units, int(level)): part["rank"].to_numpy()
        for output, units, rows in _networks(table)
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


Key = tuple[str, int, int]  # the kind of outputs, units, level


def _levels(table: pd.DataFrame) -> list[tuple[Key, pd.DataFrame]]:
    return [
        ((output, units, int(level)), part)
        for output, units, rows in _networks(table)
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
