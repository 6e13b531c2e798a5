"""The experiment on augmentations: the share of every latent in what survives, and the rules applied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.emergence.augmentation import MINIMUM
from dualnets.lab import ablation_cell
from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    mean_interval,
    too_few,
)
from dualnets.lab.tidy import tidy
from dualnets.lab.variants import ALIGNMENT, at_once, by_variant, variant_stats
from dualnets.theory.hierarchy.surviving_share import surviving_share

SHARE, CORRELATION = "surviving_share", "view_correlation"
DIGITS = 9  # to which shares are equal, so that latents of equal shares have equal ranks
LATENT = ["level", "member", "node"]


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble; two more columns hold the share of each latent and its correlation in two views."""
    outcome = ablation_cell.run_cell(settings, device, progress)
    trees, augmentation = settings.build_trees(), settings.build_augmentation()
    nodes = list(trees.latents)
    shared = tidy(
        {"member": trees.members, "node": [trees.topology.names[v] for v in nodes]},
        {
            SHARE: surviving_share(trees, augmentation),
            CORRELATION: trees.view_correlation(nodes, augmentation),
        },
    )
    table = outcome.table.merge(shared, on=["member", "node"], how="left")
    return replace(outcome, table=table)


def growths(table: pd.DataFrame) -> pd.DataFrame:
    """The latents of a run, one row per variant and latent.

    Columns: variant, level, member, node, share, shared (the correlation of its states in two views),
    initial, ceiling, growth (of the best |correlation|, the mean over all snapshots after the first) and
    gain (at the last).
    """
    parts = []
    for name, rows in by_variant(table).items():
        scored = rows[rows["metric"].isin(ALIGNMENT) & (rows["step"] > 0)].sort_values("step")
        grown = scored.assign(growth=scored["value"] - scored["initial"]).groupby(LATENT)
        found = grown[["initial", "ceiling", SHARE, CORRELATION]].first()
        found["growth"], found["gain"] = grown["growth"].mean(), grown["growth"].last()
        parts.append(found.reset_index().assign(variant=name))
    made = pd.concat(parts, ignore_index=True).rename(
        columns={SHARE: "share", CORRELATION: "shared"}
    )
    made["share"] = made["share"].fillna(0.0).round(DIGITS)
    return made


def within_level(found: pd.DataFrame) -> pd.DataFrame:
    """`(trees, augmentations)` partial rank correlation of share and growth among latents of a level.

    Given the initial alignment and its ceiling: ranks within a level and tree are centred, those of share and
    growth are each freed of their regression on the two others, tree by tree, and correlated.

    Args:
        found: as `growths` gives them; the levels between the first and the root's count.

    Returns:
        Rows are members, columns variants whose latents of one level have different shares; NaN where the
        two that are given determine share or growth.
    """
    kept = found[(found["level"] >= 2) & (found["level"] < found["level"].max())]
    groups = ["variant", "member", "level"]
    differ = kept.groupby(groups)["share"].transform("nunique") > 1
    kept = kept[differ.groupby(kept["variant"]).transform("any")]
    columns = ["share", "growth", "initial", "ceiling"]
    ranks = kept.groupby(groups)[columns].rank()
    ranks -= ranks.groupby([kept[key] for key in groups]).transform("mean")
    each = {
        key: _partial(own.to_numpy())
        for key, own in ranks.groupby([kept["member"], kept["variant"]])
    }
    return pd.Series(each, dtype=float).unstack() if each else pd.DataFrame()


def _partial(columns: Array) -> float:
    """The correlation of the first two of centred columns `(N, 4)`, given the others; NaN if undefined."""
    pair, given = columns[:, :2], columns[:, 2:]
    pair = pair - given @ np.linalg.lstsq(given, pair, rcond=None)[0]
    size = float(np.sqrt((pair**2).sum(0).prod()))
    return float(pair[:, 0] @ pair[:, 1]) / size if size > 1e-9 else float("nan")


def following(found: pd.DataFrame, by: str = "share") -> dict[int, Array]:
    """Level -> `(S,)` rank correlation, over augmentations, of a latent's share with its gain.

    Args:
        found: as `growths` gives them.
        by: the column that is compared with the gain.
    """
    kept = found[found["level"] >= min(2, found["level"].max())]
    ranks = kept.assign(share=kept[by].round(DIGITS)).groupby(LATENT)[["share", "gain"]].rank()
    keys = [kept[key] for key in LATENT]
    ranks -= ranks.groupby(keys).transform("mean")
    x, y = ranks["share"], ranks["gain"]
    sums = pd.DataFrame({"xy": x * y, "xx": x**2, "yy": y**2}).groupby(keys).sum()
    size = np.sqrt(sums["xx"] * sums["yy"])
    each = (sums["xy"] / size.where(size > 0)).dropna()
    trees = each.groupby(["level", "member"]).mean()
    return {int(level): own.to_numpy() for level, own in trees.groupby("level")}


def judge_within(table: pd.DataFrame) -> Judgement:
    """Apply the rule `WITHIN`; the effect is the mean rank correlation over trees.

    Details have every augmentation's, and the same of shares of another tree (of the next member), which
    cannot follow growth.
    """
    found = growths(table)
    effect = (
        "rank correlation, within a level, of share and growth, given initial value and ceiling"
    )
    each = within_level(found)
    if each.empty:
        reason = "no augmentation gives the latents of one level different shares"
        return Judgement("open", reason, effect, NOTHING, [])
    numbers = each.mean(axis=1).to_numpy()
    mean, p = mean_interval(numbers), exceeds(numbers, 0.0)
    details = [_of_augmentation(str(name), own.to_numpy()) for name, own in each.items()]
    members = sorted(set(found["member"]))
    after = dict(zip(members, [*members[1:], members[0]], strict=True))
    columns = [*LATENT, "variant"]
    others = found[[*columns, "share"]].replace({"member": after})
    swapped = found.drop(columns="share").merge(others, on=columns)
    placebo = within_level(swapped).mean(axis=1).to_numpy()
    details.append(_of_augmentation("shares of another tree", placebo))
    outcome: Outcome = "open"
    reason = too_few(mean.n)
    if reason:
        pass
    elif mean.high < NEGLIGIBLE:
        outcome, reason = "fails", f"growth does not follow the share: below {NEGLIGIBLE}"
    elif p < SIGNIFICANCE:
        outcome, reason = "holds", f"growth follows the share (p = {p:.1g})"
    else:
        reason = f"growth is not shown to follow the share (p = {p:.2g})"
    return Judgement(outcome, reason, effect, mean, details)


def _of_augmentation(name: str, values: Array) -> dict[str, Any]:
    """A part of the verdict's details, from one rank correlation per tree."""
    p = exceeds(values, 0.0)
    return {"augmentation": name, "p": p, **mean_interval(values).detail("rank_correlation")}


def between_levels(table: pd.DataFrame) -> dict[str, Estimate]:
    """The rank correlation over augmentations at the table's last step, per level."""
    found = following(growths(table))
    return {f"level {level}": mean_interval(values) for level, values in found.items()}


def judge_between(table: pd.DataFrame) -> Judgement:
    """Apply the rule `BETWEEN`; the effect is the smallest mean rank correlation of all levels."""
    found = growths(table)
    levels = following(found)
    beside = following(found, "shared")
    effect = "smallest rank correlation, over augmentations, of a latent's share with its gain"
    effect += at_once(len(levels))
    if not levels:
        return Judgement("open", "all augmentations give the same shares", effect, NOTHING, [])
    details: list[dict[str, Any]] = []
    for level, values in levels.items():
        p_more, p_less = (exceeds(sign * values, 0.0, len(levels)) for sign in (1, -1))
        mean = mean_interval(values, len(levels))
        result = "neither"
        if p_more < SIGNIFICANCE and mean.value >= MINIMUM:
            result = "follows"
        elif p_less < SIGNIFICANCE and mean.value <= -MINIMUM:
            result = "opposes"
        other = float(beside[level].mean()) if level in beside else float("nan")
        details.append(
            {"level": level, "result": result, "p_more": p_more, "p_less": p_less,
             **mean.detail("rank_correlation"), "rank_correlation_with_what_two_views_share": other}
        )  # fmt: skip
    smallest = min(
        (Estimate(d["rank_correlation"], d["low"], d["high"], d["n"]) for d in details),
        key=lambda each: each.value,
    )
    at = {
        result: ", ".join(str(d["level"]) for d in details if d["result"] == result)
        for result in ("follows", "opposes")
    }
    outcome: Outcome = "open"
    reason = too_few(smallest.n) or f"the gain follows the share at level {at['follows'] or '–'}"
    if not too_few(smallest.n):
        if at["opposes"]:
            outcome, reason = "fails", f"the gain runs against the share at level {at['opposes']}"
        elif all(d["result"] == "follows" for d in details):
            outcome = "holds"
    return Judgement(outcome, reason, effect, smallest, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per augmentation: shares and gains of low latents and of the root, and the gap closed."""
    found = growths(table)
    means = found.groupby(["variant", "level"])[["share", "gain"]].mean()
    shown = []
    for name, rows in by_variant(table).items():
        upper = variant_stats(rows)
        top = int(rows["level"].max())
        levels = {f"level {level}": level for level in sorted({2, (2 + top) // 2}) if level < top}
        row: dict[str, Any] = {"variant": name}
        for of, level in {**levels, "root": top}.items():
            row[f"{of} share"] = f"{means.loc[(name, level), 'share']:.2f}"
            row[f"{of} gain"] = mean_interval(variant_stats(rows, [level]).gain).brief
        shown.append(
            row | {"gap closed": str(upper.gap).replace("0.", "."), **upper.collapse_columns}
        )
    made = pd.DataFrame(shown)
    trees = ", ".join(map(str, sorted(set(made["n"]))))
    made.attrs["caption"] = (
        f"means over n = {trees} trees; share: of the latent in what survives the average over "
        "augmentations; gain: of its best |correlation|; gap closed, levels >= 2; ± and [ ]: 95% intervals "
        "over trees"
    )
    return made.drop(columns="n")
