"""Rules about losses beside those of filtered trees, and about the layers that levels are read in.

Every rule reads the table of a run, whose rows `_losses` makes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dualnets.experiments.prediction._loss_claims import ATTAINED, LITTLE_ORDER, READ, SLOWER
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
from dualnets.lab.time_to_threshold import (
    later,
    median_ratio,
    median_time,
    member_times,
    time_in_words,
)
from dualnets.lab.variants import at_once, by_variant

LOSS, DISTANCE, READOUT = "loss", "distance", "linear_probe"
NARROW = (
    0.15  # half of a band's width, as a share of the smaller of the gaps beside a filtered loss
)
LEAST_GAP = (
    0.05  # nats between independent leaves and the Bayes loss: below it nothing can be learnt
)


def means(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Member -> value, initial, null and ceiling of a metric, mean over its rows."""
    kept = rows[rows["metric"] == metric]
    return kept.groupby("member")[["value", "initial", "null", "ceiling"]].mean()


def attained(rows: pd.DataFrame) -> Array:
    """`(S,)` shares of the way from the loss of independent leaves to the Bayes loss."""
    found = means(rows, LOSS)
    share = (found["null"] - found["value"]) / (found["null"] - found["ceiling"])
    return share.to_numpy(np.float64)


def attained_by_part(table: pd.DataFrame, *, places: bool = False) -> dict[str, Array]:
    """Variant, or leaf at which something can be learnt, -> `(S,)` shares at the last step."""
    found = {}
    for name, every in by_variant(table).items():
        last = last_step(every)
        if not places:
            found[name] = attained(last)
            continue
        for node, rows in last[last["metric"] == LOSS].groupby("node", sort=False):
            if (rows["null"] - rows["ceiling"]).mean() > LEAST_GAP:
                found[f"{name}, leaf {node}"] = attained(rows)
    return found


def judge_attained(table: pd.DataFrame, *, places: bool = False) -> Judgement:
    """Whether every part attains ATTAINED of the way; the effect is the smallest share."""
    shares = attained_by_part(table, places=places)
    kind = "leaves" if places else "variants"
    found = {name: mean_interval(own, len(shares)) for name, own in shares.items()}
    effect = f"smallest share of the way to the Bayes loss{at_once(len(found))}"
    if not found:
        return Judgement("open", f"no {kind} with something to learn were run", effect, NOTHING, [])
    details = [{"part": name, **each.detail("share")} for name, each in found.items()]
    short = [name for name, each in found.items() if not each.low > ATTAINED]
    below = [name for name, each in found.items() if each.high < ATTAINED]
    outcome: Outcome = "open"
    reason = f"{len(found) - len(short)} of {len(found)} {kind} attain more than {ATTAINED:g}"
    if few := _obstacle(shares):
        reason = few
    elif below:
        outcome, reason = "fails", f"{reason}; below it: {', '.join(below)}"
    elif not short:
        outcome = "holds"
    smallest = min(found.values(), key=lambda each: each.value)
    return Judgement(outcome, reason, effect, smallest, details)


def attained_estimates(table: pd.DataFrame, *, places: bool = False) -> dict[str, Estimate]:
    """What must be flat: the shares at the last step."""
    return {
        name: mean_interval(own) for name, own in attained_by_part(table, places=places).items()
    }


def _obstacle(values: dict[str, Array]) -> str:
    """Why values `(S,)` decide nothing: too few trees, or some that are not finite."""
    lost = max(int((~np.isfinite(own)).sum()) for own in values.values())
    return too_few(min(map(len, values.values()))) or (f"{lost} trees diverged" if lost else "")


class Stages(NamedTuple):
    """The course of training between filtered trees.

    Attributes:
        steps: `(T,)` updates, those before the first left out.
        distances: `(L + 1, S, T)` from the predictor of every level.
        filtered: `(L + 1, S)` losses of filtered trees in excess of the Bayes loss.
        times: level from 1 -> `(S,)` updates from which its predictor is nearer than all others; infinite
            where it never is.
    """

    steps: list[int]
    distances: Array
    filtered: Array
    times: dict[int, Array]

    def slowness(self, level: int) -> Array:
        """`(S,)` log of how much longer the loss stays near a filtered loss than half-way to its neighbours.

        Bands are of equal width; their times are in the logarithm of updates. NaN where the loss does not
        get through all three.
        """
        above, here, below = (
            self.filtered[level - 1],
            self.filtered[level],
            self.filtered[level + 1],
        )
        half = NARROW * np.minimum(above - here, here - below)

        def stay(middle: Array) -> Array:
            curve = -self.distances[-1]
            into, out = (member_times(self.steps, curve, -middle + d) for d in (-half, half))
            with np.errstate(invalid="ignore", divide="ignore"):
                stayed = np.log(out) - np.log(into)
            return np.where(np.isfinite(stayed) & (stayed > 0), stayed, np.nan)

        beside = np.log(stay((above + here) / 2)) / 2 + np.log(stay((here + below) / 2)) / 2
        found: Array = np.log(stay(here)) - beside
        return found


def stages(rows: pd.DataFrame) -> Stages:
    """The course of one variant."""
    kept = rows[rows["metric"] == DISTANCE].sort_values(["level", "member", "step"])
    steps = [int(step) for step in sorted(kept["step"].unique()) if step > 0]
    kept = kept[kept["step"] > 0]
    levels, members = kept["level"].nunique(), kept["member"].nunique()
    shape = levels, members, len(steps)
    distances = kept["value"].to_numpy(np.float64).reshape(shape)
    times = {}
    for level in range(1, levels):
        others = np.delete(distances, level, 0).min(0)
        times[level] = member_times(steps, others - distances[level], np.zeros(members))
    return Stages(steps, distances, kept["null"].to_numpy(np.float64).reshape(shape)[..., 0], times)


def judge_order(table: pd.DataFrame) -> Judgement:
    """Whether filtered trees are nearest one after the other; the effect is the smallest median ratio."""
    effect, details, ratios = "smallest median ratio of times of consecutive levels", [], []
    courses = {name: stages(rows) for name, rows in by_variant(table).items()}
    tests = sum(len(course.times) - 1 for course in courses.values())
    wrong, missing, right = [], [], 0
    for name, course in courses.items():
        last, times = course.steps[-1], course.times
        for level in list(times)[:-1]:
            pair = times[level + 1], times[level]
            after, before = later(*pair, tests), later(*pair[::-1], tests)
            ratios.append(median_ratio(*pair, last, tests))
            part = f"{name}, levels {level} and {level + 1}"
            right += after < SIGNIFICANCE
            wrong += [part] if before < SIGNIFICANCE else []
            details.append({
                "part": part, "times": " and ".join(time_in_words(median_time(t), last) for t in pair[::-1]),
                **ratios[-1].detail("ratio"), "p_later": after, "p_earlier": before,
            })  # fmt: skip
        missing += [
            f"{name}, level {level}"
            for level, own in times.items()
            if np.isinf(median_time(own, len(times)).low)
        ]
    if not ratios:
        return Judgement("open", "no two levels were run", effect, NOTHING, [])
    outcome: Outcome = "open"
    reason = f"the higher level's filtered tree is nearest later for {right} of {tests} pairs"
    if few := too_few(min(each.n for each in ratios)):
        reason = few
    elif wrong or missing:
        outcome = "fails"
        parts = [("earlier", wrong), ("never nearest with most trees", missing)]
        reason += "".join(f"; {what}: {', '.join(names)}" for what, names in parts if names)
    elif right == tests:
        outcome = "holds"
    return Judgement(outcome, reason, effect, min(ratios, key=lambda each: each.value), details)


def judge_steps(table: pd.DataFrame) -> Judgement:
    """Whether the loss is slower at filtered losses; the effect is the smallest mean log ratio of times."""
    effect = "smallest mean logarithm of the ratio of times, at a filtered loss and beside it"
    values = {
        f"{name}, level {level}": course.slowness(level)
        for name, course in ((name, stages(rows)) for name, rows in by_variant(table).items())
        for level in list(course.times)[:-1]
    }
    if not values:
        return Judgement("open", "no level below the highest was run", effect, NOTHING, [])
    found = {name: mean_interval(own, len(values)) for name, own in values.items()}
    p_more = {
        name: exceeds(own[np.isfinite(own)], 0.0, len(values)) for name, own in values.items()
    }
    p_less = {
        name: exceeds(0 - own[np.isfinite(own)], 0.0, len(values)) for name, own in values.items()
    }
    details = [
        {
            "part": name,
            **found[name].detail("log_ratio"),
            "p_slower": p_more[name],
            "p_faster": p_less[name],
        }
        for name in values
    ]
    enough = [name for name, each in found.items() if not too_few(each.n)]
    slower = [name for name in enough if p_more[name] < SIGNIFICANCE]
    no_step = [
        name for name in enough if p_less[name] < SIGNIFICANCE or found[name].high < np.log(SLOWER)
    ]
    outcome: Outcome = "open"
    reason = f"slower at {len(slower)} of {len(values)} filtered losses"
    if no_step:
        outcome, reason = "fails", f"{reason}; no step at {', '.join(no_step)}"
    elif len(slower) == len(values):
        outcome = "holds"
    elif len(enough) < len(values):
        few = [f"{name}, n = {found[name].n}" for name in values if name not in enough]
        reason += f"; too few trees get through the bands of {'; '.join(few)}"
    return Judgement(
        outcome, reason, effect, min(found.values(), key=lambda each: each.value), details
    )


def readouts(rows: pd.DataFrame, column: str = "value") -> tuple[Array, list[int], list[str]]:
    """`(S, L, layers)` readouts of a variant at its last step, with the levels and the layers."""
    kept = last_step(rows)
    kept = kept[kept["metric"] == READOUT].sort_values(["member", "level", "node"])
    levels, layers = sorted(kept["level"].unique()), sorted(kept["node"].unique())
    values = kept[column].to_numpy(np.float64).reshape(-1, len(levels), len(layers))
    return values, [int(level) for level in levels], layers


def rank_correlations(rows: pd.DataFrame) -> Array:
    """`(S,)` Kendall's tau-b of levels and the first layers that read them nearly best; 0 for all ties."""
    from scipy.stats import kendalltau

    values, levels, _ = readouts(rows)
    first = (values >= READ * values.max(-1, keepdims=True)).argmax(-1)  # (S, L)
    found = [
        kendalltau(levels, own).statistic if len(set(own)) > 1 else 0.0 for own in first.tolist()
    ]
    taus = np.array(found, np.float64)
    taus[~np.isfinite(values).all((1, 2))] = np.nan
    return taus


def judge_layers(table: pd.DataFrame) -> Judgement:
    """Whether higher levels are read in higher layers; the effect is the smallest mean rank correlation."""
    effect = "smallest mean rank correlation of level and layer"
    variants = by_variant(table[table["metric"].isin([READOUT])])
    values = {name: rank_correlations(rows) for name, rows in variants.items()}
    if not values:
        return Judgement("open", "no layers were read", effect, NOTHING, [])
    found = {name: mean_interval(own, len(values)) for name, own in values.items()}
    p_more = {name: exceeds(own, 0.0, len(values)) for name, own in values.items()}
    details: list[dict[str, Any]] = [
        {"part": name, **found[name].detail("tau"), "p_above": p_more[name]} for name in values
    ]
    for name, rows in variants.items():
        matrix, levels, layers = readouts(rows)
        details += [
            {"part": f"{name}, level {level}, {layer}", **mean_interval(matrix[:, i, j]).detail("readout")}
            for i, level in enumerate(levels) for j, layer in enumerate(layers)
        ]  # fmt: skip
    outcome: Outcome = "open"
    reason = "; ".join(f"{name}: {each:.2f}" for name, each in found.items())
    if few := _obstacle(values):
        reason = few
    elif any(each.high < LITTLE_ORDER for each in found.values()):
        outcome = "fails"
    elif all(p < SIGNIFICANCE for p in p_more.values()):
        outcome = "holds"
    return Judgement(
        outcome, reason, effect, min(found.values(), key=lambda each: each.value), details
    )


def rank_estimates(table: pd.DataFrame) -> dict[str, Estimate]:
    """What must be flat: the rank correlations at the last step at which layers were read."""
    variants = by_variant(table[table["metric"] == READOUT])
    return {name: mean_interval(rank_correlations(rows)) for name, rows in variants.items()}
