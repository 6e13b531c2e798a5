"""The joint distribution by enumeration: slow, plain, and the oracle of everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables

MAX_STATES = 1 << 20


class Joint(NamedTuple):
    """Every joint state of a tree.

    Attributes:
        states: `(N, V)` int64, one joint state a row; the last node varies fastest.
        probability: `(N,)` or `(S, N)` float64.
    """

    states: Tensor
    probability: Tensor


def all_states(cardinality: np.ndarray) -> Tensor:
    """`(N, len(cardinality))` int64: every combination of states, the last varying fastest.

    Raises:
        ValueError: more than 2^20 combinations.
    """
    count = 1
    for states in cardinality:
        count *= int(states)
    if count > MAX_STATES:
        raise ValueError(
            f"{len(cardinality)} nodes have {count} joint states, more than the {MAX_STATES} "
            "that can be enumerated"
        )
    grid = np.indices([int(k) for k in cardinality]).reshape(len(cardinality), -1)
    return torch.from_numpy(np.ascontiguousarray(grid.T))


def joint(tables: Tables) -> Joint:
    """Every joint state and its probability: the product of one table entry per node.

    Raises:
        ValueError: more than 2^20 joint states.
    """
    states = all_states(tables.cardinality)
    probability = tables.of(0)[:, 0][:, states[:, 0]]
    for v in range(1, len(tables.topology)):
        parent = states[:, int(tables.topology.parent[v])]
        probability = probability * tables.of(v)[:, parent, states[:, v]]
    return Joint(states, probability)


def leaf_distribution(tables: Tables, given: np.ndarray) -> Tensor:
    """`(S, N_given, N_leaves)` float64: P(leaves | states of the given nodes).

    Joint states of the given nodes and of the leaves are numbered as by `all_states`. Rows whose
    condition has probability 0 are NaN.

    Raises:
        ValueError: a node given twice, or more than 2^20 joint states.
    """
    if len(np.unique(given)) < len(given):
        raise ValueError(f"nodes are given once each, got {given.tolist()}")
    states, probability = joint(tables)
    leaves = np.asarray(tables.topology.leaves)
    row = number(states[:, given], tables.cardinality[given])
    column = number(states[:, leaves], tables.cardinality[leaves])
    shape = [int(tables.cardinality[nodes].prod()) for nodes in (given, leaves)]
    found = probability.new_zeros(len(probability), shape[0] * shape[1])
    found.index_add_(1, row * shape[1] + column, probability)
    found = found.unflatten(1, (shape[0], shape[1]))
    return found / found.sum(-1, keepdim=True)


def leaf_distribution_at(tables: Tables, given: Mapping[int, int]) -> Tensor:
    """`(S, N_leaves)` float64: P(leaves | these nodes have these states), NaN if they cannot.

    Args:
        given: node number -> state; leaves may be among them, and nothing may be given at all.

    Raises:
        ValueError: a state that a node does not have, or more than 2^20 joint states.
    """
    for v, state in given.items():
        if not 0 <= state < tables.cardinality[v]:
            raise ValueError(
                f"node {tables.topology.names[v]!r} has no state {state}, "
                f"expected 0..{tables.cardinality[v] - 1}"
            )
    states, probability = joint(tables)
    agrees = torch.ones(len(states), dtype=torch.bool)
    for v, state in given.items():
        agrees &= states[:, v] == state
    leaves = np.asarray(tables.topology.leaves)
    column = number(states[agrees][:, leaves], tables.cardinality[leaves])
    found = probability.new_zeros(len(probability), int(tables.cardinality[leaves].prod()))
    found.index_add_(1, column, probability[:, agrees])
    return found / found.sum(-1, keepdim=True)


def number(states: Tensor, cardinality: np.ndarray) -> Tensor:
    """`(N,)` the place of every row of `(N, V)` states in `all_states(cardinality)`."""
    found = torch.zeros(len(states), dtype=torch.int64)
    for i, base in enumerate(cardinality):
        found = found * int(base) + states[:, i].to(torch.int64)
    return found
