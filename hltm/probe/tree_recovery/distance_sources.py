"""Distances of leaves from whatever a tree may be recovered from, and the members that it has."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hltm.probe.batches import Label
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed, members_of
from hltm.probe.tree_recovery.exact_distances import LeafDistances, tree_distances
from hltm.probe.tree_recovery.leaf_distances import layer_distances, state_distances
from hltm.probe.tree_recovery.splits import leaf_names
from hltm.sampling.draw import Draw
from hltm.sampling.packed import PackedDraw
from hltm.tree import LatentTree

ROUNDING = 1e-12  # of given distances, as a share of the largest
Distances = dict[Label, list[LeafDistances]]  # layer -> members


def leaf_distances_of(
    source: Any, tree: LatentTree, *, draw: Rowed | None, samples: int | None, seed: int | None,
    by: str, batch_axis: BatchAxis | None,
) -> Distances:  # fmt: skip
    """Layer -> distances of every member; what is no layer has the empty name."""
    if len(tree.leaves) < 2:
        raise ValueError(f"a tree to recover needs at least 2 leaves, got {len(tree.leaves)}")
    found: Distances
    if isinstance(source, LatentTree):
        if leaf_names(source) != leaf_names(tree):
            raise ValueError(
                "the source and the true tree must have the same leaves in the same order"
            )
        found = {"": tree_distances(source)}
    elif _is_draw(source):
        found = {"": state_distances(source, tree)}
    elif isinstance(source, (np.ndarray, Tensor)) and draw is None and samples is None:
        found = {"": _given(source, len(tree.leaves))}
    else:
        found = layer_distances(
            source, tree, draw=draw, samples=samples, seed=seed, by=by, batch_axis=batch_axis
        )
    for members in found.values():
        if tree.stacked and len(members) != len(tree):
            raise ValueError(
                f"the source has {len(members)} members, expected {len(tree)} as the true trees"
            )
    return found


def _given(source: np.ndarray | Tensor, leaves: int) -> list[LeafDistances]:
    """Distances as they are given, `(X, X)` or `(S, X, X)`."""
    d = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    if d.ndim not in (2, 3) or d.shape[-2:] != (leaves, leaves):
        raise ValueError(
            f"distances have shape {d.shape}, expected ({leaves}, {leaves}); activations need the draw that "
            "they were computed on, and of the states of leaves give the draw itself, or distances between "
            "leaves, e.g. minus the logarithms of their correlations"
        )
    d = d.astype(np.float64).reshape(-1, leaves, leaves)
    largest = np.abs(d).max()
    if not np.isfinite(largest):
        raise ValueError("distances must be finite, got infinity or NaN")
    odd = max(np.abs(d - d.transpose(0, 2, 1)).max(), np.abs(d.diagonal(0, 1, 2)).max())
    if odd > 1e-9 * largest:
        raise ValueError(
            f"distances must be symmetric with zeros on the diagonal, off by {odd:.3g}"
        )
    return [LeafDistances((each + each.T) / 2, rounding=ROUNDING * largest) for each in d]


def addresses_of(source: Any, tree: LatentTree, draw: Rowed | None) -> tuple[int, ...]:
    """The addresses of the members of a source of any kind."""
    if isinstance(source, LatentTree):
        return source.members
    return members_of(source, tree, source if _is_draw(source) else draw)


def _is_draw(source: Any) -> bool:
    """Whether it is a draw or an exported folder; the class of folders would be slow to import."""
    return isinstance(source, (Draw, PackedDraw)) or hasattr(source, "recipe")
