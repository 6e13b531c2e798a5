"""Growth along the operator's directions, and which units win: cells and summary of `amplification`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from dualnets import theory
from dualnets.experiments.theorems import _amplification_rules as rules
from dualnets.experiments.theorems.amplification import DIRECTION, UNIT, Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import snapshot_steps
from dualnets.lab.stats import mean_interval
from dualnets.lab.tidy import tidy
from dualnets.theory.hierarchy.forecast import Forecast
from dualnets.training.trajectory import describe_frozen, trajectory

if TYPE_CHECKING:
    from hltm.tree import LatentTree

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
        snapshots=snapshot_steps(settings), **settings.training(),
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


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per cell and level: growth along directions, who wins, and how often the forecast is right."""
    ranks = dict(iter(rules.amplified(table).groupby(rules.LEVELS)["rank"]))
    found = []
    for (normalize, units, level), part in rules.winners(table).groupby(rules.LEVELS):
        growth = ranks.get((normalize, units, level))
        found.append({
            "network": f"{rules.output(normalize)} {units}", "level": level,
            "initial": part["initial"].mean(), "final": part["value"].mean(),
            "growth ~ eigenvalue": "–" if growth is None else str(mean_interval(growth.to_numpy())),
            "first stays": part["first_stays"].mean(), "forecast hits": part["forecast_hits"].mean(),
            "forecast - first": str(mean_interval(part["advantage"].to_numpy())),
            "chance": 1 / units, "n": len(part),
        })  # fmt: skip
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "growth ~ eigenvalue: rank correlation over the directions of each tree, null 0; first stays, "
        "forecast hits: shares of latents whose winner was the best unit before, or the forecast's"
    )
    return result


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    won = rules.winners(table)
    return (
        f"first stays {won['first_stays'].mean():.2f}, forecast hits {won['forecast_hits'].mean():.2f}, "
        f"chance {1 / table['units'].iloc[0]:.2f}"
    )
