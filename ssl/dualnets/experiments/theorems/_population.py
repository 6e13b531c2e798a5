"""Finite batches compared with the infinite one, tree by tree: cells and rule of `population`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from dualnets import theory
from dualnets.experiments.theorems.population import (
    INFINITE,
    JUDGED,
    SMALL,
    Settings,
)
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.rules import FEWEST_TREES
from dualnets.lab.stats import NOTHING, Judgement, Outcome, gap_closed, last_step, mean_interval
from dualnets.lab.tidy import tidy
from dualnets.training.trajectory import log_spaced, trajectory

if TYPE_CHECKING:
    from hltm.tree import LatentTree


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train with one batch size and measure alignment exactly, by enumeration."""
    trees = settings.build_trees()
    network = settings.build_network(trees, settings.seed, device)
    steps = log_spaced(settings.steps, settings.snapshots)
    ceilings = settings.build_ceilings(settings.leaves_seen)
    exact = ExactProbe(trees)
    snapshots: list[tuple[int, Any]] = []
    if settings.batch == INFINITE:
        path: Iterator[Any] = theory.population_trajectory(
            network, settings.build_loss(), trees, augment=settings.build_augmentation(),
            steps=settings.steps, optimizer=settings.build_optimizer(), snapshots=steps,
            progress=progress.updated,
        )  # fmt: skip
        snapshots = [(0, snapshot) for snapshot in path]
    else:
        for data_seed in range(settings.data_seeds):
            path = trajectory(
                network, settings.build_method(), trees, snapshots=steps,
                seed=settings.seed + 1 + data_seed, **settings.training(),
            )  # fmt: skip
            snapshots += [(data_seed, snapshot) for snapshot in path]
    parts = [
        tidy(
            {"data_seed": data_seed, "step": snapshot.step, "level": level, "member": trees.members,
             "latent": range(best.shape[1])},
            {"value": best, "ceiling": ceilings[level].value},
        )
        for data_seed, snapshot in snapshots
        for level, best in exact.best(snapshot.network).items()
    ]  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    keys = ["data_seed", "member", "level", "latent"]
    first = table[table["step"] == 0].set_index(keys)["value"].rename("initial")
    return CellResult(table.join(first, on=keys))


class ExactProbe:
    """Correlations of units with latents over all states of the leaves: without noise, so the null is 0."""

    def __init__(self, trees: LatentTree) -> None:
        from hltm.model.enumeration import all_states

        self.trees = trees
        self.leaves = all_states(trees.tables.cardinality[list(trees.leaves)])
        stack = range(len(trees))
        given = {
            v: torch.stack([trees[s].leaf_distribution([v]) for s in stack]) for v in trees.latents
        }
        # every latent of these trees is 0 or 1 with equal chance: P(x) and P(x, z = 1)
        self.chance = {v: found.mean(1) for v, found in given.items()}
        self.on = {v: found[:, 1] / 2 for v, found in given.items()}

    def best(self, network: Any) -> dict[int, torch.Tensor]:
        """Level -> `(S, V)` best |correlation| of a latent's candidates."""
        with torch.no_grad():
            shown = network.activations(self.leaves.expand(len(self.trees), -1, -1))
        found = {}
        for level, values in shown.items():
            if level > self.trees.topology.depth:
                break
            best = []
            for place, v in enumerate(self.trees.level(level)):
                units = (values[:, :, place] if values.ndim == 4 else values).double().cpu()
                p, on = self.chance[v][..., None], self.on[v][..., None]
                centred = units - (p * units).sum(1, keepdim=True)
                deviation = (p * centred.square()).sum(1).sqrt()
                joint = (on * centred).sum(1)  # Cov(f, z), and sd(z) = 1/2
                alive = deviation > 1e-7
                best.append((2 * joint.abs() / deviation.where(alive, 1)).where(alive, 0).amax(1))
            found[level] = torch.stack(best, 1)
        return found


def by_tree(table: pd.DataFrame) -> pd.DataFrame:
    """At the end: one row per batch, data seed and tree, the mean over latents of levels >= 2."""
    last = last_step(table)
    upper = last[last["level"] >= 2]
    keys = ["network", "depth", "batch", "data_seed", "member"]
    means = (upper if len(upper) else last).groupby(keys)[["value", "initial", "ceiling"]].mean()
    return means.reset_index()


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network and finite batch: bias and noise beside the spread between trees."""
    found = []
    for (network, depth), rows in by_tree(table).groupby(["network", "depth"], sort=False):
        infinite = rows[rows["batch"] == INFINITE].set_index("member")
        for batch, part in rows[rows["batch"] != INFINITE].groupby("batch"):
            values = part.pivot(index="member", columns="data_seed", values="value")
            joined = values.join(
                infinite[["value", "initial"]].rename(columns={"value": "infinite"})
            ).dropna()
            apart = (values.mean(axis=1).loc[joined.index] - joined["infinite"]).to_numpy()
            gain = (joined["infinite"] - joined["initial"]).to_numpy()
            found.append({
                "network": network, "depth": int(depth), "batch": int(batch),
                "difference": mean_interval(apart), "gain": float(gain.mean()),
                # a ratio of means, whose trees are drawn together
                "share": gap_closed(np.zeros_like(gain), apart, gain),
                "seed_variance": float(values.var(axis=1, ddof=1).mean()),
                "tree_variance": float(joined["infinite"].var(ddof=1)),
                "final": float(values.to_numpy().mean()), "infinite": float(joined["infinite"].mean()),
                "initial": float(joined["initial"].mean()), "ceiling": float(part["ceiling"].mean()),
                "n": len(joined),
            })  # fmt: skip
    return pd.DataFrame(found)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per batch: what it reaches, how far that is from the infinite batch, and the sources of spread."""
    found = [
        {
            **{name: row[name] for name in ("network", "depth", "batch", "initial", "final")},
            "infinite batch": row["infinite"], "ceiling": row["ceiling"],
            "difference": f"{row['difference']:+.4f}", "over gain": f"{row['share']:+.1%}",
            "s.d. seeds": row["seed_variance"] ** 0.5, "s.d. trees": row["tree_variance"] ** 0.5,
            "n": row["n"],
        }
        for row in compare(table).to_dict("records")
    ]  # fmt: skip
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "best |correlation|, mean over levels >= 2, exact by enumeration: the null is 0"
    )
    return result


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    rows = by_tree(table)
    return f"best |corr| {rows['initial'].mean():.3f} -> {rows['value'].mean():.3f}"


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule."""
    outcome: Outcome
    made = compare(table).to_dict("records") if (table["batch"] == INFINITE).any() else []
    judged = [row for row in made if row["batch"] == JUDGED]
    details = [
        {
            "network": row["network"], "depth": row["depth"], "batch": row["batch"],
            "difference": row["difference"].value, "low": row["difference"].low,
            "high": row["difference"].high, "gain": row["gain"], "share": row["share"].value,
            "share_low": row["share"].low, "share_high": row["share"].high,
            "variance_of_seeds_over_trees": row["seed_variance"] / max(row["tree_variance"], 1e-300),
            "n": row["n"],
        }
        for row in made
    ]  # fmt: skip
    what = f"difference of batch {JUDGED} from the infinite one, over the latter's gain"
    worst, reason = NOTHING, ""
    outcome = "open"
    if not judged or min(row["n"] for row in judged) < FEWEST_TREES:
        reason = (
            f"batch {JUDGED} and the infinite batch on at least {FEWEST_TREES} trees are needed"
        )
    elif not all(row["gain"] > 0 for row in judged):
        reason = "the infinite batch gains nothing"
    else:
        shares = [row["share"] for row in judged]
        noise = [row["seed_variance"] / row["tree_variance"] for row in judged]
        worst = max(shares, key=lambda share: abs(share.value))
        reason = (
            f"batch {JUDGED} differs by {worst.value:+.1%} of the gain, and its seeds spread "
            f"{max(noise):.1%} of the variance between trees"
        )
        if any(share.low > SMALL or share.high < -SMALL for share in shares) or max(noise) > 1:
            outcome = "fails"
        elif (
            all(share.low > -SMALL and share.high < SMALL for share in shares)
            and max(noise) < SMALL
        ):
            outcome = "holds"
    return Judgement(outcome, reason, what, worst, details)
