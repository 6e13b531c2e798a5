"""Which leaves are missing: the masks of an augmentation, with their probabilities, by enumeration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.ceiling import MAX_EXACT
from hltm.model.enumeration import all_states
from hltm.model.nodes import Nodes
from hltm.model.states import MISSING
from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.augment import Augmentation


class Masks(NamedTuple):
    """Every set of missing leaves that can occur, but for the empty one.

    Attributes:
        missing: `(M, X)` bool.
        probability: `(M,)` float64.
    """

    missing: np.ndarray
    probability: np.ndarray


def mask_rates(topology: Topology, mask: Augmentation | Nodes) -> np.ndarray:
    """`(V,)` the probability that each node is missing, with all leaves below it.

    Args:
        mask: an augmentation that leaves out leaves and redraws nothing, or nodes that are always missing.

    Raises:
        ValueError: an augmentation that redraws nodes, or a mask that leaves out no leaf.
        KeyError, IndexError: a node that the tree does not have.
    """
    if isinstance(mask, Augmentation):
        if mask.rates(topology).any():
            raise ValueError(
                f"mask must leave out leaves and redraw nothing, e.g. hltm.drop_leaves(0.3), got {mask}"
            )
        rates = mask.missing_rates(topology)
    else:
        rates = np.zeros(len(topology))
        rates[topology.nodes(mask)] = 1
    if not rates.any():
        raise ValueError(f"mask must leave out some leaf, got {mask}")
    return rates


def missing_probability(topology: Topology, rates: np.ndarray) -> np.ndarray:
    """`(X,)` the probability that each leaf is missing: itself, or with a node above it."""
    kept = 1 - rates
    for v in range(1, len(topology)):  # parents come first
        kept[v] *= kept[topology.parent[v]]
    return 1 - kept[topology.leaves.start :]


def every_mask(topology: Topology, rates: np.ndarray) -> Masks | None:
    """The masks that can occur; None if the decisions of the nodes have more than MAX_EXACT outcomes."""
    open_, always = np.flatnonzero((rates > 0) & (rates < 1)), np.flatnonzero(rates == 1)
    if len(open_) > np.log2(MAX_EXACT):
        return None
    first = topology.leaves.start
    below = np.zeros((len(topology), len(topology.leaves)), dtype=bool)
    for v in (*open_, *always):
        leaves = topology.descendants(int(v))
        below[v, leaves[leaves >= first] - first] = True
    decided = all_states(np.full(len(open_), 2)).numpy() if len(open_) else np.zeros((1, 0))
    each = np.where(decided == 1, rates[open_], 1 - rates[open_]).prod(1)
    missing = (decided @ below[open_] > 0) | below[always].any(0)
    distinct, which = np.unique(missing, axis=0, return_inverse=True)
    some = distinct.any(1)
    return Masks(distinct[some], np.bincount(which.ravel(), weights=each)[some])


def patterns(tables: Tables, masks: Masks) -> int:
    """How many patterns of leaves, some of them missing, can be seen."""
    states = np.log(tables.cardinality[tables.topology.leaves.start :])
    with np.errstate(over="ignore"):
        return int(min(np.exp(np.where(masks.missing, 0, states).sum(1)).sum().round(), 2**62))


def seen_patterns(tables: Tables, masks: Masks, chunk: int) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Every pattern, in pieces: `(1, X, N)` leaves, -1 where missing, and `(N,)` its mask's probability."""
    states = tables.cardinality[tables.topology.leaves.start :]
    held: list[Tensor] = []
    weights: list[np.ndarray] = []
    count = 0
    for missing, probability in zip(masks.missing, masks.probability, strict=True):
        seen = visible_states(states, np.flatnonzero(~missing))
        held.append(seen)
        weights.append(np.full(len(seen), probability))
        count += len(seen)
        if count >= chunk:
            yield torch.cat(held).T[None], np.concatenate(weights)
            held, weights, count = [], [], 0
    if held:
        yield torch.cat(held).T[None], np.concatenate(weights)


def visible_states(states: np.ndarray, seen: np.ndarray) -> Tensor:
    """`(N, X)` int64 all joint states of some leaves, -1 for the others."""
    values = all_states(states[seen]) if len(seen) else torch.zeros(1, 0, dtype=torch.int64)
    found = torch.full((len(values), len(states)), MISSING, dtype=torch.int64)
    found[:, torch.from_numpy(seen)] = values
    return found
