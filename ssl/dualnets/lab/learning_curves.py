"""Learning curves: the alignment of every latent at every snapshot of training, as one tidy table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from dualnets.lab.experiment import ProgressListener
from dualnets.lab.tidy import tidy
from dualnets.training.trajectory import Snapshot, describe_frozen, log_spaced, trajectory
from hltm.probe.best_units import PRE, Level, best_units
from hltm.probe.null import LAGS

if TYPE_CHECKING:
    import torch

    from dualnets.networks.block_network import BlockNetwork
    from hltm.inference.ceiling import Ceiling
    from hltm.tree import LatentTree

BELOW_NULL = (
    "below_null",
    "blind",
)  # the metric's name, and that in cells that were stored earlier


class LearningCurves(NamedTuple):
    """Training as numbers.

    Attributes:
        table: one row per member, step, latent and metric: member, step, level, node, metric,
            candidates, value, initial, null, ceiling, ceiling_error, gap_closed, n. `null` is the
            null of the last network for the same candidates; `below_null` (1 where no candidate beats
            its null) and `dead_units` are there for the first and the last step.
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
    probe: Callable[..., dict[int, Level]] = best_units,
    metric: str = PRE,
) -> LearningCurves:
    """Train the ensemble that settings describe, and probe every snapshot.

    Args:
        settings: of trees, a network, a method, training and probes; see `dualnets.lab.settings`.
        device: where to train.
        progress: receives updates and alignments.
        each: called with every snapshot.
        probe: scores a network, called as `hltm.probe.best_units` is.
        metric: the name of its score before the ReLU; behind the ReLU it has `_post_relu` added.
    """
    trees, seed = settings.build_trees(), settings.seed
    snapshots = trajectory(
        settings.build_network(trees, seed, device), settings.build_method(), trees, seed=seed,
        snapshots=log_spaced(settings.steps, settings.snapshots), progress=progress.updated,
        **settings.training(),
    )  # fmt: skip
    found: list[tuple[Snapshot, dict[int, Level]]] = []
    for snapshot in snapshots:
        if each is not None:
            each(snapshot)
        lags = LAGS if snapshot.step in (0, settings.steps) else 0  # only the ends have a null
        samples = settings.evaluation_samples
        levels = probe(snapshot.network, trees, samples=samples, seed=seed, lags=lags)
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
    return LearningCurves(table, first.network, last.network, [frozen] if frozen else [])


def _rows(
    trees: LatentTree, level: int, step: int, metric: str, now: Level, initial: Level, final: Level,
    ceiling: Ceiling,
) -> pd.DataFrame:  # fmt: skip
    """All rows of one level of one snapshot."""
    names = [trees.topology.names[v] for v in trees.level(level)]
    bounds = {"null": final.null, "ceiling": ceiling.value, "ceiling_error": ceiling.standard_error}
    unbounded = dict.fromkeys(bounds, np.nan)
    scored: list[tuple[str, Any, Any, dict[str, Any]]] = [
        (metric, now.best, initial.best, bounds),
        (f"{metric}_post_relu", now.best_post_relu, initial.best_post_relu, bounds),
    ]
    if now.null is not None and initial.null is not None:
        below = ((now.best <= now.null).double(), (initial.best <= initial.null).double())
        scored += [
            (BELOW_NULL[0], *below, unbounded),
            ("dead_units", now.dead.double(), initial.dead.double(), unbounded),
        ]
    parts = []
    for name, value, start, beside in scored:
        if value is None:
            continue
        index = {"member": trees.members, "step": step, "level": level, "node": names,
                 "metric": name, "candidates": now.candidates}  # fmt: skip
        part = tidy(index, {"value": value, "initial": start, **beside})
        room = part["ceiling"] - part["initial"]
        part["gap_closed"] = ((part["value"] - part["initial"]) / room).where(room > 0)
        part["n"] = now.samples
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
