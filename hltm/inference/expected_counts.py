"""Expected counts of parents' and children's states given evidence: the E-step of EM, compiled.

For every table θ_v, with w_b the weight of a row of evidence,

    N_v(i, j) = sum over rows b of  w_b P(parent of v = i, v = j | evidence b)
              = θ_v(i, j) · d/dθ_v(i, j) of the sum of w_b log P(evidence b).

The sweep up is that of posteriors (`hltm.inference.upward_kernel`), so no state is lost whatever the
tables and the tree. One sweep down follows, in which P(i, j | evidence) = P(i | evidence) θ_v(i, j)
λ_v(j) / σ_v(i) is summed over the lanes of a block, each of them a row of evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from hltm._compile import compiled
from hltm.inference.blocks import problem_of, scratch_of, shifts_of
from hltm.inference.scaling import log_of, mark_shifted, terms_of
from hltm.inference.upward_kernel import sweep_up
from hltm.model.tables import Tables
from hltm.sampling.kernels.threads import share

GRAIN = 4096  # rows of a task, at least
TASKS = 16  # of a model, at most: each has its own counts, added in a fixed order
COUNTS = 1 << 18  # numbers in all counts of a model, at most, where that is possible
FEW = 16  # states of a leaf, up to which a loop for each of them is faster than one for all
# Sums of a block's lanes are sums of so many at a time at most: if its lanes are a multiple, those without
# a row do not change the order in which the others are added.
TOGETHER = 64
PARALLEL_STATES = 1 << 18  # below this many states one thread is as fast as two


class Rows(NamedTuple):
    """Rows of evidence of S models, one after the other.

    Attributes:
        leaves: `(X, N)` int32 states, -1 where missing.
        likelihoods: node -> `(K, N)` float64 factors of its states.
        weights: `(N,)` float64.
        bounds: `(S, 2)` int64, the first and last + 1 row of every model; models may share rows.
    """

    leaves: np.ndarray
    likelihoods: dict[int, np.ndarray]
    weights: np.ndarray
    bounds: np.ndarray


def expected_counts(tables: Tables, rows: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
    """Expected counts `(S, N)` float64 in the layout of `Tables.flat`, and each row's log P(evidence).

    Rows that cannot occur have log P = -inf and count nothing.

    Args:
        tables: of S models.
        rows: their evidence.
    """
    likelihoods = {v: torch.from_numpy(factor)[None] for v, factor in rows.likelihoods.items()}
    problem = problem_of(tables, torch.from_numpy(rows.leaves)[None])
    problem = problem._replace(lanes=-(-problem.lanes // TOGETHER) * TOGETHER)
    size = tables.flat.shape[1]
    tasks, first_task = _tasks(rows.bounds, size)
    counts = np.zeros((len(tasks), size))
    log_evidence = np.empty(int((rows.bounds[:, 1] - rows.bounds[:, 0]).sum()))
    sent_offset = np.concatenate([[0], np.cumsum(tables.rows)])

    def work(shares: Iterator[tuple[int, int]]) -> None:
        scratch = scratch_of(problem, scales=1, sent=int(sent_offset[-1]))
        shifts = shifts_of(problem, likelihoods)
        for low, high in shares:
            _sweeps(
                problem, scratch, shifts, sent_offset, rows.weights, tasks[low:high],
                counts[low:high], log_evidence,
            )  # fmt: skip

    parallel = len(log_evidence) * len(tables.topology) >= PARALLEL_STATES
    share(work, len(tasks), threads=torch.get_num_threads() if parallel else 1)
    ends = np.cumsum(rows.bounds[:, 1] - rows.bounds[:, 0])[:-1]
    return np.add.reduceat(counts, first_task, axis=0), np.split(log_evidence, ends)


def _tasks(bounds: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tasks `(T, 4)`: model, first and last + 1 row, place of its evidence; and each model's first task.

    They depend on the model's rows and tree alone, so sums depend on neither threads nor other models.
    """
    most = int(np.clip(COUNTS // size, 1, TASKS))
    found: list[tuple[int, int, int, int]] = []
    first_task, place = [], 0
    for s, (first, last) in enumerate(bounds.tolist()):
        parts = int(np.clip((last - first) // GRAIN, 1, most))
        edges = np.linspace(first, last, parts + 1).astype(np.int64).tolist()
        first_task.append(len(found))
        for a, b in pairwise(edges):
            found.append((s, a, b, place))
            place += b - a
    return np.array(found, dtype=np.int64), np.array(first_task)


@compiled()
def _sweeps(  # type: ignore[no-untyped-def]
    problem, scratch, shifts, sent_offset, weights, tasks, counts, log_evidence
):
    """Do some tasks, each into its own counts: all blocks of lanes of some rows of one model."""
    below, offset, start = scratch.below, problem.offset, problem.start
    sent, found, total = scratch.sent, shifts.found, scratch.total
    for t in range(len(tasks)):
        s, first, last, place = tasks[t]
        table = problem.flat[s if problem.flat.shape[0] > 1 else 0]
        extreme = shifts.extreme[s if shifts.extreme.shape[0] > 1 else 0]
        for begin in range(first, last, problem.lanes):
            size = min(problem.lanes, last - begin)
            sweep_up(problem, scratch, shifts, s, begin, size, sent_offset)
            out = log_evidence[place + begin - first :][:size]
            _weigh_root(scratch, shifts, table[: offset[1]], weights[begin:][:size], out, counts[t])
            for v in range(1, len(problem.parent)):
                p, states = problem.parent[v], problem.cardinality[v]
                above = below[offset[p] : offset[p + 1]]
                rows, into = table[start[v] :], counts[t, start[v] :]
                if v >= problem.first_leaf and not scratch.stored[v]:
                    x = v - problem.first_leaf
                    _count_leaf(rows, states, above, scratch.state[x], scratch.missing[x], into)
                    continue
                at, shift = below[offset[v] : offset[v + 1]], shifts.shift[offset[v] :][:states]
                apart = shifts.shifted[v] and mark_shifted(shift, extreme[v], shifts.apart)
                if apart:
                    _descend_apart(rows, above, at, shift, shifts, found, into)
                _descend(rows, above, sent[sent_offset[v] : sent_offset[v + 1]], at, total, into)
                if apart:
                    for j in range(problem.lanes):
                        for k in range(states if shifts.apart[j] else 0):
                            at[k, j] = found[k, j]


@compiled()
def _weigh_root(scratch, shifts, prior, weights, log_evidence, counts):  # type: ignore[no-untyped-def]
    """Turn λ of the root into its posterior times each row's weight; lanes without a row get 0."""
    states = len(prior)
    below, shift = scratch.below[:states], shifts.shift[:states]
    if not shifts.shifted[0]:
        shift[:] = 0
    for j in range(below.shape[1]):
        total = 0.0
        if j < len(weights):
            total, top = terms_of(prior, shifts.none, below, shift, j, shifts.terms)
            log_evidence[j] = log_of(total, top + scratch.scale[0, j])
        for k in range(states):
            below[k, j] = shifts.terms[k] / total * weights[j] if total > 0.0 else 0.0
            counts[k] += below[k, j]


@compiled()
def _descend_apart(table, above, below, shift, shifts, found, counts):  # type: ignore[no-untyped-def]
    """`_descend` in the lanes `apart`, whose posterior goes to `found`; their λ becomes 0."""
    states = below.shape[0]
    for j in range(below.shape[1]):
        if shifts.apart[j]:
            found[:states, j] = 0.0
            for i in range(above.shape[0]):
                row = table[i * states : (i + 1) * states]
                total, _ = terms_of(row, shifts.none, below, shift, j, shifts.terms)
                if total > 0.0:
                    for k in range(states):
                        part = above[i, j] * (shifts.terms[k] / total)
                        counts[i * states + k] += part
                        found[k, j] += part
            below[:, j] = 0.0


# sums over lanes may be added in any order, and so several numbers at a time
@compiled(fastmath={"reassoc", "nsz"})
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
                part = 0.0
                for j in range(lanes):
                    total[j] += weight * sent[i, j]
                    part += sent[i, j] * below[k, j]
                counts[i * states + k] += weight * part
        for j in range(lanes):
            below[k, j] *= total[j]


@compiled(fastmath={"reassoc", "nsz"})
def _count_leaf(table, states, above, state, missing, counts):  # type: ignore[no-untyped-def]
    """Add the expected counts of a leaf's table: its observed state, or P(state | parent) if missing."""
    lanes = above.shape[1]
    for i in range(above.shape[0]):
        if states <= FEW:  # a loop for each state adds several numbers at a time
            for k in range(states):
                part = 0.0
                for j in range(lanes):
                    part += above[i, j] if state[j] == k else 0.0
                counts[i * states + k] += part
        else:
            for j in range(lanes):
                if state[j] >= 0:
                    counts[i * states + state[j]] += above[i, j]
        if missing:
            part = 0.0
            for j in range(lanes):
                part += above[i, j] if state[j] < 0 else 0.0
            for k in range(states):
                counts[i * states + k] += part * table[i * states + k]
