"""What can be seen of leaves of which some are missing: masks and states, by enumeration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.ceiling import MAX_EXACT
from hltm.inference.posterior import posterior
from hltm.model.enumeration import all_states
from hltm.model.nodes import NodeNumber, Nodes
from hltm.model.states import MISSING
from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.augment import Augmentation

MAX_PATTERNS = 1 << 18  # of all masks of one loss together


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
        ValueError: an augmentation that redraws or flips nodes, or whose rates differ from row to row; or a
            mask that leaves out no leaf.
        KeyError, IndexError: a node that the tree does not have.
    """
    if isinstance(mask, Augmentation):
        if mask.rates(topology).any() or mask.flip_rates(topology).any():
            raise ValueError(
                f"mask must leave out leaves and redraw nothing, e.g. hltm.drop_leaves(0.3), got {mask}"
            )
        rates = mask.missing_rates(topology)
        if rates.ndim == 2:
            raise ValueError(
                f"mask must have one rate for every row, e.g. hltm.drop_leaves(0.3), got {mask}"
            )
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
    open_ = np.flatnonzero((rates > 0) & (rates < 1))
    if 2.0 ** len(open_) > MAX_EXACT:
        return None
    below = np.zeros((len(open_), len(topology.leaves)), dtype=bool)
    for g, v in enumerate(open_):
        leaves = topology.descendants(NodeNumber(v)) - topology.leaves.start
        below[g, leaves[leaves >= 0]] = True
    gone = missing_probability(topology, (rates == 1).astype(np.float64)) > 0
    decided = all_states(np.full(len(open_), 2)).numpy() if len(open_) else np.zeros((1, 0))
    each = np.where(decided == 1, rates[open_], 1 - rates[open_]).prod(1)
    missing = (decided @ below > 0) | gone
    distinct, which = np.unique(missing, axis=0, return_inverse=True)
    some = distinct.any(1)
    return Masks(distinct[some], np.bincount(which.ravel(), weights=each)[some])


def possible_leaves(tables: Tables) -> Tensor | None:
    """`(N, X)` int64 the joint states of the leaves of one tree that can occur, where they are few.

    None where all joint states are at most MAX_EXACT, so that nothing is gained, or where more are
    tried. Grown leaf by leaf: states that cannot occur cannot with another leaf either.
    """
    states = tables.cardinality[tables.topology.leaves.start :]
    if joint_count(states) <= MAX_EXACT or not (tables.flat == 0).any():
        return None
    found = torch.zeros(1, 0, dtype=torch.int64)
    for x, count in enumerate(states.tolist()):
        if len(found) * count > MAX_EXACT:
            return None
        more = torch.arange(count).repeat(len(found))[:, None]
        found = torch.cat([found.repeat_interleave(count, 0), more], 1)
        leaves = torch.nn.functional.pad(found, (0, len(states) - x - 1), value=MISSING)
        evidence = posterior(tables, leaves.T[None], np.zeros(1, dtype=np.int64)).log_evidence[0]
        found = found[evidence > -torch.inf]
    return found


def seen_states(tables: Tables, seen: np.ndarray, possible: Tensor | None) -> Tensor | None:
    """`(N, X)` int64 all joint states of the seen leaves, -1 for others; None if more than MAX_EXACT.

    Args:
        seen: places of leaves among the leaves.
        possible: as `possible_leaves` has it; then only states that can occur.
    """
    states = tables.cardinality[tables.topology.leaves.start :]
    at = torch.from_numpy(seen)
    count = joint_count(states[seen])
    if possible is not None and count > len(possible):
        values = possible[:, at].unique(dim=0)
    elif count <= MAX_EXACT:
        values = all_states(states[seen]) if len(seen) else torch.zeros(1, 0, dtype=torch.int64)
    else:
        return None
    found = torch.full((len(values), len(states)), MISSING, dtype=torch.int64)
    found[:, at] = values
    return found


def few_patterns(tables: Tables, masks: Masks, possible: Tensor | None) -> bool:
    """Whether at most MAX_PATTERNS patterns of leaves, some of them missing, can be seen."""
    states = tables.cardinality[tables.topology.leaves.start :]
    with np.errstate(over="ignore"):
        each = np.where(masks.missing, 1.0, states).prod(1)
    each = np.minimum(each, np.inf if possible is None else len(possible))
    return bool(each.max() <= MAX_EXACT and each.sum() <= MAX_PATTERNS)


def seen_patterns(
    tables: Tables, masks: Masks, possible: Tensor | None
) -> tuple[Tensor, np.ndarray]:
    """Every pattern of few: `(1, X, N)` leaves, -1 where missing, and `(N,)` its mask's probability."""
    each = [seen_states(tables, np.flatnonzero(~missing), possible) for missing in masks.missing]
    found = [states for states in each if states is not None]  # all, as they are few
    weight = np.repeat(masks.probability, list(map(len, found)))
    return torch.cat(found).T[None], weight


def joint_count(states: np.ndarray) -> float:
    """How many joint states there are; infinite where a float does not hold it."""
    with np.errstate(over="ignore"):
        return float(np.prod(states, dtype=np.float64))
