"""Learning curves: the alignment of every latent at every snapshot of training, as one tidy table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dualnets.lab.experiment import ProgressListener
from dualnets.lab.tidy import tidy
from dualnets.training.trajectory import Snapshot, describe_frozen, log_spaced, trajectory
from hltm.probe import Layer, probe_layers
from hltm.probe.null import LAGS
from hltm.probe.table import gap_closed
from hltm.probe.targets import Targets

if TYPE_CHECKING:
    from dualnets.networks.block_network import BlockNetwork
    from hltm.inference.ceiling import Ceiling
    from hltm.tree import LatentTree


class ProbedTraining(NamedTuple):
    """A training whose networks were probed at every snapshot.

    Attributes:
        table: one row per member, step, latent and metric: member, step, level, node, metric,
            candidates, unit, value, initial, null, ceiling, ceiling_error, gap_closed, n. `unit` is the
            number of the best candidate among its candidates, -1 for none. `null` is the null of the
            last network for the same candidates. For the first and the last step there are also
            `below_null` (1 where no candidate beats its null), `dead_units`, and, where a latent has a
            block of its own, `strength`: the metric of each `unit` of the block. Numbers of a member
            whose activations are not all finite are NaN.
        first, last: the networks before and after training.
        notes: which members were frozen, if any were.
    """

    table: pd.DataFrame
    first: BlockNetwork
    last: BlockNetwork
    notes: list[str]


def learning_curves(
    settings: Any,
    device: torch.device,
    progress: ProgressListener,
    *,
    each: Callable[[Snapshot], None] | None = None,
    metric: str = "correlation",
    targets: Targets | None = None,
) -> ProbedTraining:
    """Train the ensemble that settings describe, and probe every snapshot.

    Args:
        settings: of trees, a network, a method, training and probes; see `dualnets.lab.settings`.
        device: where to train.
        progress: receives updates and alignments.
        each: called with every snapshot.
        metric: a name in `hltm.probe.METRICS`; behind the ReLU it has `_post_relu` added.
        targets: as in `hltm.probe.measure`, for every level one per latent; the latents by default.
    """
    trees, seed = settings.build_trees(), settings.seed
    snapshots = trajectory(
        settings.build_network(trees, seed, device), settings.build_method(), trees, seed=seed,
        snapshots=snapshot_steps(settings), progress=progress.updated,
        **settings.training(),
    )  # fmt: skip
    found: list[tuple[Snapshot, dict[int, Level]]] = []
    for snapshot in snapshots:
        if each is not None:
            each(snapshot)
        network = FiniteMembers(snapshot.network)
        layers: dict[Any, Layer] = probe_layers(
            network, trees, samples=settings.evaluation_samples, seed=seed, metrics=[metric],
            lags=LAGS if snapshot.step in (0, settings.steps) else 0,  # only the ends have a null
            targets=targets, details=False,
        )  # fmt: skip
        levels = {level: _level(layer, metric, network.diverged) for level, layer in layers.items()}
        progress.probed(snapshot.step, {k: float(v.best.mean()) for k, v in levels.items()})
        found.append((snapshot, levels))
    (first, initial), (last, final) = found[0], found[-1]
    ceilings = settings.build_ceilings(settings.leaves_seen)
    parts = [
        _rows(trees, level, at.step, metric, now[level], initial[level], final[level], ceilings[level])
        for at, now in found
        for level in now
    ]  # fmt: skip
    frozen = describe_frozen(trees.members, last.frozen_at)
    table = pd.concat(parts, ignore_index=True)
    return ProbedTraining(table, first.network, last.network, [frozen] if frozen else [])


def snapshot_steps(settings: Any) -> list[int]:
    """The steps at which networks are probed: even in their logarithm, and after half of the updates.

    By the latter it is seen whether curves are flat at their end (`dualnets.lab.plateau`).
    """
    steps = log_spaced(settings.steps, settings.snapshots)
    return sorted({*steps, settings.steps // 2})


class FiniteMembers:
    """A network as probes read it, where members that have diverged must not stop the others.

    Attributes:
        diverged: `(S,)` bool, members with activations that were not finite, shown as zeros.
    """

    def __init__(self, network: BlockNetwork) -> None:
        self.network, self.members, self.stacked = network, network.members, network.stacked
        self.device, self.rectify = network.device, network.rectify
        self.diverged = torch.zeros(len(network.members), dtype=torch.bool, device=network.device)

    def activations(self, leaves: torch.Tensor) -> dict[int, torch.Tensor]:
        """As of the network; all zeros for a member with any that are not finite."""
        found = self.network.activations(leaves)
        sums = [values.detach().flatten(1).sum(1) for values in found.values()]
        bad = ~torch.stack(sums).sum(0).isfinite()
        if bool(bad.any()):
            wrong = [~x.isfinite().flatten(1).all(1) for x in found.values()]
            bad = torch.stack(wrong).any(0)  # a sum may overflow
            self.diverged |= bad
            found = {
                level: values.masked_fill(bad.view(-1, *[1] * (values.ndim - 1)), 0)
                for level, values in found.items()
            }
        return found


class Level(NamedTuple):
    """How well the latents of one level are followed, `(S, V)` each but `dead`, and NaN if diverged.

    Attributes:
        best: strength of the best candidate.
        best_post_relu: the same behind the ReLU.
        unit, unit_post_relu: int64, the numbers of these candidates among theirs; -1 if diverged.
        strength: `(S, V, U)` of all units of a latent's own block; None where latents share a layer.
        null: of the best of meaningless candidates; None without lags.
        dead: `(S, V)` dead candidates, `(S, 1)` where latents share a layer.
        candidates: `own block` or `whole layer`.
        samples: rows.
    """

    best: torch.Tensor
    best_post_relu: torch.Tensor
    unit: torch.Tensor
    unit_post_relu: torch.Tensor
    strength: torch.Tensor | None
    null: torch.Tensor | None
    dead: torch.Tensor
    candidates: str
    samples: int

    @property
    def below_null(self) -> torch.Tensor:
        """`(S, V)` 1 where the best candidate is no better than the null, else 0."""
        assert self.null is not None
        return (self.best <= self.null).double().masked_fill(self.best.isnan(), torch.nan)


def _level(layer: Layer, metric: str, diverged: torch.Tensor) -> Level:
    """The numbers of one layer that a learning curve has."""
    lost = diverged.cpu()[:, None]
    score, behind = layer.scores[metric], layer.scores[f"{metric}_post_relu"]
    dead = layer.dead.unflatten(-1, (layer.blocks, -1)).sum(-1).double()
    null = None if bool(score.null.isnan().all()) else score.null.masked_fill(lost, torch.nan)
    best, best_post_relu, dead = (
        own.masked_fill(lost, torch.nan) for own in (score.best, behind.best, dead)
    )
    width = layer.dead.shape[1] // layer.blocks
    unit, unit_post_relu = (
        (own.unit % width).masked_fill(lost | (own.unit < 0), -1) for own in (score, behind)
    )
    strength = None
    if layer.candidates == "own block":
        strength = score.strength[..., 0].masked_fill(lost[..., None], torch.nan)
    return Level(best, best_post_relu, unit, unit_post_relu, strength, null, dead, layer.candidates,
                 layer.samples)  # fmt: skip


def _rows(
    trees: LatentTree, level: int, step: int, metric: str, now: Level, initial: Level, final: Level,
    ceiling: Ceiling,
) -> pd.DataFrame:  # fmt: skip
    """All rows of one level of one snapshot."""
    names = [trees.topology.names[v] for v in trees.level(level)]
    bounds = {"null": final.null, "ceiling": ceiling.value, "ceiling_error": ceiling.standard_error}
    unbounded = dict.fromkeys(bounds, np.nan)
    scored: list[tuple[str, Any, Any, Any, dict[str, Any]]] = [
        (metric, now.unit, now.best, initial.best, bounds),
        (f"{metric}_post_relu", now.unit_post_relu, now.best_post_relu, initial.best_post_relu, bounds),
    ]  # fmt: skip
    if now.null is not None and initial.null is not None:
        scored += [
            ("below_null", -1, now.below_null, initial.below_null, unbounded),
            ("dead_units", -1, now.dead, initial.dead, unbounded),
        ]
        if now.strength is not None and initial.strength is not None:
            scored += [
                ("strength", unit, now.strength[..., unit], initial.strength[..., unit], unbounded)
                for unit in range(now.strength.shape[-1])
            ]
    parts = []
    for name, unit, value, start, beside in scored:
        index = {"member": trees.members, "step": step, "level": level, "node": names,
                 "metric": name, "candidates": now.candidates}  # fmt: skip
        part = tidy(index, {"unit": unit, "value": value, "initial": start, **beside})
        part["gap_closed"] = gap_closed(part)
        part["n"] = now.samples
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
