"""The fast kernel for posteriors on a CPU, by numba: the messages of a block of samples stay in cache.

It computes the two sweeps of `hltm.inference.messages`, which is its reference, in float64 and with
scales shared by a node's states. Each sample is a lane, an entry of the innermost loops, computed
without regard to the others: a sample's result does not depend on those beside it. A product is
rescaled, and a logarithm taken, only where it gets small.

Notation as there: `below` is λ_v = P(leaves below v | v), `sent` is σ_v = P(leaves below v | parent).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hltm._compile import compiled
from hltm.model.tables import Tables
from hltm.sampling.kernels.threads import share

LANES = 128  # samples of a block
CACHE = 1 << 16  # numbers that a block may hold; the blocks of a large tree have fewer lanes
GRAIN = 16  # blocks that a thread takes at a time
PARALLEL_STATES = 1 << 18  # below this many states one thread is as fast as two
SMALL = 1e-60  # products below this are scaled up
DOUBTFUL = 1e-200  # a product below this share of its bound may have lost a state to underflow


def posterior(
    tables: Tables,
    leaves_SXB: Tensor,
    nodes: np.ndarray,
    dtype: torch.dtype,
    prior: Tensor,
    *,
    own: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """P(node | all leaves, or its own) of some nodes.

    Args:
        leaves_SXB: `(S, X, B)` integers, -1 where a leaf is missing.
        nodes: which nodes, each once.
        prior: `(S, sum of K_v)` prior probabilities, node after node; used only where `own`.
        own: whether each node is given only the leaves below it.

    Returns:
        marginals `(S, V, K, B)`, log evidence `(S, B)` or, for own leaves, `(S, V, B)`, and `(S, B)`
        bool: the samples that must be computed again with a scale per state.
    """
    topology = tables.topology
    leaves = np.ascontiguousarray(leaves_SXB.numpy(), dtype=np.int32)
    members, _, batch = leaves.shape
    states = int(tables.cardinality[nodes].max())
    kind = np.float32 if dtype == torch.float32 else np.float64
    marginals = np.empty((members, len(nodes), states, batch), dtype=kind)
    evidence = np.empty((members, len(nodes) if own else 1, batch), dtype=kind)
    doubtful = np.zeros((members, batch), dtype=np.bool_)
    needed = topology.with_ancestors(nodes)
    offset = np.concatenate([[0], np.cumsum(tables.cardinality)])
    sent_offset = np.concatenate([[0], np.cumsum(tables.rows)])
    lanes = max(min(LANES, CACHE // int(offset[-1]) // 8 * 8), 8)
    blocks = -(-batch // lanes)
    arguments = (
        topology.parent, topology.leaves.start, tables.cardinality, tables.start, offset,
        sent_offset, _rows_of(tables.flat), _rows_of(prior), leaves, nodes.astype(np.int64), needed,
        own, lanes, marginals, evidence, doubtful,
    )  # fmt: skip

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            _rows(*arguments, low, high)

    parallel = members * len(topology) * batch >= PARALLEL_STATES
    threads = torch.get_num_threads() if parallel else 1
    share(work, members * blocks, threads=threads, grain=GRAIN)
    found = torch.from_numpy(evidence if own else evidence[:, 0])
    return torch.from_numpy(marginals), found, torch.from_numpy(doubtful)


def _rows_of(flat: Tensor) -> np.ndarray:
    """Tables as a contiguous array; with one row where all trees share theirs."""
    shared = flat[:1] if flat.stride(0) == 0 else flat
    return np.ascontiguousarray(shared.detach().numpy())


@compiled(error_model="numpy")
def _rows(  # type: ignore[no-untyped-def]
    parent, first_leaf, cardinality, start, offset, sent_offset, flat, prior, leaves, nodes, needed,
    own, lanes, marginals, evidence, doubtful, low, high,
):  # fmt: skip
    """Do tasks low..high-1; a task is one block of samples of one member.

    `offset` and `sent_offset` are where each node's states, and its parent's, begin in the message
    arrays. For own leaves there is no sweep down, so σ is not kept, and each node has its own scale.
    """
    count = parent.shape[0]
    batch = leaves.shape[2]
    blocks = (batch + lanes - 1) // lanes
    below = np.empty((offset[-1], lanes))
    sent = np.empty((sent_offset[-1] if not own else cardinality.max(), lanes))
    scale = np.empty((count if own else 1, lanes))
    peak = np.empty(lanes)
    total = np.empty(lanes)
    state = np.empty((count - first_leaf, lanes), np.int64)
    doubt = np.empty(lanes, np.bool_)
    joined = np.empty(count, np.bool_)
    for task in range(low, high):
        s = task // blocks
        begin = (task % blocks) * lanes
        size = min(lanes, batch - begin)
        for x in range(state.shape[0]):
            for j in range(size):
                state[x, j] = leaves[s, x, begin + j]
            for j in range(size, lanes):
                state[x, j] = -1
        joined[:] = False
        doubt[:] = False
        scale[:] = 0.0
        table = flat[s if flat.shape[0] > 1 else 0]
        # up: children before parents, as nodes are stored parents first
        for v in range(count - 1, 0, -1):
            p = parent[v]
            out = sent[: cardinality[p]] if own else sent[sent_offset[v] : sent_offset[v + 1]]
            states = cardinality[v]
            if v >= first_leaf:
                _send_leaf(table[start[v] :], states, state[v - first_leaf], out)
            else:
                _send(table[start[v] :], below[offset[v] : offset[v + 1]], out)
            into = below[offset[p] : offset[p + 1]]
            if not joined[p]:
                joined[p] = True
                into[:] = 1.0
            _join(out, into, peak, scale[p if own else 0], doubt)
            if own:
                for j in range(lanes):
                    scale[p, j] += scale[v, j]
        if own:  # a node's prior times its message
            for i in range(nodes.shape[0]):
                v = nodes[i]
                at = below[offset[v] : offset[v + 1]]
                if v >= first_leaf:
                    _fill_leaf(state[v - first_leaf], at)
                before = prior[s if prior.shape[0] > 1 else 0, offset[v] : offset[v + 1]]
                _finish(before, at, total, doubt)
                for j in range(size):
                    evidence[s, i, begin + j] = np.log(total[j]) + scale[v, j]
                _write(at, marginals[s, i], begin, size)
        else:  # the root's posterior, then down to the nodes asked for
            _finish(table[: cardinality[0]], below[: offset[1]], total, doubt)
            for j in range(size):
                evidence[s, 0, begin + j] = np.log(total[j]) + scale[0, j]
            for v in range(1, count):
                if needed[v]:
                    at = below[offset[v] : offset[v + 1]]
                    if v >= first_leaf:
                        _fill_leaf(state[v - first_leaf], at)
                    p = parent[v]
                    _descend(table[start[v] :], below[offset[p] : offset[p + 1]],
                             sent[sent_offset[v] : sent_offset[v + 1]], at, total)  # fmt: skip
            for i in range(nodes.shape[0]):
                v = nodes[i]
                _write(below[offset[v] : offset[v + 1]], marginals[s, i], begin, size)
        for j in range(size):
            doubtful[s, begin + j] = doubt[j]


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
def _join(sent, into, peak, scale, doubt):  # type: ignore[no-untyped-def]
    """Multiply a child's σ into its parent's λ `into`; scale the product up where it got small."""
    lanes = peak.shape[0]
    if into.shape[0] == 2:
        for j in range(lanes):
            a = into[0, j] * sent[0, j]
            b = into[1, j] * sent[1, j]
            into[0, j] = a
            into[1, j] = b
            peak[j] = a if a > b else b
    else:
        for j in range(lanes):
            peak[j] = 0.0
        for r in range(into.shape[0]):
            for j in range(lanes):
                a = into[r, j] * sent[r, j]
                into[r, j] = a
                peak[j] = a if a > peak[j] else peak[j]
    small = 0
    for j in range(lanes):
        small += 1 if peak[j] < SMALL else 0
    if small == 0:
        return
    for j in range(lanes):
        if peak[j] < SMALL:
            bound = 0.0  # of the product: it is reached if the child agrees with its siblings
            for r in range(into.shape[0]):
                bound = max(bound, sent[r, j])
            doubt[j] |= peak[j] <= bound * DOUBTFUL
            if peak[j] > 0.0:
                for r in range(into.shape[0]):
                    into[r, j] /= peak[j]
                scale[j] += np.log(peak[j])


@compiled(error_model="numpy")
def _finish(prior, below, total, doubt):  # type: ignore[no-untyped-def]
    """Turn λ into a posterior in place: times the prior, normalised; `total` is P(leaves) / scale."""
    for j in range(below.shape[1]):
        total[j] = 0.0
    for k in range(below.shape[0]):
        weight = prior[k]
        for j in range(below.shape[1]):
            below[k, j] *= weight
            total[j] += below[k, j]
    for k in range(below.shape[0]):
        for j in range(below.shape[1]):
            below[k, j] /= total[j]
    for j in range(below.shape[1]):
        doubt[j] |= total[j] <= DOUBTFUL


@compiled(error_model="numpy")
def _descend(table, above, sent, below, total):  # type: ignore[no-untyped-def]
    """Turn λ into a posterior in place: times T's transpose times the parent's posterior / σ.

    `sent` is overwritten.
    """
    states, lanes = below.shape
    for r in range(above.shape[0]):
        for j in range(lanes):
            divisor = sent[r, j] if sent[r, j] > 0.0 else 1.0
            sent[r, j] = above[r, j] / divisor
    for k in range(states):
        for j in range(lanes):
            total[j] = 0.0
        for r in range(above.shape[0]):
            weight = table[r * states + k]
            for j in range(lanes):
                total[j] += weight * sent[r, j]
        for j in range(lanes):
            below[k, j] *= total[j]


@compiled(error_model="numpy")
def _fill_leaf(state, below):  # type: ignore[no-untyped-def]
    """λ of a leaf: 1 for its state and 0 for others, or ones if it is missing."""
    for k in range(below.shape[0]):
        for j in range(below.shape[1]):
            below[k, j] = 1.0 if state[j] == k or state[j] < 0 else 0.0


@compiled(error_model="numpy")
def _write(belief, out, begin, size):  # type: ignore[no-untyped-def]
    """Store a node's posterior; states that it does not have get 0."""
    for k in range(belief.shape[0]):
        for j in range(size):
            out[k, begin + j] = belief[k, j]
    for k in range(belief.shape[0], out.shape[0]):
        for j in range(size):
            out[k, begin + j] = 0.0
