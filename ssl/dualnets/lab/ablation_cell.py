"""One cell of an ablation: train one ensemble, measure alignment and collapse along the way.

Alignment alone hides collapse, so the spread and the effective rank of what the loss compares are
measured with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from dualnets.lab.experiment import CellResult, ProgressListener
from dualnets.lab.learning_curves import learning_curves
from dualnets.lab.tidy import tidy
from dualnets.lab.variants import RANK, SPREAD
from dualnets.training.trajectory import Snapshot
from hltm.probe.metrics.collapse import Collapse
from hltm.sampling.philox import Stream

if TYPE_CHECKING:
    from torch import Tensor

    from dualnets.lab.ablation import VariantSettings
    from dualnets.methods.protocol import Method
    from hltm.tree import LatentTree

HUGE = 1e15  # beyond it the squares of outputs would overflow
COLLAPSE_SAMPLES = 1024  # behind a spread and a rank; batch statistics are theirs


def run_cell(
    settings: VariantSettings,
    device: torch.device,
    progress: ProgressListener,
    *,
    also: Callable[[Snapshot], pd.DataFrame] | None = None,
) -> CellResult:
    """Train one ensemble, and measure its learning curves and whether its embeddings collapse.

    Args:
        settings: of the cell, with trees, e.g. `AblationSettings`.
        device: where to train.
        progress: receives updates and alignments.
        also: makes more rows of every snapshot, in the columns of `collapse_rows`.
    """
    trees, method = settings.build_trees(), settings.build_method()
    metric, targets = settings.build_probe()
    extra: list[pd.DataFrame] = []

    def measure(snapshot: Snapshot) -> None:
        extra.append(collapse_rows(snapshot, method, trees, settings.seed))
        if also is not None:
            extra.append(also(snapshot))

    curves = learning_curves(
        settings, device, progress, each=measure, metric=metric, targets=targets
    )
    rows = pd.concat(extra, ignore_index=True)
    by_curve = rows.groupby(["metric", "node", "member"], sort=False)["value"]
    rows["initial"] = by_curve.transform("first")
    table = pd.concat([curves.table, rows], ignore_index=True)
    return CellResult(table, {"final": dict(curves.last.named_parameters())}, curves.notes)


def collapse_rows(snapshot: Snapshot, method: Method, trees: LatentTree, seed: int) -> pd.DataFrame:
    """Spread and effective rank of the network's output and of what the loss compares.

    Columns: member, step, level, node (`output` or `embedding`), metric, candidates, value, n. A member
    with outputs that are not finite has NaN.
    """
    draw = trees.draw(
        COLLAPSE_SAMPLES, seed=seed, stream=Stream.EVALUATION, first=trees.leaves.start
    )
    return collapse_of(snapshot, method, draw.leaves, trees.members, trees.topology.depth)


@torch.no_grad()
def collapse_of(
    snapshot: Snapshot, method: Method, leaves: Tensor, members: Sequence[int], level: int
) -> pd.DataFrame:
    """As `collapse_rows`, on given inputs of the network, `(S, B, X)` or `(B, X)`, all at this level."""
    leaves = leaves.to(next(snapshot.network.parameters()).device)
    output = snapshot.network(leaves)
    embedding = method.embedding(snapshot.network, snapshot.state, leaves, batch_statistics=True)
    stacked = {"output": output if output.ndim == 3 else output[None], "embedding": embedding}
    parts = []
    for node, values in stacked.items():  # (S, B, U) each
        finite = torch.isfinite(values).all(dim=(1, 2))
        kept = torch.where(finite[:, None, None], values, 0)
        # Neither metric has a scale, so members on their way to infinity are scaled down.
        largest = kept.abs().amax(dim=(1, 2), keepdim=True)
        kept = torch.where(largest > HUGE, kept / largest.clamp(min=1), kept)
        collapse = Collapse()
        collapse.update(kept.transpose(1, 2))
        found = collapse.result()
        for name, numbers in ((SPREAD, found.spread), (RANK, found.effective_rank)):
            index = {"member": members, "step": snapshot.step, "level": level,
                     "node": node, "metric": name, "candidates": "all"}  # fmt: skip
            value = torch.where(finite, numbers, torch.nan).cpu()
            parts.append(tidy(index, {"value": value, "n": leaves.shape[-2]}))
    return pd.concat(parts, ignore_index=True)
