"""The experiment on teachers and students: what students found of their teachers, and the rule applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.objectives.teacher_student import NARROW, WIDE, Settings
from dualnets.lab import ablation_cell
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.specialisation import specialisation
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Judgement,
    Outcome,
    exceeds,
    gap_closed,
    last_step,
    mean_interval,
    too_few,
)
from dualnets.lab.variants import GAP, INTERVALS, by_variant, variant_stats
from hltm.probe.null import LAGS

if TYPE_CHECKING:
    from dualnets.training.trajectory import Snapshot

SPECIALISATION = "specialisation"  # the teacher's units' best correlations, mean over a layer


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble, and measure how much of their teachers the students have found."""
    if settings.method != "teacher-student":
        return ablation_cell.run_cell(settings, device, progress)
    trees, teacher = settings.build_trees(), settings.build_teacher().to(device)

    def found(snapshot: Snapshot) -> pd.DataFrame:
        lags = LAGS if snapshot.step == settings.steps else 0
        units = specialisation(
            snapshot.network, teacher, trees, samples=settings.evaluation_samples,
            seed=settings.seed, lags=lags,
        )  # fmt: skip
        return _rows(units, snapshot.step)

    return ablation_cell.run_cell(settings, device, progress, also=found)


def _rows(units: pd.DataFrame, step: int) -> pd.DataFrame:
    """One row per member and layer, from one per teacher's unit; hidden layers under `hidden`."""
    by_layer = units.groupby(["member", "layer", "candidates"], sort=False)
    rows = by_layer[["value", "null", "n"]].mean().reset_index()
    rows = rows.rename(columns={"layer": "level"})
    rows["node"] = "teacher's layer " + rows["level"].astype(str)
    rows["n"] = rows["n"].astype(int)
    return rows.assign(step=step, metric=SPECIALISATION)


def hidden(rows: pd.DataFrame) -> tuple[Array, Array, Array]:
    """`(S,)` specialisation before and after training, and its null, mean over hidden layers.

    Args:
        rows: of one cell; a teacher of a single layer has no hidden one, and its top layer counts.
    """
    last = last_step(rows)
    found = last[last["metric"] == SPECIALISATION]
    below = found[found["level"] < found["level"].max()]
    means = (below if len(below) else found).groupby("member")[["initial", "value", "null"]].mean()
    before, after, null = (means[name].to_numpy(np.float64) for name in means)
    return before, after, null


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is how much more of its room the widest student closed.

    Details also hold whether the latents of levels >= 2 emerge, without a teacher too.
    """
    details: list[dict[str, Any]] = []
    variants = by_variant(table)
    taught = {
        n: hidden(rows) for n, rows in variants.items() if SPECIALISATION in set(rows["metric"])
    }
    tests = len(taught)
    for name, (before, after, null) in taught.items():
        p = exceeds(after, before, tests)
        closed = gap_closed(before, after, np.ones_like(before), tests)
        details.append(
            {"variant": name, "specialises": p < SIGNIFICANCE, "p_grown": p, "before":
             float(before.mean()), "after": float(after.mean()), "null": float(null.mean()),
             **closed.detail("room_closed")}
        )  # fmt: skip
    students = list(details)
    for name, rows in variants.items():
        latents = variant_stats(rows)
        p = latents.p_grown(len(variants))
        details.append(
            {"variant": name, "latents_emerge": p < SIGNIFICANCE, "p_grown": p,
             **latents.gap.detail("gap_closed"), "spread": float(latents.spread.mean())}
        )  # fmt: skip
    effect = "share of the room to 1 that training closed, widest student less narrowest"
    if not {NARROW, WIDE} <= {*taught}:
        reason = f"{NARROW} and {WIDE} were not both run"
        return Judgement("open", reason, effect, NOTHING, details)
    narrow, wide = (
        (after - before) / (1 - before) for before, after, _ in (taught[NARROW], taught[WIDE])
    )
    if len(wide) != len(narrow):
        raise ValueError(f"{NARROW} and {WIDE} must be run on the same trees")
    lead = mean_interval(wide - narrow)
    p_more, p_less = exceeds(wide, narrow), exceeds(narrow, wide)
    details.append(
        {"variant": f"{WIDE} - {NARROW}", **lead.detail("room_closed"), "p_more": p_more,
         "p_less": p_less}
    )  # fmt: skip
    yes = [student["variant"] for student in students if student["specialises"]]
    outcome: Outcome = "open"
    reason = f"hidden units specialise with {', '.join(yes) or 'no student'}"
    if few := too_few(lead.n):
        reason = few
    elif not yes and all(student["high"] < NEGLIGIBLE for student in students):
        outcome, reason = "fails", f"{reason}, and each closes less than {NEGLIGIBLE} of its room"
    elif p_less < SIGNIFICANCE:
        outcome, reason = "fails", f"{reason}, the widest less so"
    elif p_more >= SIGNIFICANCE:
        reason += ", the widest not more so"
    elif len(yes) == len(taught):
        outcome, reason = "holds", f"{reason}, the widest more so"
    return Judgement(outcome, reason, effect, lead, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the teacher's hidden units, the latents, spread, rank, n."""
    found = []
    for name, rows in by_variant(table).items():
        upper = variant_stats(rows)
        units = {"found before": "-", "found": "-", "null": "-"}
        if SPECIALISATION in set(rows["metric"]):
            before, after, null = hidden(rows)
            means = [mean_interval(values).brief for values in (before, after)]
            units = dict(zip(units, [*means, f"{null.mean():.2f}"], strict=True))
        found.append({"variant": name, **units, GAP: str(upper.gap), **upper.collapse_columns})
    made = pd.DataFrame(found)
    made.attrs["caption"] = f"found: best correlation with a teacher's unit; {INTERVALS}"
    return made
