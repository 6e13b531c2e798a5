"""Is every latent born with a lucky unit, and does luck decide how well it is learned?

Before training a latent's units are random sums of the units below, so the chance that the best of n
follows the latent to a given share of its Bayes ceiling has a formula: one minus the n-th power of a
single unit's distribution function, given the layers below. It is compared with whether there is
such a unit, latent by latent, over widths and levels. Then the networks are trained, and every
tree's result at the root is held against the best unit its root was born with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from dualnets.evidence import Verdict, exceeds
from dualnets.outcome import Grid, Outcome, Progress
from dualnets.settings import (
    ContrastSettings,
    TrainSettings,
    TreeSettings,
    check_augmentation,
    setting,
)
from dualnets.theory.latent_inputs import drawn_correlations, latent_inputs
from dualnets.theory.lucky import mean_best

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hltm.tree import LatentTree

BRIEF = "width makes lucky units, and luck lasts"
CLAIM = "Wide layers are born with a lucky unit for every latent, and the luckier learn better"
PLACE = "arXiv 2010.00578, Section 4.2: lucky nodes at initialisation"
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
    steps: int = setting(1000, "updates", low=1, high=10**9)
    evaluation_samples: int = setting(8192, "samples per probe and member", low=512, high=1 << 30)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augmentation(self.augment, self.build_topology())


GRIDS: dict[str, list[Grid]] = {
    "smoke": [{"units": [2, 5], "depth": [3], "members": [12], "steps": [200], "lr": [0.3], "draws": [1000]}],
    "default": [{"units": [2, 5, 10, 20]}],
    "paper": [
        {"units": [2, 5, 10, 20, 50], "members": [100], "steps": [5000], "polarity_low": [0.7, 0.8, 0.9]}
    ],
}  # fmt: skip
RULE = (
    "Holds if (1) at every width the number of latents with a lucky unit is within "
    f"{CALIBRATED} standard errors of its prediction; (2) over trees, the share of lucky latents of "
    "levels >= 2 is larger in the widest networks than in the narrowest (Wilcoxon's exact signed-rank "
    f"test, p < {SIGNIFICANCE}); (3) over the trees of the narrowest networks, the root's |correlation| "
    "over its ceiling after training has a positive rank correlation with that of its best unit before "
    f"(Spearman, one-sided, p < {SIGNIFICANCE}). Fails if (1) or (2) is not so, or if (3)'s correlation "
    f"is not above 0; open otherwise, with one width, or with fewer than {FEWEST} trees."
)


def run_cell(settings: Settings, device: torch.device, progress: Progress) -> Outcome:
    """Predict luck, see who is lucky, train, and see what became of them."""
    from dualnets.networks.tree_network import tree_network
    from dualnets.training import describe_frozen, train
    from hltm.probe.best_unit import score

    trees = settings.build_trees()
    table = pd.concat([_born(settings, part) for part in _parts(trees)], ignore_index=True)
    network = tree_network(
        trees, units=settings.units, seed=settings.seed, normalize=True, device=device
    )
    final = train(
        network, settings.build_method(), trees, seed=settings.seed,
        progress=progress.updated, **settings.training(),
    )  # fmt: skip
    levels = score(final.network, trees, n=settings.evaluation_samples, seed=settings.seed)
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
    return Outcome(table, notes=[frozen] if frozen else [])


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


def root_ranks(rows: pd.DataFrame) -> tuple[float, float]:
    """Spearman's correlation of the root's alignment over ceiling before and after, and its p (one-sided)."""
    root = rows[rows["level"] == rows["level"].max()]
    before, after = (root[name] / root["ceiling"] for name in ("initial", "final"))
    found = stats.spearmanr(before, after, alternative="greater")
    return float(found.statistic), float(found.pvalue)


def widths(table: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Polarity, width and rows of every cell, narrow first."""
    for (low, units), rows in table.groupby(["polarity_low", "units"]):
        yield f"{low:g}", int(units), rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per width and level: lucky latents, predicted and seen, and what became of them."""
    found = []
    several = table["polarity_low"].nunique() > 1
    for low, units, rows in widths(table):
        for level, part in rows.groupby("level"):
            error = (part["predicted"] * (1 - part["predicted"])).sum() ** 0.5 / len(part)
            found.append(
                {
                    "network": f"tree {units}",
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
                    "n": len(part),
                }
            )
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "n counts latents; lucky: best |correlation| reaches its share of the ceiling"
    )
    return result


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    return (
        f"lucky {table['lucky'].mean():.2f}, predicted {table['predicted'].mean():.2f}, "
        f"root's rank correlation before / after {root_ranks(table)[0]:.2f}"
    )


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE."""
    details: list[dict[str, Any]] = []
    missed, low_ranks, weak, problems, effects = [], [], [], [], []
    for low, cells in table.groupby("polarity_low"):
        sizes = sorted(cells["units"].unique())
        trees = cells["member"].nunique()
        if len(sizes) < 2:
            problems.append("one width says nothing of width")
        if trees < FEWEST:
            problems.append(f"{trees} trees are fewer than {FEWEST}")
        upper = cells[cells["level"] >= 2].groupby(["units", "member"])["lucky"].mean().unstack()
        grown = exceeds(upper.loc[sizes[-1]].to_numpy(), upper.loc[sizes[0]].to_numpy())
        for units in sizes:
            rows = cells[cells["units"] == units]
            z, (rank, p) = standard_errors(rows), root_ranks(rows)
            narrowest = units == sizes[0]
            details.append(
                {
                    "polarity_low": float(low), "units": int(units), "lucky": float(rows["lucky"].mean()),
                    "predicted": float(rows["predicted"].mean()), "standard_errors": z,
                    "root_rank_correlation": rank, "p": p, "counts": bool(narrowest), "n": int(trees),
                }
            )  # fmt: skip
            if abs(z) > CALIBRATED:
                missed.append(f"{units} units: {z:.1f} standard errors")
            if narrowest:
                effects.append((rank, trees))
                if not rank > 0:
                    low_ranks.append(f"rank correlation {rank:.2f}")
                elif p >= SIGNIFICANCE:
                    weak.append(f"p = {p:.2g} of the rank correlation")
        if grown >= SIGNIFICANCE and len(sizes) > 1:
            missed.append(f"width does not help (p = {grown:.2g})")
    rank, n = min(effects)
    if problems:
        outcome, reason = "open", "; ".join(dict.fromkeys(problems))
    elif missed or low_ranks:
        outcome, reason = "fails", "; ".join([*missed, *low_ranks])
    elif weak:
        outcome, reason = "open", "; ".join(weak)
    else:
        outcome, reason = "holds", "luck is as predicted, grows with width, and lasts at the root"
    interval = _rank_interval(rank, n)
    return Verdict(
        claim=CLAIM,
        verdict=outcome,  # type: ignore[arg-type]
        rule=RULE,
        reason=reason,
        effect="rank correlation of the root's best unit before and after, narrowest networks",
        effect_value=rank if np.isfinite(rank) else None,
        interval=interval,
        n=n,
        details=details,
    )


def _rank_interval(rank: float, n: int) -> tuple[float, float] | None:
    """Fisher's 95% interval of a rank correlation, with the variance of Bonett and Wright (2000)."""
    if n < 5 or not abs(rank) < 1:
        return None
    half = 1.96 * ((1 + rank**2 / 2) / (n - 3)) ** 0.5
    middle = np.arctanh(rank)
    return float(np.tanh(middle - half)), float(np.tanh(middle + half))


def plot(table: pd.DataFrame) -> Figure:
    """Chances by width, calibration, best selectivity, and the root before and after."""
    from dualnets.experiments._lucky_figure import draw

    return draw(table)
