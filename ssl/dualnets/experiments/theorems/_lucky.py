"""Luck before training, predicted and counted, and what the lucky learn: cells and rule of `lucky`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets import theory
from dualnets.experiments.theorems._lucky_ranks import FINAL, GAP, mean_ranks, ranks, root
from dualnets.experiments.theorems.lucky import CALIBRATED, Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import Judgement, Outcome, adjusted, exceeds, too_few
from dualnets.lab.tidy import tidy
from dualnets.networks.tree_network import tree_network

if TYPE_CHECKING:
    from hltm.tree import LatentTree

MEMBERS_AT_ONCE = 8  # whose leaf states are enumerated together


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Predict luck, count the lucky latents, train, and measure what became of them."""
    from dualnets.training.trajectory import describe_frozen, train
    from hltm.probe.measure import probe_layers

    trees = settings.build_trees()
    parts = [
        _before_training(settings, trees[low : low + MEMBERS_AT_ONCE])
        for low in range(0, len(trees), MEMBERS_AT_ONCE)
    ]
    table = pd.concat(parts, ignore_index=True)
    if settings.steps == 0:
        return CellResult(table.assign(final=np.nan, null=np.nan, gap_closed=np.nan))
    network = tree_network(
        trees, units=settings.units, seed=settings.seed, normalize=True, device=device
    )
    final = train(
        network, settings.build_method(), trees, seed=settings.seed,
        progress=progress.updated, **settings.training(),
    )  # fmt: skip
    layers = probe_layers(
        final.network, trees, samples=settings.evaluation_samples, seed=settings.seed,
        metrics=["correlation"], details=False,
    )  # fmt: skip
    scores = {level: layer.scores["correlation"] for level, layer in layers.items()}
    after = [
        tidy({"member": trees.members, "level": level, "latent": range(score.best.shape[1])},
             {"final": score.best, "null": score.null})
        for level, score in scores.items()
    ]  # fmt: skip
    table = table.merge(pd.concat(after), on=["member", "level", "latent"])
    room = table["ceiling"] - table["initial"]
    table["gap_closed"] = (table["final"] - table["initial"]) / room
    frozen = describe_frozen(trees.members, final.frozen_at)
    return CellResult(table, notes=[frozen] if frozen else [])


def _before_training(settings: Settings, trees: LatentTree) -> pd.DataFrame:
    """Every latent's luck and its prediction (docs/theory.md, Equations 4.4 to 4.6)."""
    units = settings.units
    network = tree_network(trees, units=units, seed=settings.seed)
    parts = []
    for level, inputs in theory.latent_inputs(network, trees).items():
        weight = network.weights[level - 1].detach().double()
        best = inputs.correlations(weight).amax(-1)
        # F, the distribution function of a single unit's |correlation| at the threshold, from fresh units
        ceiling = trees.ceiling(trees.level(level), leaves="own", seed=settings.seed).value
        threshold = settings.share * ceiling
        drawn = theory.drawn_correlations(
            inputs, units=1, draws=settings.draws, seed=settings.seed, members=trees.members
        )[..., 0]
        below = (drawn <= threshold[..., None]).double().mean(-1)
        mean_selectivity = [
            [theory.lucky.mean_best(inputs.law(s, v), units) for v in range(best.shape[1])]
            for s in range(len(trees))
        ]
        index = {"member": trees.members, "level": level, "latent": range(best.shape[1])}
        columns = {
            "predicted": 1 - below**units,  # the best of n independent units (4.5)
            "lucky": (best >= threshold).double(), "initial": best, "ceiling": ceiling,
            "selectivity": inputs.selectivities(weight).abs().amax(-1),
            "selectivity_predicted": mean_selectivity,
        }  # fmt: skip
        parts.append(tidy(index, columns))
    return pd.concat(parts, ignore_index=True)


def standard_errors(rows: pd.DataFrame) -> float:
    """How far the number of lucky latents is from its prediction, in standard errors.

    Given the layers below, blocks are independent, so over all layers the differences are those of a
    martingale and their variances add.
    """
    p = rows["predicted"].to_numpy()
    spread = float((p * (1 - p)).sum()) ** 0.5
    return float((rows["lucky"].to_numpy() - p).sum() / spread) if spread > 0 else 0.0


def widths(table: pd.DataFrame) -> Iterator[tuple[str, int, int, pd.DataFrame]]:
    """Polarity, depth, width and rows of every cell, narrow first."""
    for (low, depth, units), rows in table.groupby(["polarity_low", "depth", "units"]):
        yield f"{low:g}", int(depth), int(units), rows


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per depth, width and level: lucky latents, predicted and counted, and what they learned."""
    found = []
    several = table["polarity_low"].nunique() > 1
    for low, depth, units, rows in widths(table):
        for level, part in rows.groupby("level"):
            error = (part["predicted"] * (1 - part["predicted"])).sum() ** 0.5 / len(part)
            gap, final = (ranks(part, measure) for measure in (GAP, FINAL))
            found.append({
                "depth": depth, "units": units, **({"polarity low": low} if several else {}),
                "level": level,
                "lucky": part["lucky"].mean(), "predicted": part["predicted"].mean(),
                "± (s.e.)": float(error),
                "best |s|": part["selectivity"].mean(),
                "predicted |s|": part["selectivity_predicted"].mean(),
                **part[["initial", "final", "ceiling", "null"]].mean(),
                "|s| ~ gap closed": gap.value, "|s| ~ final": final.value, "n": len(part),
            })  # fmt: skip
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "n counts latents; lucky: best |correlation| reaches its share of the ceiling; |s| ~: rank "
        "correlations over trees of the best |selectivity| before training with the gap closed and with "
        "|correlation| over ceiling after it"
    )
    return result


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    text = f"lucky {table['lucky'].mean():.2f}, predicted {table['predicted'].mean():.2f}"
    if not table["final"].notna().any():
        return text
    return f"{text}, root's luck ~ gap closed {ranks(root(table), GAP).value:.2f}"


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule."""
    outcome: Outcome
    details: list[dict[str, Any]] = []
    missed, problems = [], []
    trained = table[table["final"].notna()]
    tests = trained.groupby(["polarity_low", "depth", "units"]).ngroups
    rising: dict[str, list[bool]] = {GAP: [], FINAL: []}
    for low, depth, units, rows in widths(table):
        z, trees = standard_errors(rows), rows["member"].nunique()
        entry = {
            "polarity_low": float(low), "depth": depth, "units": units,
            "lucky": float(rows["lucky"].mean()), "predicted": float(rows["predicted"].mean()),
            "standard_errors": z, "n": int(trees),
        }  # fmt: skip
        if abs(z) > CALIBRATED:
            missed.append(f"depth {depth}, {units} units: {z:.1f} standard errors")
        problems.append(too_few(trees))
        if rows["final"].notna().any():
            for measure, passes in rising.items():
                rank = ranks(root(rows), measure)
                p = adjusted(rank.rises, tests)
                passes.append(p < SIGNIFICANCE)
                entry |= {f"{measure}_rank": rank.value, f"{measure}_p": p}
        details.append(entry)
    for (_, depth), cells in table.groupby(["polarity_low", "depth"]):
        sizes = sorted(cells["units"].unique())
        if len(sizes) < 2:
            problems.append("one width cannot show an effect of width")
            continue
        upper = cells[cells["level"] >= 2].groupby(["units", "member"])["lucky"].mean().unstack()
        grown = exceeds(upper.loc[sizes[-1]].to_numpy(), upper.loc[sizes[0]].to_numpy())
        if grown >= SIGNIFICANCE:
            missed.append(f"depth {depth}: width does not help (p = {grown:.2g})")
    if trained.empty:
        problems.append("nothing was trained")
    learned = (
        f"the luckier roots close more of the gap at {sum(rising[GAP])} of {tests} widths, "
        f"end closer to the ceiling at {sum(rising[FINAL])} of {tests} widths"
    )
    if any(problems):
        outcome, reason = "open", "; ".join(dict.fromkeys(filter(None, problems)))
    elif missed or not any(rising[GAP]):
        outcome, reason = "fails", "; ".join([*missed, learned])
    elif not all(rising[GAP] + rising[FINAL]):
        outcome, reason = "open", learned
    else:
        outcome, reason = "holds", f"luck is as predicted and grows with width; {learned}"
    what = "rank correlation of the root's gap closed with its luck before, mean over widths"
    found = mean_ranks(root(rows) for *_, rows in widths(trained))
    return Judgement(outcome, reason, what, found, details)
