"""The residue of the covariance form, enumerated without sampling noise: cells of `residual`.

Every row is one weight of one network at one moment: the lengths of the exact expected update, of the
residue, and cosines. Layer 0 stands for all weights together. The rules are in `_residual_rules`.

Axes: S member, N class of samples, X view, P entry of the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dualnets import theory
from dualnets.experiments.theorems._residual_rules import summary_table as summary_table
from dualnets.experiments.theorems._update_comparisons import layers
from dualnets.experiments.theorems.residual import Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.tidy import tidy
from dualnets.theory.updates.covariance import covariance_kernel
from dualnets.theory.updates.pairwise import pair_kernels
from dualnets.theory.updates.views import table_inputs
from dualnets.training.trajectory import describe_frozen, log_spaced, trajectory


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Measure untrained networks, or networks at some moments of their training."""
    trees = settings.build_trees()
    network = settings.build_network(trees, settings.seed, device)
    if settings.weights > 0:
        with torch.no_grad():
            for weight in network.weights:  # uniform in ±1/sqrt(fan-in): their deviation is known
                weight *= settings.weights * (3 * weight.shape[-1]) ** 0.5
    table = theory.TreeViews(trees, settings.build_augmentation()).table()
    null = None
    if settings.steps:  # trees are moved on by one member, networks stay
        moved_on = [part.roll(1, 0) for part in (table.probability, table.view)]
        null = theory.ViewTable(*table[:3], *moved_on)
    notes = []
    moments: Iterable[tuple[int, Any]] = [(0, network)]
    if settings.steps:
        path = list(trajectory(
            network, settings.build_method(), trees, seed=settings.seed,
            snapshots=log_spaced(settings.steps, settings.snapshots), progress=progress.updated,
            **settings.training(),
        ))  # fmt: skip
        moments = [(snapshot.step, snapshot.network) for snapshot in path]
        notes = [text for text in [describe_frozen(trees.members, path[-1].frozen_at)] if text]
    loss = settings.build_loss()
    parts = [
        measured(copy.deepcopy(moved).double(), table, loss, null).assign(step=step)
        for step, moved in moments
    ]
    return CellResult(pd.concat(parts, ignore_index=True), notes=notes)


def measured(
    network: Any, table: theory.ViewTable, loss: Any, null: theory.ViewTable | None = None
) -> pd.DataFrame:
    """The exact expected update beside the covariance form, for every member and layer.

    Args:
        network: an ensemble in float64.
        table: the views that it reads.
        loss: a loss of pairs.
        null: a wrong table of the same views, to compare with the form that is made of it.
    """
    members = network.members
    outputs = network(table_inputs(network, table))
    fixed = outputs.detach()
    exact, form, _ = pair_kernels(fixed, table, loss)
    kernels = {"exact": exact, "form": form, "unweighted": covariance_kernel(table, fixed)}
    if null is not None:
        kernels["other"] = pair_kernels(fixed, null, loss)[1]
    parameters = dict(network.named_parameters())
    weights = [parameters[name] for _, name in layers(network)]
    updates: dict[str, list[Tensor]] = {}
    for name, kernel in kernels.items():
        found = torch.autograd.grad(outputs, weights, kernel(fixed), retain_graph=True)
        each = [update.flatten(1) for update in found]  # (S, P) of every layer
        updates[name] = [torch.cat(each, 1), *each]
    within = table.over_views(fixed.square()) - table.over_views(fixed).square()
    columns = {"variance": table.mean(within.clamp_min(0).sum(-1)).cpu()}  # E_x tr V_aug[f(x')]
    parts = []
    for layer in range(len(weights) + 1):
        of_layer = {name: found[layer].cpu() for name, found in updates.items()}
        actual, form_ = of_layer["exact"], of_layer["form"]
        columns |= {"update": actual.norm(dim=-1), "residue": (actual - form_).norm(dim=-1)}
        for name in ("form", "unweighted", "other"):
            missing = torch.full((len(members),), torch.nan)
            columns[name] = cosine(actual, of_layer[name]) if name in of_layer else missing
        parts.append(tidy({"layer": layer, "member": members}, columns))
    return pd.concat(parts, ignore_index=True)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """`(S,)` cosines of `(S, P)` vectors; NaN where one is zero, as a dead network's update is."""
    found = cosine_similarity(a, b, dim=-1, eps=1e-300)
    return found.where((a.norm(dim=-1) > 0) & (b.norm(dim=-1) > 0), torch.nan)


def headline(table: pd.DataFrame) -> str:
    """The cosine along training, or the relative residue of the untrained network."""
    whole = table[table["layer"] == 0]
    if whole["step"].nunique() > 1:
        means = whole.groupby("step")["form"].mean()
        return f"cosine {means.iloc[0]:.2f} -> {means.iloc[-1]:.2f}"
    return f"median |residue| / |update| {(whole['residue'] / whole['update']).median():.2g}"
