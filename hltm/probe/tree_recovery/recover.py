"""The tree of distances between leaves, or of a layer's activations, and how far it is from the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer
from hltm.probe.batches import Label, one_layer
from hltm.probe.tree_recovery.edges import contracted, edge_lengths
from hltm.probe.tree_recovery.exact_distances import tree_distances, true_splits
from hltm.probe.tree_recovery.joining import neighbour_joining, recursive_grouping
from hltm.probe.tree_recovery.leaf_distances import (
    BY,
    LeafDistances,
    layer_distances,
    state_distances,
)
from hltm.probe.tree_recovery.recovered import Recovered
from hltm.probe.tree_recovery.splits import compare, keys, leaf_names, leaves_below, permuted
from hltm.sampling.draw import Draw, check_draw
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["neighbour-joining", "recursive-grouping"]
PERMUTATIONS = 200
ERRORS = 4.0  # standard errors above which an edge's length is not chance
ROUNDING = 1e-12  # of given distances, as a share of the largest
COLUMNS = [
    "member", "layer", "method", "by", "robinson_foulds", "normalised", "null", "best", "missing",
    "wrong", "splits", "true_splits", "n",
]  # fmt: skip


def recover_tree(
    source: Any,
    tree: LatentTree,
    *,
    draw: Draw | None = None,
    samples: int | None = None,
    seed: int | None = None,
    by: Literal["effect", "prediction"] = "effect",
    layer: Label | None = None,
    method: Method = "neighbour-joining",
    tolerance: float | None = None,
    permutations: int = PERMUTATIONS,
) -> Recovered:
    """Recover the tree of the leaves from a source, and compare it with the true tree.

    From distances of any tree, by both methods: 0. Without roots and tables, two things about a tree
    cannot be known from its leaves and are no part of the comparison: nodes with two neighbours
    (a chain's, or a root with two children), and inner edges whose tables only rename states.

    Args:
        source: a `LatentTree`, for its exact distances; a `Draw`, for distances estimated from the
            leaves' states; `(X, X)` distances in the order of the tree's leaves; or activations and
            networks as `hltm.probe.measure` takes them, for distances as a layer shows them.
        tree: the true tree, one member.
        draw, samples, seed: the rows of activations, as in `measure`.
        by: what makes leaves similar to a layer: their `effect` on the units, or their covariance in the
            layer's linear `prediction` of them. `hltm.probe.tree_recovery.leaf_distances` has both
            definitions and the networks for which they are exact.
        layer: which one; needed where the source has several.
        method: `neighbour-joining` (Saitou and Nei 1987) or `recursive-grouping` (Choi et al. 2011), which
            uses distances only as far as the rows can tell them from infinite ones.
        tolerance: edges between inner nodes that are not longer are no edges. By default 4 standard
            errors of an edge's length (jackknife over ten blocks of rows); of exact distances 0, and of
            given ones 1e-12 of the largest.
        permutations: of the leaves, for the null.

    Raises:
        ValueError: several members or layers (`recover_table` takes them), fewer than two leaves, nodes
            with different numbers of states, singular tables, leaves that do not take all their states,
            a draw of another tree, distances that are not finite, symmetric and 0 on the diagonal, or an
            unknown option.

    Example:
        >>> import hltm
        >>> tree = hltm.balanced(depth=2, branching=3, cardinality=4, seed=0)
        >>> found = recover_tree(tree, tree)
        >>> found.robinson_foulds, found.splits, found.null > 0.5
        (0, 3, True)
        >>> recover_tree(tree, tree, method="recursive-grouping").robinson_foulds
        0
        >>> binary = hltm.symmetric_binary(depth=3, polarity=0.8, seed=0)
        >>> draw = binary.sample(4000, seed=1)
        >>> recover_tree(draw, binary).robinson_foulds
        0
        >>> recover_tree(draw.leaves.float(), binary, draw=draw).missing  # units that copy the leaves
        5
    """
    if tree.stacked:
        raise ValueError(f"expected one true tree, got {len(tree)}: choose one, e.g. trees[0]")
    options = _options(by, method, tolerance, permutations)
    found = _sources(source, tree, draw, samples, seed, by)
    members = found[one_layer(found, layer)]
    if len(members) > 1:
        raise ValueError(f"expected one member, got {len(members)}: recover_table takes several")
    return _recovered(members[0], tree, **options)


def recover_table(
    source: Any,
    tree: LatentTree,
    *,
    draw: Draw | None = None,
    samples: int | None = None,
    seed: int | None = None,
    by: Literal["effect", "prediction"] = "effect",
    method: Method = "neighbour-joining",
    tolerance: float | None = None,
    permutations: int = PERMUTATIONS,
) -> pd.DataFrame:
    """The trees of all layers and members of a source, compared with the true ones, as a tidy table.

    Arguments and errors are those of `recover_tree`; the tree and the source may have S members.

    Returns:
        One row per member and layer: member, layer (empty for what is no layer), method, by,
        robinson_foulds, normalised, null, best, missing, wrong, splits, true_splits, and n, the rows
        that distances were estimated from, 0 where they are exact.

    Example:
        >>> import hltm
        >>> trees = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.9), members=2, seed=0)
        >>> recover_table(trees, trees)[["member", "robinson_foulds", "splits"]].values.tolist()
        [[0, 0, 5], [1, 0, 5]]
    """
    import pandas as pd

    options = _options(by, method, tolerance, permutations)
    rows = []
    for label, members in _sources(source, tree, draw, samples, seed, by).items():
        addresses = draw.members if draw is not None else getattr(source, "members", tree.members)
        if len(addresses) != len(members):
            addresses = range(len(members))
        for s, (member, distances) in enumerate(zip(addresses, members, strict=True)):
            own = tree[s] if tree.stacked else tree
            found = _recovered(distances, own, **options)
            values = found._asdict() | {
                "member": member, "layer": label, "method": method,
                "by": "" if label == "" else by, "splits": found.splits,
                "true_splits": len(true_splits(own.tables)), "n": distances.samples,
            }  # fmt: skip
            rows.append({name: values[name] for name in COLUMNS})
    return pd.DataFrame(rows, columns=COLUMNS)


def _options(by: str, method: str, tolerance: float | None, permutations: int) -> dict[str, Any]:
    if by not in BY:
        raise ValueError(f"by must be 'effect' or 'prediction', got {by!r:.60}")
    if method not in get_args(Method):
        raise ValueError(
            f"method must be 'neighbour-joining' or 'recursive-grouping', got {method!r:.60}"
        )
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance must be a number of at least 0, got {tolerance!r:.60}")
    permutations = as_integer("permutations", permutations, 1)
    return {"method": method, "tolerance": tolerance, "permutations": permutations}


def _sources(
    source: Any, tree: LatentTree, draw: Draw | None, samples: int | None, seed: int | None, by: str
) -> dict[Label, list[LeafDistances]]:
    """Layer -> distances of every member; what is no layer has the empty name."""
    if len(tree.leaves) < 2:
        raise ValueError(f"a tree to recover needs at least 2 leaves, got {len(tree.leaves)}")
    if isinstance(source, LatentTree):
        if leaf_names(source) != leaf_names(tree):
            raise ValueError(
                "the source and the true tree must have the same leaves in the same order"
            )
        return {"": tree_distances(source)}
    if isinstance(source, Draw):
        check_draw(tree.tables, tree.members if tree.stacked else source.members, source)
        return {"": state_distances(source, tree)}
    rows = draw is not None or samples is not None or seed is not None
    if not rows and isinstance(source, (np.ndarray, Tensor)):
        return {"": _given(source, len(tree.leaves))}
    return layer_distances(source, tree, draw=draw, samples=samples, seed=seed, by=by)


def _given(source: np.ndarray | Tensor, leaves: int) -> list[LeafDistances]:
    """Distances as they are given, `(X, X)` or `(S, X, X)`."""
    d = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
    if d.ndim not in (2, 3) or d.shape[-2:] != (leaves, leaves):
        raise ValueError(
            f"distances have shape {d.shape}, expected ({leaves}, {leaves}); activations need the draw that "
            "they were computed on"
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


def _recovered(
    found: LeafDistances, tree: LatentTree, method: str, tolerance: float | None, permutations: int
) -> Recovered:
    """The tree of one set of distances."""
    d, names = found.distances, leaf_names(tree)
    estimated = found.left_out is not None
    if len(names) == 2:
        parent, lengths = np.array([2, 2, -1]), np.array([d[0, 1], d[0, 1], 0]) / 2
        absent = np.zeros(3, dtype=bool)
    else:
        joined = neighbour_joining(d) if method == "neighbour-joining" else recursive_grouping(
            d, found.reach
        )  # fmt: skip
        parent = joined
        lengths = edge_lengths(parent, d, average=estimated)
        least = tolerance if tolerance is not None else _chance(parent, found)
        absent = lengths * found.step <= least
    topology, lengths = contracted(parent, lengths * found.step, absent, names)
    true = true_splits(tree.tables)
    below = leaves_below(topology, names)
    right = [all(key in true for key in keys(row[None])) for row in below]
    score = compare(set(keys(below)), set(true))
    return Recovered(
        topology=topology,
        lengths=torch.from_numpy(lengths),
        right=torch.tensor(right),
        distances=torch.from_numpy(d * found.step),
        robinson_foulds=score.distance,
        normalised=score.normalised,
        null=permuted(topology, set(true), names, permutations),
        best=0.0,
        missing=score.missing,
        wrong=score.wrong,
    )


def _chance(parent: np.ndarray, found: LeafDistances) -> np.ndarray | float:
    """Lengths that edges have by chance or rounding: by default what is not longer is no edge."""
    if found.left_out is None:
        return found.rounding
    lengths = edge_lengths(parent, found.left_out, average=True)
    blocks = len(lengths)
    error = np.sqrt((blocks - 1) * lengths.var(0))  # the jackknife
    return ERRORS * error + ROUNDING * found.distances.max()
