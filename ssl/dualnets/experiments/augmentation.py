"""What does the augmentation let through, and what does the network take of it?

A view keeps the levels above one and draws the rest again, or draws leaves or whole subtrees again
with some chance. What two views share of a latent is known exactly: the correlation, and the
information in nats, of its states in the two. Beside it stands how well the latent's best unit
follows it after training. The networks, trees and budget are the same for all augmentations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets import ablation
from dualnets.ablation import AblationSettings as Settings
from dualnets.ablation import grids
from dualnets.comparison import ALIGNMENT, FEWEST_TREES, SIGNIFICANCE, by_variant, fared
from dualnets.evidence import Verdict, exceeds, mean_interval, verdict_of
from dualnets.outcome import Grid, Outcome, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BRIEF", "CLAIM", "GRIDS", "PLACE", "RESULT_VERSION", "RULE", "Settings", "plot", "run_cell",
           "summary", "verdict"]  # fmt: skip

BRIEF = "which latents survive as views keep less"
CLAIM = "The more of a latent two views share, the better it emerges"
PLACE = (
    "arXiv 2010.00578, Section 3: the covariance operator keeps what survives the average over "
    "augmentations; the sweep is not in the paper"
)
RESULT_VERSION = 1
THROUGH, INFORMATION = "view_correlation", "view_information"


def _variants(depth: int) -> dict[str, dict[str, Any]]:
    """Augmentations of trees of one depth, from those that keep most to those that keep nothing."""
    found = [f"keep-level:{level}" for level in range(depth)]
    found += ["keep-root"]
    found += [f"resample-leaves:{rate}" for rate in (0.1, 0.3, 0.6)]
    middle = max(depth // 2, 1)
    found += [f"resample-subtrees:{rate}:{middle}" for rate in (0.2, 0.5)]
    found += [f"resample-subtrees:{rate}:{depth}" for rate in (0.2, 0.5)]
    found += ["keep-nothing"]
    return {name.replace("resample-", ""): {"augment": name, "depth": depth} for name in found}


# lr 1 did best of 0.1, 0.3 and 1 at every polarity of binary trees, and was not tuned again here:
# hltm run polarity --seed 1000 --members 8 --steps 1000 --lr 0.1 0.3 1
_COMMON: dict[str, Any] = {"members": 12, "steps": 1000, "snapshots": 3, "lr": 1.0}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids({**_COMMON, "members": 12, "steps": 200, "snapshots": 4}, _variants(3)),
    "default": grids(_COMMON, _variants(5)),
    "paper": grids({**_COMMON, "members": 30, "steps": 10_000, "snapshots": 12}, _variants(5)),
}
RULE = (
    "For every latent of levels >= 2, Spearman's rank correlation, over the augmentations, of what two "
    "views share of it (the exact correlation of its states) with its best |correlation| after "
    "training; its mean over the latents of a level is a tree's number. A level follows if over trees "
    f"it is above 0 (Wilcoxon's exact signed-rank test, one-sided, p < {SIGNIFICANCE} after Bonferroni "
    "over levels). Holds if every level >= 2 follows, fails if none does, open if some do, or with "
    f"fewer than {FEWEST_TREES} trees or 4 augmentations."
)


def run_cell(settings: Settings, device: torch.device, progress: Progress) -> Outcome:
    """Train one ensemble; its rows also say what two views share of each latent."""
    outcome = ablation.run_cell(settings, device, progress)
    trees = settings.build_trees()
    augmentation = settings.build_augmentation()
    nodes = list(trees.latents)
    shared = pd.DataFrame(
        {
            "member": np.repeat(np.array(trees.members), len(nodes)),
            "node": np.tile([trees.topology.names[v] for v in nodes], len(trees.members)),
            THROUGH: trees.view_correlation(nodes, augmentation).flatten().numpy(),
            INFORMATION: trees.view_information(nodes, augmentation).flatten().numpy(),
        }
    )
    table = outcome.table.merge(shared, on=["member", "node"], how="left")
    return Outcome(table, outcome.networks, outcome.notes)


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The latents after training: variant, member, level, node, shared, value, initial, ceiling.

    `shared` is the correlation of the latent's states in two views.
    """
    parts = []
    for name, rows in by_variant(table).items():
        last = rows[(rows["step"] == rows["step"].max()) & rows["metric"].isin(ALIGNMENT)]
        kept = last[
            ["member", "level", "node", THROUGH, INFORMATION, "value", "initial", "ceiling"]
        ]
        parts.append(kept.assign(variant=name))
    return pd.concat(parts, ignore_index=True).rename(columns={THROUGH: "shared"})


def following(found: pd.DataFrame) -> pd.DataFrame:
    """A tree's number per level: the mean rank correlation of its latents, over augmentations.

    Args:
        found: of `ends`.

    Returns:
        level, member, follows.
    """
    # to 9 digits, so that what is shared alike ranks alike
    ranked = found.assign(shared=found["shared"].round(9))
    by_node = ranked.groupby(["level", "member", "node"], sort=False)
    ranks = by_node[["shared", "value"]].rank()
    ranks = ranks.assign(**{name: found[name] for name in ("level", "member", "node")})
    keys = ["level", "member", "node"]
    centred = ranks[["shared", "value"]] - ranks.groupby(keys)[["shared", "value"]].transform(
        "mean"
    )
    products = pd.DataFrame(
        {
            "xy": centred["shared"] * centred["value"],
            "xx": centred["shared"] ** 2,
            "yy": centred["value"] ** 2,
        }
    )
    sums = products.groupby([ranks[key] for key in keys]).sum()
    size = np.sqrt(sums["xx"] * sums["yy"])
    each = (sums["xy"] / size.where(size > 0)).fillna(0.0)
    return each.groupby(["level", "member"]).mean().rename("follows").reset_index()


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest mean rank correlation of all levels."""
    found = ends(table)
    upper = found[found["level"] >= 2] if found["level"].max() >= 2 else found
    followed = following(upper)
    levels = sorted(followed["level"].unique())
    details: list[dict[str, Any]] = []
    effects = []
    for level in levels:
        values = followed.loc[followed["level"] == level, "follows"].to_numpy()
        p = min(exceeds(values, np.zeros_like(values)) * len(levels), 1.0)
        effects.append(mean_interval(values))
        details.append(
            {"level": int(level), "follows": p < SIGNIFICANCE, "p": p, "rank_correlation":
             effects[-1].value, "low": effects[-1].low, "high": effects[-1].high, "n": len(values)}
        )  # fmt: skip
    yes = [str(d["level"]) for d in details if d["follows"]]
    augmentations, n = found["variant"].nunique(), min(effect.n for effect in effects)
    outcome, reason = "open", f"latents follow at level {', '.join(yes)} only"
    if n < FEWEST_TREES:
        reason = f"{n} trees are fewer than {FEWEST_TREES}"
    elif augmentations < 4:
        reason = f"{augmentations} augmentations are fewer than 4"
    elif len(yes) == len(details):
        outcome, reason = "holds", f"latents follow what views share at level {', '.join(yes)}"
    elif not yes:
        outcome, reason = "fails", "latents follow what views share at no level"
    return verdict_of(
        CLAIM, outcome, RULE, reason,
        "smallest rank correlation, of all levels, of what views share and what emerged",
        min(effects, key=lambda effect: effect.value), details,
    )  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per augmentation: what views share of root and low latents, and how both fared."""
    shared = ends(table).groupby(["variant", "level"])["shared"].mean()
    found = []
    for name, rows in by_variant(table).items():
        upper = fared(rows)
        top = int(rows["level"].max())
        low = 2 if top > 2 else 1
        found.append(
            {
                "variant": name,
                f"l{low} sent": shared[name, low],
                f"level {low}": fared(rows, [low]).value.mean(),
                "root sent": shared[name, top],
                "root": fared(rows, [top]).value.mean(),
                "gap closed": str(upper.gap),
                "spread": upper.spread.mean(),
                "rank": f"{upper.rank.mean():.1f}",
                "n": len(upper.value),
            }
        )
    made = pd.DataFrame(found)
    trees = ", ".join(map(str, sorted(set(made["n"]))))
    made.attrs["caption"] = (
        f"means over n = {trees} trees; sent: correlation of a latent's states in two views; gap "
        "closed, levels >= 2, with its 95% interval"
    )
    return made.drop(columns="n")


def plot(table: pd.DataFrame) -> Figure:
    """What the augmentation lets through, what the network took."""
    from dualnets.experiments._augmentation_figure import draw

    return draw(table)
