"""A trained denoiser beside the exact one: cells, rules and short table of `denoise`."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dualnets.experiments.prediction import _losses
from dualnets.experiments.prediction._exact_predictions import ExactPredictions, of_settings
from dualnets.experiments.prediction.denoise import NEAR
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    last_step,
    mean_interval,
    too_few,
)
from dualnets.lab.tidy import tidy
from dualnets.lab.variants import at_once, by_variant
from dualnets.methods._leaf_prediction import LeafPrediction
from dualnets.training.trajectory import Snapshot
from hltm.inference.noise import Flips
from hltm.probe.positions import ancestors
from hltm.tree import LatentTree

NETWORK, ALONE, TOGETHER = "network", "exact, leaf by leaf", "exact, all leaves together"
CHANGE, SIZE = "change correlation", "susceptibility"
headline = _losses.headline


def run_cell(settings: Any, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble; measure its losses, and how leaves that are drawn by it change together."""
    trees = settings.build_trees()
    method = cast("LeafPrediction", settings.build_method())
    exact = of_settings(settings, trees)
    level = float(settings.augment.partition(":")[2])
    together = trees.change_correlation(Flips(), level, seed=settings.seed)
    fixed = [
        changed_rows(trees, TOGETHER, together.correlation[..., 1:], together.susceptibility),
        changed_rows(trees, ALONE, *changes(exact.levels[-1], exact, trees)),
    ]

    def also(snapshot: Snapshot) -> pd.DataFrame:
        predicted = exact.predicted(snapshot.network, method, snapshot.state)
        own = changed_rows(trees, NETWORK, *changes(predicted, exact, trees))
        return pd.concat([own, *fixed]).assign(step=snapshot.step, n=exact.shown.shape[1])

    return _losses.train_and_measure(settings, device, progress, trees, method, exact, also)


def changes(predicted: Tensor, exact: ExactPredictions, trees: LatentTree) -> tuple[Tensor, Tensor]:
    """`(S, L)` correlations of changes by the level of the nearest common ancestor, `(S,)` susceptibility.

    A leaf of the sample x is replaced by a draw from its own probabilities q, so that it changes with
    probability c = 1 - q(x), by itself given the noisy leaves. No leaf has to be drawn:
    Cov(i, j) = E[c_i c_j] - E[c_i] E[c_j] for two leaves, and the variance of one is E[c] (1 - E[c]).

    Args:
        predicted: `(S, B, X, K)` q.
    """
    leaves = exact.draw.leaves.long()
    c = 1 - predicted.double().gather(-1, leaves[..., None])[..., 0]  # (S, B, X)
    mean = c.mean(1)
    covariance = c.mT @ c / c.shape[1] - mean[:, :, None] * mean[:, None]
    variance = (mean * (1 - mean)).sum(-1)
    of_leaf = torch.from_numpy(ancestors(trees))
    # the level of the nearest common ancestor, in a tree whose leaves all lie at level 0
    shared = (of_leaf[:, None] == of_leaf[None]).long().argmax(-1) + 1
    apart = ~torch.eye(len(of_leaf), dtype=torch.bool)
    found = []
    for level in range(1, trees.topology.depth + 1):
        pairs = (shared == level) & apart
        found.append(covariance[:, pairs].mean(-1) / (variance / len(of_leaf)))
    return torch.stack(found, -1), 1 + covariance[:, apart].sum(-1) / variance


def changed_rows(trees: LatentTree, by: str, correlation: Tensor, size: Tensor) -> pd.DataFrame:
    """Rows of correlations `(S, L)` by level, and of the susceptibility `(S,)`; `node` is who draws."""
    levels = range(1, correlation.shape[-1] + 1)
    index = {"member": trees.members, "node": by}
    return pd.concat(
        [
            tidy({**index, "level": levels, "metric": CHANGE}, {"value": correlation}),
            tidy({**index, "level": len(levels), "metric": SIZE}, {"value": size}),
        ]
    )


class Curves(NamedTuple):
    """Correlations and susceptibilities over levels of noise, at the last step.

    Attributes:
        noise: `(T,)` levels of noise, growing.
        correlation: who draws -> `(S, T, L)`.
        size: who draws -> `(S, T)` susceptibility; the untrained network's is under `untrained`.
        untrained: `(S, T, L)` correlations with the untrained network.
    """

    noise: Array
    correlation: dict[str, Array]
    size: dict[str, Array]
    untrained: Array


def curves(table: pd.DataFrame) -> Curves:
    """The curves of a run, the trees of all seeds together."""
    variants = [last_step(rows) for rows in by_variant(table).values()]
    noise = np.array([float(str(rows["augment"].iloc[0]).partition(":")[2]) for rows in variants])
    order = np.argsort(noise)

    def stacked(metric: str, by: str, column: str = "value") -> Array:
        found = []
        for at in order:
            rows = variants[at]
            rows = rows[(rows["metric"] == metric) & (rows["node"] == by)]
            found.append(
                rows.pivot(index="member", columns="level", values=column).to_numpy(np.float64)
            )
        return np.stack(found, 1)

    who = (NETWORK, ALONE, TOGETHER)
    size = {by: stacked(SIZE, by)[..., 0] for by in who}
    size["untrained"] = stacked(SIZE, NETWORK, "initial")[..., 0]
    return Curves(
        noise[order],
        {by: stacked(CHANGE, by) for by in who},
        size,
        stacked(CHANGE, NETWORK, "initial"),
    )


def differences(table: pd.DataFrame) -> dict[str, Estimate]:
    """Noise and level -> the network's correlation less that of the exact denoiser, leaf by leaf."""
    found = curves(table)
    apart = found.correlation[NETWORK] - found.correlation[ALONE]  # (S, T, L)
    return {
        f"noise {noise:g}, level {level + 1}": mean_interval(apart[:, at, level], apart[0].size)
        for at, noise in enumerate(found.noise)
        for level in range(apart.shape[-1])
    }


def judge_follows(table: pd.DataFrame) -> Judgement:
    """Whether the network's correlations are the exact ones; the effect is the largest difference."""
    found = differences(table)
    effect = f"largest difference of correlations of changes{at_once(len(found))}"
    details = [{"part": name, **each.detail("difference")} for name, each in found.items()]
    far = [name for name, each in found.items() if each.low > NEAR or each.high < -NEAR]
    near = [name for name, each in found.items() if each.low > -NEAR and each.high < NEAR]
    reason = f"within {NEAR:g} at {len(near)} of {len(found)} levels of noise and of ancestors"
    outcome: Outcome = "open"
    if few := _obstacle(table, found):
        reason = few
    elif far:
        outcome, reason = "fails", f"{reason}; beyond it at {', '.join(far)}"
    elif len(near) == len(found):
        outcome = "holds"
    largest = max(found.values(), key=lambda each: abs(each.value), default=NOTHING)
    return Judgement(outcome, reason, effect, largest, details)


def _obstacle(table: pd.DataFrame, found: dict[str, Estimate]) -> str:
    """Why differences decide nothing: too few trees, or some without a finite number."""
    trees, least = table["member"].nunique(), min((each.n for each in found.values()), default=0)
    return too_few(trees) or (f"{trees - least} trees have no number" if least < trees else "")


def transitions(noise: Array, size: Array) -> Array:
    """`(S,)` levels of noise at which susceptibilities `(S, T)` first are half-way from 1 to their largest.

    Below the lowest level of noise they are linear from 1 at 0.

    Example:
        >>> transitions(np.array([0.2, 0.4]), np.array([[1.5, 3.0]])).round(3)
        array([0.267])
    """
    places = np.concatenate([[0.0], noise])
    found = []
    for own in size:
        values = np.concatenate([[1.0], own])
        half = (1 + own.max()) / 2
        if not (np.isfinite(own).all() and own.max() > 1):
            found.append(np.nan)
            continue
        at = int((values >= half).argmax())
        share = (half - values[at - 1]) / (values[at] - values[at - 1])
        found.append(places[at - 1] + share * (places[at] - places[at - 1]))
    return np.array(found)


def transition_shift(table: pd.DataFrame) -> dict[str, Estimate]:
    """The transition with networks less that with the exact denoiser, leaf by leaf."""
    found = curves(table)
    own, exact = (transitions(found.noise, found.size[by]) for by in (NETWORK, ALONE))
    return {"shift of the transition": mean_interval(own - exact)}


def judge_transition(table: pd.DataFrame) -> Judgement:
    """Whether the network's transition is where the exact denoiser's is; the effect is the shift."""
    found, (shift,) = curves(table), transition_shift(table).values()
    details = [
        {"part": by, **mean_interval(transitions(found.noise, size)).detail("noise")}
        for by, size in found.size.items()
    ]
    outcome: Outcome = "open"
    reason = f"shift of the transition {shift:+.3f}"
    if few := _obstacle(table, {"": shift}):
        reason = few
    elif shift.low > NEAR or shift.high < -NEAR:
        outcome = "fails"
    elif shift.low > -NEAR and shift.high < NEAR:
        outcome = "holds"
    return Judgement(outcome, reason, "shift of the transition, in levels of noise", shift, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of losses, and the susceptibilities by who draws."""
    made = _losses.summary_table(table)
    made = made[[column for column in made.columns if not str(column).startswith("level ")]]
    found = curves(table)
    names = {NETWORK: "χ", "untrained": "χ before", ALONE: "χ leaf by leaf", TOGETHER: "χ together"}
    levels = [
        float(str(rows["augment"].iloc[0]).partition(":")[2]) for rows in by_variant(table).values()
    ]
    for by, name in names.items():
        brief = [mean_interval(found.size[by][:, found.noise == t][:, 0]).brief for t in levels]
        made.insert(len(made.columns) - 1, name, brief)
    made.attrs["caption"] = (
        "nats per leaf; before: untrained; independent, Bayes: exact, of each leaf denoised alone and of the "
        "exact denoiser; share: of the way between these; χ: leaves that change together (susceptibility), "
        "drawn by the network, and by the exact denoiser leaf by leaf and all together; means over n trees; "
        "±: 95% intervals over trees"
    )
    return made
