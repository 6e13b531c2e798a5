"""Expected counts and evidence of one row in exact rational arithmetic, node by node."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

import hltm


def rational_counts(tree: hltm.LatentTree, leaves, likelihoods=None) -> tuple[list, Fraction]:
    """P(parent = i, v = j | row) of every node as nested lists, and P(row).

    Args:
        tree: one tree.
        leaves: `(X,)` states, -1 where missing.
        likelihoods: node -> factors of its states.
    """
    topology, cardinality = tree.topology, tree.tables.cardinality.tolist()
    parent, first_leaf = topology.parent.tolist(), topology.leaves.start
    tables = [
        [[Fraction(x) for x in row] for row in tree.tables.of(v)[0].tolist()]
        for v in range(len(parent))
    ]
    below = [[Fraction(1)] * k for k in cardinality]
    for v, factors in (likelihoods or {}).items():
        below[v] = [Fraction(float(x)) for x in factors]
    for x, state in enumerate(np.asarray(leaves).tolist()):
        if state >= 0:
            v = first_leaf + x
            below[v] = [a if k == state else Fraction(0) for k, a in enumerate(below[v])]
    sent = [None] * len(parent)
    for v in range(len(parent) - 1, -1, -1):
        sent[v] = [sum(t * b for t, b in zip(row, below[v], strict=True)) for row in tables[v]]
        if v:
            p = parent[v]
            below[p] = [a * b for a, b in zip(below[p], sent[v], strict=True)]
    counts, chance = [], []
    for v in range(len(parent)):
        above = [Fraction(1)] if v == 0 else chance[parent[v]]
        rows = [
            [p * t * b / s if s else Fraction(0) for t, b in zip(row, below[v], strict=True)]
            for p, s, row in zip(above, sent[v], tables[v], strict=True)
        ]
        counts.append(rows)
        chance.append([sum(column) for column in zip(*rows, strict=True)])
    return counts, sent[0][0]
