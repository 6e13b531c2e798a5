"""Learning curves of all latents, judged level by level: cells and rule of `emergence`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.emergence.emergence import (
    CONTROL,
    FEWEST_TREES,
    SIGNIFICANCE,
    Settings,
)
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import learning_curves
from dualnets.lab.stats import (
    NOTHING,
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    gap_closed,
    last_step,
    too_few,
)
from dualnets.lab.variants import PRE


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble and measure its learning curves."""
    curves = learning_curves(settings, device, progress)
    networks: dict[str, Mapping[str, torch.Tensor]] = {
        "initial": dict(curves.first.named_parameters()),
        "final": dict(curves.last.named_parameters()),
    }
    return CellResult(curves.table, networks, curves.notes)


def by_level(table: pd.DataFrame, step: str | None = "last") -> pd.DataFrame:
    """Means over the latents of a level: one row per cell, member, level and step.

    Of pre-activations, at the last step or (None) at every one. Columns: the cell's settings, member,
    level, step, value, initial, null, ceiling.
    """
    found = table[table["metric"] == PRE]
    if step == "last":
        found = last_step(found)
    keys = ["cell", "network", "units", "augment", "member", "level", "step"]
    columns = ["value", "initial", "null", "ceiling"]
    return found.groupby(keys, sort=False)[columns].mean().reset_index()


def groups(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """What is judged together: settings that differ, the rows that share them, the rows of their control.

    Groups differ in settings other than network, units, and the control's augmentation.
    """
    apart = {"network", "units", "augment"}
    others = [
        item.name
        for item in fields(Settings)
        if item.name not in apart and table[item.name].nunique() > 1
    ]
    control = table["augment"] == CONTROL
    main = table[~control]
    shown = [*others, *(["augment"] if main["augment"].nunique() > 1 else [])]
    for key, rows in main.groupby(shown, sort=False) if shown else [((), main)]:
        setting = dict(zip(shown, key, strict=True))
        same = pd.Series(True, index=table.index)
        for name in others:
            same &= table[name] == setting[name]
        yield setting, rows, table[control & same]


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and level: means over trees, gap closed with its 95% interval, latents below null.

    `below null` counts the latents, over all trees, with no candidate whose correlation is above the null.
    """
    ends = last_step(table[table["metric"] == "below_null"])
    labels = {
        cell: {name: value for name, value in setting.items() if name != "augment" or rows is main}
        for setting, main, control in groups(table)
        for rows in (main, control)
        for cell in rows["cell"].unique()
    }
    found = []
    for (cell, level), part in by_level(table).groupby(["cell", "level"], sort=False):
        first, closed = part.iloc[0], _gap(part)
        closed_text = str(closed) if np.isfinite(closed.value) else "at ceiling"
        below = ends[(ends["cell"] == cell) & (ends["level"] == level)]["value"].dropna()
        control = " control" if first["augment"] == CONTROL else ""
        found.append(
            {
                **{name.replace("_", " "): value for name, value in labels.get(cell, {}).items()},
                "network": f"{first['network']} {first['units']}{control}",
                "level": level,
                "initial": part["initial"].mean(),
                "final": part["value"].mean(),
                "ceiling": part["ceiling"].mean(),
                "null": part["null"].mean(),
                "gap closed": "–" if part["value"].isna().any() else closed_text,
                "below null": f"{int(below.sum())}/{len(below)}",
                "n": len(part),
            }
        )
    return pd.DataFrame(found)


def _gap(means: pd.DataFrame) -> Estimate:
    """Gap closed, of one row per tree."""
    return gap_closed(*(means[name].to_numpy() for name in ("initial", "value", "ceiling")))


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the smallest of those of several settings."""
    outcome: Outcome
    details: list[dict[str, Any]] = []
    effects: list[Estimate] = []
    problems: list[str] = []
    found = list(groups(table))
    levels = int(table["level"].max()) - 1
    tests = max(levels * len(found), 1)
    for setting, main, control in found:
        trees = main[main["network"] == "tree"]
        if trees.empty or levels < 1:
            problems.append("no tree network with a level >= 2 was run")
            continue
        units = trees["units"].max()
        last = by_level(trees[trees["units"] == units])
        idle = by_level(control[(control["network"] == "tree") & (control["units"] == units)])
        if idle.empty:
            problems.append(f"no control with {units} units was run")
        problems.append(too_few(last["member"].nunique(), FEWEST_TREES))
        upper = last[last["level"] >= 2]
        effects.append(_gap(upper.groupby("member")[["initial", "value", "ceiling"]].mean()))
        for level, part in upper.groupby("level"):
            after, before, null = (part[c].to_numpy() for c in ("value", "initial", "null"))
            grown, above = (exceeds(after, bound, tests) for bound in (before, null))
            rest = idle[idle["level"] == level]
            still = np.nan
            if len(rest):
                still = exceeds(rest["value"].to_numpy(), rest["initial"].to_numpy(), tests)
            emerges = max(grown, above) < SIGNIFICANCE <= still
            details.append(
                {**setting, "units": int(units), "level": int(level), "emerges": emerges,
                 "p_grown": grown, "p_above_null": above, "p_control_grown": still, "n": len(part)}
            )  # fmt: skip
    emerged = [str(entry["level"]) for entry in details if entry["emerges"]]
    where = ", ".join(emerged)
    if any(problems):
        outcome, reason = "open", "; ".join(dict.fromkeys(filter(None, problems)))
    elif len(emerged) == len(details):
        outcome, reason = "holds", f"latents emerge at every level >= 2 ({where})"
    elif not emerged:
        outcome, reason = "fails", "latents emerge at no level >= 2"
    else:
        outcome, reason = "open", f"latents emerge at level {where} only"
    what = "gap closed, mean over levels >= 2"
    effect = min(effects, key=lambda each: each.value, default=NOTHING)
    return Judgement(outcome, reason, what, effect, details)
