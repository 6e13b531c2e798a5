"""Squared Bayes ceilings of nodes given the leaves below them, by enumeration of these leaves' states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hltm.model.tables import Tables

CHUNK = 1 << 15  # numbers that are computed at a time: few enough to stay in cache


def own_squares(tables: Tables, prior: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """`(V,)` squared ceilings of nodes given their own leaves.

    For each state of a node, the likelihoods of all N joint states of the leaves below it are the
    Kronecker product of those that its children send, so one sweep up the tree gives all moments. Nodes
    with the same tree below them are done together.
    """
    topology = tables.topology
    wanted = np.isin(np.arange(len(topology)), nodes)
    needed = wanted.copy()
    for group in tables.groups[1:]:
        needed[group] |= needed[topology.parent[group]]
    square = np.zeros(len(topology))
    start = np.cumsum(tables.cardinality) - tables.cardinality
    kind, place = np.zeros((2, len(topology)), dtype=np.int64)
    # of every kind of node, (G, K_parent, N) likelihoods of leaf states
    sent: list[np.ndarray] = []
    unread: list[int] = []  # how many nodes of a kind have not been read by their parents
    for alike, children in _kinds(tables, needed, kind):
        kind[alike], place[alike] = len(sent), np.arange(len(alike))
        above = topology.parent[alike]
        read = needed[above] & (above >= 0)
        below = [(sent[kind[column[0]]], place[column]) for column in children.T]
        states = int(tables.cardinality[alike[0]])
        columns = int(np.prod([factor.shape[-1] for factor, _ in below] or [states]))
        table = tables.of(alike)[0].cpu().numpy()
        out = np.empty((len(alike), table.shape[1], columns if read.any() else 0))
        step = max(CHUNK // (states * columns), 1)
        for low in range(0, len(alike), step):
            part = slice(low, low + step)
            before, end = prior[start[alike[part]][:, None] + np.arange(states)], 0
            moment = np.zeros((len(before), states, states))
            for likelihood in _products([f[at[part]] for f, at in below], before):
                if wanted[alike[part]].any():
                    moment += _enumerated(before, likelihood)
                if read.any():
                    begin, end = end, end + likelihood.shape[-1]
                    np.matmul(table[part], likelihood, out=out[part, :, begin:end])
            square[alike[part]] = largest(moment)
        sent.append(out)
        unread.append(int(read.sum()))
        for column in children.T:
            unread[kind[column[0]]] -= len(alike)
            if not unread[kind[column[0]]]:
                sent[kind[column[0]]] = out[:0]  # gives its memory back
    return square[nodes]


def _kinds(
    tables: Tables, needed: np.ndarray, kind: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`(G,)` nodes with trees of the same shape below them, and their `(G, C)` children; children first.

    Args:
        needed: `(V,)` bool, the nodes that are wanted, with all that lie below them.
        kind: `(V,)` what the caller makes of it: a number for all nodes that were given together.
    """
    parent = tables.topology.parent
    order = np.argsort(parent, kind="stable")
    first = np.searchsorted(parent[order], np.arange(len(parent) + 1))
    for group in reversed(tables.groups):
        nodes = group[needed[group]]
        if not len(nodes):
            continue
        count = np.diff(first)[nodes]
        shape = np.arange(count.max()) < count[:, None]
        at = np.minimum(first[nodes][:, None] + np.arange(count.max()), len(parent) - 1)
        key = np.where(shape, kind[order[at]], -1)
        key = np.concatenate([count[:, None], key], 1)
        _, which = np.unique(key, axis=0, return_inverse=True)
        sizes = np.bincount(which.ravel())
        rows = np.split(np.argsort(which.ravel(), kind="stable"), np.cumsum(sizes)[:-1])
        for row in rows:
            yield nodes[row], order[at[row, : count[row[0]]]]


def _products(factors: list[np.ndarray], prior: np.ndarray) -> Iterator[np.ndarray]:
    """Column blocks of the row-wise Kronecker products of `(G, K, N_i)` factors, `(G, K, product of N_i)`.

    A leaf has no factors; the likelihood of its own state is 1, and that of others 0.
    """
    count, states = prior.shape
    if not factors:
        yield np.broadcast_to(np.eye(states), (count, states, states))
        return
    left = np.ones((count, states, 1))
    for factor in factors[:-1]:
        left = (left[..., None] * factor[:, :, None]).reshape(count, states, -1)
    right = factors[-1]
    step = max(CHUNK // right.size, 1)
    for low in range(0, left.shape[-1], step):
        part = left[:, :, low : low + step, None] * right[:, :, None]
        yield part.reshape(count, states, -1)


def _enumerated(prior: np.ndarray, likelihood: np.ndarray) -> np.ndarray:
    """`(G, K, K)` what N joint states of leaves add to E[d d^T], from `(G, K, N)` likelihoods l.

    With the evidence e = prior · l, the posterior is prior l / e, so d = D^1/2 (l - e) / e, and a joint
    state has probability e; one that cannot occur adds nothing.
    """
    evidence = prior[:, None] @ likelihood
    root = np.sqrt(evidence)
    inverse = 1 / np.where(root > 0, root, np.inf)
    weighted = (likelihood - evidence) * (np.sqrt(prior)[..., None] * inverse)
    return weighted @ weighted.swapaxes(-1, -2)


def largest(moment: np.ndarray) -> np.ndarray:
    """`(V,)` squared ceilings from E[d d^T], `(V, K, K)`, padded with zeros."""
    return np.linalg.eigvalsh(moment)[:, -1].clip(0, 1)
