"""The norm of every latent's covariance operator: cell, table and rule of `operator_norm`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from dualnets.experiments.emergence.emergence import CONTROL
from dualnets.experiments.emergence.operator_norm import Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import snapshot_steps
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import (
    NOTHING,
    Estimate,
    Judgement,
    Outcome,
    last_step,
    mean_interval,
    too_few,
)
from dualnets.lab.tidy import tidy
from dualnets.lab.time_to_threshold import member_times
from dualnets.networks.block_network import BlockNetwork
from dualnets.training.trajectory import describe_frozen, trajectory
from hltm.sampling.philox import Stream

NORM = "operator_norm"
GROUP = ["polarity_low", "polarity_high"]


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble and measure the norms along the way."""
    trees, seed = settings.build_trees(), settings.seed
    draw = trees.draw(settings.evaluation_samples, seed=seed, stream=Stream.EVALUATION)
    on = draw.root.double()
    # weights of rows that make E[. | root = 1] and E[. | root = 0]
    given = [part / part.sum(1, keepdim=True) for part in (on, 1 - on)]
    leaves = draw.leaves.to(device)
    path = trajectory(
        settings.build_network(trees, seed, device), settings.build_method(), trees, seed=seed,
        snapshots=snapshot_steps(settings), progress=progress.updated, **settings.training(),
    )  # fmt: skip
    parts = []
    for snapshot in path:
        norms = operator_norms(snapshot.network, leaves, *(part.to(device) for part in given))
        for level, value in norms.items():
            names = [trees.topology.names[v] for v in trees.level(level)]
            index = {"member": trees.members, "step": snapshot.step, "level": level, "node": names,
                     "metric": NORM}  # fmt: skip
            parts.append(tidy(index, {"value": value.cpu(), "n": settings.evaluation_samples}))
    table = pd.concat(parts, ignore_index=True)
    table["initial"] = table.groupby(["member", "node"], sort=False)["value"].transform("first")
    frozen = describe_frozen(trees.members, snapshot.frozen_at)
    return CellResult(table, notes=[frozen] if frozen else [])


def operator_norms(
    network: BlockNetwork, leaves: Tensor, on: Tensor, off: Tensor
) -> dict[int, Tensor]:
    """Level -> `(S, V)` Frobenius norms of V[Kbar] of each latent's block, views keeping a uniform root.

    With D = E[K | root = 1] - E[K | root = 0], `(P, R)` for a block's P weights and R outputs, V[Kbar] is
    D Dᵀ / 4, whose norm is that of Dᵀ D / 4. Outputs are those before any scaling to length 1. Kbar is an
    average over rows, so a norm is too large by what D has of their noise.

    Args:
        network: a tree network with an S axis.
        leaves: `(S, B, X)` rows.
        on, off: `(S, B)` P(row | root = 1) and P(row | root = 0).
    """
    outputs = network.activations(leaves)[network.depth].flatten(2)  # (S, B, R)
    gap = torch.einsum("sb,sbr->sr", (on - off).to(outputs), outputs)
    weights = list(network.weights)
    rows = [
        torch.autograd.grad(gap[:, r].sum(), weights, retain_graph=True)
        for r in range(gap.shape[1])
    ]
    found = {}
    for level, of_outputs in enumerate(zip(*rows, strict=True), start=1):
        gradients = torch.stack(of_outputs, 2).flatten(3).double()  # (S, V, R, P)
        found[level] = (gradients @ gradients.mT / 4).flatten(2).norm(dim=-1)
    return found


def by_level(table: pd.DataFrame) -> pd.DataFrame:
    """Mean norms over the latents of a level: one row per cell, tree, level and step.

    `growth` is log2 of the norm over that before training, NaN or infinite where one of them is 0.
    """
    keys = ["cell", *GROUP, "units", "augment", "member", "level", "step"]
    found = table.groupby(keys, sort=False)[["value", "initial"]].mean().reset_index()
    with np.errstate(divide="ignore", invalid="ignore"):
        return found.assign(growth=np.log2(found["value"] / found["initial"]))


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network and level: medians of the norm over trees, and the growth with its interval."""
    found = []
    kinds = last_step(by_level(table)).groupby([*GROUP, "units", "augment", "level"], sort=False)
    for (low, high, units, augment, level), part in kinds:
        found.append(
            {
                "polarity": f"U[{low:g}, {high:g}]",
                "network": f"tree {units}{' control' if augment == CONTROL else ''}",
                "level": level,
                "before": f"{part['initial'].median():.2g}",
                "after": f"{part['value'].median():.2g}",
                "log2 growth": str(mean_interval(part["growth"].to_numpy())),
                "n": len(part),
            }
        )
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "before, after: medians over n trees of the mean norm of a level's latents; [ ]: 95% intervals"
    )
    return made


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    median = last_step(by_level(table)).groupby("level")["growth"].median()
    return f"log2 growth {', '.join(f'{each:.1f}' for each in median)}, lowest level to root"


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the smallest growth of all levels and settings."""
    found = last_step(by_level(table))
    found = found[found["units"] == found["units"].max()]
    control = found["augment"] == CONTROL
    kinds = list(found[~control].groupby([*GROUP, "level"]))
    details: list[dict[str, Any]] = []
    for key, part in kinds:
        same = (found[[*GROUP, "level"]] == list(key)).all(axis=1)
        details.append(_at_level(key, part, found[control & same], len(kinds)))
    growing = [entry for entry in details if entry["grows"]]
    outcome: Outcome = "open"
    if not details or any(np.isnan(entry["more_than_control"]) for entry in details):
        reason = "every network needs a control"
    elif reason := too_few(min(entry["n"] for entry in details)):
        pass
    elif len(growing) == len(details):
        outcome, reason = "holds", "the operators of all levels grow"
    elif all(entry["absent"] for entry in details):
        outcome, reason = "fails", "the operators of no level grow"
    else:
        names = [
            f"U[{e['low_polarity']:g}, …] level {e['level']}" for e in details if not e["grows"]
        ]
        reason = f"growth is not shown at {', '.join(names)}"
    each = [Estimate(*(entry[key] for key in ("growth", "low", "high", "n"))) for entry in details]
    smallest = min(each, key=lambda one: one.value, default=NOTHING)
    what = "smallest log2 growth of the norm of all levels"
    return Judgement(outcome, reason, what, smallest, details)


def root_first(table: pd.DataFrame) -> Judgement:
    """Apply the rule of the root's first doubling; the effect is the smallest share of trees."""
    found = by_level(table[table["augment"] != CONTROL])
    found = found[found["units"] == found["units"].max()]
    kinds = list(found.groupby(GROUP))
    details: list[dict[str, Any]] = []
    shares: list[Estimate] = []
    for (low, high), part in kinds:
        starts, root = doubling_steps(part), int(part["level"].max())
        starts = starts[np.isfinite(starts).any(axis=1)]
        if starts.empty:
            return Judgement("open", "no operator starts to grow", "", NOTHING, details)
        first = int((starts[root] < starts.drop(columns=root).min(axis=1)).sum())
        shares.append(_share(first, len(starts), len(kinds)))
        medians = {f"level_{level}": float(starts[level].median()) for level in starts}
        details.append(
            {"polarity_low": float(low), "polarity_high": float(high), "root_first": first,
             **shares[-1].detail("share"), **medians}
        )  # fmt: skip
    outcome: Outcome = "open"
    smallest = min(shares, key=lambda one: one.value, default=NOTHING)
    counts = ", ".join(f"{d['root_first']} of {d['n']}" for d in details)
    reason = f"the root's operator starts first in {counts} trees"
    if few := too_few(min((one.n for one in shares), default=0)):
        reason = few
    elif all(one.low > 0.5 for one in shares):
        outcome = "holds"
    elif all(one.high < 0.5 for one in shares):
        outcome = "fails"
    return Judgement(outcome, reason, "smallest share of trees", smallest, details)


def doubling_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Member -> level -> the step at which the norm has doubled; infinite if it never does."""
    curves = rows.pivot_table(index=["member", "level"], columns="step", values="growth").drop(
        columns=0
    )
    times = member_times(curves.columns, curves, np.ones(len(curves)))
    return pd.Series(times, curves.index).unstack()


def _share(count: int, n: int, among: int) -> Estimate:
    """A share with Clopper and Pearson's exact interval, one of so many that hold at once."""
    interval = stats.binomtest(count, n).proportion_ci(1 - 0.05 / among, method="exact")
    return Estimate(count / n, float(interval.low), float(interval.high), n)


def _at_level(
    key: tuple[Any, ...], part: pd.DataFrame, control: pd.DataFrame, tests: int
) -> dict[str, Any]:
    """How one level of one setting comes out."""
    both = part.set_index("member")[["growth"]].join(
        control.set_index("member")["growth"].rename("control"), how="inner"
    )
    growth, more = part["growth"].to_numpy(), (both["growth"] - both["control"]).to_numpy()
    found, beyond = mean_interval(growth, tests), mean_interval(more, tests)
    return {
        "low_polarity": float(key[0]), "level": int(key[-1]),
        "grows": min(found.low, beyond.low) > NEGLIGIBLE,
        "absent": found.high < NEGLIGIBLE or beyond.high < NEGLIGIBLE, **found.detail("growth"),
        "more_than_control": beyond.value, "more_low": beyond.low, "more_high": beyond.high,
    }  # fmt: skip
