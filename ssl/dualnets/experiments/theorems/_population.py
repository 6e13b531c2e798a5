"""Finite batches compared with the infinite one, tree by tree: cells and rules of `population`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from dualnets import theory
from dualnets.experiments.theorems.population import INFINITE, JUDGED, LARGE, Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import snapshot_steps
from dualnets.lab.ratios import ratio_interval
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, last_step
from dualnets.lab.tidy import tidy
from dualnets.training.trajectory import trajectory
from hltm.probe import probe_layers

if TYPE_CHECKING:
    from hltm.tree import LatentTree


MOST_STATES = 256  # of the leaves, over which alignment is summed
WORDS = {
    "share": (
        f"difference of batch {JUDGED} from the infinite one, over the latter's gain, at its largest",
        "{:+.1%} of the gain",
    ),
    "noise": (
        f"variance between data seeds of batch {JUDGED} over that between trees, at its largest",
        "{:.3f} of the trees' variance",
    ),
}  # column of `compare` -> what is judged, and a value in words


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train with one batch size and measure alignment, exactly where leaf states can be enumerated."""
    trees = settings.build_trees()
    network = settings.build_network(trees, settings.seed, device)
    steps = snapshot_steps(settings)
    ceilings = settings.build_ceilings(settings.leaves_seen)
    small = 2 ** len(trees.leaves) <= MOST_STATES
    probe = ExactProbe(trees) if small else SampledProbe(trees, settings)
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
        for level, best in probe.best(snapshot.network).items()
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


class SampledProbe:
    """Correlations of units with latents on samples, the same ones for all batches."""

    def __init__(self, trees: LatentTree, settings: Settings) -> None:
        self.trees, self.samples, self.seed = trees, settings.evaluation_samples, settings.seed

    def best(self, network: Any) -> dict[int, torch.Tensor]:
        """Level -> `(S, V)` best |correlation| of a latent's candidates."""
        layers: dict[Any, Any] = probe_layers(
            network, self.trees, samples=self.samples, seed=self.seed, lags=0, details=False
        )
        return {level: layer.scores["correlation"].best.cpu() for level, layer in layers.items()}


def by_tree(table: pd.DataFrame) -> pd.DataFrame:
    """At the end: one row per batch, data seed and tree, the mean over latents of levels >= 2."""
    last = last_step(table)
    upper = last[last["level"] >= 2]
    keys = ["network", "depth", "batch", "data_seed", "member"]
    means = (upper if len(upper) else last).groupby(keys)[["value", "initial", "ceiling"]].mean()
    return means.reset_index()


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network, depth and finite batch: bias and noise beside the spread between trees.

    The reference is the infinite batch, or one of at least LARGE samples where there is none; a group
    without either has no rows.
    """
    groups = list(by_tree(table).groupby(["network", "depth"], sort=False))
    found = []
    for (network, depth), rows in groups:
        reference = INFINITE if (rows["batch"] == INFINITE).any() else int(rows["batch"].max())
        if reference != INFINITE and reference < LARGE:
            continue
        own = rows[rows["batch"] == reference].groupby("member")[["value", "initial"]].mean()
        for batch, part in rows[rows["batch"] != reference].groupby("batch"):
            values = part.pivot(index="member", columns="data_seed", values="value")
            joined = values.join(own.rename(columns={"value": "infinite"}), how="inner").dropna()
            runs = joined[values.columns]
            apart = (runs.mean(axis=1) - joined["infinite"]).to_numpy()
            gain = (joined["infinite"] - joined["initial"]).to_numpy()
            between = (joined["infinite"] - joined["infinite"].mean()).to_numpy() ** 2
            n = len(joined)
            found.append({
                "network": network, "depth": int(depth), "batch": int(batch), "reference": reference,
                "gain": float(gain.mean()),
                "share": ratio_interval(apart, gain, len(groups)),
                "noise": ratio_interval(
                    runs.var(axis=1, ddof=1).to_numpy(), between * n / max(n - 1, 1), len(groups)
                ),
                "final": float(runs.to_numpy().mean()), "infinite": float(joined["infinite"].mean()),
                "initial": float(joined["initial"].mean()), "ceiling": float(part["ceiling"].mean()),
                "n": n,
            })  # fmt: skip
    return pd.DataFrame(found)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per batch: what it reaches, how far that is from the infinite batch, and the sources of spread."""
    found = [
        {
            **{name: row[name] for name in ("network", "depth", "batch", "initial", "final")},
            "compared with": batch_name(row["reference"]), "reaches": row["infinite"],
            "ceiling": row["ceiling"], "over gain": f"{row['share']:+.1%}",
            "seeds / trees": f"{row['noise']:.3f}", "n": row["n"],
        }
        for row in compare(table).to_dict("records")
    ]  # fmt: skip
    result = pd.DataFrame(found)
    result.attrs["caption"] = (
        "best |correlation|, mean over levels >= 2, to depth 3 exact by enumeration (the null is 0); over "
        "gain: difference over the gain of what it is compared with; seeds / trees: variance of data seeds "
        "over that of trees; 95% intervals, simultaneous over depths"
    )
    return result


def batch_name(batch: int) -> str:
    """A size of batch in words."""
    return "infinite" if batch == INFINITE else str(batch)


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    rows = by_tree(table)
    return f"best |corr| {rows['initial'].mean():.3f} -> {rows['value'].mean():.3f}"


def at_judged(table: pd.DataFrame, *, column: str) -> dict[str, Estimate]:
    """A column of `compare` for the judged batch, of every network and depth."""
    rows = compare(table).to_dict("records")
    judged = [row for row in rows if row["batch"] == JUDGED]
    return {f"{row['network']}, depth {row['depth']}": row[column] for row in judged}


def judge(table: pd.DataFrame, *, column: str) -> Judgement:
    """Whether the bias (`share`) or the noise of the judged batch lies within ±NEGLIGIBLE at every depth."""
    what, words = WORDS[column]
    made = compare(table).to_dict("records")
    details = [
        {"network": row["network"], "depth": row["depth"], "batch": row["batch"],
         "compared_with": batch_name(row["reference"]), **row[column].detail(column)}
        for row in made
    ]  # fmt: skip
    judged = [row for row in made if row["batch"] == JUDGED]
    if not judged or min(row["n"] for row in judged) < FEWEST_TREES:
        reason = (
            f"batch {JUDGED} and an infinite batch, or one of {LARGE}, on at least {FEWEST_TREES} trees are "
            "needed"
        )
        return Judgement("open", reason, what, NOTHING, details)
    found = [row[column] for row in judged]
    worst = max(found, key=lambda each: abs(each.value))
    if not all(row["gain"] > 0 for row in judged):
        return Judgement("open", "the infinite batch gains nothing", what, worst, details)
    shown = ", ".join(
        f"{words.format(row[column].value)} at depth {row['depth']}" for row in judged
    )
    outcome: Outcome = "open"
    if all(each.low > -NEGLIGIBLE and each.high < NEGLIGIBLE for each in found):
        outcome = "holds"
    elif any(each.low > NEGLIGIBLE or each.high < -NEGLIGIBLE for each in found):
        outcome = "fails"
    reason = f"batch {JUDGED} against the infinite one: {shown}"
    return Judgement(outcome, reason, what, worst, details)
