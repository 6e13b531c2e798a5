"""Random trees of every shape, with mixed numbers of states, and their posteriors by enumeration."""

from __future__ import annotations

import numpy as np
import torch

import hltm


def irregular_tree(
    seed: int,
    *,
    nodes: int = 7,
    max_states: int = 4,
    members: int | None = None,
    zeros: float = 0.0,
) -> hltm.LatentTree:
    """A tree whose nodes choose their parents at random, so leaves lie at any depth.

    Args:
        seed: of the shape, the numbers of states and the tables.
        nodes: how many.
        max_states: the largest number of states of a node.
        members: as for any tree.
        zeros: the chance that a table's entry is 0.
    """
    random = np.random.default_rng(seed)
    parents = [None] + [int(random.integers(v)) for v in range(1, nodes)]
    shape = hltm.Topology.from_parents(parents)
    # a node's name is its number in storage order, so that numbers are never ambiguous
    topology = hltm.Topology(shape.parent, shape.level, tuple(map(str, range(nodes))))
    states = random.integers(2, max_states + 1, nodes)
    tables = []
    for v in range(nodes):
        rows = (int(states[topology.parent[v]]),) if v else ()
        shape = (*rows, int(states[v]))
        table = random.dirichlet(np.ones(shape[-1]), (members or 1, *rows))
        table = np.where(random.random(table.shape) < zeros, 0, table)
        table[..., 0] += table.sum(-1) == 0
        table /= table.sum(-1, keepdims=True)
        tables.append(table if members else table[0])
    return hltm.LatentTree.from_tables(topology, tables, members)


def all_leaves(tree: hltm.LatentTree) -> torch.Tensor:
    """`(N, X)` every joint state of the leaves."""
    grid = np.indices(tree.tables.cardinality[list(tree.leaves)]).reshape(len(tree.leaves), -1)
    return torch.from_numpy(grid.T.copy())


def some_leaves(tree: hltm.LatentTree, rows: int, seed: int, missing: float = 0.3) -> torch.Tensor:
    """`(B, X)` leaf states that can occur, some of them missing; `(S, B, X)` for stacked trees."""
    random = np.random.default_rng(seed)
    members = len(tree.members)
    states = np.zeros((members, rows, len(tree.topology)), dtype=np.int64)
    for v in range(len(tree.topology)):
        above = states[:, :, tree.topology.parent[v]] if v else np.zeros_like(states[:, :, 0])
        for s in range(members):
            cumulative = tree.tables.of(v)[s].numpy().cumsum(-1)[above[s]]
            u = random.random((rows, 1)) * cumulative[:, -1:]
            states[s, :, v] = (cumulative <= u).sum(-1)
    leaves = states[:, :, list(tree.leaves)]
    leaves[random.random(leaves.shape) < missing] = -1
    return torch.from_numpy(leaves if tree.stacked else leaves[0])


def agreeing(states, leaves, row):
    """`(N,)` bool: which joint states have these leaf states, missing ones aside."""
    row = np.asarray(row)
    seen = row >= 0
    return (np.asarray(states)[:, list(leaves)][:, seen] == row[seen]).all(1)


def enumerated(tree, row):
    """(K-padded marginals `(V, K)`, log evidence, probabilities of the joint states that agree)."""
    states, probability = (np.asarray(part) for part in tree.joint())
    joint = np.where(agreeing(states, tree.leaves, row), probability, 0)
    evidence = joint.sum()
    marginals = np.zeros((len(tree.topology), tree.tables.cardinality.max()))
    for v in range(len(tree.topology)):
        np.add.at(marginals[v], states[:, v], joint)
    with np.errstate(all="ignore"):
        return marginals / evidence, np.log(evidence), joint
