"""The experiment on augmentations: what views share, what emerges, and the rule applied."""

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
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    last_step,
    mean_interval,
    too_few,
)
from dualnets.lab.tidy import tidy
from dualnets.lab.variants import ALIGNMENT, at_once, by_variant, variant_stats

CORRELATION, INFORMATION = "view_correlation", "view_information"
FAMILIES = {
    "level kept": "keep-level",
    "leaves": "resample-leaves",
    "subtrees": "resample-subtrees",
}


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble; two more columns hold what two views share of each latent."""
    outcome = ablation_cell.run_cell(settings, device, progress)
    trees = settings.build_trees()
    augmentation = settings.build_augmentation()
    nodes = list(trees.latents)
    shared = tidy(
        {"member": trees.members, "node": [trees.topology.names[v] for v in nodes]},
        {
            CORRELATION: trees.view_correlation(nodes, augmentation),
            INFORMATION: trees.view_information(nodes, augmentation),
        },
    )
    table = outcome.table.merge(shared, on=["member", "node"], how="left")
    return replace(outcome, table=table)


def family_of(augment: str) -> str:
    """The family of an augmentation's name; empty for one that stands alone."""
    kind = augment.partition(":")[0].replace("keep-root", "keep-level")
    return next((name for name, own in FAMILIES.items() if own == kind), "")


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The latents after training: variant, family, member, level, node, shared, value, initial, ceiling.

    `shared` is the mutual information, in nats, of the latent's states in two views.
    """
    columns = ["member", "level", "node", INFORMATION, "value", "initial", "ceiling"]
    parts = []
    for name, rows in by_variant(table).items():
        last = last_step(rows)
        family = family_of(str(rows["augment"].iloc[0]))
        kept = last[last["metric"].isin(ALIGNMENT)][columns]
        parts.append(kept.assign(variant=name, family=family))
    return pd.concat(parts, ignore_index=True).rename(columns={INFORMATION: "shared"})


def following(found: pd.DataFrame) -> pd.DataFrame:
    """A tree's number per level: the mean rank correlation of its latents, over augmentations.

    Args:
        found: the rows of one family, as `ends` gives them.

    Returns:
        level, member, follows; levels whose latents are all shared alike are left out.
    """
    keys = ["level", "member", "node"]
    # to 9 digits, so that latents that are shared alike have equal ranks
    ranked = found.assign(shared=found["shared"].round(9))
    ranked = ranked[ranked.groupby(keys)["shared"].transform("nunique") > 1]
    # Spearman's correlation, of all latents at once: Pearson's of the ranks
    ranks = ranked.groupby(keys, sort=False)[["shared", "value"]].rank()
    by_latent = [ranked[key] for key in keys]
    centred = ranks - ranks.groupby(by_latent).transform("mean")
    x, y = centred["shared"], centred["value"]
    sums = pd.DataFrame({"xy": x * y, "xx": x**2, "yy": y**2}).groupby(by_latent).sum()
    size = np.sqrt(sums["xx"] * sums["yy"])
    each = (sums["xy"] / size.where(size > 0)).fillna(0.0)
    return each.groupby(["level", "member"]).mean().rename("follows").reset_index()


def _families(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Whether each level follows what is shared, in each family."""
    numbers = {
        (family, int(level)): rows["follows"].to_numpy()
        for family in FAMILIES
        for level, rows in following(found[found["family"] == family]).groupby("level")
    }
    tests = len(numbers)
    details = []
    for (family, level), values in numbers.items():
        p_more, p_less = exceeds(values, 0.0, tests), exceeds(-values, 0.0, tests)
        mean = mean_interval(values, tests)
        result = "neither"
        if p_more < SIGNIFICANCE and mean.value >= MINIMUM:
            result = "follows"
        elif p_less < SIGNIFICANCE and mean.value <= -MINIMUM:
            result = "opposes"
        details.append(
            {"family": family, "level": level, "result": result, "p_more": p_more, "p_less": p_less,
             **mean.detail("rank_correlation")}
        )  # fmt: skip
    return details


def _necessity(table: pd.DataFrame, found: pd.DataFrame) -> list[dict[str, Any]]:
    """Whether latents emerge of which views share nothing, by level."""
    bare = found[found.groupby(["variant", "level"])["shared"].transform("max") < 1e-9]
    tested = bare[["variant", "level"]].drop_duplicates()
    variants = by_variant(table)
    details = []
    for name, level in tested.itertuples(index=False):
        now = variant_stats(variants[name], [int(level)])
        gap, p = now.gap_among(len(tested)), now.p_grown(len(tested))
        result = "do not emerge" if gap.high < NEGLIGIBLE else "not decided"
        details.append(
            {"family": f"nothing shared: {name}", "level": int(level),
             "result": "emerge" if p < SIGNIFICANCE else result, "p_more": p, **gap.detail("gap_closed")}
        )  # fmt: skip
    return details


def _levels(details: list[dict[str, Any]], result: str) -> str:
    """The families and levels with this result."""
    where: dict[str, list[str]] = {}
    for entry in details:
        if entry["result"] == result:
            where.setdefault(entry["family"], []).append(str(entry["level"]))
    return "; ".join(f"{family}, level {', '.join(levels)}" for family, levels in where.items())


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the smallest mean rank correlation of all families and levels."""
    found = ends(table)
    upper = found[found["level"] >= 2] if found["level"].max() >= 2 else found
    tested, bare = _families(upper), _necessity(table, upper)
    effect = (
        "smallest rank correlation, of all families and levels, of what views share and what emerged"
        + at_once(len(tested))
    )
    if not tested:
        reason = "nothing that views share differs within a family"
        return Judgement("open", reason, effect, NOTHING, bare)
    smallest = min(
        (Estimate(d["rank_correlation"], d["low"], d["high"], d["n"]) for d in tested),
        key=lambda each: each.value,
    )
    yes, no = _levels(tested, "follows"), _levels(tested, "opposes")
    few = too_few(smallest.n)
    outcome: Outcome = "open"
    reason = few or f"follow: {yes or 'none'}"
    if no and not few:
        outcome, reason = "fails", f"latents emerge the worse the more is shared ({no})"
        reason += f" and the better ({yes})" if yes else ""
    elif all(each["result"] == "follows" for each in tested) and not few:
        outcome, reason = "holds", f"the more is shared, the better latents emerge ({yes})"
    if bare and not few:
        levels = {
            result: ", ".join(str(d["level"]) for d in bare if d["result"] == result)
            for result in ("do not emerge", "emerge", "not decided")
        }
        parts = [f"{result} at level {at}" for result, at in levels.items() if at]
        reason += f"; necessity: latents of which nothing is shared {', '.join(parts)}"
    return Judgement(outcome, reason, effect, smallest, tested + bare)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per augmentation: nats that views share of root and low latents, and their alignment."""
    shared = ends(table).groupby(["variant", "level"])["shared"].mean()
    found = []
    for name, rows in by_variant(table).items():
        upper = variant_stats(rows)
        top = int(rows["level"].max())
        low = 2 if top > 2 else 1
        found.append(
            {
                "variant": name,
                f"level {low} nats": f"{shared[name, low]:.2f}",
                f"level {low}": mean_interval(variant_stats(rows, [low]).value).brief,
                "root nats": f"{shared[name, top]:.2f}",
                "root": mean_interval(variant_stats(rows, [top]).value).brief,
                "gap closed": str(upper.gap).replace("0.", "."),
                **upper.collapse_columns,
            }
        )
    made = pd.DataFrame(found)
    trees = ", ".join(map(str, sorted(set(made["n"]))))
    made.attrs["caption"] = (
        f"means over n = {trees} trees; nats: information of a latent's states in two views (0.69: all "
        "of it); gap closed, levels >= 2; ± and [ ]: 95% intervals over trees"
    )
    return made.drop(columns="n")
