"""Do the latents of a tree emerge in the units of a network that never saw them?

A ReLU network is trained with a contrastive loss on views that share only what the augmentation
keeps of a hierarchical latent tree. Before, during and after, every latent is compared with the
best unit that could stand for it: its own block in a tree network, its whole layer in a dense one.
A number stands beside its initial value (an untrained network is already aligned), its null and
its Bayes ceiling; in the control, views share nothing, and nothing should emerge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.lab.experiment import CellResult, Fixed, Grid, ProgressListener
from dualnets.lab.learning_curves import learning_curves
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    check_augmentation,
)
from dualnets.lab.stats import NOTHING, Estimate, Verdict, exceeds, gap_closed, verdict_of
from dualnets.training.trajectory import describe_frozen, log_spaced, trajectory
from hltm.probe.best_units import PRE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY = "latents emerge in networks trained by contrast"
CLAIM = "The latent variables of a tree emerge in the layers of a network trained by contrast"
REFERENCE = "arXiv 2010.00578, experiments on hierarchical latent tree models"
RESULT_VERSION = 1
CONTROL = "keep-nothing"
SIGNIFICANCE = 0.001
FEWEST_TREES = 13  # the exact test cannot reach the level with fewer


@dataclass(frozen=True, kw_only=True)
class Settings(ProbeSettings, TrainSettings, ContrastSettings, NetworkSettings, TreeSettings):
    """One ensemble: trees, a network on each, a loss, an augmentation, a budget."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augmentation(self.augment, self.build_topology())


_SMOKE: dict[str, list[Any]] = {"depth": [3], "steps": [300], "lr": [0.3], "snapshots": [6]}
_PAPER: dict[str, list[Any]] = {"members": [30], "steps": [10_000], "polarity_low": [0.7, 0.8, 0.9]}
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {**_SMOKE, "units": [2, 5]},
        {**_SMOKE, "network": ["mlp"], "units": [32]},
        {**_SMOKE, "units": [5], "augment": Fixed(CONTROL)},
    ],
    "default": [
        {"units": [2, 5, 10]},
        {"network": ["mlp"], "units": [64]},
        {"units": [10], "augment": Fixed(CONTROL)},
    ],
    "paper": [
        {**_PAPER, "units": [2, 5, 10, 20]},
        {**_PAPER, "network": ["mlp"], "units": [64]},
        {**_PAPER, "units": [20], "augment": Fixed(CONTROL)},
    ],
}
RULE = (
    "For the widest tree network, latents emerge at a level >= 2 if, over trees, the mean best "
    "|correlation| of the level's latents is larger after training than before it and larger than "
    f"its null (Wilcoxon's exact signed-rank test, p < {SIGNIFICANCE} after Bonferroni over levels "
    "and settings), while in the control, whose views share nothing, it is not larger than before. "
    "Holds if they emerge at every such level, fails if at none, open if at some only, without a "
    f"control, or with fewer than {FEWEST_TREES} trees."
)


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble and follow its latents."""
    trees = settings.build_trees()
    steps = log_spaced(settings.steps, settings.snapshots)
    snapshots = trajectory(
        settings.build_network(trees, settings.seed, device),
        settings.build_method(),
        trees,
        **settings.training(),
        seed=settings.seed,
        snapshots=steps,
        progress=progress.updated,
    )
    followed = learning_curves(
        snapshots,
        trees,
        last_step=settings.steps,
        samples=settings.evaluation_samples,
        seed=settings.seed,
        ceilings=settings.build_ceilings(settings.leaves_seen),
        progress=progress,
    )
    frozen = describe_frozen(trees.members, followed.frozen_at)
    return CellResult(
        followed.table,
        {
            "initial": dict(followed.first.named_parameters()),
            "final": dict(followed.last.named_parameters()),
        },
        [frozen] if frozen else [],
    )


# what the table says


def by_level(table: pd.DataFrame, step: str | None = "last") -> pd.DataFrame:
    """Means over the latents of a level: one row per cell, member, level (and step).

    Pre-activations only. Columns: the cell's settings, member, level, step, value, initial, null,
    ceiling.
    """
    found = table[table["metric"] == PRE]
    if step == "last":
        found = found[found["step"] == found["steps"]]
    keys = ["cell", "network", "units", "augment", "member", "level", "step"]
    columns = ["value", "initial", "null", "ceiling"]
    return found.groupby(keys, sort=False)[columns].mean().reset_index()


def groups(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """What belongs together: settings that differ, the rows that share them, their control's rows.

    Groups are told apart by every setting but network, units, and the control's augmentation.
    """
    names = [item.name for item in fields(Settings)]
    others = [
        name
        for name in names
        if name not in ("network", "units") and table[name].nunique() > 1 and name != "augment"
    ]
    control = table["augment"] == CONTROL
    views = table.loc[~control, "augment"].unique()
    shown = [*others, *(["augment"] if len(views) > 1 else [])]
    main = table[~control]
    for key, rows in main.groupby(shown, sort=False) if shown else [((), main)]:
        setting = dict(zip(shown, key, strict=True))
        same = pd.Series(True, index=table.index)
        for name in others:
            same &= table[name] == setting[name]
        yield setting, rows, table[control & same]


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and level: means over trees, gap closed with its 95% interval, blind latents.

    `blind` counts the latents, over all trees, that no candidate follows better than the null.
    """
    last = by_level(table)
    ends = table[(table["metric"] == "blind") & (table["step"] == table["steps"])]
    labels = {
        cell: {name: value for name, value in setting.items() if name != "augment" or rows is main}
        for setting, main, control in groups(table)
        for rows in (main, control)
        for cell in rows["cell"].unique()
    }
    found = []
    for (cell, level), part in last.groupby(["cell", "level"], sort=False):
        first = part.iloc[0]
        closed = gap_closed(*(part[name].to_numpy() for name in ("initial", "value", "ceiling")))
        blind = ends[(ends["cell"] == cell) & (ends["level"] == level)]["value"]
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
                "gap closed": str(closed) if np.isfinite(closed.value) else "at ceiling",
                "blind": f"{int(blind.sum())}/{len(blind)}",
                "n": len(part),
            }
        )
    return pd.DataFrame(found)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE."""
    details, effects = [], []
    problems = []
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
        if last["member"].nunique() < FEWEST_TREES:
            problems.append(f"{last['member'].nunique()} trees are fewer than {FEWEST_TREES}")
        upper = last[last["level"] >= 2]
        pooled = upper.groupby("member")[["initial", "value", "ceiling"]].mean()
        effects.append(gap_closed(*(pooled[c].to_numpy() for c in ("initial", "value", "ceiling"))))
        for level, part in upper.groupby("level"):
            after, before, null = (part[c].to_numpy() for c in ("value", "initial", "null"))
            grown = min(exceeds(after, before) * tests, 1.0)
            above = min(exceeds(after, null) * tests, 1.0)
            rest = idle[idle["level"] == level]
            still = (
                min(exceeds(rest["value"].to_numpy(), rest["initial"].to_numpy()) * tests, 1.0)
                if len(rest)
                else float("nan")
            )
            details.append(
                {
                    **setting,
                    "units": int(units),
                    "level": int(level),
                    "emerges": grown < SIGNIFICANCE
                    and above < SIGNIFICANCE
                    and still >= SIGNIFICANCE,
                    "p_grown": grown,
                    "p_above_null": above,
                    "p_control_grown": still,
                    "n": len(part),
                }
            )
    emerged = [d["emerges"] for d in details]
    effect = effects[0] if len(effects) == 1 else _pool(effects)
    outcome, reason = _decide(details, emerged, problems)
    what = "gap closed, mean over levels >= 2"
    return verdict_of(CLAIM, outcome, RULE, reason, what, effect, details)


def _pool(effects: list[Estimate]) -> Estimate:
    """The smallest effect of several settings: what can be said of all."""
    if not effects:
        return NOTHING
    return min(effects, key=lambda effect: effect.value)


def _decide(details: list[dict[str, Any]], emerged: list[bool], problems: list[str]) -> Any:
    if problems:
        return "open", "; ".join(dict.fromkeys(problems))
    where = ", ".join(str(d["level"]) for d in details if d["emerges"])
    if all(emerged):
        return "holds", f"latents emerge at every level >= 2 ({where})"
    if not any(emerged):
        return "fails", "latents emerge at no level >= 2"
    return "open", f"latents emerge at level {where} only"


def plot(table: pd.DataFrame) -> Figure:
    """The figure: alignment over training, gap closed, the root's distribution, one tree."""
    from dualnets.experiments.emergence._emergence_figure import draw

    return draw(list(groups(table)), by_level)
