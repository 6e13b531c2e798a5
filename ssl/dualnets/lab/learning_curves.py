"""Learning curves: the alignment of every latent at every snapshot of a trajectory, as one tidy table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from dualnets.lab.experiment import ProgressListener
from dualnets.networks.block_network import BlockNetwork
from dualnets.training.trajectory import Snapshot
from hltm.inference.ceiling import Ceiling
from hltm.probe.best_units import PRE, Level, best_units
from hltm.probe.null import LAGS
from hltm.tree import LatentTree


class LearningCurves(NamedTuple):
    """A trajectory as numbers.

    Attributes:
        table: one row per member, step, latent and metric: member, step, level, node, metric,
            candidates, value, initial, null, ceiling, ceiling_error, gap_closed, n. `null` is the
            null of the last network for the same candidates; `blind` (1 where no candidate beats its
            null) and `dead_units` are there for the first and the last step.
        first, last: the networks before and after training.
        frozen_at: `(S,)` int64 as in `Snapshot`.
    """

    table: pd.DataFrame
    first: BlockNetwork
    last: BlockNetwork
    frozen_at: torch.Tensor


def learning_curves(
    snapshots: Iterable[Snapshot],
    trees: LatentTree,
    *,
    last_step: int,
    samples: int,
    seed: int,
    ceilings: dict[int, Ceiling],
    progress: ProgressListener | None = None,
    probe: Callable[..., dict[int, Level]] = best_units,
    metric: str = PRE,
) -> LearningCurves:
    """Probe every snapshot of a trajectory.

    Args:
        snapshots: in order, the untrained network first.
        trees: what it is trained on.
        last_step: the step of the last one, which is probed with its null.
        samples: per probe and member.
        seed: of the probes.
        ceilings: level -> `(S, V)` ceilings of its nodes.
        progress: is told of every probe.
        probe: what scores a network, called as `hltm.probe.best_units` is.
        metric: the name of its score before the ReLU; behind the ReLU it has `_post_relu` added.
    """
    found: list[tuple[int, dict[int, Level]]] = []
    first = last = None
    for snapshot in snapshots:
        lags = LAGS if snapshot.step in (0, last_step) else 0
        levels = probe(snapshot.network, trees, samples=samples, seed=seed, lags=lags)
        found.append((snapshot.step, levels))
        if progress is not None:
            progress.seen(snapshot.step, {k: float(v.best.mean()) for k, v in levels.items()})
        first, last = first or snapshot.network, snapshot.network
        frozen_at = snapshot.frozen_at
    assert first is not None
    assert last is not None
    initial, final = found[0][1], found[-1][1]
    parts = [
        _rows(
            step, level, trees, levels[level], initial[level], final[level], ceilings[level], metric
        )
        for step, levels in found
        for level in levels
    ]
    return LearningCurves(pd.concat(parts, ignore_index=True), first, last, frozen_at)


def _rows(
    step: int,
    level: int,
    trees: LatentTree,
    now: Level,
    initial: Level,
    final: Level,
    ceiling: Ceiling,
    before_relu: str,
) -> pd.DataFrame:
    """All rows of one level of one snapshot."""
    nodes = trees.level(level)
    members = trees.members
    shape = (len(members), len(nodes))
    assert final.null is not None
    behind_relu = f"{before_relu}_post_relu"
    scored = {
        before_relu: (now.best, initial.best),
        behind_relu: (now.best_post_relu, initial.best_post_relu),
    }
    if now.null is not None:  # only the ends have a null of their own
        assert initial.null is not None
        scored["blind"] = ((now.best <= now.null).double(), (initial.best <= initial.null).double())
        scored["dead_units"] = (
            now.dead.double().expand(shape),
            initial.dead.double().expand(shape),
        )
    parts = []
    for metric, (value, start) in scored.items():
        if value is None or start is None:
            continue
        part = pd.DataFrame(
            {
                "member": np.repeat(np.array(members), len(nodes)),
                "step": step,
                "level": level,
                "node": np.tile([trees.topology.names[v] for v in nodes], len(members)),
                "metric": metric,
                "candidates": now.candidates,
                "value": value.flatten().numpy(),
                "initial": start.flatten().numpy(),
            }
        )
        correlation = metric in (before_relu, behind_relu)
        bounds = {
            "null": final.null,
            "ceiling": ceiling.value,
            "ceiling_error": ceiling.standard_error,
        }
        for name, bound in bounds.items():
            part[name] = bound.expand(shape).flatten().numpy() if correlation else np.nan
        room = part["ceiling"] - part["initial"]
        part["gap_closed"] = ((part["value"] - part["initial"]) / room).where(room > 0)
        part["n"] = now.samples
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
