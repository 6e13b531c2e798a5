"""The residual of the covariance form, enumerated without sampling noise: cells and rule of `residual`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from dualnets import theory
from dualnets.experiments.theorems.residual import (
    FEWEST_TREES,
    QUIET,
    REFERENCES,
    SIGNIFICANCE,
    SMALL,
    Settings,
)
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.stats import NOTHING, Judgement, Outcome, exceeds, mean_interval
from dualnets.lab.tidy import tidy
from hltm.sampling.augment import parse

SETTINGS = ("network", "depth", "units", "weights", "temperature", "negatives", "loss", "augment",
            "polarity_low")  # fmt: skip
TITLES = {"network": "shape", "polarity_low": "polarity", "temperature": "τ", "negatives": "H"}


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """The residual of every member and layer."""
    trees = settings.build_trees()
    network = settings.build_network(trees, settings.seed, device).double()
    if settings.weights > 0:
        with torch.no_grad():
            for weight in network.weights:  # uniform in ±1/sqrt(fan-in): their deviation is known
                weight *= settings.weights * (3 * weight.shape[-1]) ** 0.5
    views = theory.TreeViews(trees, parse(settings.augment)).table()
    parts = []
    for layer in range(1, network.depth + 1):
        found = theory.pairwise_operator(network, views, layer, settings.build_loss())
        exact, weighted = (o.on_outputs().value for o in (found.exact, found.weighted))
        columns = {
            "residual": found.residual(), "matrix_residual": found.matrix_residual(),
            "cosine": torch.nn.functional.cosine_similarity(exact, weighted, dim=-1),
            "length": weighted.norm(dim=-1) / exact.norm(dim=-1),
        }  # fmt: skip
        parts.append(tidy({"layer": layer, "member": range(len(exact))}, columns))
        progress.updated(1)
    table = pd.concat(parts, ignore_index=True)
    dead = int(table["residual"].isna().sum())
    notes = [f"{dead} of {len(table)} layers have no update at all (dead units)"] if dead else []
    return CellResult(table, notes=notes)


PLAIN: dict[str, Any] = {"negatives": 1, "loss": "infonce", "augment": "keep-root", "depth": 2}
BASE: dict[str, Any] = {**PLAIN, "network": "tree", **REFERENCES[0]}


def along(table: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The rows in which, beside the polarity, only `axis` may differ from BASE."""
    return _where(table, {name: value for name, value in BASE.items() if name != axis})


def references(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each reference and network, by a name."""
    for network, rows in table.groupby("network", sort=False):
        for at in REFERENCES:
            part = _where(rows, {**PLAIN, **at})
            if len(part):
                weights = f"weights {at['weights']:g}" if at["weights"] else "initial weights"
                shape = "" if network == "tree" else "dense, "
                units = f"{at['units']} units"
                yield f"{shape}{units}, {weights}, τ {at['temperature']:g}", part


def _where(table: pd.DataFrame, values: dict[str, Any]) -> pd.DataFrame:
    """The rows whose settings have these values."""
    return table[(table[list(values)] == pd.Series(values)).all(axis=1)]


def headline(table: pd.DataFrame) -> str:
    """The median residual of each layer."""
    medians = table.groupby("layer")["residual"].median()
    return "median residual " + ", ".join(f"{v:.2g} (layer {k})" for k, v in medians.items())


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and layer: median and quartiles of the residual, those of matrices, the cosine."""
    found = []
    names = [name for name in SETTINGS if table[name].nunique() > 1]
    for (_, layer), part in table.groupby(["cell", "layer"], sort=False):
        low, middle, high = part["residual"].quantile([0.25, 0.5, 0.75])
        found.append({
            **{TITLES.get(name, name): part[name].iloc[0] for name in names},
            "layer": layer, "median": middle, "quartiles": f"{low:.2g} to {high:.2g}",
            "matrices": part["matrix_residual"].median(),
            **part[["cosine", "length"]].median(),
        })  # fmt: skip
    made = pd.DataFrame(found)
    trees = ", ".join(map(str, sorted(table.groupby("cell")["member"].nunique().unique())))
    made.attrs["caption"] = (
        f"residual |exact - covariance form| / |exact| of the update (matrices: of the operators), "
        f"medians over n = {trees} trees; cosine and ratio of lengths of the two updates"
    )
    return made


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule."""
    outcome: Outcome
    found = list(references(table))
    tests = sum((part["polarity_low"].nunique() - 1) * part["layer"].nunique() for _, part in found)
    details: list[dict[str, Any]] = []
    good, bad, unclear, quiet_means, noisy = [], [], [], [], []
    for name, part in found:
        medians, steps = _medians(name, part), _steps(name, part, max(tests, 1))
        details += [*medians, *steps]
        worst = max(medians, key=lambda row: row["median"], default={"median": np.nan})
        noisiest = part[part["polarity_low"] == part["polarity_low"].min()]
        noisy.append(noisiest.groupby("layer")["residual"].median().max())
        quiet = part[part["polarity_low"] >= QUIET]
        if part["member"].nunique() < FEWEST_TREES or not (steps and medians):
            unclear.append(name)
        elif worst["median"] >= SMALL:
            bad.append(f"{name} (median {worst['median']:.2g}, cosine {worst['cosine']:.2g})")
        elif any(row["p_falls"] >= SIGNIFICANCE for row in steps):
            unclear.append(name)
        else:
            good.append(f"{name} (median {worst['median']:.2g})")
        if len(quiet):
            quiet_means.append(mean_interval(quiet.groupby("member")["residual"].mean().to_numpy()))
    outcome = "fails" if bad else "holds" if good and not unclear else "open"
    where = {"it predicts the update at": good, "it does not at": bad, "not decided at": unclear}
    parts = [f"{text}: {'; '.join(names)}" for text, names in where.items() if names]
    reason = ". ".join(parts) or "no reference was run"
    if noisy:
        reason += f". At the noisiest views its median is up to {max(noisy):.2g}"
    effect = max(quiet_means, key=lambda e: e.value, default=NOTHING)
    what = f"mean residual at polarities of at least {QUIET:g}, at the worst reference"
    return Judgement(outcome, reason, what, effect, details)


def _medians(name: str, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The median residual of each layer where views are quiet."""
    quiet = rows[rows["polarity_low"] >= QUIET]
    return [
        {"where": name, "layer": int(layer), "polarity": f"{polarity:g}",
         "median": float(at["residual"].median()), "cosine": float(at["cosine"].median()), "n": len(at)}
        for (layer, polarity), at in quiet.groupby(["layer", "polarity_low"])
    ]  # fmt: skip


def _steps(name: str, rows: pd.DataFrame, tests: int) -> list[dict[str, Any]]:
    """Whether the residual falls from each polarity to the next, tree by tree."""
    found = []
    for layer, at in rows.groupby("layer"):
        wide = at.pivot(index="member", columns="polarity_low", values="residual")
        for low, high in itertools.pairwise(sorted(wide.columns)):
            pair = wide[[low, high]].dropna()
            p = exceeds(pair[low].to_numpy(), pair[high].to_numpy(), tests)
            found.append({"where": name, "layer": int(layer), "polarity": f"{low:g} to {high:g}",
                          "p_falls": p, "n": len(pair)})  # fmt: skip
    return found
