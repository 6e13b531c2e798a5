"""The joint distribution by enumeration: slow and plain, the reference that tests compare with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._results import by_content
from hltm.model.nodes import Node, Nodes
from hltm.model.states import check_range
from hltm.model.tables import Tables

MAX_STATES = 1 << 20


@by_content
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
    topology, cardinality = tables.topology, tables.cardinality
    one = isinstance(given, Mapping)  # one joint state of the given nodes
    nodes = topology.nodes(list(given) if isinstance(given, Mapping) else given)
    if len(np.unique(nodes)) < len(nodes):
        raise ValueError(f"nodes are given once each, got {nodes.tolist()}")
    states, probability = joint(tables)
    if isinstance(given, Mapping):
        for v, state in zip(nodes.tolist(), map(int, given.values()), strict=True):
            check_range(tables, torch.tensor([[state]]), [v])
            agrees = states[:, v] == state
            states, probability = states[agrees], probability[:, agrees]
        nodes = nodes[:0]
    leaves = np.asarray(topology.leaves)
    row, column = (joint_number(states[:, at], cardinality[at]) for at in (nodes, leaves))
    rows, columns = (int(cardinality[at].prod()) for at in (nodes, leaves))
    found = probability.new_zeros(len(probability), rows * columns)
    found = found.index_add(1, row * columns + column, probability).unflatten(1, (rows, columns))
    found = found / found.sum(-1, keepdim=True)
    return found[:, 0] if one else found


def joint_number(states: Tensor, cardinality: np.ndarray) -> Tensor:
    """`(N,)` int64: the number of every row of `(N, V)` states in `all_states(cardinality)`."""
    found = torch.zeros(len(states), dtype=torch.int64)
    for i, base in enumerate(cardinality):
        found = found * int(base) + states[:, i].to(torch.int64)
    return found
