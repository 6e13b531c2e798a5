"""Expected counts of parents' and children's states given evidence: the E-step of EM, compiled.

For every table, with w_b the weight of a row of evidence,

    N_v(i, j) = sum over rows b of  w_b P(parent of v = i, v = j | evidence b)
              = θ_v(i, j) · d/dθ_v(i, j) of the sum of w_b log P(evidence b),

by one sweep up the tree and one down (notation of `hltm.inference.messages`): P(i, j | evidence) =
P(i | evidence) θ(i, j) λ_v(j) / σ_v(i).

The sweeps run over lanes, one row of evidence each, with a scale that a node's states share. An entry
below TINY of its lane's scale is set to 0 and the lane is marked. All factors that meet such an entry
later are at most 1, so what is lost of P(evidence) is at most TINY per entry, in units in which
P(evidence) itself is `total` · exp(-`risk`), where risk grows by -log of every later change of scale.
Unless that bound is below LOSS of P(evidence), the lane is computed again in logarithms, which lose
nothing. Such lanes are rare: they need evidence that contradicts itself by 140 orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from hltm._compile import compiled
from hltm.model.tables import Tables
from hltm.model.topology import Topology
from hltm.sampling.kernels.threads import share

LANES = 128  # rows of a block
CACHE = 1 << 16  # numbers that a block may hold; the blocks of a large tree have fewer lanes
GRAIN = 4096  # rows of a task, at least
TASKS = 16  # of a model, at most: each has its own counts, added in a fixed order
COUNTS = 1 << 18  # numbers in all counts of a model, at most, where that is possible
PARALLEL_STATES = 1 << 18  # below this many states one thread is as fast as two
SMALL = 1e-60  # a lane whose largest entry is below this is scaled up
TINY = 1e-140  # its square is still a normal number
LOG_TINY = float(np.log(TINY))
LOSS = float(np.log(1e-20))


class Rows(NamedTuple):
    """Rows of evidence of S models, one after the other.

    Attributes:
        leaves: `(X, N)` int32 states, -1 where missing.
        likelihoods: node -> `(K, N)` float64 factors of its states, at most 1.
        log_scale: `(N,)` float64, what was divided out of the likelihoods.
        weights: `(N,)` float64.
        bounds: `(S, 2)` int64, the first and last + 1 row of every model; models may share rows.
    """

    leaves: np.ndarray
    likelihoods: dict[int, np.ndarray]
    log_scale: np.ndarray
    weights: np.ndarray
    bounds: np.ndarray


def expected_counts(
    topology: Topology, cardinality: np.ndarray, flat: np.ndarray, rows: Rows
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Expected counts `(S, N)` float64 in the layout of `Tables.flat`, and each row's log P(evidence).

    Rows that cannot occur have log P = -inf and count nothing.

    Args:
        flat: `(S, N)` float64 tables of S models.
        rows: their evidence.
    """
    tables = Tables(topology, cardinality, torch.empty(0))
    factors, factor_of = _stack(topology, rows)
    # a leaf without a likelihood needs no memory of its own in a block: its σ is a column of its table
    kept = (np.arange(len(topology)) < topology.leaves.start) | (factor_of >= 0)
    offset = np.concatenate([[0], np.cumsum(np.where(kept, cardinality, 0))])
    sent_offset = np.concatenate([[0], np.cumsum(np.where(kept, tables.rows, 0))])
    lanes = int(np.clip(CACHE // int(offset[-1]) // 8 * 8, 8, LANES))
    tasks, of_model = _tasks(rows.bounds, flat.shape[1], lanes)
    counts = np.zeros((len(tasks), flat.shape[1]))
    evidence = np.empty(int(tasks[-1, 3] + tasks[-1, 2] - tasks[-1, 1]))
    with np.errstate(divide="ignore"):
        logs, log_factors = np.log(flat), np.log(factors)
    faint = np.zeros((len(flat), len(topology)), dtype=np.bool_)
    model, place = np.nonzero((flat > 0) & (flat < TINY))
    faint[model, np.searchsorted(tables.start, place, side="right") - 1] = True
    arguments = (
        topology.parent, topology.leaves.start, cardinality, tables.start, kept, offset, sent_offset,
        flat, logs, faint, rows.leaves, factors, log_factors, factor_of, rows.weights, lanes, tasks,
        counts, evidence,
    )  # fmt: skip

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            _sweeps(*arguments, low, high)

    parallel = len(evidence) * len(topology) >= PARALLEL_STATES
    share(work, len(tasks), threads=torch.get_num_threads() if parallel else 1)
    ends = np.cumsum(rows.bounds[:, 1] - rows.bounds[:, 0])[:-1]
    log_evidence = [
        part + rows.log_scale[first:last]
        for part, (first, last) in zip(np.split(evidence, ends), rows.bounds, strict=True)
    ]
    return np.add.reduceat(counts, of_model, axis=0), log_evidence


def _stack(topology: Topology, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """All likelihoods as one array `(sum of K, N)`, and where in it each node's begin; -1 for none."""
    found = np.full(len(topology), -1)
    begin = 0
    for v, factor in rows.likelihoods.items():
        found[v], begin = begin, begin + len(factor)
    empty = np.empty((0, rows.leaves.shape[1]))
    return np.concatenate([empty, *rows.likelihoods.values()]), found


def _tasks(bounds: np.ndarray, size: int, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Tasks `(T, 4)`: model, first and last + 1 row, place of its evidence; and each model's first task.

    They depend on nothing but the rows and the tree, so that sums do not depend on the threads.
    """
    most = int(np.clip(COUNTS // size, 1, TASKS))
    found: list[tuple[int, int, int, int]] = []
    firsts, place = [], 0
    for s, (first, last) in enumerate(bounds.tolist()):
        parts = int(np.clip((last - first) // max(GRAIN, lanes), 1, most))
        edges = np.linspace(first, last, parts + 1).astype(np.int64)
        firsts.append(len(found))
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            found.append((s, a, b, place))
            place += b - a
    return np.array(found, dtype=np.int64), np.array(firsts)


@compiled(error_model="numpy")
def _sweeps(  # type: ignore[no-untyped-def]
    parent, first_leaf, cardinality, start, kept, offset, sent_offset, flat, logs, faint, leaves,
    factors, log_factors, factor_of, weights, lanes, tasks, counts, evidence, low, high,
):  # fmt: skip
    """Do tasks low..high-1: all blocks of lanes of some rows of one model.

    `offset` and `sent_offset` are where λ and σ of each node begin that is `kept` in memory.
    """
    count = parent.shape[0]
    below = np.empty((offset[-1], lanes))
    sent = np.empty((sent_offset[-1], lanes))
    scratch = np.empty((cardinality.max(), lanes))
    scale, risk, peak, total = np.empty((4, lanes))
    lost = np.empty(lanes, np.bool_)
    state = np.empty((leaves.shape[0], lanes), np.int64)
    joined = np.empty(count, np.bool_)
    for task in range(low, high):
        s, first, last, place = tasks[task]
        table, into_counts = flat[s], counts[task]
        for begin in range(first, last, lanes):
            size = min(lanes, last - begin)
            for x in range(state.shape[0]):
                for j in range(size):
                    state[x, j] = leaves[x, begin + j]
                for j in range(size, lanes):
                    state[x, j] = -1
            joined[:] = False
            lost[:] = False
            scale[:] = 0.0
            risk[:] = 0.0
            # up: children before parents, as nodes are stored parents first
            for v in range(count - 1, -1, -1):
                at = below[offset[v] : offset[v + 1]]
                if kept[v] and v >= first_leaf:
                    _fill_leaf(state[v - first_leaf], at)
                if factor_of[v] >= 0:
                    given = scratch[: cardinality[v]]
                    given[:] = 1.0
                    for k in range(cardinality[v]):
                        for j in range(size):
                            given[k, j] = factors[factor_of[v] + k, begin + j]
                    _join(given, at, peak, scale, risk, lost)
                if v == 0:
                    break
                p = parent[v]
                out = sent[sent_offset[v] : sent_offset[v + 1]]
                if kept[v]:
                    _send(table[start[v] :], at, out)
                else:
                    out = scratch[: cardinality[p]]
                    _send_leaf(table[start[v] :], cardinality[v], state[v - first_leaf], out)
                if kept[v] and faint[s, v]:
                    lost[:] = True  # terms of the sums are below TINY, whatever the sums are
                if kept[v] or faint[s, v]:
                    _drop_tiny(out, lost)
                into = below[offset[p] : offset[p + 1]]
                if not joined[p]:
                    joined[p] = True
                    into[:] = 1.0
                _join(out, into, peak, scale, risk, lost)
            # the root's posterior, times the weight of the row
            if faint[s, 0]:
                lost[:] = True
            _finish(table, below[: offset[1]], total)
            for j in range(lanes):
                weight = weights[begin + j] if j < size else 0.0
                if j < size:
                    b = place + begin - first + j
                    evidence[b] = np.log(total[j]) + scale[j]
                    # the bound of what was lost against P(evidence), in the same units
                    if lost[j] and not LOG_TINY + risk[j] - np.log(total[j]) < LOSS:
                        evidence[b] = _one_row(
                            parent, first_leaf, cardinality, start, table, logs[s],
                            leaves[:, begin + j], log_factors[:, begin + j], factor_of, weight,
                            into_counts,
                        )  # fmt: skip
                        weight = 0.0
                for k in range(cardinality[0]):
                    below[k, j] = (
                        below[k, j] / total[j] * weight if weight > 0.0 < total[j] else 0.0
                    )
            for k in range(cardinality[0]):
                into_counts[k] += _sum(below[k])
            # down: the same for every node
            for v in range(1, count):
                above = below[offset[parent[v]] : offset[parent[v] + 1]]
                found = into_counts[start[v] : start[v] + above.shape[0] * cardinality[v]]
                if kept[v]:
                    _descend(
                        table[start[v] :], above, sent[sent_offset[v] : sent_offset[v + 1]],
                        below[offset[v] : offset[v + 1]], total, found,
                    )  # fmt: skip
                else:
                    _count_leaf(
                        table[start[v] :], cardinality[v], above, state[v - first_leaf], found
                    )


@compiled(error_model="numpy")
def _one_row(  # type: ignore[no-untyped-def]
    parent, first_leaf, cardinality, start, table, logs, leaves, log_factors, factor_of, weight,
    counts,
):  # fmt: skip
    """The log evidence of one row, whose expected counts are added; all messages are logarithms."""
    count = parent.shape[0]
    below = np.zeros((count, cardinality.max()))
    sent = np.empty_like(below)  # [v, i]: of node v to state i of its parent
    chance = np.zeros_like(below)  # P(node | evidence) times the weight
    for v in range(count - 1, -1, -1):
        states = cardinality[v]
        if v >= first_leaf and factor_of[v] < 0:  # a leaf sends a column of its table, or ones
            for i in range(cardinality[parent[v]] if leaves[v - first_leaf] >= 0 else 0):
                below[parent[v], i] += logs[start[v] + i * states + leaves[v - first_leaf]]
            continue
        for k in range(states):
            if v >= first_leaf and 0 <= leaves[v - first_leaf] != k:
                below[v, k] = -np.inf
            if factor_of[v] >= 0:
                below[v, k] += log_factors[factor_of[v] + k]
        for i in range(cardinality[parent[v]] if v > 0 else 1):
            at = start[v] + i * states
            peak, total = -np.inf, 0.0
            for k in range(states):
                peak = max(peak, logs[at + k] + below[v, k])
            for k in range(states):
                term = logs[at + k] + below[v, k]
                total += np.exp(term - peak) if term > -np.inf else 0.0
            sent[v, i] = peak + np.log(total) if peak > -np.inf else -np.inf
            if v > 0:
                below[parent[v], i] += sent[v, i]
    evidence = sent[0, 0]
    if evidence == -np.inf:
        return evidence
    for v in range(count):
        states = cardinality[v]
        for i in range(cardinality[parent[v]] if v > 0 else 1):
            above = weight if v == 0 else chance[parent[v], i]
            at = start[v] + i * states
            if above == 0.0:
                continue
            if v >= first_leaf and factor_of[v] < 0 and leaves[v - first_leaf] >= 0:
                counts[at + leaves[v - first_leaf]] += above
            elif v >= first_leaf and factor_of[v] < 0:
                for k in range(states):
                    counts[at + k] += above * table[at + k]
            else:
                for k in range(states):
                    share = above * np.exp(logs[at + k] + below[v, k] - sent[v, i])
                    counts[at + k] += share
                    chance[v, k] += share
    return evidence


@compiled(error_model="numpy")
def _send_leaf(table, states, state, out):  # type: ignore[no-untyped-def]
    """σ of a leaf: the column of its table for its observed state, or ones if it is missing."""
    if states == 2:  # a choice between two numbers: faster than indexed loads
        for i in range(out.shape[0]):
            first, second = table[2 * i], table[2 * i + 1]
            for j in range(out.shape[1]):
                out[i, j] = second if state[j] == 1 else (first if state[j] == 0 else 1.0)
        return
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            k = state[j]
            out[i, j] = 1.0 if k < 0 else table[i * states + k]


@compiled(error_model="numpy")
def _send(table, message, out):  # type: ignore[no-untyped-def]
    """σ: the sum over a node's states of P(state | parent) times λ."""
    states = message.shape[0]
    for i in range(out.shape[0]):
        weight = table[i * states]
        for j in range(out.shape[1]):
            out[i, j] = weight * message[0, j]
        for k in range(1, states):
            weight = table[i * states + k]
            for j in range(out.shape[1]):
                out[i, j] += weight * message[k, j]


@compiled(error_model="numpy")
def _drop_tiny(message, lost):  # type: ignore[no-untyped-def]
    """Set entries below TINY to 0, and mark their lanes."""
    for i in range(message.shape[0]):
        found = 0
        for j in range(message.shape[1]):
            found += 0.0 < message[i, j] < TINY
        if found > 0:
            for j in range(message.shape[1]):
                if 0.0 < message[i, j] < TINY:
                    message[i, j] = 0.0
                    lost[j] = True


@compiled(error_model="numpy")
def _join(sent, into, peak, scale, risk, lost):  # type: ignore[no-untyped-def]
    """Multiply a message into λ `into`; scale the product up where it got small."""
    lanes = sent.shape[1]
    for j in range(lanes):
        peak[j] = 0.0
    for i in range(into.shape[0]):
        for j in range(lanes):
            a = into[i, j] * sent[i, j]
            into[i, j] = a
            peak[j] = a if a > peak[j] else peak[j]
    _drop_tiny(into, lost)
    small = 0
    for j in range(lanes):
        small += 0.0 < peak[j] < SMALL
    if small > 0:
        for j in range(lanes):
            if 0.0 < peak[j] < SMALL:
                for i in range(into.shape[0]):
                    into[i, j] /= peak[j]
                scale[j] += np.log(peak[j])
                if lost[j]:
                    risk[j] -= np.log(peak[j])


@compiled(error_model="numpy")
def _finish(prior, below, total):  # type: ignore[no-untyped-def]
    """Multiply the root's λ by its prior; `total` becomes P(evidence) in units of the scale."""
    total[:] = 0.0
    for k in range(below.shape[0]):
        weight = prior[k]
        for j in range(below.shape[1]):
            below[k, j] *= weight
            total[j] += below[k, j]


# these sums may be added in any order, and so several numbers at a time
@compiled(error_model="numpy", fastmath={"reassoc", "nsz"})
def _sum(values):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(values.shape[0]):
        total += values[j]
    return total


@compiled(error_model="numpy", fastmath={"reassoc", "nsz"})
def _descend(table, above, sent, below, total, counts):  # type: ignore[no-untyped-def]
    """Turn λ into a posterior in place, and add the expected counts of its table; overwrites `sent`."""
    states, lanes = below.shape
    for i in range(above.shape[0]):
        for j in range(lanes):
            divisor = sent[i, j] if sent[i, j] > 0.0 else 1.0
            sent[i, j] = above[i, j] / divisor
    for k in range(states):
        for j in range(lanes):
            total[j] = 0.0
        for i in range(above.shape[0]):
            weight = table[i * states + k]
            if weight > 0.0:
                share = 0.0
                for j in range(lanes):
                    total[j] += weight * sent[i, j]
                    share += sent[i, j] * below[k, j]
                counts[i * states + k] += weight * share
        for j in range(lanes):
            below[k, j] *= total[j]


@compiled(error_model="numpy", fastmath={"reassoc", "nsz"})
def _count_leaf(table, states, above, state, counts):  # type: ignore[no-untyped-def]
    """Add the expected counts of a leaf's table: its observed state, or P(state | parent) if missing."""
    lanes = above.shape[1]
    for i in range(above.shape[0]):
        missing = 0.0
        if states == 2:
            first, second = 0.0, 0.0
            for j in range(lanes):
                first += above[i, j] if state[j] == 0 else 0.0
                second += above[i, j] if state[j] == 1 else 0.0
                missing += above[i, j] if state[j] < 0 else 0.0
            counts[2 * i] += first
            counts[2 * i + 1] += second
        else:
            for j in range(lanes):
                if state[j] < 0:
                    missing += above[i, j]
                else:
                    counts[i * states + state[j]] += above[i, j]
        for k in range(states):
            counts[i * states + k] += missing * table[i * states + k]


@compiled(error_model="numpy")
def _fill_leaf(state, below):  # type: ignore[no-untyped-def]
    """λ of a leaf: 1 for its state and 0 for others, or ones if it is missing."""
    for k in range(below.shape[0]):
        for j in range(below.shape[1]):
            below[k, j] = 1.0 if state[j] == k or state[j] < 0 else 0.0
