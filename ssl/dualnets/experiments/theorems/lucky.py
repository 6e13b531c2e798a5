"""Is every latent born with a lucky unit, and does luck decide how well it is learned?

Before training a latent's units are random sums of the units below, so the chance that the best of n
follows the latent to a given share of its Bayes ceiling has a formula: one minus the n-th power of a
single unit's distribution function, given the layers below. It is compared with whether there is
such a unit, latent by latent, over widths, depths and levels. Then the networks are trained, and what
every tree's root has learned is held against the best |selectivity| among the units it was born with.

Two measures of that, for each is blind to something. Gap closed, (final - initial) / (ceiling -
initial), contains the initial value with a minus sign: where the end does not depend on the start at
all, it falls as luck rises (regression to the mean). The |correlation| at the end, over its ceiling,
contains what was there before training, and a network that learns nothing has it rise with luck.
Found (24 trees of depth 5): luck is as predicted at every width and level. That the luckier roots learn
better is not found. With 2, 5, 10 and 20 units per latent, gap closed goes with the best |selectivity|
at birth by a rank correlation of +.31, -.03, -.59, -.74 (mean -.26 [-.42, -.08]); the |correlation| at
the end, over its ceiling, by +.53, +.26, +.08, +.22. Luck lasts, weakly, where units are few; with more,
all roots end alike, and the unlucky have gained the most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets.experiments.theorems._lucky_ranks import FINAL, GAP, mean_ranks, ranks, root
from dualnets.lab.experiment import CellResult, Fixed, Grid, ProgressListener
from dualnets.lab.settings import (
    ContrastSettings,
    TrainSettings,
    TreeSettings,
    check_augmentation,
    setting,
)
from dualnets.lab.stats import Verdict, exceeds, verdict_of
from dualnets.theory.hierarchy.latent_inputs import drawn_correlations, latent_inputs
from dualnets.theory.hierarchy.lucky import mean_best

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hltm.tree import LatentTree

SUMMARY = "width makes lucky units; do the luckier learn better?"
CLAIM = (
    "The wider a layer, the more latents are born with a lucky unit, as many as predicted, and the "
    "luckier learn better"
)
REFERENCE = "arXiv 2010.00578, Section 4.2: lucky nodes at initialisation"
RESULT_VERSION = 1
SIGNIFICANCE = 0.01
CALIBRATED = 3.3  # standard errors, p = 0.001
FEWEST = 12
MEMBERS_AT_ONCE = 8  # whose leaf states are enumerated together


@dataclass(frozen=True, kw_only=True)
class Settings(TrainSettings, ContrastSettings, TreeSettings):
    """Trees and a tree network on each, of one width."""

    units: int = setting(10, "units per latent", low=1, high=1 << 16)
    share: float = setting(
        0.8, "of its ceiling that a lucky unit's |correlation| reaches", above=0, high=1
    )
    draws: int = setting(4000, "fresh units that make a latent's law", low=100, high=1 << 24)
    members: int = setting(24, "trees, each with a network of its own", low=1, high=1 << 20)
    steps: int = setting(1000, "updates; 0: as the networks are born", low=0, high=10**9)
    evaluation_samples: int = setting(8192, "samples per probe and member", low=512, high=1 << 30)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augmentation(self.augment, self.build_topology())


_WIDTHS = [2, 5, 10, 20]
_BORN: Grid = {"steps": Fixed(0)}
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {"units": [2, 5], "depth": [3], "members": [12], "steps": [200], "lr": [0.3], "draws": [1000]},
        {"units": [2, 5], "depth": [2], "members": [12], "draws": [1000], **_BORN},
    ],
    "default": [{"units": _WIDTHS}, {"units": _WIDTHS, "depth": [3, 4], **_BORN}],
    "paper": [
        {"units": [*_WIDTHS, 50], "members": [100], "steps": [5000], "polarity_low": [0.7, 0.8, 0.9]},
        {"units": [*_WIDTHS, 50], "members": [100], "depth": [2, 3, 4], "polarity_low": [0.7, 0.8, 0.9],
         **_BORN},
    ],
}  # fmt: skip
RULE = (
    "Holds if (1) at every width and depth the number of latents with a lucky unit is within "
    f"{CALIBRATED} standard errors of its prediction; (2) at every depth, over trees, the share of lucky "
    "latents of levels >= 2 is larger in the widest networks than in the narrowest (Wilcoxon's exact "
    f"signed-rank test, p < {SIGNIFICANCE}); (3) at every width that is trained, over trees, the gap that "
    "the root has closed rises with the best |selectivity| of its units before training, and so does its "
    "|correlation| over its ceiling after training (Spearman's rank correlations, one-sided, "
    f"p < {SIGNIFICANCE} after Bonferroni over widths). Fails if (1) or (2) is not so, or if the gap closed "
    "rises so at no width; open otherwise, with one width, without training, or with fewer than "
    f"{FEWEST} trees."
)


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Predict luck, see who is lucky, train, and see what became of them."""
    from dualnets.networks.tree_network import tree_network
    from dualnets.training.trajectory import describe_frozen, train
    from hltm.probe.best_units import best_units

    trees = settings.build_trees()
    table = pd.concat([_born(settings, part) for part in _parts(trees)], ignore_index=True)
    if settings.steps == 0:
        return CellResult(table.assign(final=np.nan, null=np.nan, gap_closed=np.nan))
    network = tree_network(
        trees, units=settings.units, seed=settings.seed, normalize=True, device=device
    )
    final = train(
        network, settings.build_method(), trees, seed=settings.seed,
        progress=progress.updated, **settings.training(),
    )  # fmt: skip
    levels = best_units(final.network, trees, samples=settings.evaluation_samples, seed=settings.seed)
    after = pd.concat(
        [
            pd.DataFrame(
                {
                    "member": np.repeat(trees.members, len(trees.level(level))),
                    "level": level,
                    "latent": np.tile(np.arange(len(trees.level(level))), len(trees)),
                    "final": found.best.flatten().numpy(),
                    "null": np.broadcast_to(found.null.numpy(), found.best.shape).flatten(),  # type: ignore[union-attr]
                }
            )
            for level, found in levels.items()
        ]
    )
    table = table.merge(after, on=["member", "level", "latent"])
    table["gap_closed"] = (table["final"] - table["initial"]) / (
        table["ceiling"] - table["initial"]
    )
    frozen = describe_frozen(trees.members, final.frozen_at)
    return CellResult(table, notes=[frozen] if frozen else [])


def _parts(trees: LatentTree) -> Iterator[LatentTree]:
    for low in range(0, len(trees), MEMBERS_AT_ONCE):
        yield trees[low : low + MEMBERS_AT_ONCE]


def _born(settings: Settings, trees: LatentTree) -> pd.DataFrame:
    """Every latent's luck and its prediction, before training."""
    from dualnets.networks.tree_network import tree_network

    units, members = settings.units, len(trees)
    network = tree_network(trees, units=units, seed=settings.seed)
    rows = []
    for level, inputs in latent_inputs(network, trees).items():
        weight = network.weights[level - 1].detach().double()
        selectivity = (weight @ inputs.difference[..., None])[..., 0].abs()
        variance = (weight @ inputs.covariance * weight).sum(-1)
        spread = (inputs.prior * (1 - inputs.prior)).sqrt()[..., None]
        alive = variance > 1e-14
        correlation = (2 * selectivity * spread / variance.where(alive, 1).sqrt()).where(alive, 0)
        ceiling = trees.ceiling(trees.level(level), leaves="own", seed=settings.seed).value
        aim = settings.share * ceiling
        drawn = drawn_correlations(
            inputs, units=1, draws=settings.draws, seed=settings.seed, members=trees.members
        )[..., 0]
        below = (drawn <= aim[..., None]).double().mean(-1)  # F(t) of one unit
        best = correlation.amax(-1)
        mean_selectivity = [
            mean_best(inputs.law(s, v), units) for s in range(members) for v in range(best.shape[1])
        ]
        rows.append(
            pd.DataFrame(
                {
                    "member": np.repeat(trees.members, best.shape[1]),
                    "level": level,
                    "latent": np.tile(np.arange(best.shape[1]), members),
                    "predicted": (1 - below**units).flatten().numpy(),
                    "lucky": (best >= aim).double().flatten().numpy(),
                    "initial": best.flatten().numpy(),
                    "ceiling": ceiling.flatten().numpy(),
                    "selectivity": selectivity.amax(-1).flatten().numpy(),
                    "selectivity_predicted": mean_selectivity,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


# what the table says


def standard_errors(rows: pd.DataFrame) -> float:
    """How far the number of lucky latents is from its prediction, in standard errors.

    Given the layers below, blocks are independent, so over all layers the differences are those of a
    martingale and their variances add.
    """
    p = rows["predicted"].to_numpy()
    spread = float((p * (1 - p)).sum()) ** 0.5
    return float((rows["lucky"].to_numpy() - p).sum() / spread) if spread > 0 else 0.0


def widths(table: pd.DataFrame) -> Iterator[tuple[str, int, int, pd.DataFrame]]:
    """Polarity, depth, width and rows of every cell, narrow first."""
    for (low, depth, units), rows in table.groupby(["polarity_low", "depth", "units"]):
        yield f"{low:g}", int(depth), int(units), rows


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per depth, width and level: lucky latents, predicted and seen, and what became of them."""
    found = []
    several = table["polarity_low"].nunique() > 1
    for low, depth, units, rows in widths(table):
        for level, part in rows.groupby("level"):
            error = (part["predicted"] * (1 - part["predicted"])).sum() ** 0.5 / len(part)
            gap, final = (ranks(part, measure) for measure in (GAP, FINAL))
            found.append(
                {
                    "depth": depth,
                    "units": units,
                    **({"polarity low": low} if several else {}),
                    "level": level,
                    "lucky": part["lucky"].mean(),
                    "predicted": part["predicted"].mean(),
                    "± (s.e.)": float(error),
                    "best |s|": part["selectivity"].mean(),
                    "predicted |s|": part["selectivity_predicted"].mean(),
                    "initial": part["initial"].mean(),
                    "final": part["final"].mean(),
                    "ceiling": part["ceiling"].mean(),
                    "null": part["null"].mean(),
                    "|s| ~ gap closed": gap.value,
                    "|s| ~ final": final.value,
                    "n": len(part),
                }
            )
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "n counts latents; lucky: best |correlation| reaches its share of the ceiling; |s| ~: rank "
        "correlations over trees of the best |selectivity| before training with the gap closed and with "
        "|correlation| over ceiling after it"
    )
    return result


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    text = f"lucky {table['lucky'].mean():.2f}, predicted {table['predicted'].mean():.2f}"
    if not table["final"].notna().any():
        return text
    return f"{text}, root's luck ~ gap closed {ranks(root(table), GAP).value:.2f}"


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE."""
    details: list[dict[str, Any]] = []
    missed, problems = [], []
    trained = table[table["final"].notna()]
    tests = trained.groupby(["polarity_low", "depth", "units"]).ngroups
    rising: dict[str, list[bool]] = {measure: [] for measure in (GAP, FINAL)}
    for low, depth, units, rows in widths(table):
        z, trees = standard_errors(rows), rows["member"].nunique()
        entry = {
            "polarity_low": float(low), "depth": depth, "units": units,
            "lucky": float(rows["lucky"].mean()), "predicted": float(rows["predicted"].mean()),
            "standard_errors": z, "n": int(trees),
        }  # fmt: skip
        if abs(z) > CALIBRATED:
            missed.append(f"depth {depth}, {units} units: {z:.1f} standard errors")
        if trees < FEWEST:
            problems.append(f"{trees} trees are fewer than {FEWEST}")
        if rows["final"].notna().any():
            for measure in (GAP, FINAL):
                seen = ranks(root(rows), measure)
                p = min(seen.rises * tests, 1.0)
                rising[measure].append(p < SIGNIFICANCE)
                entry |= {f"{measure}_rank": seen.value, f"{measure}_p": p}
        details.append(entry)
    for (_, depth), cells in table.groupby(["polarity_low", "depth"]):
        sizes = sorted(cells["units"].unique())
        if len(sizes) < 2:
            problems.append("one width says nothing of width")
            continue
        upper = cells[cells["level"] >= 2].groupby(["units", "member"])["lucky"].mean().unstack()
        grown = exceeds(upper.loc[sizes[-1]].to_numpy(), upper.loc[sizes[0]].to_numpy())
        if grown >= SIGNIFICANCE:
            missed.append(f"depth {depth}: width does not help (p = {grown:.2g})")
    if trained.empty:
        problems.append("nothing was trained")
    learned = "the luckier roots " + ", ".join(
        f"{words} at {sum(rising[measure])} of {tests} widths"
        for measure, words in ((GAP, "close more of the gap"), (FINAL, "end closer to the ceiling"))
    )
    if problems:
        outcome, reason = "open", "; ".join(dict.fromkeys(problems))
    elif missed or not any(rising[GAP]):
        outcome, reason = "fails", "; ".join([*missed, learned])
    elif not all(rising[GAP] + rising[FINAL]):
        outcome, reason = "open", learned
    else:
        outcome, reason = "holds", f"luck is as predicted and grows with width; {learned}"
    what = "rank correlation of the root's gap closed with its luck before, mean over widths"
    found = mean_ranks(root(rows) for *_, rows in widths(trained))
    return verdict_of(CLAIM, outcome, RULE, reason, what, found, details)


def plot(table: pd.DataFrame) -> Figure:
    """Chances by width and depth, best selectivity, and what roots have learned by their luck."""
    from dualnets.experiments.theorems._lucky_figure import draw

    return draw(table)
