"""Growth along the operator's directions, and which units win: cells and rule of `amplification`."""

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
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE
from dualnets.lab.stats import (
    NOTHING,
    Judgement,
    Outcome,
    adjusted,
    exceeds,
    mean_interval,
    too_few,
)
from dualnets.lab.tidy import tidy
from dualnets.training.trajectory import describe_frozen, log_spaced, trajectory

if TYPE_CHECKING:
    from hltm.tree import LatentTree

DIRECTION, UNIT = "direction", "unit"
# added to the seed of the forecast's samples, so that the last probe reads none of them
ELSEWHERE = 1 << 63
WORDS = {
    "growth": "growth follows eigenvalues",
    "units": "units keep their order",
    "forecast": "the forecast beats chance",
    "advantage": "it beats the ranking before",
}


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
        snapshots=log_spaced(settings.steps, settings.snapshots), **settings.training(),
    )  # fmt: skip
    parts: list[pd.DataFrame] = []
    earlier: tuple[int, list[Any], Any] | None = None
    for snapshot in path:
        if not settings.normalize:
            if earlier is not None:
                parts.append(growth_rates(*earlier, snapshot.step, snapshot.network, settings.lr))
            directions = operator_directions(snapshot.network, trees, n=n // 2, seed=elsewhere)
            earlier = snapshot.step, directions, snapshot.network
        last = snapshot
    after = theory.forecast(last.network, trees, augment, growth=0.0, samples=n, seed=settings.seed)
    for level, found in before.items():
        _, latents, units = found.present.shape
        index = {"kind": UNIT, "member": trees.members, "level": level, "latent": range(latents),
                 "place": range(units)}  # fmt: skip
        columns = {"initial": found.present, "forecast": found.correlations,
                   "value": after[level].present, "step": settings.steps}  # fmt: skip
        parts.append(tidy(index, columns))
    frozen = describe_frozen(trees.members, last.frozen_at)
    return CellResult(pd.concat(parts, ignore_index=True), notes=[frozen] if frozen else [])


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


def _networks(table: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame, pd.DataFrame]]:
    """Every cell: the kind of its outputs, its units, and its `amplified` and `winners`."""
    for _, rows in table.groupby("cell", sort=False):
        output = "normalised" if rows["normalize"].iloc[0] else "plain"
        yield output, int(rows["units"].iloc[0]), amplified(rows), winners(rows)


def _spearman(a: pd.Series, b: pd.Series) -> float:
    if len(a) < 3 or a.nunique() < 2 or b.nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def amplified(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, level and tree: rank correlation of eigenvalue and growth, mean over time."""
    rows = table[(table["kind"] == DIRECTION) & np.isfinite(table["value"])]
    keys = ["cell", "units", "level", "member", "step"]
    found = [
        {**dict(zip(keys, key, strict=True)), "rank": _spearman(part["initial"], part["value"])}
        for key, part in rows.groupby(keys)
    ]
    made = pd.DataFrame(found, columns=[*keys, "rank"])
    return made.groupby(keys[:-1])["rank"].mean().reset_index()


def winners(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, level and tree: who won, mean over latents.

    `advantage` is that of the forecast over the ranking before training.
    """
    keys = ["cell", "normalize", "units", "level", "member"]
    found = []
    for key, part in table[table["kind"] == UNIT].groupby([*keys, "latent"]):
        won = part["value"].idxmax()
        found.append({
            **dict(zip(keys, key, strict=False)),
            "rank": _spearman(part["initial"], part["value"]),
            "first_stays": float(part["initial"].idxmax() == won),
            "forecast_hits": float(part["forecast"].idxmax() == won),
            **part[["forecast", "initial", "value"]].max(),
        })  # fmt: skip
    made = pd.DataFrame(found).groupby(keys).mean().reset_index()
    return made.assign(advantage=made["forecast_hits"] - made["first_stays"])


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
    for output, units, grown, won in _networks(table):
        for level, part in won.groupby("level"):
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


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule."""
    outcome: Outcome
    details: list[dict[str, Any]] = []
    passed: dict[str, list[bool]] = {kind: [] for kind in WORDS}
    behind, effects = [], []
    fewest = table.groupby("cell")["member"].nunique().min()
    for output, units, grown, won in _networks(table):
        levels = sorted(won["level"].unique())
        if output == "normalised":
            effects.append(mean_interval(won.groupby("member")["rank"].mean().to_numpy()))
        for level in levels:
            own = won[won["level"] == level]
            if output == "normalised":
                judged = {
                    "units": _above(own["rank"], 0.0, len(levels), exact=True),
                    "forecast": _above(own["forecast_hits"], 1 / units, len(levels)),
                    "advantage": _above(own["advantage"], 0.0, len(levels)),
                }
                behind.append(_above(-own["advantage"], 0.0, len(levels))["passes"])
                judged["advantage"] |= {
                    "behind": behind[-1],
                    "r2_forecast": out_of_sample(own, "forecast"),
                    "r2_initial": out_of_sample(own, "initial"),
                }
            elif level < levels[-1]:
                rank = grown[grown["level"] == level]["rank"]
                judged = {"growth": _above(rank, 0.0, len(levels), exact=True)}
            else:  # V[fbar] ⊗ 1 is of rank one in every output: its eigenvalues have no order
                judged = {}
            for kind, entry in judged.items():
                passed[kind].append(entry["passes"])
                place = {"output": output, "units": units, "what": kind, "level": int(level)}
                details.append(place | entry)
    effect = min(effects, key=lambda e: e.value, default=NOTHING)
    reason = ", ".join(
        f"{WORDS[kind]} at {sum(won)} of {len(won)} levels" for kind, won in passed.items()
    )
    reason += f" and is beaten by it at {sum(behind)}"
    outcome = "open"
    if not passed["growth"] or not passed["units"]:
        reason = "plain and normalised outputs are both needed"
    elif fewest < FEWEST_TREES:
        reason = too_few(fewest)
    elif all(all(passed[kind]) for kind in ("growth", "units", "forecast")):
        outcome = "holds"
    elif not any(passed["growth"]) or not any(passed["units"]):
        outcome = "fails"
    what = "rank correlation of units before and after, mean over levels"
    return Judgement(outcome, reason, what, effect, details)


def _above(values: pd.Series, null: float, tests: int, *, exact: bool = False) -> dict[str, Any]:
    """Whether values of trees are above their null, by exact signed ranks or by Student's test.

    The latter is for hits: those of a single latent are 0 or 1, which ranks cannot order.
    """
    kept = values.to_numpy()[np.isfinite(values)]
    p = 1.0
    if exact and len(kept):
        p = exceeds(kept, null, tests)
    elif len(kept) > 1 and kept.std() > 0:
        p = adjusted(float(stats.ttest_1samp(kept, null, alternative="greater").pvalue), tests)
    elif len(kept) > 1:
        p = float(kept.mean() <= null)
    return mean_interval(kept).detail() | {"null": null, "p": p, "passes": p < SIGNIFICANCE}
