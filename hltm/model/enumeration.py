"""The joint distribution by enumeration: slow and plain, the reference that tests compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.model.topology import Node, Nodes

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


def leaf_distribution(tables: Tables, given: Nodes | Mapping[Node, int]) -> Tensor:
    """`(S, N_given, N_leaves)` float64 P(leaves | states of the given nodes), by enumeration.

    Joint states of the given nodes and of the leaves are numbered as by `all_states`: the last node
    varies fastest. Where the condition has probability 0, the result is NaN.

    Args:
        given: one node or several, latents or leaves, for all of their joint states; or a mapping
            node -> state for one joint state, `(S, N_leaves)`, which may be empty.

    Raises:
        ValueError: more than 2^20 joint states, a node given twice, or a state that a node does not
            have.
        KeyError, IndexError: a node that the tree does not have.
    """
    if isinstance(given, Mapping):
        states = {tables.topology.node(v): int(state) for v, state in given.items()}
        return _given_one_state(tables, states)
    return _given_all_states(tables, tables.topology.nodes(given))


def _given_all_states(tables: Tables, given: np.ndarray) -> Tensor:
    if len(np.unique(given)) < len(given):
        raise ValueError(f"nodes are given once each, got {given.tolist()}")
    states, probability = joint(tables)
    leaves = np.asarray(tables.topology.leaves)
    row = joint_number(states[:, given], tables.cardinality[given])
    column = joint_number(states[:, leaves], tables.cardinality[leaves])
    shape = [int(tables.cardinality[nodes].prod()) for nodes in (given, leaves)]
    found = probability.new_zeros(len(probability), shape[0] * shape[1])
    found.index_add_(1, row * shape[1] + column, probability)
    found = found.unflatten(1, (shape[0], shape[1]))
    return found / found.sum(-1, keepdim=True)


def _given_one_state(tables: Tables, given: Mapping[int, int]) -> Tensor:
    for v, state in given.items():
        if not 0 <= state < tables.cardinality[v]:
            raise ValueError(
                f"node {tables.topology.names[v]!r} does not have state {state}, "
                f"expected 0..{tables.cardinality[v] - 1}"
            )
    states, probability = joint(tables)
    agrees = torch.ones(len(states), dtype=torch.bool)
    for v, state in given.items():
        agrees &= states[:, v] == state
    leaves = np.asarray(tables.topology.leaves)
    column = joint_number(states[agrees][:, leaves], tables.cardinality[leaves])
    found = probability.new_zeros(len(probability), int(tables.cardinality[leaves].prod()))
    found.index_add_(1, column, probability[:, agrees])
    return found / found.sum(-1, keepdim=True)


def joint_number(states: Tensor, cardinality: np.ndarray) -> Tensor:
    """`(N,)` int64: the number of every row of `(N, V)` states in `all_states(cardinality)`."""
    found = torch.zeros(len(states), dtype=torch.int64)
    for i, base in enumerate(cardinality):
        found = found * int(base) + states[:, i].to(torch.int64)
    return found
