"""One cell of an ablation: train one ensemble, measure alignment and collapse along the way.

Alignment alone hides collapse, so the spread and the effective rank of what the loss compares are
measured with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch

from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import learning_curves
from dualnets.lab.variants import RANK, SPREAD
from dualnets.training.trajectory import Snapshot, describe_frozen, log_spaced, trajectory
from hltm.probe.metrics.collapse import Collapse
from hltm.sampling.philox import Stream

if TYPE_CHECKING:
    from dualnets.methods.protocol import Method
    from hltm.inference.ceiling import Ceiling
    from hltm.tree import LatentTree

HUGE = 1e15  # beyond it the squares of outputs would overflow
COLLAPSE_SAMPLES = 1024  # behind a spread and a rank; batch statistics are theirs


class CellSettings(Protocol):
    """What a cell's settings can do, whatever their trees."""

    @property
    def steps(self) -> int: ...
    @property
    def snapshots(self) -> int: ...
    @property
    def evaluation_samples(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def leaves_seen(self) -> Literal["own", "all"]: ...
    def build_trees(self) -> LatentTree: ...
    def build_ceilings(self, leaves: Literal["own", "all"]) -> dict[int, Ceiling]: ...
    def build_network(self, trees: LatentTree, seed: int, device: torch.device) -> Any: ...
    def build_method(self) -> Method: ...
    def build_probe(self) -> tuple[Callable[..., Any], str]: ...
    def training(self) -> dict[str, Any]: ...


def run_cell(
    settings: CellSettings,
    device: torch.device,
    progress: ProgressListener,
    *,
    also: Callable[[Snapshot], pd.DataFrame] | None = None,
) -> CellResult:
    """Train one ensemble, follow its latents, and see whether its embeddings collapse.

    Args:
        settings: of the cell, e.g. `AblationSettings`.
        device: where to train.
        progress: is told how far training is.
        also: makes more rows of every snapshot, in the columns of `collapse_rows`.
    """
    trees = settings.build_trees()
    method = settings.build_method()
    probe, metric = settings.build_probe()
    extra: list[pd.DataFrame] = []

    def measured(snapshot: Snapshot) -> Snapshot:
        extra.append(collapse_rows(snapshot, method, trees, settings.seed))
        if also is not None:
            extra.append(also(snapshot))
        return snapshot

    snapshots = trajectory(
        settings.build_network(trees, settings.seed, device),
        method,
        trees,
        **settings.training(),
        seed=settings.seed,
        snapshots=log_spaced(settings.steps, settings.snapshots),
        progress=progress.updated,
    )
    curves = learning_curves(
        map(measured, snapshots),
        trees,
        last_step=settings.steps,
        samples=settings.evaluation_samples,
        seed=settings.seed,
        ceilings=settings.build_ceilings(settings.leaves_seen),
        progress=progress,
        probe=probe,
        metric=metric,
    )
    rows = pd.concat(extra, ignore_index=True)
    by_curve = rows.groupby(["metric", "node", "member"], sort=False)["value"]
    rows["initial"] = by_curve.transform("first")
    table = pd.concat([curves.table, rows], ignore_index=True)
    frozen = describe_frozen(trees.members, curves.frozen_at)
    notes = [frozen] if frozen else []
    return CellResult(table, {"final": dict(curves.last.named_parameters())}, notes)


@torch.no_grad()
def collapse_rows(snapshot: Snapshot, method: Method, trees: LatentTree, seed: int) -> pd.DataFrame:
    """Spread and effective rank of the network's output and of what the loss compares.

    Columns: member, step, level, node (`output` or `embedding`), metric, candidates, value, n. A member
    with outputs that are not finite has NaN.
    """
    draw = trees.draw(
        COLLAPSE_SAMPLES, seed=seed, stream=Stream.EVALUATION, first=trees.leaves.start
    )
    leaves = draw.leaves.to(next(snapshot.network.parameters()).device)
    output = snapshot.network(leaves)
    embedding = method.embedding(snapshot.network, snapshot.state, leaves, batch_statistics=True)
    parts = []
    # (S, B, U) each
    for node, values in (
        ("output", output if output.ndim == 3 else output[None]),
        ("embedding", embedding),
    ):
        finite = torch.isfinite(values).all(dim=(1, 2))
        kept = torch.where(finite[:, None, None], values, 0)
        # Neither metric has a scale, so members on their way to infinity are scaled down.
        largest = kept.abs().amax(dim=(1, 2), keepdim=True)
        kept = torch.where(largest > HUGE, kept / largest.clamp(min=1), kept)
        collapse = Collapse()
        collapse.update(kept.transpose(1, 2))
        found = collapse.result()
        for name, numbers in ((SPREAD, found.spread), (RANK, found.effective_rank)):
            parts.append(
                pd.DataFrame(
                    {
                        "member": np.array(trees.members),
                        "step": snapshot.step,
                        "level": trees.topology.depth,
                        "node": node,
                        "metric": name,
                        "candidates": "all",
                        "value": torch.where(finite, numbers, torch.nan).cpu().numpy(),
                        "n": COLLAPSE_SAMPLES,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)
