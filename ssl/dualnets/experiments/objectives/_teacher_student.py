"""The experiment on teachers and students: what students found of their teachers, and the rules applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.objectives.teacher_student import ALIKE, EACH, MOST, REPRODUCED
from dualnets.lab.ablation_cell import collapse_rows
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import snapshot_steps
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.specialisation import specialisation
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
from dualnets.lab.tidy import tidy
from dualnets.lab.time_to_threshold import (
    later,
    median_ratio,
    median_time,
    member_times,
    time_in_words,
)
from dualnets.lab.variants import INTERVALS, by_variant
from dualnets.training.trajectory import describe_frozen, trajectory
from hltm.probe.null import LAGS
from hltm.sampling.philox import Stream

if TYPE_CHECKING:
    from dualnets.experiments.objectives.teacher_student import Settings
    from dualnets.methods.protocol import Method
    from dualnets.training.trajectory import Snapshot
    from hltm.tree import LatentTree

SPECIALISATION = "specialisation"  # the teacher's units' best correlations, mean over a layer
FOUND = "found"  # share of a layer's units of the teacher whose best correlation is above ALIKE
UNEXPLAINED = "unexplained"  # 1 - R² of the teacher's outputs
LOWEST = 1


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble, and measure how much of their teachers the students have found."""
    trees, method = settings.build_trees(), settings.build_method()
    teacher, steps = settings.build_teacher().to(device), settings.steps
    snapshots = trajectory(
        settings.build_network(trees, settings.seed, device), method, trees, seed=settings.seed,
        snapshots=snapshot_steps(settings), progress=progress.updated, **settings.training(),
    )  # fmt: skip
    parts = []
    for snapshot in snapshots:
        units = specialisation(
            snapshot.network, teacher, trees, samples=settings.evaluation_samples, seed=settings.seed,
            lags=LAGS if snapshot.step == steps else 0,
        )  # fmt: skip
        found = _by_layer(units)
        parts += [
            found.assign(step=snapshot.step),
            _unexplained(snapshot, method, teacher, trees, settings),
            collapse_rows(snapshot, method, trees, settings.seed),
        ]
        means = found[found["metric"] == SPECIALISATION].groupby("level")["value"].mean()
        progress.probed(snapshot.step, {int(level): mean for level, mean in means.items()})
    table = pd.concat(parts, ignore_index=True)
    by_curve = table.groupby(["metric", "node", "member"], sort=False)["value"]
    table["initial"] = by_curve.transform("first")
    frozen = describe_frozen(trees.members, snapshot.frozen_at)
    network = dict(snapshot.network.named_parameters())
    return CellResult(table, {"final": network}, [frozen] if frozen else [])


def _by_layer(units: pd.DataFrame) -> pd.DataFrame:
    """One row per member, layer and metric (SPECIALISATION, FOUND), from one per teacher's unit."""
    units = units.assign(found=(units["value"] > ALIKE).astype(float).where(units["value"].notna()))
    by_layer = units.groupby(["member", "layer", "candidates"], sort=False)
    means = by_layer[["value", "null", "found", "n"]].mean().reset_index()
    means = means.rename(columns={"layer": "level"}).astype({"n": int})
    means["node"] = "teacher's layer " + means["level"].astype(str)
    found = means.assign(metric=FOUND, value=means["found"], null=np.nan)
    return pd.concat([means.assign(metric=SPECIALISATION), found]).drop(columns="found")


@torch.no_grad()
def _unexplained(
    snapshot: Snapshot, method: Method, teacher: Any, trees: LatentTree, settings: Settings
) -> pd.DataFrame:
    """One row per member: the student's squared error over the variance of the teacher's outputs."""
    samples, network = settings.evaluation_samples, snapshot.network
    draw = trees.draw(samples, seed=settings.seed, stream=Stream.EVALUATION)
    leaves = draw.leaves.to(network.device)
    wanted = teacher(leaves).double()  # (S, B, U)
    error = method.embedding(network, snapshot.state, leaves).double() - wanted
    variance = wanted.var(1, correction=0).sum(-1)
    share = (error.square().mean(1).sum(-1) / variance).cpu()
    index = {"member": trees.members, "step": snapshot.step, "level": teacher.depth,
             "node": "teacher's outputs", "metric": UNEXPLAINED, "candidates": "all"}  # fmt: skip
    return tidy(index, {"value": share, "n": samples})


def of_trees(rows: pd.DataFrame, metric: str, level: int | None = LOWEST) -> pd.DataFrame:
    """The numbers of one cell at its last step, by member: columns value, initial, null.

    Args:
        level: a layer; None for all that have the metric, of which it is the mean.
    """
    now = last_step(rows)
    kept = now[(now["metric"] == metric) & ((level is None) | (now["level"] == level))]
    return kept.groupby("member")[["value", "initial", "null"]].mean()


def reproduced(rows: pd.DataFrame) -> pd.Series:
    """By member, bool: whose student leaves less than REPRODUCED of its teacher's variance unexplained."""
    return of_trees(rows, UNEXPLAINED, None)["value"] < REPRODUCED


def judge_specialisation(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the share of the teacher's units that is found."""
    effect = (
        "share of the units of the teacher's lowest layer found by wider students that reproduce it"
    )
    details: list[dict[str, Any]] = []
    for name, rows in by_variant(table).items():
        found, alike, kept = of_trees(rows, FOUND), of_trees(rows, SPECIALISATION), reproduced(rows)
        details.append(
            {"variant": name, "reproduced": int(kept.sum()), "of": len(kept),
             **mean_interval(found["value"][kept].to_numpy()).detail("found_where_reproduced"),
             "found": float(found["value"].mean()), "found_before": float(found["initial"].mean()),
             "correlation": float(alike["value"].mean()), "null": float(alike["null"].mean()),
             "correlation_before": float(alike["initial"].mean())}
        )  # fmt: skip
    if not details:
        return Judgement("open", "no wider student was run", effect, NOTHING, details)
    (share,) = share_found(table).values()
    outcome: Outcome = "open"
    if few := too_few(share.n):
        return Judgement(outcome, f"{few}, where the teacher is reproduced", effect, share, details)
    if share.low > EACH:
        outcome = "holds"
    elif share.high < MOST:
        outcome = "fails"
    reason = f"{share.value:.1%} of the units are found on the {share.n} trees that count"
    return Judgement(outcome, reason, effect, share, details)


def times(rows: pd.DataFrame) -> Array:
    """`(S,)` updates until half of the teacher's units of the lowest layer are found; inf for never."""
    lowest = rows[(rows["metric"] == FOUND) & (rows["level"] == LOWEST)]
    curves = lowest[lowest["step"] > 0].pivot(index="member", columns="step", values="value")
    return member_times(curves.columns, curves, np.full(len(curves), 0.5))


def judge_width(table: pd.DataFrame, *, narrow: str, wide: str) -> Judgement:
    """Apply the rule; the effect is the median ratio of times, the last step standing for later ones.

    Args:
        table: of a run.
        narrow, wide: the variants that are compared.
    """
    effect = (
        f"updates to half of the units, median ratio of {narrow} to {wide} (never: the last update)"
    )
    variants = by_variant(table)
    all_times = {name: times(rows) for name, rows in variants.items()}
    details: list[dict[str, Any]] = [
        {"variant": name, **median_time(found).detail("half_found_at"),
         "never": int(np.isinf(found).sum())}
        for name, found in all_times.items()
    ]  # fmt: skip
    if not {narrow, wide} <= {*all_times}:
        return Judgement("open", f"{narrow} and {wide} were not both run", effect, NOTHING, details)
    slow, fast = all_times[narrow], all_times[wide]
    if len(slow) != len(fast):
        raise ValueError(f"{narrow} and {wide} must be run on the same trees")
    last = float(table["step"].max())
    ratio = median_ratio(slow, fast, last)
    p_later, p_earlier = later(slow, fast), later(fast, slow)
    details.append({"variant": f"{narrow} / {wide}", "p_later": p_later, "p_earlier": p_earlier})
    outcome: Outcome = "open"
    if reason := too_few(ratio.n):
        pass
    elif p_later < SIGNIFICANCE:
        outcome, reason = "holds", f"later with {narrow} than with {wide}"
    elif p_earlier < SIGNIFICANCE:
        outcome, reason = "fails", f"earlier with {narrow} than with {wide}"
    else:
        reason = f"neither later nor earlier with {narrow} than with {wide}"
    return Judgement(outcome, reason, effect, ratio, details)


def share_found(table: pd.DataFrame) -> Mapping[str, Estimate]:
    """What is judged, and must be flat: the share found at the last step on the trees that count by then."""
    counted = [
        of_trees(rows, FOUND)["value"][reproduced(rows)] for rows in by_variant(table).values()
    ]
    trees = pd.concat(counted or [pd.Series(dtype=float)]).groupby(level=0).mean()
    return {"students that reproduce their teachers": mean_interval(trees.to_numpy())}


def headline(table: pd.DataFrame) -> str:
    """A few words about a finished cell."""
    found, share = of_trees(table, FOUND), of_trees(table, UNEXPLAINED, None)
    return f"found {found['value'].mean():.2f}, unexplained {share['value'].median():.3f}"


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per student: what it reproduces and what it found of the lowest layer, and how many trees."""
    made = []
    for name, rows in by_variant(table).items():
        alike, found, kept = of_trees(rows, SPECIALISATION), of_trees(rows, FOUND), reproduced(rows)
        made.append(
            {
                "variant": name,
                "unexplained (median)": f"{of_trees(rows, UNEXPLAINED, None)['value'].median():.4f}",
                "reproduced": f"{kept.sum()} of {len(kept)}",
                "found before": f"{found['initial'].mean():.2f}",
                "found": mean_interval(found["value"].to_numpy()).brief,
                "found where reproduced": mean_interval(found["value"][kept].to_numpy()).brief,
                "half found at": time_in_words(median_time(times(rows)), rows["step"].max()),
                "correlation before": f"{alike['initial'].mean():.2f}",
                "correlation": mean_interval(alike["value"].to_numpy()).brief,
                "null": f"{alike['null'].mean():.2f}",
                "n": len(kept),
            }
        )
    table = pd.DataFrame(made)
    table.attrs["caption"] = (
        f"reproduced: less than {REPRODUCED:.0%} of the variance of the teacher's outputs unexplained; "
        "found: "
        f"share of the teacher's units of the lowest layer with a correlation above {ALIKE} with a student's "
        f"unit; half found at: updates, median; correlation: the best one, mean over these units; {INTERVALS}"
    )
    return table
