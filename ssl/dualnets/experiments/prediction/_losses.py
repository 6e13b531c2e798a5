"""Losses beside the exact ones of filtered trees: cells and short table of `masked` and `next_leaf`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.prediction._exact_predictions import ExactPredictions, of_settings
from dualnets.experiments.prediction._loss_rules import (
    DISTANCE,
    LOSS,
    READOUT,
    attained,
    stages,
)
from dualnets.experiments.prediction._prediction_settings import TOKENS
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import snapshot_steps
from dualnets.lab.stats import last_step, mean_interval
from dualnets.lab.tidy import tidy
from dualnets.lab.time_to_threshold import median_time, time_in_words
from dualnets.lab.variants import INTERVALS, by_variant
from dualnets.methods._leaf_prediction import LeafPrediction
from dualnets.training.trajectory import Snapshot, describe_frozen, trajectory
from hltm.probe import measure_positions
from hltm.tree import LatentTree

MASKED = "masked-prediction"  # the method whose layers are read


def run_cell(settings: Any, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble; measure its distance from every filtered tree, and where ancestors are read."""
    trees = settings.build_trees()
    method = cast("LeafPrediction", settings.build_method())
    exact = of_settings(settings, trees)
    probed = {0, settings.steps // 2, settings.steps}

    def layers(snapshot: Snapshot) -> pd.DataFrame:
        reads = settings.method == MASKED and settings.network in TOKENS and snapshot.step in probed
        return readout_rows(snapshot, exact, trees) if reads else pd.DataFrame()

    return train_and_measure(settings, device, progress, trees, method, exact, layers)


def train_and_measure(
    settings: Any,
    device: torch.device,
    progress: ProgressListener,
    trees: LatentTree,
    method: LeafPrediction,
    exact: ExactPredictions,
    also: Callable[[Snapshot], pd.DataFrame],
) -> CellResult:
    """Train one ensemble; measure its losses on the rows of exact predictions, and what `also` makes."""
    seed, parts = settings.seed, []
    for snapshot in trajectory(
        settings.build_network(trees, seed, device), method, trees, seed=seed,
        snapshots=snapshot_steps(settings), progress=progress.updated, **settings.training(),
    ):  # fmt: skip
        found = loss_rows(snapshot, method, exact, trees)
        loss = found[found["metric"] == LOSS]["value"].mean()
        progress.probed(snapshot.step, {"loss": float(loss)})
        parts += [found, also(snapshot)]
    table = pd.concat(parts, ignore_index=True)
    by_curve = table.groupby(["metric", "level", "node", "member"], sort=False)["value"]
    table["initial"] = by_curve.transform("first")
    frozen = describe_frozen(trees.members, snapshot.frozen_at)
    return CellResult(
        table, {"final": dict(snapshot.network.named_parameters())}, [frozen] if frozen else []
    )


def loss_rows(
    snapshot: Snapshot, method: LeafPrediction, exact: ExactPredictions, trees: LatentTree
) -> pd.DataFrame:
    """The loss of every leaf, and the distance from the predictor of every level.

    The null of a loss is that of independent leaves (level 0), its ceiling the Bayes loss; the null of a
    distance is the filtered tree's own loss in excess of the Bayes loss.
    """
    distances = exact.distances(snapshot.network, method, snapshot.state)  # (L + 1, S, X)
    bayes, levels = exact.bayes, range(len(distances))
    between = torch.stack([exact.between(level).mean(-1) for level in levels])
    index = {"member": trees.members, "step": snapshot.step}
    names = [trees.topology.names[v] for v in trees.leaves]
    rows = exact.shown.shape[1]
    of_leaves = tidy(
        {**index, "level": trees.topology.depth, "node": names, "metric": LOSS},
        {"value": bayes + distances[-1], "null": bayes + exact.between(0), "ceiling": bayes,
         "n": rows},
    )  # fmt: skip
    of_levels = tidy(
        {**index, "level": levels, "node": "leaves", "metric": DISTANCE},
        {"value": distances.mean(-1).T, "null": between.T, "ceiling": 0.0, "n": rows},
    )
    return pd.concat([of_leaves, of_levels], ignore_index=True)


@torch.no_grad()
def readout_rows(snapshot: Snapshot, exact: ExactPredictions, trees: LatentTree) -> pd.DataFrame:
    """How well each level's ancestor is read linearly at the leaves' positions, layer by layer.

    Networks read the rows of the losses, and the readout is the mean over positions of the held-out
    correlation; its ceiling is that of complete leaves.
    """
    found = snapshot.network.activations(exact.shown)
    layers = {level: values.float().cpu() for level, values in found.items()}
    table = measure_positions(layers, trees, draw=exact.draw)
    table = table[table["metric"] == READOUT]
    means = table.groupby(["member", "layer", "level"], as_index=False)[
        ["value", "null", "ceiling"]
    ]
    made: pd.DataFrame = means.mean()
    made["node"] = "layer " + made.pop("layer").astype(str)
    return made.assign(step=snapshot.step, metric=READOUT, n=exact.shown.shape[1])


def headline(table: pd.DataFrame) -> str:
    """The loss at the end of a cell beside that of independent leaves and the Bayes loss."""
    last = table[(table["step"] == table["step"].max()) & (table["metric"] == LOSS)]
    value, null, ceiling = last[["value", "null", "ceiling"]].mean()
    return f"loss {value:.3f} (independent {null:.3f}, Bayes {ceiling:.3f})"


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: losses, the share attained, and when each filtered tree is nearest."""
    found = []
    for name, rows in by_variant(table).items():
        last, course = last_step(rows), stages(rows)
        losses = last[last["metric"] == LOSS].groupby("member")[
            ["initial", "null", "value", "ceiling"]
        ]
        means = losses.mean()
        found.append(
            {
                "variant": name,
                **{
                    label: mean_interval(means[column].to_numpy(np.float64)).brief
                    for label, column in (
                        ("before", "initial"), ("independent", "null"), ("loss", "value"),
                        ("Bayes", "ceiling"),
                    )
                },
                "share": mean_interval(attained(last)).brief,
                **{
                    f"level {level} at": time_in_words(median_time(times), course.steps[-1])
                    for level, times in course.times.items()
                },
                "n": len(means),
            }
        )  # fmt: skip
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "nats per predicted leaf; before: untrained; independent, Bayes: exact, of the filtered tree of "
        "level 0 and of the tree; share: of the way between these; level l at: the update from which the "
        f"filtered tree of level l is the nearest, median over trees; {INTERVALS}"
    )
    return made
