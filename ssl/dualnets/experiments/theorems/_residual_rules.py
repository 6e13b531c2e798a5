"""How the claims of `residual` are judged: the residue's rate, and the form as a guide along training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from dualnets.experiments.theorems.residual import ALLOWANCE, GUIDE, ORDER, QUIETEST, USUAL
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, exceeds, mean_interval

NETWORKS = ["network", "loss", "negatives", "units", "weights", "temperature", "depth"]
PATHS = ["network", "loss", "depth", "normalize", "augment", "polarity_low"]


def rate_settings(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of untrained networks: of every network, depth and way in which noise falls, by a name."""
    rows = table[table["steps"] == 0]
    views = rows["augment"].str.partition(":")[0].rename("views")
    for keys, part in rows.groupby([*NETWORKS, views], sort=False):
        at = dict(zip([*NETWORKS, "views"], keys, strict=True))
        weights = f"weights {at['weights']:g}" if at["weights"] else "initial weights"
        shape = "" if at["network"] == "tree" else "dense, "
        loss = "" if at["loss"] == "infonce" else f", {at['loss']}"
        many = "" if at["negatives"] == 1 else f", H {at['negatives']}"
        where = f"{shape}{at['units']} units, {weights}, τ {at['temperature']:g}{loss}{many}"
        yield f"{where}, depth {at['depth']}, {at['views']}", part


def slopes(rows: pd.DataFrame, column: str) -> np.ndarray:
    """One member's slope each: log of a column on the log of the variance, at the quietest levels.

    Members without a residue or with fewer levels than QUIETEST have none and are left out.
    """
    quiet = rows.sort_values("variance").groupby("member").head(QUIETEST)
    quiet = quiet[(quiet[["variance", "residue", column]] > 0).all(axis=1)]
    found = [
        np.polyfit(np.log(part["variance"]), np.log(part[column]), 1)[0]
        for _, part in quiet.groupby("member")
        if len(part) == QUIETEST
    ]
    return np.array(found)


def rates(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Of every setting of trees and layer: the slopes of the residue and of the update itself."""
    return rates_of(rate_settings(table))


def rates_of(settings: Iterable[tuple[str, pd.DataFrame]]) -> list[dict[str, Any]]:
    """Of every named setting and layer: the slopes of the residue and, beside it, of the update itself."""
    layers = [
        (name, int(layer), rows)
        for name, part in settings
        for layer, rows in part[part["layer"] > 0].groupby("layer")
    ]
    return [
        {"where": name, "layer": layer,
         "slope": mean_interval(slopes(rows, "residue"), len(layers)),
         "of_update": mean_interval(slopes(rows, "update"), len(layers))}
        for name, layer, rows in layers
    ]  # fmt: skip


def judge_rate(table: pd.DataFrame) -> Judgement:
    """Apply the rule on the residue's rate to trees."""
    return judged_rates(rates(table))


def judged_rates(found: list[dict[str, Any]], of: str = "trees") -> Judgement:
    """Apply the rule on the residue's rate to `rates_of` some settings; `of`: what members are."""
    least = ORDER - ALLOWANCE
    outcome: Outcome = "open"
    details = [
        {"where": row["where"], "layer": row["layer"], **row["slope"].detail("slope"),
         "slope_of_update": row["of_update"].value}
        for row in found
    ]  # fmt: skip
    decided = [row["slope"] for row in found if row["slope"].n >= FEWEST_TREES]
    smallest = min(decided, key=lambda slope: slope.value, default=NOTHING)
    if not decided or len(decided) < len(found):
        few = len(found) - len(decided)
        reason = f"fewer than {FEWEST_TREES} {of} have a slope in {few} of {len(found)} layers"
    else:
        reason = (
            f"slopes of log |θ| on log variance are {_range(decided, '.3f')} over {len(found)} layers of "
            f"{len({row['where'] for row in found})} settings"
        )
        if all(slope.low > least for slope in decided):
            outcome = "holds"
        elif any(slope.high < least for slope in decided):
            outcome = "fails"
    what = "slope of log |residue| on log variance of the augmentation, smallest over settings and layers"
    return Judgement(outcome, reason, what, smallest, details, of)


def paths(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The rows of all weights of networks in training, by setting."""
    rows = table[(table["steps"] > 0) & (table["layer"] == 0)]
    for keys, part in rows.groupby(PATHS, sort=False):
        yield dict(zip(PATHS, keys, strict=True)), part


def path_name(at: dict[str, Any]) -> str:
    """A setting of training in words."""
    output = "normalised" if at["normalize"] else "raw outputs"
    shape = "" if at["network"] == "tree" else "dense, "
    loss = "" if at["loss"] == "infonce" else f"{at['loss']}, "
    return f"{shape}{loss}depth {at['depth']}, {output}, {at['augment']}, polarity ≥ {at['polarity_low']:g}"


def guides(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Of every setting of training on trees: mean cosines over the path, as `guides_of` finds them."""
    return guides_of(
        (path_name(at), at["polarity_low"] == USUAL, part) for at, part in paths(table)
    )


def guides_of(paths: Iterable[tuple[str, bool, pd.DataFrame]]) -> list[dict[str, Any]]:
    """Mean cosines over every path of training, of the form and of what it competes with.

    Args:
        paths: name, whether it is judged, and the rows of all weights.
    """
    settings = list(paths)
    among = max(sum(judged for _, judged, _ in settings), 1)
    found = []
    for name, judged, part in settings:
        means = part.groupby("member")[["form", "other", "unweighted"]].mean()
        whole = means.dropna(subset=["form", "other"])
        found.append({
            "where": name, "judged": judged,
            **{form: mean_interval(means[form].to_numpy(), among) for form in means},
            "p": exceeds(whole["form"].to_numpy(), whole["other"].to_numpy(), among),
        })  # fmt: skip
    return found


def judge_guide(table: pd.DataFrame) -> Judgement:
    """Apply the rule on the form as a guide along training to trees."""
    return judged_guides(guides(table), f"trees with polarities from {USUAL:g}")


def judged_guides(
    found: list[dict[str, Any]],
    needed: str,
    *,
    other: str = "another tree's views",
    of: str = "trees",
) -> Judgement:
    """Apply the rule on the form as a guide along training.

    Args:
        found: by `guides_of`.
        needed: on how many of what a network must be trained.
        other: what the form competes with.
        of: what members are.
    """
    judged = [row for row in found if row["judged"]]
    competing = f"of {other}".removesuffix("'s views").replace(" ", "_")
    details = [
        {"where": row["where"], "judged": row["judged"], **row["form"].detail("cosine"),
         competing: row["other"].value, "without_weights": row["unweighted"].value, "p": row["p"]}
        for row in found
    ]  # fmt: skip
    what = "mean cosine of the form and the exact update along training, smallest over settings"
    forms = [row["form"] for row in judged]
    smallest = min(forms, key=lambda form: form.value, default=NOTHING)
    if not judged or min(form.n for form in forms) < FEWEST_TREES:
        reason = f"training on at least {FEWEST_TREES} {needed} is needed"
        return Judgement("open", reason, what, smallest, details, of)
    good = [row["form"].low > GUIDE and row["p"] < SIGNIFICANCE for row in judged]
    bad = [form.high < GUIDE for form in forms]
    reason = (
        f"the mean cosine is {_range(forms)} over {len(judged)} settings, above {GUIDE:g} in {sum(good)} and "
        f"below in {sum(bad)}; with {other} it is {_range([row['other'] for row in judged])}"
    )
    outcome: Outcome = "holds" if all(good) else "fails" if any(bad) else "open"
    return Judgement(outcome, reason, what, smallest, details, of)


def _range(estimates: list[Estimate], spec: str = ".2f") -> str:
    low, high = (pick(each.value for each in estimates) for pick in (min, max))
    return f"{low:{spec}} to {high:{spec}}"


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """The short table of a run on trees."""
    made = pd.DataFrame(setting_rows(rates(table), guides(table), "another tree's")).fillna("")
    made.attrs["caption"] = (
        "slopes of logarithms on the log of the augmentation's variance, at the layer with the smallest; "
        "cosines of the exact expected update and the covariance form, mean over training; 95% intervals "
        "over n trees, simultaneous over settings"
    )
    return made


def setting_rows(
    found: list[dict[str, Any]], guiding: list[dict[str, Any]], other: str
) -> list[dict[str, Any]]:
    """One row per setting: the smallest slope of its layers, or the cosines along its training.

    Args:
        found: by `rates_of`.
        guiding: by `guides_of`.
        other: the column of what the form competes with.
    """
    rows = []
    for name in dict.fromkeys(row["where"] for row in found):
        own = [row for row in found if row["where"] == name]
        least = min(own, key=lambda row: row["slope"].value)
        rows.append({
            "setting": name, "slope of |θ|": f"{least['slope']:.3f}",
            "slope of |update|": f"{least['of_update'].value:.2f}", "n": least["slope"].n,
        })  # fmt: skip
    for row in guiding:
        rows.append({
            "setting": row["where"], "cosine": f"{row['form']:.2f}", "n": row["form"].n,
            other: f"{row['other'].value:.2f}", "without ξ": f"{row['unweighted'].value:.2f}",
        })  # fmt: skip
    return rows
