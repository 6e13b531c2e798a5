"""Predicted updates compared with those of autograd: cells of `update`; its rules are in `_update_rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dualnets import theory
from dualnets.experiments.theorems._digits import digits
from dualnets.experiments.theorems._update_comparisons import (
    Comparison,
    Homogeneous,
    homogeneous,
    layers,
    pairs,
    tree_operators,
    updates,
)
from dualnets.experiments.theorems._update_rules import summary_table as summary_table
from dualnets.experiments.theorems.update import PAIR, Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.networks.mlp import mlp
from hltm.families.caterpillar import caterpillar
from hltm.sampling.augment import parse
from hltm.sampling.philox import Stream, uniform

COLUMNS = {
    "identity": "str", "form": "str", "exact": "bool", "assumptions": "str", "layer": "float64",
    "member": "int64", "relative_error": "float64", "standard_error": "float64",
    "entries": "int64",
}  # fmt: skip


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Compare every identity that applies to the settings with autograd, layer by layer."""
    networks, data, notes = networks_and_data(settings, device)
    rows: list[dict[str, Any]] = []
    for first_member, network in networks:
        network.double()
        rows += compared(settings, network, data, first_member, homogeneous, progress)
        if settings.loss == PAIR:
            rows += _tidy(tree_operators(settings, network, data), None, first_member)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    # columns without rows have no types of their own
    return CellResult(table if rows else table.astype(COLUMNS), notes=notes)


def compared(
    settings: Any,
    network: nn.Module,
    data: Any,
    first_member: int,
    form: Callable[[Any, nn.Module, str], Homogeneous],
    progress: ProgressListener,
) -> list[dict[str, Any]]:
    """The rows of a network: every identity that applies to the settings' loss, layer by layer.

    Args:
        settings: with a `loss`, `batch`, `batches` and `seed`.
        network: in the dtype to compare in.
        data: what the updates are expectations over.
        first_member: the number of the network's first member.
        form: of settings, network and a layer, whether Kᵀ w = f must hold.
        progress: told of every layer.
    """
    compare = pairs if settings.loss == PAIR else updates
    rows: list[dict[str, Any]] = []
    for layer, name in layers(network):
        found = compare(settings, network, data, name, form(settings, network, name))
        rows += _tidy(found, layer, first_member)
        progress.updated(1)
    return rows


def _tidy(
    found: Iterator[Comparison], layer: int | None, first_member: int
) -> list[dict[str, Any]]:
    """One row per comparison and member."""
    rows = []
    for identity, form, exact, met, *arrays in found:
        # networks that are no ensembles have no member axis
        predicted, actual, error = (
            part if part is None else part.reshape(-1, part.shape[-1]) for part in arrays
        )
        assert predicted is not None
        assert actual is not None
        for m, length in enumerate(actual.norm(dim=-1).tolist()):
            if length == 0:  # all units are dead there, and there is nothing to predict
                continue
            rows.append({
                "identity": identity, "form": form, "exact": exact,
                "assumptions": "met" if met else "broken",
                "layer": np.nan if layer is None else layer, "member": first_member + m,
                "relative_error": float((predicted[m] - actual[m]).norm()) / length,
                "standard_error": 0.0 if error is None else float(error[m].norm()) / length,
                "entries": len(actual[m]),
            })  # fmt: skip
    return rows


def networks_and_data(
    settings: Settings, device: torch.device
) -> tuple[list[tuple[int, nn.Module]], Any, list[str]]:
    """Networks with the number of their first member, data, and notes."""
    if settings.data == "digits":
        data = digits()
        if data is None:
            return [], None, ["scikit-learn is not installed: the rows of digits were left out"]
        return [(m, dense(64, settings, m).to(device)) for m in range(settings.members)], data, []
    if settings.data == "tree":
        trees = settings.build_trees()
    else:
        trees = caterpillar(depth=settings.depth + 1, members=settings.members, seed=settings.seed)
    network: nn.Module
    if settings.network == "mlp":
        network = mlp(
            trees, units=settings.units, layers=settings.layers, bias=settings.bias,
            normalize=settings.normalize, seed=settings.seed, device=device,
        )  # fmt: skip
    else:
        network = settings.build_network(trees, settings.seed, device)
    return [(0, network)], theory.TreeViews(trees, parse(settings.augment)), []


def dense(inputs: int, settings: Settings, member: int) -> nn.Sequential:
    """A dense network as a plain torch module, with weights from this project's random addresses."""
    widths = [inputs] + [settings.units] * settings.layers
    made: list[nn.Module] = [nn.Flatten()]
    for layer in range(settings.layers):
        linear = nn.Linear(widths[layer], widths[layer + 1], bias=settings.bias)
        for part, parameter in enumerate(linear.parameters()):
            numbers = uniform(
                parameter.numel(), seed=settings.seed, stream=Stream.INIT, members=(member,),
                node=layer + 1, view=part,
            )  # fmt: skip
            bound = widths[layer] ** -0.5
            parameter.data = ((2 * numbers[0] - 1) * bound).float().view(parameter.shape)
        made += [linear, nn.ReLU()]
    return nn.Sequential(*made[:-1])


def headline(table: pd.DataFrame) -> str:
    """The largest error of what is exact."""
    if table.empty:
        return "left out"
    exact = table[table["exact"]]
    part = exact if len(exact) else table
    return f"{len(table)} comparisons, largest error {part['relative_error'].max():.0e}"
