"""Luck before training and what comes of it: cells, summary and headline of `lucky`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dualnets import theory
from dualnets.experiments.theorems import _lucky_rules as rules
from dualnets.experiments.theorems.lucky import BORN, GRAFT, SIBLINGS, Settings
from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.tidy import tidy
from dualnets.lab.time_to_threshold import member_times
from dualnets.networks.tree_network import tree_network
from dualnets.training.trajectory import describe_frozen, log_spaced, trajectory
from hltm.sampling.philox import Stream, uniform
from hltm.tree import LatentTree

MEMBERS_AT_ONCE = 8  # whose leaf states are enumerated together
TWINS = ("lucky", "unlucky")


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """One of the three measurements."""
    trees = settings.build_trees()
    if settings.test == GRAFT:
        return _grafted(settings, trees, device, progress)
    if settings.test == SIBLINGS:
        return _siblings(settings, trees, device, progress)
    parts = [_born(settings, part) for part in _few_at_once(trees)]
    return CellResult(pd.concat(parts, ignore_index=True))


def _few_at_once(trees: LatentTree) -> Iterator[LatentTree]:
    for low in range(0, len(trees), MEMBERS_AT_ONCE):
        yield trees[low : low + MEMBERS_AT_ONCE]


def _born(settings: Settings, trees: LatentTree) -> pd.DataFrame:
    """Every latent's luck and its prediction (docs/theory.md, Equations 4.4 to 4.6)."""
    units = settings.units
    network = tree_network(trees, units=units, seed=settings.seed)
    parts = []
    for level, inputs in theory.latent_inputs(network, trees).items():
        weight = network.weights[level - 1].detach().double()
        best = inputs.correlations(weight).amax(-1)
        # F, the distribution function of a single unit's |correlation| at the threshold, from fresh units
        ceiling = trees.ceiling(trees.level(level), leaves="own", seed=settings.seed).value
        threshold = settings.share * ceiling
        drawn = theory.drawn_correlations(
            inputs, units=1, draws=settings.draws, seed=settings.seed, members=trees.members
        )[..., 0]
        below = (drawn <= threshold[..., None]).double().mean(-1)
        mean_selectivity = [
            [theory.lucky.mean_best(inputs.law(s, v), units) for v in range(best.shape[1])]
            for s in range(len(trees))
        ]
        index = {"member": trees.members, "level": level, "latent": range(best.shape[1])}
        columns = {
            "predicted": 1 - below**units,  # the best of n independent units (4.5)
            "lucky": (best >= threshold).double(), "initial": best, "ceiling": ceiling,
            "luck": inputs.selectivities(weight).abs().amax(-1),
            "luck_predicted": mean_selectivity,
        }  # fmt: skip
        parts.append(tidy(index, columns))
    return pd.concat(parts, ignore_index=True)


class Curves(NamedTuple):
    """Training as the root sees it, exact: nothing is sampled but what the networks are trained on.

    Attributes:
        steps: of the snapshots, from 0.
        alignment: `(S, T)` |correlation| of the root's best unit; NaN for a member that diverged.
        luck: `(S,)` the best |selectivity| of the root's units before training.
        notes: which members diverged.
    """

    steps: list[int]
    alignment: np.ndarray
    luck: np.ndarray
    notes: list[str]


def _root_inputs(network: Any, trees: LatentTree) -> theory.BlockInputs:
    return theory.latent_inputs(network, trees)[trees.topology.depth]


def _train(
    settings: Settings, network: Any, trees: LatentTree, progress: ProgressListener
) -> Curves:
    """Train, and measure the root at every snapshot."""

    def top(net: Any) -> torch.Tensor:
        return net.weights[-1].detach().double().cpu()

    luck = _root_inputs(network, trees).selectivities(top(network)).abs().amax(-1)[:, 0]
    path = list(trajectory(
        network, settings.build_method(), trees, seed=settings.seed, progress=progress.updated,
        snapshots=log_spaced(settings.steps, settings.snapshots), **settings.training(),
    ))  # fmt: skip
    best = [
        _root_inputs(at.network, trees).correlations(top(at.network)).amax(-1)[:, 0] for at in path
    ]
    alignment = torch.stack(best, dim=1)
    frozen_at = path[-1].frozen_at
    alignment[frozen_at >= 0] = torch.nan
    notes = [note] if (note := describe_frozen(trees.members, frozen_at)) else []
    return Curves([at.step for at in path], alignment.numpy(), luck.numpy(), notes)


def _root_ceiling(settings: Settings) -> np.ndarray:
    """`(S,)` of every tree's root."""
    found: np.ndarray = settings.build_ceilings("own")[settings.depth].value[:, 0].numpy()
    return found


def random_units(settings: Settings, trees: LatentTree, like: torch.Tensor) -> torch.Tensor:
    """`(S, C, I)` random units with weights of the norms of `(S, I)` given ones."""
    members, size = like.shape
    # node 1: not the numbers of a latent's own units
    drawn = uniform(settings.candidates * size, seed=settings.seed, stream=Stream.NULL,
                    members=trees.members, node=1)  # fmt: skip
    drawn = (2 * drawn - 1).view(members, settings.candidates, size)
    return drawn * (like.norm(dim=1)[:, None, None] / drawn.norm(dim=2, keepdim=True))


def twins(
    settings: Settings, trees: LatentTree, device: torch.device | str = "cpu"
) -> tuple[Any, LatentTree]:
    """Two copies of every network, with the luckiest and the unluckiest unit, and of every tree.

    Copies have one address, so that they have the same weights and read the same samples. The luckiest units
    are those of the first S members.
    """
    both = LatentTree(trees.tables.take([*range(len(trees))] * 2), trees.members * 2, True)
    network = tree_network(
        both, units=settings.units, seed=settings.seed, normalize=settings.normalize, device=device
    )
    single = tree_network(trees, units=settings.units, seed=settings.seed)
    own = single.weights[-1].detach().double()[:, 0, 0]  # the first unit, (S, I)
    drawn = random_units(settings, trees, own)
    luck = _root_inputs(single, trees).selectivities(drawn[:, None])[:, 0].abs()  # (S, C)
    at = torch.arange(len(trees))
    chosen = torch.cat([drawn[at, luck.argmax(1)], drawn[at, luck.argmin(1)]])  # (2 S, I)
    with torch.no_grad():
        network.weights[-1][:, 0, 0] = chosen.to(network.weights[-1])
    return network, both


def _grafted(
    settings: Settings, trees: LatentTree, device: torch.device, progress: ProgressListener
) -> CellResult:
    """The root's alignment along training in the two copies of every network."""
    network, both = twins(settings, trees, device)
    found = _train(settings, network, both, progress)
    members = len(trees)
    value = found.alignment.reshape(2, members, -1)
    index = {"twin": TWINS, "member": trees.members, "step": found.steps}
    columns = {
        "value": value, "initial": value[..., :1], "luck": found.luck.reshape(2, members, 1),
        "ceiling": _root_ceiling(settings)[:, None],
    }  # fmt: skip
    rows = tidy(index, columns).assign(level=settings.depth)
    return CellResult(rows[["member", *rows.columns.drop("member")]], notes=found.notes)


def _siblings(
    settings: Settings, trees: LatentTree, device: torch.device, progress: ProgressListener
) -> CellResult:
    """When each of many networks of one tree reaches the goal that they share."""
    members, each = len(trees), settings.networks
    rows = [s for s in range(members) for _ in range(each)]
    many = LatentTree(trees.tables.take(rows), tuple(range(members * each)), True)
    network = tree_network(
        many, units=settings.units, seed=settings.seed, normalize=settings.normalize, device=device
    )
    found = _train(settings, network, many, progress)
    value = found.alignment.reshape(members, each, -1)
    ceiling = _root_ceiling(settings)[:, None]
    goal = np.repeat((np.nanmean(value[..., 0], axis=1)[:, None] + ceiling) / 2, each)
    # the untrained network is at 0 updates, which has no place on a log axis
    times = member_times(np.array(found.steps) + 1, found.alignment, goal) - 1
    times[np.isnan(found.alignment).any(1)] = np.nan
    index = {"member": trees.members, "network": range(each)}
    columns = {
        "luck": found.luck.reshape(members, each), "updates": times.reshape(members, each),
        "initial": value[..., 0], "value": value[..., -1], "ceiling": ceiling,
    }  # fmt: skip
    return CellResult(
        tidy(index, columns).assign(level=settings.depth, step=settings.steps), notes=found.notes
    )


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Per test, outputs and width: luck before training, and what came of it."""
    found = [*_born_lines(table), *rules.trained_lines(table)]
    result = pd.DataFrame(found).astype(object).fillna("")
    result.attrs["caption"] = (
        "initial, ceiling: of roots; born: lucky is a best |correlation| of at least its share of the "
        "ceiling, standard errors those of all latents from the prediction; graft: copies with a lucky "
        "and an unlucky unit, median ratio of the updates to their common goal (above 1: the lucky one is "
        "sooner; a copy that never reaches it is later than all); when level: the same, with the unlucky "
        "copy's updates counted from where the lucky one started, so that 1 means a head start and no "
        "more; end: alignment after training with the lucky unit less that with the other, over the gap; "
        "siblings: rank correlation of luck with how soon the goal is reached over the networks of each "
        "tree, null 0"
    )
    return result


def _born_lines(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    several = table["polarity_low"].nunique() > 1
    for low, depth, units, rows in rules.widths(table):
        root = rows[rows["level"] == depth]
        lucky, of_roots = (
            f"{part['lucky'].mean():.2f} ({part['predicted'].mean():.2f})" for part in (rows, root)
        )
        yield {
            "test": BORN, **({"polarity low": low} if several else {}), "depth": depth, "units": units,
            "initial": f"{root['initial'].mean():.2f}", "ceiling": f"{root['ceiling'].mean():.2f}",
            "lucky (predicted)": lucky, "roots": of_roots,
            "standard errors": f"{rules.standard_errors(rows):+.1f}", "n": f"{len(rows)} latents",
        }  # fmt: skip


def headline(table: pd.DataFrame) -> str:
    """Of one cell."""
    test = table["test"].iloc[0]
    if test == BORN:
        return f"lucky {table['lucky'].mean():.2f}, predicted {table['predicted'].mean():.2f}"
    if test == GRAFT:
        return f"updates unlucky / lucky {rules.times(table).ratio():.2f}"
    return f"luck ~ speed {rules.rank_correlations(table).mean():+.2f}"
