"""What the compiled kernels of posteriors read, and their memory: a block of samples at a time.

A block stays in the cache of its core. Shifts are exponents of two of a node's states
(`hltm.inference.scaling`); few trees have them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm.inference.messages import Likelihoods
from hltm.inference.scaling import SMALL
from hltm.model.tables import Tables

LANES = 256  # samples of a block
CACHE = 1 << 19  # numbers that a block may hold; the blocks of a large tree have fewer lanes
LINE = 64  # bytes
SMALLEST = 1 << 15  # bytes of an array that is worth the microsecond that it takes to align it


class Problem(NamedTuple):
    """A tree and what is observed of it, as a kernel reads them.

    Attributes:
        parent, cardinality, start: `(V,)`, as in `Tables`.
        offset: `(V + 1,)` where each node's states begin in an array of all states.
        first_leaf: the number of the first leaf.
        flat: `(S or 1, N)` all tables.
        leaves: `(S or 1, X, B)` int32 states, -1 where missing.
        lanes: how many samples a block has.
        most: the largest number of states of a node.
    """

    parent: np.ndarray
    cardinality: np.ndarray
    start: np.ndarray
    offset: np.ndarray
    first_leaf: int
    flat: np.ndarray
    leaves: np.ndarray
    lanes: int
    most: int


class Scratch(NamedTuple):
    """The memory of one thread, for one block at a time. ΣK counts the states of all nodes.

    Attributes:
        below: `(ΣK, lanes)` mantissas of λ.
        scale: `(V or 1, lanes)` the exponents shared by a node's states, or by all nodes.
        stored: `(V,)` bool: whether λ is in `below`; it is not for a leaf that is merely observed.
        state: `(X, lanes)` observed states, -1 where missing.
        missing: `(X,)` bool: whether some sample of the block lacks the leaf.
        sent: σ of every node, or `(K, lanes)` of one node at a time.
        total, exponent: `(lanes,)` sums over states, and their exponents of two.
    """

    below: np.ndarray
    scale: np.ndarray
    stored: np.ndarray
    state: np.ndarray
    missing: np.ndarray
    sent: np.ndarray
    total: np.ndarray
    exponent: np.ndarray


class Shifts(NamedTuple):
    """What is needed where states have exponents of their own: of the tree, and memory of one thread.

    Attributes:
        extreme: `(S or 1, V)` bool: which tables have entries between 0 and SMALL.
        given: `(V,)` the place of each node's likelihoods in `likelihoods`, or -1.
        likelihoods: `(S or 1, sum of K, B)`.
        shift: `(ΣK, lanes)` exponents of two of `below`, where `shifted`; else they are 0.
        shifted: `(V,)` bool: whether `shift` holds.
        some: `(K, lanes)` and `lift` `(K, lanes)`: mantissas and exponents of one node.
        found: `(K, lanes)` results of one node.
        terms: `(K,)` of one sum.
        apart: `(lanes,)` bool: the lanes of a node that the fast loops cannot compute.
        none: `(K,)` zeros.
    """

    extreme: np.ndarray
    given: np.ndarray
    likelihoods: np.ndarray
    shift: np.ndarray
    shifted: np.ndarray
    some: np.ndarray
    lift: np.ndarray
    found: np.ndarray
    terms: np.ndarray
    apart: np.ndarray
    none: np.ndarray


def problem_of(tables: Tables, leaves_SXB: Tensor) -> Problem:
    """Arrays for the kernels, of tensors on the CPU."""
    batch = leaves_SXB.shape[-1]
    offset = np.concatenate([[0], np.cumsum(tables.cardinality)])
    return Problem(
        parent=tables.topology.parent, cardinality=tables.cardinality, start=tables.start,
        offset=offset, first_leaf=tables.topology.leaves.start, flat=rows_of_trees(tables.flat),
        leaves=np.ascontiguousarray(leaves_SXB.numpy(), dtype=np.int32),
        lanes=max(min(LANES, CACHE // int(offset[-1]) // 8 * 8, -(-batch // 8) * 8), 8),
        most=int(tables.cardinality.max()),
    )  # fmt: skip


def rows_of_trees(flat: Tensor) -> np.ndarray:
    """`(S, N)` as a contiguous array; `(1, N)` where all trees share a row."""
    shared = flat[:1] if flat.stride(0) == 0 else flat
    return np.ascontiguousarray(shared.detach().numpy())


def is_small(probabilities: np.ndarray) -> np.ndarray:
    """Bool: which are between 0 and SMALL."""
    small: np.ndarray = (probabilities > 0) & (probabilities < SMALL)
    return small


def aligned(shape: tuple[int, ...], kind: type = np.float64) -> np.ndarray:
    """An empty array from the start of a line of the cache on: where its rows are whole lines, no vector
    of them lies in two lines, which would take twice as long to read or write. Small ones begin anywhere."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size < SMALLEST:
        return np.empty(shape, kind)
    memory = np.empty(size + LINE, np.uint8)
    first = -memory.__array_interface__["data"][0] % LINE
    return memory[first : first + size].view(kind).reshape(shape)


def scratch_of(problem: Problem, *, scales: int, sent: int) -> Scratch:
    """Memory for blocks of a problem, with so many scales and so many rows of messages sent."""
    count, lanes = len(problem.parent), problem.lanes
    return Scratch(
        below=aligned((int(problem.offset[-1]), lanes)), scale=aligned((scales, lanes), np.int64),
        stored=np.empty(count, np.bool_),
        state=aligned((count - problem.first_leaf, lanes), np.int64),
        missing=np.empty(count - problem.first_leaf, np.bool_),
        sent=aligned((sent, lanes)), total=aligned((lanes,)), exponent=aligned((lanes,), np.int64),
    )  # fmt: skip


def shifts_of(problem: Problem, likelihoods: Likelihoods | None) -> Shifts:
    """What is needed for lanes with shifts."""
    count, lanes, most = len(problem.parent), problem.lanes, problem.most
    given = np.full(count, -1)
    parts, size = [np.empty((1, 0, problem.leaves.shape[-1]))], 0
    for v, found in (likelihoods or {}).items():
        given[v], size = size, size + found.shape[1]
        parts.append(found.detach().to(torch.float64).numpy())
    trees = max(len(part) for part in parts)
    parts = [np.broadcast_to(part, (trees, *part.shape[1:])) for part in parts]
    return Shifts(
        extreme=np.logical_or.reduceat(is_small(problem.flat), problem.start, axis=1),
        given=given, likelihoods=np.concatenate(parts, axis=1),
        shift=aligned((int(problem.offset[-1]), lanes), np.int64), shifted=np.empty(count, np.bool_),
        some=np.empty((most, lanes)), lift=np.empty((most, lanes), np.int64),
        found=np.empty((most, lanes)), terms=np.empty(most), apart=np.empty(lanes, np.bool_),
        none=np.zeros(most, np.int64),
    )  # fmt: skip
