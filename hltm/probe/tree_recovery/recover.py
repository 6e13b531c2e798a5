"""The tree of distances between leaves, or of a layer's activations, and how far it is from the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from hltm.probe.batches import Label, one_layer
from hltm.probe.sources.open_source import BatchAxis
from hltm.probe.sources.rows import Rowed
from hltm.probe.tree_recovery.distance_sources import (
    ROUNDING,
    Distances,
    addresses_of,
    leaf_distances_of,
)
from hltm.probe.tree_recovery.edges import contracted, edge_lengths
from hltm.probe.tree_recovery.exact_distances import LeafDistances, true_splits
from hltm.probe.tree_recovery.joining import neighbour_joining, recursive_grouping
from hltm.probe.tree_recovery.leaf_distances import BY
from hltm.probe.tree_recovery.recovered import Recovered
from hltm.probe.tree_recovery.splits import compare, keys, leaf_names, leaves_below, permuted
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["neighbour-joining", "recursive-grouping"]
PERMUTATIONS = 200
ERRORS = 4.0  # standard errors above which an edge's length is not chance
COLUMNS = [
    "member", "layer", "method", "by", "robinson_foulds", "normalised", "null", "initial", "ceiling",
    "missing", "wrong", "splits", "true_splits", "n", "note",
]  # fmt: skip


def recover_tree(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    initial: Any = None,
    by: Literal["effect", "prediction"] = "effect",
    layer: Label | None = None,
    method: Method = "neighbour-joining",
    tolerance: float | None = None,
    permutations: int = PERMUTATIONS,
    batch_axis: BatchAxis | None = None,
) -> Recovered:
    """Recover the tree of the leaves from a source, and compare it with the true tree.

    From distances of any tree, by both methods: 0. Without roots and tables, two things about a tree
    cannot be known from its leaves and are no part of the comparison: nodes with two neighbours
    (a chain's, or a root with two children), and inner edges whose tables only rename states.

    Args:
        source: a `LatentTree`, for its exact distances; a draw or an exported folder, for distances
            estimated from the leaves' states; `(X, X)` distances in the order of the tree's leaves; or
            activations and networks as `hltm.probe.measure` takes them, for distances as a layer shows
            them.
        tree: the true tree, one member.
        draw, samples, seed, batch_axis: the rows of activations, as in `measure`.
        initial: the same source before training. The null shows what chance gives, `initial` what no
            training gives: units that copy the leaves, or wide random ones, hold all that a prediction
            reads, so with `by="prediction"` an untrained network may well score 0. Learned is
            what is better than both.
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
            a draw of another tree, fewer than 20 rows, an initial source with other layers, distances
            that are not finite, symmetric and 0 on the diagonal, or an unknown option.

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
    rows = {"draw": draw, "samples": samples, "seed": seed, "batch_axis": batch_axis}
    found, before = _both(source, initial, tree, by, rows)
    label = one_layer(found, layer)
    if len(found[label]) > 1:
        raise ValueError(
            f"expected one member, got {len(found[label])}: recover_table takes several"
        )
    return _compared(found, before, label, 0, tree, options)


def recover_table(
    source: Any,
    tree: LatentTree,
    *,
    draw: Rowed | None = None,
    samples: int | None = None,
    seed: int | None = None,
    initial: Any = None,
    by: Literal["effect", "prediction"] = "effect",
    method: Method = "neighbour-joining",
    tolerance: float | None = None,
    permutations: int = PERMUTATIONS,
    batch_axis: BatchAxis | None = None,
) -> pd.DataFrame:
    """The trees of all layers and members of a source, compared with the true ones, as a tidy table.

    Arguments are those of `recover_tree`; the tree and the source may have S members.

    Returns:
        One row per member and layer: member, layer (empty for what is no layer), method, by,
        robinson_foulds, normalised, null, initial, ceiling, missing, wrong, splits, true_splits, n, the
        rows that distances were estimated from, 0 where they are exact, and note. Null, initial and
        ceiling are those of `normalised`; `robinson_foulds` is a count.

    Raises:
        TypeError, ValueError: as `recover_tree`.

    Example:
        >>> import hltm
        >>> trees = hltm.symmetric_binary(depth=3, polarity=(0.7, 0.9), members=2, seed=0)
        >>> recover_table(trees, trees)[["member", "robinson_foulds", "splits"]].values.tolist()
        [[0, 0, 5], [1, 0, 5]]
    """
    import pandas as pd

    options = _options(by, method, tolerance, permutations)
    given = {"draw": draw, "samples": samples, "seed": seed, "batch_axis": batch_axis}
    found, before = _both(source, initial, tree, by, given)
    rows = []
    for label, members in found.items():
        addresses = addresses_of(source, tree, draw)
        if len(addresses) != len(members):
            addresses = tuple(range(len(members)))
        for s, (member, distances) in enumerate(zip(addresses, members, strict=True)):
            own = tree[s] if tree.stacked else tree
            one = _compared(found, before, label, s, own, options)
            true = len(true_splits(own.tables))
            note = "no splits" if not true else ""
            if true and label != "" and by == "prediction" and not before:
                note = "copies of the leaves score as well: compare with initial"
            values = one._asdict() | {
                "member": member, "layer": label, "method": method, "by": "" if label == "" else by,
                "splits": one.splits, "true_splits": true, "n": distances.samples, "note": note,
            }  # fmt: skip
            rows.append({name: values[name] for name in COLUMNS})
    return pd.DataFrame(rows, columns=COLUMNS)


def _both(
    source: Any, initial: Any, tree: LatentTree, by: str, rows: dict[str, Any]
) -> tuple[Distances, Distances]:
    """Distances as a source shows them, and as the initial one does, if there is one."""
    found = leaf_distances_of(source, tree, by=by, **rows)
    return found, {} if initial is None else leaf_distances_of(initial, tree, by=by, **rows)


def _compared(
    found: Distances,
    before: Distances,
    label: Label,
    s: int,
    tree: LatentTree,
    options: dict[str, Any],
) -> Recovered:
    """The tree of one layer and member, beside that of the initial source, if there is one.

    Raises:
        ValueError: an initial source with other layers or members.
    """
    one = _recovered(found[label][s], tree, **options)
    if not before:
        return one
    if found.keys() != before.keys():
        raise ValueError(
            f"the initial source has layers {list(before)!r:.100}, expected {list(found)!r:.100}"
        )
    if len(before[label]) != len(found[label]):
        raise ValueError(
            f"the initial source has {len(before[label])} members, expected {len(found[label])}"
        )
    return one._replace(initial=_recovered(before[label][s], tree, **options).normalised)


def _options(by: str, method: str, tolerance: float | None, permutations: int) -> dict[str, Any]:
    if by not in BY:
        raise ValueError(f"by must be 'effect' or 'prediction', got {by!r:.60}")
    if method not in get_args(Method):
        raise ValueError(
            f"method must be 'neighbour-joining' or 'recursive-grouping', got {method!r:.60}"
        )
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance must be a number of at least 0, got {tolerance!r:.60}")
    if isinstance(permutations, bool) or not hasattr(permutations, "__index__") or permutations < 1:
        raise ValueError(f"permutations must be a positive integer, got {permutations!r:.60}")
    return {"method": method, "tolerance": tolerance, "permutations": int(permutations)}


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
        distances=torch.from_numpy((d * found.step).astype(np.float64)),
        robinson_foulds=score.distance,
        normalised=score.normalised,
        null=permuted(topology, set(true), names, permutations),
        initial=float("nan"),
        ceiling=0.0,
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
