"""The root before and after training, by units and polarities: cell, table and rules of `root_alignment`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.emergence._emergence import gain_and_room
from dualnets.experiments.emergence.emergence import Settings
from dualnets.experiments.emergence.root_alignment import SMALL
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import learning_curves
from dualnets.lab.ratios import ratio_difference, ratio_interval
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    last_step,
    mean_interval,
    too_few,
)
from dualnets.lab.variants import PRE

RANGE = ["polarity_low", "polarity_high"]


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble and measure its learning curves."""
    curves = learning_curves(settings, device, progress)
    networks: dict[str, Mapping[str, torch.Tensor]] = {
        "final": dict(curves.last.named_parameters())
    }
    return CellResult(curves.table, networks, curves.notes)


def roots(table: pd.DataFrame) -> pd.DataFrame:
    """The root's rows at the last step, one per setting, number of units and tree.

    Columns: where, the range of polarities in words, with all other settings that differ; these settings,
    among them polarity_low; units, member, value, initial, ceiling, null, and below_null: 1 where no unit
    is above the null.
    """
    ends = last_step(table[table["level"] == table["level"].max()])
    names = [item.name for item in fields(Settings)]
    others = [n for n in names if n not in (*RANGE, "units", "seed") and table[n].nunique() > 1]
    words = [f"U[{a:g}, {b:g}]" for a, b in ends[RANGE].itertuples(index=False)]
    for name in others:
        words = [
            f"{w}, {name.replace('_', ' ')} {v}" for w, v in zip(words, ends[name], strict=True)
        ]
    ends = ends.assign(where=words)
    keys = ["where", *others, *RANGE, "units", "member"]
    numbers = ["value", "initial", "ceiling", "null"]
    found = ends[ends["metric"] == PRE].set_index(keys)[numbers]
    below = ends[ends["metric"] == "below_null"].set_index(keys)["value"].rename("below_null")
    return found.join(below).reset_index().sort_values([*others, *RANGE, "units", "member"])


def ends(table: pd.DataFrame) -> dict[str, Estimate]:
    """What must be flat: the root's mean |correlation|, by range and units."""
    return {
        f"{where}, {units} units": mean_interval(part["value"].to_numpy())
        for (where, units), part in roots(table).groupby(["where", "units"], sort=False)
    }


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per range and number of units: means, standard deviations, gap closed, roots below null."""
    found = []
    for (where, units), part in roots(table).groupby(["where", "units"], sort=False):
        closed = ratio_interval(*gain_and_room(part))
        found.append(
            {
                "polarity": where,
                "units": units,
                "before": part["initial"].mean(),
                "sd before": part["initial"].std(),
                "after": part["value"].mean(),
                "sd after": part["value"].std(),
                "ceiling": part["ceiling"].mean(),
                "null": part["null"].mean(),
                "gap closed": str(closed),
                "below null": f"{int(part['below_null'].sum())}/{len(part)}",
                "n": len(part),
            }
        )
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "best |correlation| of a unit with the root, means and standard deviations over n trees; below null: "
        "trees none of whose units is above the null after training; [ ]: 95% intervals"
    )
    return made


def grows(table: pd.DataFrame, *, along: str) -> Judgement:
    """Apply the rule of a trend of the root's alignment along `units` or `polarity_low`.

    The effect is the smallest rise of the lines from end to end.
    """
    found = roots(table)
    kinds = list(found.groupby("where" if along == "units" else "units", sort=False))
    details: list[dict[str, Any]] = []
    rises: list[Estimate] = []
    for key, part in kinds:
        values = part.pivot_table(index="member", columns=along, values="value").dropna()
        if len(values.columns) < 2 or values.empty:
            continue
        x = values.columns.to_numpy(np.float64)
        rise = _rises(np.log(x) if along == "units" else x, values.to_numpy(np.float64))
        rises.append(mean_interval(rise, len(kinds)))
        top = mean_interval((values.iloc[:, -1] - values.iloc[:, -2]).to_numpy(), len(kinds))
        details.append(
            {"where": key if along == "units" else f"{key} units", "grows": rises[-1].low > SMALL,
             **rises[-1].detail("rise"), "last_step": top.value, "last_step_low": top.low,
             "last_step_high": top.high}
        )  # fmt: skip
    smallest = min(rises, key=lambda each: each.value, default=NOTHING)
    growing = [entry["where"] for entry in details if entry["grows"]]
    outcome: Outcome = "open"
    if len(details) < len(kinds) or not details:
        reason = f"a trend needs several values of {along.replace('_', '-')}"
    elif reason := too_few(min(each.n for each in rises)):
        pass
    elif len(growing) == len(details):
        outcome, reason = "holds", f"the root's alignment grows for {', '.join(growing)}"
    elif all(each.high < SMALL for each in rises):
        outcome, reason = "fails", "the root's alignment grows nowhere"
    else:
        reason = f"the root's alignment is shown to grow for {', '.join(growing) or 'none'}"
    unit = "units" if along == "units" else "polarities"
    what = f"smallest rise of the root's |correlation| from the lowest to the highest {unit}"
    return Judgement(outcome, reason, what, smallest, details)


def closes_more(table: pd.DataFrame) -> Judgement:
    """Apply the rule about the gap closed; the effect is the smallest difference of all ranges."""
    found = roots(table)
    kinds = list(found.groupby("where", sort=False))
    details: list[dict[str, Any]] = []
    differences: list[Estimate] = []
    for key, part in kinds:
        wide, narrow = (part[part["units"] == pick(part["units"])] for pick in (max, min))
        both = sorted({*wide["member"]} & {*narrow["member"]})
        pairs = [own.set_index("member").loc[both] for own in (wide, narrow)]
        gains = [gain_and_room(own) for own in pairs]
        difference = ratio_difference(gains[0], gains[1], len(kinds))
        gaps = [ratio_interval(*gain).value for gain in gains]
        differences.append(difference)
        details.append(
            {"where": key, "widest": gaps[0], "narrowest": gaps[1],
             **difference.detail("difference")}
        )  # fmt: skip
    smallest = min(differences, key=lambda each: each.value, default=NOTHING)
    outcome: Outcome = "open"
    if found["units"].nunique() < 2:
        reason = "a comparison needs several numbers of units"
    elif reason := too_few(min(each.n for each in differences)):
        pass
    elif all(each.low > 0 for each in differences):
        outcome, reason = "holds", "more of the gap is closed in the widest network in every range"
    elif all(each.high < NEGLIGIBLE for each in differences):
        outcome, reason = "fails", "no more of the gap is closed in the widest network in any range"
    else:
        shown = [d["where"] for d in details if d["low"] > 0]
        reason = f"more of the gap is shown to be closed for {', '.join(shown) or 'none'}"
    what = "smallest difference of gap closed, widest less narrowest"
    return Judgement(outcome, reason, what, smallest, details)


def _rises(x: Array, values: Array) -> Array:
    """`(S,)` what each tree's least-squares line through `(S, X)` values rises from end to end."""
    centred = x - x.mean()
    # equal values have a slope of 0, not one of rounding
    slopes: Array = (values - values[:, :1]) @ centred / (centred @ centred)
    return slopes * (x.max() - x.min())
