"""Whether aligned units are used: cells, rule and table of `use`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.lab import ablation_cell
from dualnets.lab.ablation import AblationSettings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import (
    NOTHING,
    Array,
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

USED, OTHERS = "used", "others_used"  # own shares: of the best aligned unit, of others
EXACT = "exact_change"  # of the best aligned unit: against the exact answer
PATCHED = 1024  # pairs of rows of a snapshot
DRAWS = 10  # other units


def run_cell(
    settings: AblationSettings, device: torch.device, progress: ProgressListener
) -> CellResult:
    """Train one ensemble, and patch the best aligned unit of every latent at every snapshot."""
    trees = settings.build_trees()

    def found(snapshot: Snapshot) -> pd.DataFrame:
        return use_of_units(snapshot.network, trees, settings.seed).assign(step=snapshot.step)

    return ablation_cell.run_cell(settings, device, progress, also=found)


class _Finite:
    """A network in which a member that diverged is one that does nothing, so that it has no share."""

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
    own = table[table["metric"] == "own_share"]
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


def shares(rows: pd.DataFrame, metric: str, column: str = "value") -> Array:
    """`(S,)` shares of one cell, mean over the latents below the root."""
    kept = rows[rows["metric"] == metric]
    return kept.groupby("member")[column].mean().to_numpy(np.float64)


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the smallest lead of all methods."""
    effect = "lead of the best aligned unit over another in share of the answer's change, smallest of all"
    variants = {name: last_step(rows) for name, rows in by_variant(table).items()}
    details: list[dict[str, Any]] = []
    leads = []
    for name, rows in variants.items():
        used, others = shares(rows, USED), shares(rows, OTHERS)
        lead = mean_interval(used - others, len(variants))
        leads.append(lead)
        initial = shares(rows, USED, "initial") - shares(rows, OTHERS, "initial")
        details.append(
            {"variant": name, "used": float(used.mean()), "others": float(others.mean()),
             **lead.detail("lead"), "p_more": exceeds(used, others, len(variants)),
             "p_less": exceeds(others, used, len(variants)), "lead_before": float(initial.mean()),
             "p_grown": exceeds(used - others, initial, len(variants)),
             "exact_change": float(shares(rows, EXACT).mean())}
        )  # fmt: skip
    if not leads:
        return Judgement("open", "no method was run", effect, NOTHING, [])
    yes = [d["variant"] for d in details if d["p_more"] < SIGNIFICANCE]
    less = [d["variant"] for d in details if d["p_less"] < SIGNIFICANCE]
    grown = [d["variant"] for d in details if d["p_grown"] < SIGNIFICANCE]
    reason = f"aligned units are used with {', '.join(yes) or 'no method'}"
    reason += f", more than before training with {', '.join(grown) or 'none'}" if yes else ""
    outcome: Outcome = "open"
    if few := too_few(min(lead.n for lead in leads)):
        reason = few
    elif less:
        outcome, reason = "fails", f"{reason}, and less than others with {', '.join(less)}"
    elif len(yes) == len(details):
        outcome = "holds"
    elif not yes and all(lead.high < NEGLIGIBLE for lead in leads):
        outcome, reason = "fails", f"{reason}, and every lead is below {NEGLIGIBLE}"
    smallest = min(leads, key=lambda lead: lead.value)
    return Judgement(outcome, reason, effect, smallest, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: shares through the best aligned unit and through others, alignment, collapse."""
    found = []
    for name, every in by_variant(table).items():
        rows, upper = last_step(every), variant_stats(every)
        found.append(
            {
                "variant": name,
                **{
                    f"{label}{when}": mean_interval(shares(rows, metric, column)).brief
                    for when, column in ((" before", "initial"), ("", "value"))
                    for label, metric in (("used", USED), ("others", OTHERS))
                },
                "null": f"{shares(rows, USED, 'null').mean():.2f}",
                "ceiling": f"{shares(rows, USED, 'ceiling').mean():.2f}",
                "exact change": mean_interval(shares(rows, EXACT)).brief,
                "its ceiling": f"{shares(rows, EXACT, 'ceiling').mean():.2f}",
                GAP: str(upper.gap),
                **upper.collapse_columns,
            }
        )
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "used, others: share of the answer's own change through the best aligned unit of a block, and "
        f"through another; before: of the untrained network; null: the 95% point of {DRAWS} other units of "
        f"the block, mean over latents; {INTERVALS}"
    )
    return made
