"""The splits of a tree's leaves, and the distance of Robinson and Foulds between two trees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hltm.model.topology import Topology
from hltm.sampling.philox import Stream, uniform
from hltm.tree import LatentTree

POINT = 0.05  # of the distances of permuted trees; smaller is better


class RobinsonFoulds(NamedTuple):
    """How the splits of a tree differ from those of a true one, from `robinson_foulds`.

    Attributes:
        distance: splits of one of the trees that the other does not have.
        normalised: the same, divided by the splits of both; 0 where neither has any.
        missing: splits of the true tree that the other does not have.
        wrong: splits of the other tree that the true one does not have.
    """

    distance: int
    normalised: float
    missing: int
    wrong: int


def robinson_foulds(found: Topology | LatentTree, true: Topology | LatentTree) -> RobinsonFoulds:
    """The distance of Robinson and Foulds (1981) between the unrooted shapes of two trees.

    Every edge splits the leaves in two sets; the distance counts the splits that one tree has and the
    other has not. Neither the root's place nor nodes with two neighbours change it.

    Args:
        found, true: with leaves of the same names, in any order.

    Raises:
        ValueError: other leaves; the error names one of them.

    Example:
        >>> from hltm.formats.newick import topology_from_newick
        >>> a, b = map(topology_from_newick, ("((A,B),(C,(D,E)));", "((A,B),C,(D,E));"))
        >>> robinson_foulds(a, b).distance, robinson_foulds(topology_from_newick("(A,B,C,D,E);"), a)
        (0, RobinsonFoulds(distance=2, normalised=1.0, missing=2, wrong=0))
    """
    names = leaf_names(true)
    return compare(splits(found, names), splits(true, names))


def compare(found: set[bytes], true: set[bytes]) -> RobinsonFoulds:
    """The distance of two sets of splits."""
    missing, wrong = len(true - found), len(found - true)
    total = len(found) + len(true)
    return RobinsonFoulds(missing + wrong, (missing + wrong) / max(total, 1), missing, wrong)


def leaf_names(tree: Topology | LatentTree) -> list[str]:
    """The names of a tree's leaves in storage order."""
    topology = tree.topology if isinstance(tree, LatentTree) else tree
    return [topology.names[v] for v in topology.leaves]


def splits(tree: Topology | LatentTree, names: list[str]) -> set[bytes]:
    """The splits with at least two leaves on both sides.

    Args:
        names: the leaves, in the order of the bits of a split.

    Raises:
        ValueError: other leaves than those of the tree.
    """
    topology = tree.topology if isinstance(tree, LatentTree) else tree
    own = leaf_names(topology)
    if set(own) != set(names):
        odd = sorted(set(own) ^ set(names))[0]
        raise ValueError(f"both trees must have the same leaves, but one alone has {odd!r:.80}")
    return set(keys(leaves_below(topology, names)))


def leaves_below(topology: Topology, names: list[str] | None = None) -> np.ndarray:
    """`(V, X)` bool: which leaves are below every node; leaves in storage order, or in that of names."""
    below = np.zeros((len(topology), len(topology.leaves)), dtype=bool)
    below[list(topology.leaves)] = np.eye(len(topology.leaves), dtype=bool)
    for v in range(len(topology) - 1, 0, -1):
        below[topology.parent[v]] |= below[v]
    if names is None:
        return below
    place = {name: i for i, name in enumerate(leaf_names(topology))}
    return below[:, [place[name] for name in names]]


def keys(below: np.ndarray) -> list[bytes]:
    """One text of bits for every split `(N, X)` with at least two leaves on both sides."""
    sizes = below.sum(1)
    kept = below[(sizes > 1) & (sizes < below.shape[1] - 1)]
    return [row.tobytes() for row in np.packbits(kept ^ kept[:, :1], axis=1)]


def permuted(found: Topology, true: set[bytes], names: list[str], permutations: int) -> float:
    """The 5% point of the normalised distance after the leaves of the found tree are permuted."""
    below = np.unique(leaves_below(found, names), axis=0)
    numbers = uniform(
        len(names), seed=0, stream=Stream.PERMUTATION, members=range(permutations), node=1
    )
    scores = [
        compare(set(keys(below[:, order])), true).normalised for order in numbers.argsort(1).numpy()
    ]
    return float(np.quantile(scores, POINT, method="lower"))
