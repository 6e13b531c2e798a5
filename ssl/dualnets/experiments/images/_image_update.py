"""Updates of convolutional networks on pictures, and Theorem 4's residue there: cells of `image_update`.

The comparisons are those of `update`, the measurements those of `residual`; here are networks, pictures and
finite sets. The rules are in `_image_update_rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dualnets import theory
from dualnets.experiments.images._image_update_rules import COSINE
from dualnets.experiments.images._image_update_rules import summary_table as summary_table
from dualnets.experiments.images.image_update import RESIDUE, Settings
from dualnets.experiments.theorems import _residual, _update
from dualnets.experiments.theorems._update_comparisons import Homogeneous
from dualnets.experiments.theorems.update import PAIR
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.training.memory import take
from dualnets.training.trajectory import describe_frozen, log_spaced, trajectory

COLUMNS = {**_update.COLUMNS, "step": "int64"} | dict.fromkeys(
    ("variance", "update", "residue", COSINE, "unweighted", "other"), "float64"
)
EMPTY = {"str": "", "bool": False, "int64": 0, "float64": np.nan}


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Compare every identity that applies with autograd, or measure the residue, network by network."""
    images = settings.build_images()
    network = settings.build_network(images, settings.seed, device)
    source = theory.ImageViews(images, settings.build_augmentation())
    if settings.measure == RESIDUE:
        found, notes = residues(settings, network, source, progress)
    else:
        found, notes = pd.DataFrame(comparisons(settings, network, source, progress)), []
    missing = {name: EMPTY[kind] for name, kind in COLUMNS.items() if name not in found}
    return CellResult(found.assign(**missing)[list(COLUMNS)].astype(COLUMNS), notes=notes)


def comparisons(
    settings: Settings, network: Any, source: theory.ImageViews, progress: ProgressListener
) -> list[dict[str, Any]]:
    """The rows of `update`, of every network on pictures and views of its own."""
    rows = []
    for member in network.members:
        one = take(network, member, member + 1)
        if not (settings.batches and settings.loss == "simple"):  # estimates have larger errors
            one.double()
        fresh = settings.batches or settings.loss == PAIR
        data = source if fresh else finite_set(settings, source, member)
        rows += _update.compared(settings, one, data, member, homogeneous, progress)
    return rows


def residues(
    settings: Settings, network: Any, source: theory.ImageViews, progress: ProgressListener
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of `residual`, of every network on a finite set of its own, at some moments; and notes."""
    with torch.no_grad():
        for weight in network.weights:
            weight *= settings.gain
    tables = [finite_set(settings, source, member) for member in network.members]
    moments: Iterable[tuple[int, Any]] = [(0, network)]
    notes = []
    if settings.steps:
        path = list(trajectory(
            network, settings.build_method(), source.images, seed=settings.seed,
            snapshots=log_spaced(settings.steps, settings.snapshots), progress=progress.updated,
            **settings.training(),
        ))  # fmt: skip
        moments = [(snapshot.step, snapshot.network) for snapshot in path]
        notes = [text for text in [describe_frozen(network.members, path[-1].frozen_at)] if text]
    loss, parts = settings.build_loss(), []
    for step, moved in moments:
        for member, table in enumerate(tables):
            null = dealt(table, seed=member) if settings.steps else None
            one = take(moved, member, member + 1).double()
            parts.append(_residual.measured(one, table, loss, null).assign(step=step))
    return pd.concat(parts, ignore_index=True).rename(columns={"form": COSINE}), notes


def finite_set(settings: Settings, source: theory.ImageViews, member: int) -> theory.ViewTable:
    """The pictures and views that stand for the distribution of one network, with its S axis of length 1."""
    table = source.table(
        settings.pictures, settings.views, seed=settings.seed, member=member,
        strength=settings.strength,
    )  # fmt: skip
    return table._replace(probability=table.probability[None], view=table.view[None])


def dealt(table: theory.ViewTable, seed: int) -> theory.ViewTable:
    """The same views, dealt to the pictures at random."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(table.leaves)))
    return table._replace(view=table.view[..., order])


def homogeneous(settings: Settings, network: nn.Module, layer: str) -> Homogeneous:
    """Whether Kᵀ w = f must hold, at every layer: a ReLU follows the biases of the top layer, too."""
    linear = not (settings.normalize or settings.bias)
    return linear, linear


def headline(table: pd.DataFrame) -> str:
    """As of `update` or of `residual`."""
    if (table["measure"] == RESIDUE).any():
        return _residual.headline(table.assign(form=table[COSINE]))
    return _update.headline(table)
