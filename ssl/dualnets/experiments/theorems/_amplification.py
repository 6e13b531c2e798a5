"""The measuring, summary and verdict of the experiment `amplification`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.stats import NOTHING, Estimate, Verdict, exceeds, mean_interval, verdict_of
from dualnets.training.trajectory import describe_frozen, log_spaced, trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hltm.tree import LatentTree

from dualnets.experiments.theorems.amplification import (
    EXPERIMENT,
    FEWEST,
    RULE,
    SIGNIFICANCE,
    Settings,
)

DIRECTION, UNIT = "direction", "unit"
ELSEWHERE = 1 << 63  # added to the seed of what the forecast reads: no row of the last probe


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train, measure growth along the operator's directions, and see who wins."""
    from dualnets.theory.hierarchy.forecast import forecast

    trees = settings.build_trees()
    network = settings.build_network(trees, settings.seed, device)
    augment = settings.build_augmentation()
    elsewhere = (settings.seed + ELSEWHERE) % (1 << 64)
    n = settings.evaluation_samples
    before = forecast(network, trees, augment, growth=settings.growth, n=n, seed=elsewhere)
    path = trajectory(
        network, settings.build_method(), trees, seed=settings.seed, progress=progress.updated,
        snapshots=log_spaced(settings.steps, settings.snapshots), **settings.training(),
    )  # fmt: skip
    parts: list[pd.DataFrame] = []
    earlier: tuple[int, list[Any], Any] | None = None
    for snapshot in path:
        if not settings.normalize:
            if earlier is not None:
                parts.append(_growth(earlier, snapshot.step, snapshot.network, settings.lr))
            directions = operator_directions(snapshot.network, trees, n=n // 2, seed=elsewhere)
            earlier = snapshot.step, directions, snapshot.network
        last = snapshot
    after = forecast(last.network, trees, augment, growth=0.0, n=n, seed=settings.seed)
    for level, found in before.items():
        shape = found.present.shape
        place = np.indices(shape).reshape(3, -1)
        parts.append(
            pd.DataFrame(
                {
                    "kind": UNIT,
                    "member": np.array(trees.members)[place[0]],
                    "level": level,
                    "latent": place[1],
                    "place": place[2],
                    "initial": found.present.flatten().numpy(),
                    "forecast": found.correlations.flatten().numpy(),
                    "value": after[level].present.flatten().numpy(),
                    "step": settings.steps,
                }
            )
        )
    frozen = describe_frozen(trees.members, last.frozen_at)
    return CellResult(pd.concat(parts, ignore_index=True), notes=[frozen] if frozen else [])


def operator_directions(
    network: Any, trees: LatentTree, *, n: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per layer the eigenvalues `(S, R)` and eigenvectors `(S, R, D)` of V[Kbar], for keep-root views.

    Kbar_± are estimated from n samples; D are the layer's weights, R the outputs.
    """
    from hltm.sampling.philox import Stream
    from hltm.sampling.sample import sample

    draw = sample(trees.tables, trees.members, n, seed=seed, stream=Stream.EVALUATION)
    outputs = network(draw.leaves)
    on = draw.root.to(outputs).unsqueeze(-1)
    gap = (on * outputs).sum(1) / on.sum(1) - ((1 - on) * outputs).sum(1) / (1 - on).sum(1)
    weights = list(network.weights)
    rows = [
        torch.autograd.grad(gap[:, o].sum(), weights, retain_graph=True)
        for o in range(gap.shape[1])
    ]
    found = []
    for layer in range(len(weights)):
        connection = torch.stack(
            [row[layer].flatten(1) for row in rows], dim=1
        ).double()  # (S, R, D)
        _, size, vectors = torch.linalg.svd(connection, full_matrices=False)
        found.append((size.square() / 4, vectors))  # the root's states are equally likely
    return found


def _growth(
    earlier: tuple[int, list[Any], Any], step: int, network: Any, lr: float
) -> pd.DataFrame:
    """How fast the weights grew along the directions of the stretch's start, per unit of time."""
    began, directions, before = earlier
    parts = []
    for layer, (eigenvalues, vectors) in enumerate(directions):
        sizes = [
            torch.einsum("srd,sd->sr", vectors, net.weights[layer].detach().flatten(1).double())
            for net in (before, network)
        ]
        rate = (sizes[1].abs() / sizes[0].abs()).log() / ((step - began) * lr)
        eigenvalues, rate = eigenvalues.cpu(), rate.cpu()
        place = np.indices(rate.shape).reshape(2, -1)
        parts.append(
            pd.DataFrame(
                {
                    "kind": DIRECTION,
                    "member": np.array(network.members)[place[0]],
                    "level": layer + 1,
                    "latent": -1,
                    "place": place[1],
                    "initial": eigenvalues.flatten().numpy(),
                    "forecast": 2 * eigenvalues.flatten().numpy(),
                    "value": rate.flatten().numpy(),
                    "step": began,
                }
            )
        )
    return pd.concat(parts)


# what the table says


def _spearman(a: pd.Series, b: pd.Series) -> float:
    if len(a) < 3 or a.nunique() < 2 or b.nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def amplified(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, level and tree: rank correlation of eigenvalue and growth, mean over stretches."""
    rows = table[(table["kind"] == DIRECTION) & np.isfinite(table["value"])]
    keys = ["cell", "units", "level", "member", "step"]
    found = [
        {**dict(zip(keys, key, strict=True)), "rank": _spearman(part["initial"], part["value"])}
        for key, part in rows.groupby(keys)
    ]
    made = pd.DataFrame(found, columns=[*keys, "rank"])
    return made.groupby(keys[:-1])["rank"].mean().reset_index()


def winners(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, level and tree: who won, mean over latents; advantage is the forecast's over
    the ranking before."""
    keys = ["cell", "normalize", "units", "level", "member"]
    found = []
    for key, part in table[table["kind"] == UNIT].groupby([*keys, "latent"]):
        won = part["value"].idxmax()
        found.append(
            {
                **dict(zip(keys, key, strict=False)),
                "rank": _spearman(part["initial"], part["value"]),
                "first_stays": float(part["initial"].idxmax() == won),
                "forecast_hits": float(part["forecast"].idxmax() == won),
                "forecast": part["forecast"].max(),
                "initial": part["initial"].max(),
                "value": part["value"].max(),
            }
        )
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


def _cells(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Every cell by its label."""
    for _, rows in table.groupby("cell", sort=False):
        first = rows.iloc[0]
        yield (
            {
                "output": "normalised" if first["normalize"] else "plain",
                "units": int(first["units"]),
            },
            rows,
        )


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per cell and level: growth along directions, who wins, and the forecast's score."""
    found = []
    for label, rows in _cells(table):
        grown, won = amplified(rows), winners(rows)
        for level, part in won.groupby("level"):
            growth = mean_interval(grown[grown["level"] == level]["rank"].to_numpy())
            found.append(
                {
                    "network": f"{label['output']} {label['units']}",
                    "level": level,
                    "initial": part["initial"].mean(),
                    "final": part["value"].mean(),
                    "growth ~ eigenvalue": str(growth) if growth.n else "–",
                    "before ~ after": str(mean_interval(part["rank"].to_numpy())),
                    "first stays": part["first_stays"].mean(),
                    "forecast hits": part["forecast_hits"].mean(),
                    "forecast - first": str(mean_interval(part["advantage"].to_numpy())),
                    "chance": 1 / label["units"],
                    "R² forecast": out_of_sample(part, "forecast"),
                    "R² initial": out_of_sample(part, "initial"),
                    "n": len(part),
                }
            )
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


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE."""
    details: list[dict[str, Any]] = []
    parts: dict[str, list[bool]] = {"growth": [], "units": [], "forecast": [], "advantage": []}
    behind: list[bool] = []
    fewest = table["member"].nunique()
    effects: list[Estimate] = []
    for label, rows in _cells(table):
        grown, won = amplified(rows), winners(rows)
        levels = sorted(won["level"].unique())
        tests = len(levels)
        fewest = min(fewest, rows["member"].nunique())

        for level in levels:
            own = won[won["level"] == level]
            if label["output"] == "plain" and level == levels[-1]:
                continue  # V[fbar] ⊗ 1 is of rank one in every output: nothing to tell apart
            if label["output"] == "plain":
                judged = [("growth", grown[grown["level"] == level]["rank"].to_numpy(), 0.0)]
            else:
                judged = [
                    ("units", own["rank"].to_numpy(), 0.0),
                    ("forecast", own["forecast_hits"].to_numpy(), 1 / label["units"]),
                    ("advantage", own["advantage"].to_numpy(), 0.0),
                ]
            for kind, values, null in judged:
                ranks = kind in ("growth", "units")
                entry = _judge(values, null, tests, ranks=ranks)
                parts[kind].append(entry["passes"])
                if kind == "advantage":
                    behind.append(_judge(-values, null, tests, ranks=ranks)["passes"])
                    entry |= {
                        "behind": behind[-1],
                        "r2_forecast": out_of_sample(own, "forecast"),
                        "r2_initial": out_of_sample(own, "initial"),
                    }
                details.append({**label, "what": kind, "level": int(level), **entry})
        if label["output"] == "normalised":
            effects.append(mean_interval(won.groupby("member")["rank"].mean().to_numpy()))
    effect = min(effects, key=lambda e: e.value) if effects else NOTHING
    named = {
        "growth": "growth follows eigenvalues",
        "units": "units keep their order",
        "forecast": "the forecast beats chance",
        "advantage": "it beats the ranking before",
    }
    words = ", ".join(
        f"{named[kind]} at {sum(won)} of {len(won)} levels" for kind, won in parts.items()
    )
    words += f" and is beaten by it at {sum(behind)}"
    if not parts["growth"] or not parts["units"]:
        outcome, reason = "open", "plain and normalised outputs are both needed"
    elif fewest < FEWEST:
        outcome, reason = "open", f"{fewest} trees are fewer than {FEWEST}"
    elif all(all(parts[kind]) for kind in ("growth", "units", "forecast")):
        outcome, reason = "holds", words
    elif not any(parts["growth"]) or not any(parts["units"]):
        outcome, reason = "fails", words
    else:
        outcome, reason = "open", words
    what = "rank correlation of units before and after, mean over levels"
    return verdict_of(EXPERIMENT.claim, outcome, RULE, reason, what, effect, details)


def _judge(values: Any, null: float, tests: int, *, ranks: bool) -> dict[str, Any]:
    """Whether values of trees are above their null; hits of one latent are 0 or 1, and have no ranks."""
    kept = values[np.isfinite(values)]
    p = 1.0
    if ranks and len(kept):
        p = min(exceeds(kept, np.full(len(kept), null)) * tests, 1.0)
    elif len(kept) > 1 and kept.std() > 0:
        p = min(float(stats.ttest_1samp(kept, null, alternative="greater").pvalue) * tests, 1.0)
    elif len(kept) > 1:
        p = float(kept.mean() <= null)
    mean = mean_interval(kept)
    return {
        "value": mean.value,
        "low": mean.low,
        "high": mean.high,
        "null": null,
        "p": p,
        "passes": p < SIGNIFICANCE,
        "n": mean.n,
    }


def plot(table: pd.DataFrame) -> Figure:
    """Growth against eigenvalue, units before and after, and the forecast against chance."""
    from dualnets.experiments.theorems._amplification_figure import draw

    return draw(table, amplified, winners)
