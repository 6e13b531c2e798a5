"""The fast kernel for posteriors on a CPU, by numba: the messages of a block of samples stay in cache.

It computes the two sweeps of `hltm.inference.messages`, which is its reference, in float64; the first
of them is `hltm.inference.upward_kernel`. No state is lost, whatever the tables and the tree
(`hltm.inference.scaling`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hltm._compile import compiled
from hltm.inference.blocks import (
    aligned,
    is_small,
    problem_of,
    rows_of_trees,
    scratch_of,
    shifts_of,
)
from hltm.inference.messages import Likelihoods
from hltm.inference.scaling import SMALL, logs_of, mark_shifted, store_logs, terms_of
from hltm.inference.upward_kernel import fill_leaf, sweep_up
from hltm.model.tables import Tables
from hltm.sampling.kernels.threads import share

GRAIN = 8  # blocks that a thread takes at a time
PARALLEL_STATES = 1 << 18  # below this many states one thread is as fast as two


def posterior(
    tables: Tables,
    leaves_SXB: Tensor,
    nodes: np.ndarray,
    dtype: torch.dtype,
    priors: tuple[Tensor, Tensor] | None,
    likelihoods: Likelihoods | None = None,
) -> tuple[Tensor, Tensor]:
    """P(node | all leaves, or its own) of some nodes.

    Args:
        leaves_SXB: `(S, X, B)` integers, -1 where a leaf is missing.
        nodes: which nodes, each once.
        priors: of all nodes, from `hltm.inference.beliefs.priors`, where each node is given only the
            leaves below it; else None.

    Returns:
        marginals `(S, V, K, B)` and log evidence `(S, B)` or, for own leaves, `(S, V, B)`.
    """
    own = priors is not None
    problem = problem_of(tables, leaves_SXB)
    members, _, batch = problem.leaves.shape
    states = int(tables.cardinality[nodes].max(initial=0))
    kind: type = np.float32 if dtype == torch.float32 else np.float64
    marginals = aligned((members, len(nodes), states, batch), kind)
    evidence = aligned((members, len(nodes) if own else 1, batch), kind)
    root = tables.flat[:, : int(tables.cardinality[0])]
    prior, exponent = (root, torch.zeros_like(root)) if priors is None else priors
    weight, lift = rows_of_trees(prior), rows_of_trees(exponent).astype(np.int64)
    # empty arrays, and not None, for which numba would compile the kernel once more
    sent_offset = np.concatenate([[0], np.cumsum(tables.rows)])[: 0 if own else None]
    arguments = (
        sent_offset, weight, lift, logs_of(weight, lift) if own else np.empty((0, 0)),
        nodes.astype(np.int64), tables.topology.with_ancestors(nodes), marginals, evidence,
    )  # fmt: skip
    tasks = np.arange(members * -(-batch // problem.lanes))
    doubtful = np.zeros(len(tasks), dtype=np.bool_)
    parallel = members * len(tables.topology) * batch >= PARALLEL_STATES
    threads = torch.get_num_threads() if parallel else 1

    def compute(chosen: np.ndarray, with_shifts: bool) -> None:
        if len(chosen) == 0:
            return

        def work(shares: Iterator[tuple[int, int]]) -> None:
            scratch = scratch_of(
                problem, scales=len(problem.parent) if own else 1,
                sent=problem.most if own else int(sent_offset[-1]),
            )  # fmt: skip
            shifts = shifts_of(problem, likelihoods) if with_shifts else None
            for low, high in shares:
                _rows(problem, scratch, shifts, *arguments, doubtful, chosen[low:high])

        share(work, len(chosen), threads=threads, grain=GRAIN)

    rare = bool(likelihoods) or any(map(np.any, (lift, is_small(weight), is_small(problem.flat))))
    compute(tasks[:1], rare)  # a tree of which the first block needs shifts is not tried without
    rare |= bool(doubtful[:1].any())
    compute(tasks[1:], rare)
    compute(tasks[doubtful], True)
    return torch.from_numpy(marginals), torch.from_numpy(evidence if own else evidence[:, 0])


@compiled()
def _rows(  # type: ignore[no-untyped-def]
    problem, scratch, shifts, sent_offset, prior, lift, log_prior, nodes, needed, marginals, evidence,
    doubtful, tasks,
):  # fmt: skip
    """Do some tasks, each a block of samples of one member, or find that a task needs shifts.

    For own leaves `sent_offset` is empty: there is no sweep down, so σ is not kept, and each node has
    its own scale. Otherwise `log_prior` is empty.
    """
    count, lanes, offset = len(problem.parent), problem.lanes, problem.offset
    parent, start, first_leaf = problem.parent, problem.start, problem.first_leaf
    below, stored, state = scratch.below, scratch.stored, scratch.state
    batch = problem.leaves.shape[2]
    blocks = (batch + lanes - 1) // lanes
    for task in tasks:
        s = task // blocks
        begin = (task % blocks) * lanes
        size = min(lanes, batch - begin)
        if sweep_up(problem, scratch, shifts, s, begin, size, sent_offset):
            doubtful[task] = True
            continue
        table = problem.flat[s if problem.flat.shape[0] > 1 else 0]
        before = prior[s if prior.shape[0] > 1 else 0]
        raised = lift[s if lift.shape[0] > 1 else 0]
        if len(log_prior):
            for i in range(len(nodes)):
                v = nodes[i]
                if stored[v]:
                    _finish(
                        problem, scratch, shifts, v, before, raised, begin, size, evidence[s, i]
                    )
                    _write(below, offset[v], offset[v + 1], marginals[s, i], begin, size)
                else:
                    _observed(
                        offset[v], offset[v + 1], before, raised,
                        log_prior[s if log_prior.shape[0] > 1 else 0], state[v - first_leaf, :size],
                        begin, marginals[s, i], evidence[s, i],
                    )  # fmt: skip
        if len(sent_offset):
            if not stored[0]:
                fill_leaf(state[0], below)
            _finish(problem, scratch, shifts, 0, before, raised, begin, size, evidence[s, 0])
            i = 0  # of the next of the nodes
            for v in range(count):
                wanted = i < len(nodes) and nodes[i] == v
                if v > 0 and needed[v] and (v < first_leaf or stored[v]):
                    p, low, high = parent[v], offset[v], offset[v + 1]
                    apart = False
                    if shifts is not None and shifts.shifted[v]:
                        apart = _descend_apart(
                            problem, scratch, shifts, v, s, table,
                            below[offset[p] : offset[p + 1]], below[low:high],
                        )  # fmt: skip
                    _descend(
                        table, start[v], high - low, below, offset[p], low, scratch.sent,
                        sent_offset[v], sent_offset[v + 1], scratch.total,
                    )  # fmt: skip
                    if shifts is not None and apart:
                        _put(shifts.found, shifts.apart, below[low:high])
                if wanted and (v == 0 or v < first_leaf or stored[v]):
                    _write(below, offset[v], offset[v + 1], marginals[s, i], begin, size)
                elif wanted:
                    p, states = parent[v], offset[v + 1] - offset[v]
                    _reveal(
                        table, start[v], states, below, offset[p], offset[p + 1], scratch,
                        v - first_leaf, marginals[s, i], begin, size,
                    )  # fmt: skip
                i += wanted


@compiled()
def _observed(low, high, prior, lift, log_prior, state, begin, marginals, evidence):  # type: ignore[no-untyped-def]
    """Store the posterior of a leaf given itself alone: its state, or the prior where it is missing.

    Its states begin at number `low` of all states. It is what `_finish` finds, without a logarithm of
    every sample.
    """
    total, impossible = 0.0, False
    for k in range(low, high):
        total += math.ldexp(prior[k], max(lift[k], -2000))  # so that it fits 32 bits
        impossible |= prior[k] <= 0.0
    found = evidence[begin : begin + len(state)]
    found[:] = np.log(total)
    for k in range(marginals.shape[0]):
        row = marginals[k, begin : begin + len(state)]
        if low + k >= high:
            row[:] = 0.0
            continue
        unseen = math.ldexp(prior[low + k], max(lift[low + k], -2000)) / total
        log = log_prior[low + k]
        for j in range(len(state)):
            row[j] = 1.0 if state[j] == k else (0.0 if state[j] >= 0 else unseen)
        for j in range(len(state)):
            found[j] = log if state[j] == k else found[j]
    if impossible:
        for j in range(len(state)):
            if state[j] >= 0 and prior[low + state[j]] <= 0.0:
                marginals[: high - low, begin + j] = np.nan


@compiled()
def _finish(problem, scratch, shifts, v, prior, lift, begin, size, evidence):  # type: ignore[no-untyped-def]
    """Turn λ of a node into its posterior in place: times the prior 2^lift, normalised.

    The prior is that of all states. The probability of the leaves is `total` 2^exponent.
    """
    low = problem.offset[v]
    below = scratch.below[low : problem.offset[v + 1]]
    total, exponent = scratch.total, scratch.exponent
    scale = scratch.scale[v if scratch.scale.shape[0] > 1 else 0]
    total[:] = 0.0
    exponent[:] = scale
    apart = False
    if shifts is not None:
        apart = _finish_apart(scratch, shifts, v, low, prior, lift, below)
    for k in range(below.shape[0]):
        weight = prior[low + k]
        for j in range(below.shape[1]):
            term = below[k, j] * weight
            below[k, j] = term
            total[j] += term
    if shifts is not None and apart:
        _put(shifts.found, shifts.apart, below)
        for j in range(below.shape[1]):
            if shifts.apart[j]:
                total[j] = 0.0
                for k in range(below.shape[0]):
                    total[j] += below[k, j]
    for k in range(below.shape[0]):
        for j in range(below.shape[1]):
            below[k, j] /= total[j]
    store_logs(total, exponent, evidence[begin : begin + size])


@compiled()
def _finish_apart(scratch, shifts, v, low, prior, lift, below):  # type: ignore[no-untyped-def]
    """The terms of `_finish` in the lanes `apart`, into `found`; whether there are any."""
    everywhere = False
    for k in range(low, low + below.shape[0]):
        everywhere |= (0.0 < prior[k] < SMALL) or lift[k] != 0
    if not shifts.shifted[v] and not everywhere:
        return False
    states = slice(low, low + below.shape[0])
    shift = shifts.shift[states]
    if not shifts.shifted[v]:
        shift[:] = 0
    some = mark_shifted(shift, everywhere, shifts.apart)
    for j in range(below.shape[1]):
        if shifts.apart[j]:
            _, top = terms_of(prior[states], lift[states], below, shift, j, shifts.terms)
            scratch.exponent[j] += top
            for k in range(below.shape[0]):
                shifts.found[k, j] = shifts.terms[k]
    return some


@compiled()
def _put(found, apart, below):  # type: ignore[no-untyped-def]
    """Overwrite the lanes that were computed apart."""
    for j in range(below.shape[1]):
        if apart[j]:
            for k in range(below.shape[0]):
                below[k, j] = found[k, j]


@compiled()
def _descend(table, start, states, below, above, low, sent, first, last, total):  # type: ignore[no-untyped-def]
    """Turn λ into a posterior in place: times T's transpose times the parent's posterior / σ.

    The arrays' rows are the parent's posterior from `above` on, λ from `low` on, and σ from `first` to
    `last` - 1, which is overwritten.
    """
    lanes = below.shape[1]
    for r in range(first, last):
        for j in range(lanes):
            divisor = sent[r, j] if sent[r, j] > 0.0 else 1.0
            sent[r, j] = below[above + r - first, j] / divisor
    for k in range(states):
        weight = table[start + k :]
        if last - first == 2:
            zero, one = weight[0], weight[states]
            for j in range(lanes):
                below[low + k, j] *= zero * sent[first, j] + one * sent[first + 1, j]
            continue
        for j in range(lanes):
            total[j] = weight[0] * sent[first, j]
        for r in range(1, last - first):
            for j in range(lanes):
                total[j] += weight[r * states] * sent[first + r, j]
        for j in range(lanes):
            below[low + k, j] *= total[j]


@compiled()
def _reveal(table, start, states, below, above, end, scratch, x, out, begin, size):  # type: ignore[no-untyped-def]
    """Store the posterior of an observed leaf: its state, or T's transpose times the parent's posterior.

    The parent's posterior is in rows `above` .. `end` - 1 of `below`; where it is NaN, so is the leaf's.
    """
    state, total = scratch.state, scratch.total
    for k in range(states):
        row = out[k, begin : begin + size]
        if scratch.missing[x]:
            total[:] = 0.0
            for r in range(above, end):
                weight = table[start + (r - above) * states + k]
                for j in range(below.shape[1]):
                    total[j] += weight * below[r, j]
            for j in range(size):
                known = (1.0 if state[x, j] == k else 0.0) + 0.0 * below[above, j]
                row[j] = known if state[x, j] >= 0 else total[j]
        else:
            for j in range(size):
                row[j] = (1.0 if state[x, j] == k else 0.0) + 0.0 * below[above, j]
    for k in range(states, out.shape[0]):
        out[k, begin : begin + size] = 0.0


@compiled()
def _descend_apart(problem, scratch, shifts, v, s, table, above, below):  # type: ignore[no-untyped-def]
    """`_descend` in the lanes `apart`, into `found`: the sum of P(z | r, leaves) P(r | leaves).

    Returns:
        whether there are such lanes.
    """
    states = below.shape[0]
    shift = shifts.shift[problem.offset[v] :][:states]
    extreme = shifts.extreme[s if shifts.extreme.shape[0] > 1 else 0, v]
    if not mark_shifted(shift, extreme, shifts.apart):
        return False
    found = shifts.found
    for j in range(below.shape[1]):
        if shifts.apart[j]:
            found[:states, j] = 0.0
            for r in range(above.shape[0]):
                row = table[problem.start[v] + r * states :][:states]
                total, _ = terms_of(row, shifts.none, below, shift, j, shifts.terms)
                share = above[r, j] / (total if total > 0.0 else 1.0)
                for k in range(states):
                    found[k, j] += share * shifts.terms[k]
    return True


@compiled()
def _write(below, low, high, out, begin, size):  # type: ignore[no-untyped-def]
    """Store a node's posterior, rows `low` .. `high` - 1; states that it does not have get 0."""
    for k in range(out.shape[0]):
        row = out[k, begin : begin + size]
        if k < high - low:
            for j in range(size):
                row[j] = below[low + k, j]
        else:
            row[:] = 0.0
