"""The sweep from the leaves to the root for a block of samples, compiled for the CPU by numba.

It computes the messages of `hltm.inference.messages`, which is its reference, in float64. Each sample
is a lane, an entry of the innermost loops, computed without regard to the others: a sample's result
does not depend on those beside it. The states of a node share a scale in most lanes; where one falls
far behind the best one it gets a shift of its own, and the lane leaves the fast loops
(`hltm.inference.scaling`, which says why no state is lost).

Notation as there: `below` is λ_v = P(leaves below v | v), `sent` is σ_v = P(leaves below v | parent).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._compile import compiled
from hltm.inference.messages import Likelihoods
from hltm.inference.scaling import SMALL, mark_shifted, settle, terms_of
from hltm.model.tables import Tables

LANES = 128  # samples of a block
CACHE = 1 << 16  # numbers that a block may hold; the blocks of a large tree have fewer lanes


class Problem(NamedTuple):
    """A tree and what is observed of it, as a kernel reads them.

    Attributes:
        parent, cardinality, start: `(V,)`, as in `Tables`.
        offset: `(V + 1,)` where each node's states begin in an array of all states.
        first_leaf: the number of the first leaf.
        flat: `(S or 1, N)` all tables.
        extreme: `(S or 1, V)` bool: which tables have entries between 0 and SMALL.
        leaves: `(S or 1, X, B)` int32 states, -1 where missing.
        given: `(V,)` the place of each node's likelihoods in `likelihoods`, or -1.
        likelihoods: `(S or 1, sum of K, B)`.
        lanes: how many samples a block has.
    """

    parent: np.ndarray
    cardinality: np.ndarray
    start: np.ndarray
    offset: np.ndarray
    first_leaf: int
    flat: np.ndarray
    extreme: np.ndarray
    leaves: np.ndarray
    given: np.ndarray
    likelihoods: np.ndarray
    lanes: int


class Scratch(NamedTuple):
    """The memory of one thread, for one block at a time. ΣK counts the states of all nodes.

    Attributes:
        below: `(ΣK, lanes)` mantissas of λ.
        shift: `(ΣK, lanes)` their exponents of two, where `shifted`; else they are 0.
        scale: `(V or 1, lanes)` the exponents shared by a node's states, or by all nodes.
        stored: `(V,)` bool: whether λ is in `below`; it is not for a leaf that is merely observed.
        shifted: `(V,)` bool: whether `shift` holds.
        state: `(X, lanes)` observed states.
        some: `(K, lanes)` and `lift` `(K, lanes)`: mantissas and exponents of one node.
        terms: `(K,)` of one sum.
        apart: `(lanes,)` bool: the lanes of a node that the fast loops cannot compute.
        none: `(K,)` zeros.
    """

    below: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    stored: np.ndarray
    shifted: np.ndarray
    state: np.ndarray
    some: np.ndarray
    lift: np.ndarray
    terms: np.ndarray
    apart: np.ndarray
    none: np.ndarray


def problem_of(tables: Tables, leaves_SXB: Tensor, likelihoods: Likelihoods | None) -> Problem:
    """Arrays for the kernels, of tensors on the CPU."""
    flat = rows_of_trees(tables.flat)
    batch = leaves_SXB.shape[-1]
    offset = np.concatenate([[0], np.cumsum(tables.cardinality)])
    given = np.full(len(tables.topology), -1)
    parts, size = [np.empty((1, 0, batch))], 0
    for v, found in (likelihoods or {}).items():
        given[v], size = size, size + found.shape[1]
        parts.append(found.detach().to(torch.float64).numpy())
    most = max(len(part) for part in parts)
    parts = [np.broadcast_to(part, (most, *part.shape[1:])) for part in parts]
    small = (flat > 0) & (flat < SMALL)
    return Problem(
        parent=tables.topology.parent, cardinality=tables.cardinality, start=tables.start,
        offset=offset, first_leaf=tables.topology.leaves.start, flat=flat,
        extreme=np.logical_or.reduceat(small, tables.start, axis=1),
        leaves=np.ascontiguousarray(leaves_SXB.numpy(), dtype=np.int32), given=given,
        likelihoods=np.concatenate(parts, axis=1),
        lanes=max(min(LANES, CACHE // int(offset[-1]) // 8 * 8, -(-batch // 8) * 8), 8),
    )  # fmt: skip


def rows_of_trees(flat: Tensor) -> np.ndarray:
    """`(S, N)` as a contiguous array; `(1, N)` where all trees share a row."""
    shared = flat[:1] if flat.stride(0) == 0 else flat
    return np.ascontiguousarray(shared.detach().numpy())


@compiled()
def scratch_of(problem, scales):  # type: ignore[no-untyped-def]
    """Memory for blocks of a problem, with so many scales."""
    count, lanes, most = len(problem.parent), problem.lanes, problem.cardinality.max()
    total = problem.offset[-1]
    return Scratch(
        np.empty((total, lanes)), np.empty((total, lanes), np.int64),
        np.empty((scales, lanes), np.int64), np.empty(count, np.bool_), np.empty(count, np.bool_),
        np.empty((count - problem.first_leaf, lanes), np.int64), np.empty((most, lanes)),
        np.empty((most, lanes), np.int64), np.empty(most), np.empty(lanes, np.bool_),
        np.zeros(most, np.int64),
    )  # fmt: skip


@compiled(error_model="numpy")
def sweep_up(problem, scratch, s, begin, size, sent, sent_offset):  # type: ignore[no-untyped-def]
    """λ of every node, and σ in `sent`, of samples begin .. begin + size - 1 of member s.

    `sent` keeps σ of every node at `sent_offset`; if that is empty it holds one node at a time. With one
    scale per node, a node's λ is that of its own leaves; with one for all nodes, only the root's is.
    """
    below, stored, shifted, state = scratch.below, scratch.stored, scratch.shifted, scratch.state
    parent, cardinality, start = problem.parent, problem.cardinality, problem.start
    offset, first_leaf = problem.offset, problem.first_leaf
    leaves = problem.leaves[s if problem.leaves.shape[0] > 1 else 0]
    for x in range(state.shape[0]):
        for j in range(size):
            state[x, j] = leaves[x, begin + j]
        for j in range(size, state.shape[1]):
            state[x, j] = -1
    scratch.scale[:] = 0
    stored[:] = False
    shifted[:] = False
    table = problem.flat[s if problem.flat.shape[0] > 1 else 0]
    extreme = problem.extreme[s if problem.flat.shape[0] > 1 else 0]
    each, keep = scratch.scale.shape[0] > 1, len(sent_offset) > 0
    for v in range(len(parent) - 1, -1, -1):  # children before parents
        if extreme[v] or problem.given[v] >= 0:
            _prepare(problem, scratch, v, s, begin, size, extreme[v])
        if v == 0:
            break
        p, states = parent[v], cardinality[v]
        out = sent[sent_offset[v] : sent_offset[v + 1]] if keep else sent[: cardinality[p]]
        raised = False
        if v >= first_leaf and not stored[v]:
            _send_leaf(table[start[v] :], states, state[v - first_leaf], out)
        else:
            _send(table[start[v] :], below[offset[v] : offset[v + 1]], out)
            if shifted[v]:
                raised = _send_apart(problem, scratch, v, table, out, extreme[v])
        into = below[offset[p] : offset[p + 1]]
        if not stored[p]:
            stored[p] = True
            into[:] = 1.0
        small = _multiply(out, into)
        if small or raised:
            _rescale(problem, scratch, p, raised)
        if each:
            for j in range(size):
                scratch.scale[p, j] += scratch.scale[v, j]


@compiled(error_model="numpy")
def _prepare(problem, scratch, v, s, begin, size, extreme):  # type: ignore[no-untyped-def]
    """Store λ of a node with an extreme table or likelihoods, and multiply it by these."""
    low, high = problem.offset[v], problem.offset[v + 1]
    at, shift = scratch.below[low:high], scratch.shift[low:high]
    if not scratch.stored[v]:  # a leaf
        scratch.stored[v] = True
        fill_leaf(scratch.state[v - problem.first_leaf], at)
    if not scratch.shifted[v]:
        scratch.shifted[v] = True
        shift[:] = 0
    if problem.given[v] >= 0:
        given, lift = scratch.some[: high - low], scratch.lift[: high - low]
        place = s if problem.likelihoods.shape[0] > 1 else 0
        scale = scratch.scale[v if scratch.scale.shape[0] > 1 else 0]
        lift[:] = 0
        for j in range(problem.lanes):
            for k in range(high - low):
                row = problem.given[v] + k
                given[k, j] = problem.likelihoods[place, row, begin + j] if j < size else 1.0
            scale[j] += settle(given, lift, j)
        _multiply(given, at)
        _rescale(problem, scratch, v, True)
        scratch.shifted[v] |= extreme


@compiled(error_model="numpy")
def _send_apart(problem, scratch, v, table, out, extreme):  # type: ignore[no-untyped-def]
    """`_send` in the lanes where states have shifts; whether there are any. Their exponents are `lift`."""
    low, states = problem.offset[v], problem.cardinality[v]
    at, shift = scratch.below[low : low + states], scratch.shift[low : low + states]
    if not mark_shifted(shift, extreme, scratch.apart):
        return False
    lift = scratch.lift[: out.shape[0]]
    scale = scratch.scale[problem.parent[v] if scratch.scale.shape[0] > 1 else 0]
    lift[:] = 0
    for j in range(problem.lanes):
        if scratch.apart[j]:
            for r in range(out.shape[0]):
                row = table[problem.start[v] + r * states :][:states]
                out[r, j], lift[r, j] = terms_of(row, scratch.none, at, shift, j, scratch.terms)
            scale[j] += settle(out, lift, j)
    return True


@compiled(error_model="numpy")
def _rescale(problem, scratch, v, raised):  # type: ignore[no-untyped-def]
    """Settle a node's λ, after adding the exponents `lift` to its own if it is `raised`."""
    low, high = problem.offset[v], problem.offset[v + 1]
    at, shift = scratch.below[low:high], scratch.shift[low:high]
    scale = scratch.scale[v if scratch.scale.shape[0] > 1 else 0]
    if not scratch.shifted[v]:
        shift[:] = 0
    if raised:
        shift += scratch.lift[: high - low]
    some = False
    for j in range(problem.lanes):
        scale[j] += settle(at, shift, j)
        for k in range(high - low):
            some |= shift[k, j] != 0
    scratch.shifted[v] = some


@compiled(error_model="numpy")
def _send_leaf(table, states, state, out):  # type: ignore[no-untyped-def]
    """σ of a leaf: the column of its table for its observed state, or ones if it is missing."""
    if states == 2:  # a choice between two numbers: faster than indexed loads
        for r in range(out.shape[0]):
            first, second = table[2 * r], table[2 * r + 1]
            for j in range(out.shape[1]):
                out[r, j] = second if state[j] == 1 else (first if state[j] == 0 else 1.0)
        return
    for r in range(out.shape[0]):
        for j in range(out.shape[1]):
            k = state[j]
            out[r, j] = 1.0 if k < 0 else table[r * states + k]


@compiled(error_model="numpy")
def _send(table, message, out):  # type: ignore[no-untyped-def]
    """σ of a latent: the sum over its states of P(state | parent) times λ."""
    states = message.shape[0]
    if states == 2:
        for r in range(out.shape[0]):
            first, second = table[2 * r], table[2 * r + 1]
            for j in range(out.shape[1]):
                out[r, j] = first * message[0, j] + second * message[1, j]
        return
    for r in range(out.shape[0]):
        weight = table[r * states]
        for j in range(out.shape[1]):
            out[r, j] = weight * message[0, j]
        for k in range(1, states):
            weight = table[r * states + k]
            for j in range(out.shape[1]):
                out[r, j] += weight * message[k, j]


@compiled(error_model="numpy")
def _multiply(sent, into):  # type: ignore[no-untyped-def]
    """Multiply a message into a node's λ; whether some state got small."""
    small = 0
    if into.shape[0] == 2:
        for j in range(into.shape[1]):
            a = into[0, j] * sent[0, j]
            b = into[1, j] * sent[1, j]
            into[0, j] = a
            into[1, j] = b
            small += ((a < SMALL) & (a > 0.0)) | ((b < SMALL) & (b > 0.0))
        return small > 0
    for r in range(into.shape[0]):
        for j in range(into.shape[1]):
            a = into[r, j] * sent[r, j]
            into[r, j] = a
            small += (a < SMALL) & (a > 0.0)
    return small > 0


@compiled(error_model="numpy")
def fill_leaf(state, below):  # type: ignore[no-untyped-def]
    """λ of a leaf: 1 for its state and 0 for others, or ones if it is missing."""
    for k in range(below.shape[0]):
        for j in range(below.shape[1]):
            below[k, j] = 1.0 if state[j] == k or state[j] < 0 else 0.0
