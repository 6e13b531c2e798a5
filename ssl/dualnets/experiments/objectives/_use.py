"""Whether aligned units are used: cells, rules and table of `use`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.objectives.use import NEGLIGIBLE
from dualnets.lab import ablation_cell
from dualnets.lab.ablation import AblationSettings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    last_step,
    mean_interval,
    too_few,
)
from dualnets.lab.variants import GAP, INTERVALS, by_variant, variant_stats
from hltm.probe import Replacement, patch

if TYPE_CHECKING:
    from torch import Tensor

    from dualnets.training.trajectory import Snapshot
    from hltm.tree import LatentTree

USED, OTHERS = "used", "others_used"  # agreement: of the best aligned unit, of others
EXACT = "exact_change"  # of the best aligned unit: against the exact answer
PATCHED = 512  # pairs of rows of a snapshot
DRAWS = 10  # other units
EARLY = 100  # trained networks are patched from this part of all updates on


def run_cell(
    settings: AblationSettings, device: torch.device, progress: ProgressListener
) -> CellResult:
    """Train one ensemble, and patch the best aligned unit of every latent along the way."""
    trees = settings.build_trees()

    def found(snapshot: Snapshot) -> pd.DataFrame:
        if 0 < snapshot.step < settings.steps / EARLY:
            return pd.DataFrame()
        return use_of_units(snapshot.network, trees, settings.seed).assign(step=snapshot.step)

    return ablation_cell.run_cell(settings, device, progress, also=found)


class _Finite:
    """A network in which a member that diverged is one that does nothing, so that nothing agrees."""

    def __init__(self, network: Any) -> None:
        self.network, self.members, self.stacked = network, network.members, network.stacked
        self.device = network.device

    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        return {level: _finite(a) for level, a in self.network.activations(leaves).items()}

    def run_with(self, leaves: Tensor, replace: Mapping[int, Replacement]) -> Tensor:
        return _finite(self.network.run_with(leaves, replace))


def _finite(values: Tensor) -> Tensor:
    """The values `(S, …)`, and 0 for a member that has one that is not finite."""
    finite = values.isfinite().flatten(1).all(1)
    return torch.where(finite.view(-1, *[1] * (values.ndim - 1)), values, 0.0)


def use_of_units(network: Any, trees: LatentTree, seed: int) -> pd.DataFrame:
    """One row per member, latent below the root, and metric (USED, OTHERS, EXACT)."""
    nodes = list(trees.latents)[1:]
    with torch.no_grad():
        table = patch(
            _Finite(network), trees, samples=PATCHED, seed=seed, nodes=nodes, units=1, leaves="own",
            draws=DRAWS,
        )  # fmt: skip
    table = table[table["layer"] == table["level"]]
    own = table[table["metric"] == "own_change"]
    parts = [
        own.assign(metric=USED),
        own.assign(
            metric=OTHERS, value=own["others"], null=np.nan, note="no null: it is one itself"
        ),
        table[table["metric"] == EXACT],
    ]
    kept = ["member", "level", "node", "metric", "candidates", "value", "null", "ceiling", "n"]
    kept.append("note")
    return pd.concat(parts, ignore_index=True)[kept]


def agreements(rows: pd.DataFrame, metric: str, column: str = "value") -> Array:
    """`(S,)` agreements of one cell, mean over the latents below the root."""
    kept = rows[rows["metric"] == metric]
    return kept.groupby("member")[column].mean().to_numpy(np.float64)


def leads(rows: pd.DataFrame, column: str = "value") -> Array:
    """`(S,)` agreement through the best aligned unit less that through another of its block."""
    return agreements(rows, USED, column) - agreements(rows, OTHERS, column)


def judge(table: pd.DataFrame, *, growth: bool) -> Judgement:
    """Apply a rule; the effect is the smallest lead, or growth of the lead, of all methods.

    Args:
        table: of a run.
        growth: whether leads are compared with those before training rather than with 0.
    """
    what = "growth of the lead" if growth else "lead"
    effect = f"{what} of the best aligned unit over another of its block, smallest of all methods"
    variants = by_variant(table)
    details: list[dict[str, Any]] = []
    effects = []
    for name, every in variants.items():
        rows = last_step(every)
        by_step = every[every["metric"].isin([USED, OTHERS])].groupby("step")
        course = {int(step): float(leads(part).mean()) for step, part in by_step}
        after, before = leads(rows), leads(rows, "initial")
        base = before if growth else np.zeros_like(after)
        effects.append(mean_interval(after - base, len(variants)))
        details.append(
            {"variant": name, "used": float(agreements(rows, USED).mean()),
             "others": float(agreements(rows, OTHERS).mean()), "lead": float(after.mean()),
             "lead_before": float(before.mean()), **effects[-1].detail(what.replace(" ", "_")),
             "p_more": exceeds(after, base, len(variants)),
             "p_less": exceeds(base, after, len(variants)),
             "highest_lead": max(course.values()), "highest_at": max(course, key=lambda at: course[at]),
             "exact_change": float(agreements(rows, EXACT).mean())}
        )  # fmt: skip
    if not effects:
        return Judgement("open", "no method was run", effect, NOTHING, [])
    more = [d["variant"] for d in details if d["p_more"] < SIGNIFICANCE]
    less = [d["variant"] for d in details if d["p_less"] < SIGNIFICANCE]
    reason = f"the {what} is above 0 with {', '.join(more) or 'no method'}"
    outcome: Outcome = "open"
    if few := too_few(min(found.n for found in effects)):
        reason = few
    elif less:
        outcome, reason = "fails", f"{reason}, and below 0 with {', '.join(less)}"
    elif len(more) == len(details):
        outcome = "holds"
    elif not more and all(found.high < NEGLIGIBLE for found in effects):
        outcome, reason = "fails", f"{reason}, and every one is below {NEGLIGIBLE}"
    return Judgement(outcome, reason, effect, min(effects, key=lambda found: found.value), details)


def leads_by_method(table: pd.DataFrame) -> dict[str, Estimate]:
    """Method -> lead at the last step: what must be flat."""
    return {name: mean_interval(leads(last_step(rows))) for name, rows in by_variant(table).items()}


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: agreement through the best aligned unit and through others, gap, collapse."""
    found = []
    for name, every in by_variant(table).items():
        rows, upper = last_step(every), variant_stats(every)
        found.append(
            {
                "variant": name,
                **{
                    f"{label}{when}": mean_interval(agreements(rows, metric, column)).brief
                    for when, column in ((" before", "initial"), ("", "value"))
                    for label, metric in (("used", USED), ("others", OTHERS))
                },
                "null": f"{agreements(rows, USED, 'null').mean():.2f}",
                "ceiling": f"{agreements(rows, USED, 'ceiling').mean():.2f}",
                "exact change": mean_interval(agreements(rows, EXACT)).brief,
                "its ceiling": f"{agreements(rows, EXACT, 'ceiling').mean():.2f}",
                GAP: str(upper.gap),
                **upper.collapse_columns,
            }
        )
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "used, others: how far the answer's change through the best aligned unit of a block, and through "
        "another, agrees with its own; before: of the untrained network; null: the 95% point of "
        f"{DRAWS} other units of the block, mean over latents; {INTERVALS}"
    )
    return made
