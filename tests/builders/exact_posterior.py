"""Posteriors in exact integer arithmetic, for trees and tables of any size; written to be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import hltm


def whole_numbers(table: np.ndarray) -> tuple[list[list[int]], int]:
    """A table of floats as integers times 2^-bits, and the bits: every float is such a number."""
    ratios = [[float(x).as_integer_ratio() for x in row] for row in table]
    bits = max(below.bit_length() - 1 for row in ratios for _, below in row)
    return [[top * (1 << bits) // below for top, below in row] for row in ratios], bits


def exact_joint(
    tree: hltm.LatentTree,
    row: Sequence[int],
    node: int = 0,
    *,
    member: int = 0,
    own: bool = False,
    replaced: tuple[int, np.ndarray] | None = None,
) -> tuple[list[int], int]:
    """P(node = z, leaves) for each state z, as integers times 2^-bits, and the bits.

    One sweep up the tree for each state, in which the node is set to it; one for all the root's.

    Args:
        row: states of the leaves, -1 where missing.
        own: whether only the leaves below the node count.
        replaced: a node and another table for it, of any numbers that are not negative.
    """
    topology = tree.topology
    tables, bits = [], 0
    for v in range(len(topology)):
        table = tree.tables.of(v)[member].detach().numpy()
        if replaced is not None and v == replaced[0]:
            table = replaced[1]
        numbers, more = whole_numbers(table)
        tables.append(numbers)
        bits += more
    found: list[int] = []
    below = (
        set(topology.descendants(topology.names[node]).tolist())
        if own
        else set(range(len(topology)))
    )
    for z in range(len(tables[node][0]) if node else 1):
        likelihood = [[1] * len(table[0]) for table in tables]
        for v in range(len(topology) - 1, -1, -1):
            seen = -1 if v < topology.leaves.start else int(row[v - topology.leaves.start])
            for k in range(len(likelihood[v])):
                if (seen >= 0 and v in below and k != seen) or (v == node > 0 and k != z):
                    likelihood[v][k] = 0
            for r, weights in enumerate(tables[v]):
                terms = [w * x for w, x in zip(weights, likelihood[v], strict=True)]
                if v > 0:
                    likelihood[topology.parent[v]][r] *= sum(terms)
        found += [sum(terms)] if node else terms
    return found, bits


def exact_posterior(
    tree: hltm.LatentTree, row: Sequence[int], node: int = 0, *, member: int = 0, own: bool = False
) -> tuple[list[float], float]:
    """P(node = z | leaves) for each state z, and log P(leaves); NaN and -inf where they cannot occur."""
    joint, bits = exact_joint(tree, row, node, member=member, own=own)
    total = sum(joint)
    if total == 0:
        return [math.nan] * len(joint), -math.inf
    # Python divides integers of any size to the nearest float
    return [x / total for x in joint], math.log(total) - bits * math.log(2)
