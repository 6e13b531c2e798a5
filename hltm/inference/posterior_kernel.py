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
from hltm.inference.messages import Likelihoods
from hltm.inference.scaling import SMALL, log_of, mark_shifted, terms_of
from hltm.inference.upward_kernel import (
    fill_leaf,
    problem_of,
    rows_of_trees,
    scratch_of,
    sweep_up,
)
from hltm.model.tables import Tables
from hltm.sampling.kernels.threads import share

GRAIN = 16  # blocks that a thread takes at a time
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
    problem = problem_of(tables, leaves_SXB, likelihoods)
    members, _, batch = problem.leaves.shape
    states = int(tables.cardinality[nodes].max(initial=0))
    kind = np.float32 if dtype == torch.float32 else np.float64
    marginals = np.empty((members, len(nodes), states, batch), dtype=kind)
    evidence = np.empty((members, len(nodes) if own else 1, batch), dtype=kind)
    root = tables.flat[:, : int(tables.cardinality[0])]
    prior, exponent = (root, torch.zeros_like(root)) if priors is None else priors
    sent_offset = np.concatenate([[0], np.cumsum(tables.rows)])
    weight, lift = rows_of_trees(prior), rows_of_trees(exponent).astype(np.int64)
    arguments = (
        problem, sent_offset[: 0 if own else None], weight, lift, _logs(weight, lift),
        nodes.astype(np.int64), tables.topology.with_ancestors(nodes), own, marginals, evidence,
    )  # fmt: skip

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            _rows(*arguments, low, high)

    parallel = members * len(tables.topology) * batch >= PARALLEL_STATES
    threads = torch.get_num_threads() if parallel else 1
    share(work, members * -(-batch // problem.lanes), threads=threads, grain=GRAIN)
    return torch.from_numpy(marginals), torch.from_numpy(evidence if own else evidence[:, 0])


@compiled(error_model="numpy")
def _rows(  # type: ignore[no-untyped-def]
    problem, sent_offset, prior, lift, log_prior, nodes, needed, own, marginals, evidence, low, high
):
    """Do tasks low..high-1; a task is one block of samples of one member.

    For own leaves there is no sweep down, so σ is not kept, and each node has its own scale.
    """
    count = len(problem.parent)
    lanes, offset = problem.lanes, problem.offset
    parent, start, first_leaf = problem.parent, problem.start, problem.first_leaf
    scratch = scratch_of(problem, count if own else 1)
    below, shift, shifted = scratch.below, scratch.shift, scratch.shifted
    scale, stored, state = scratch.scale, scratch.stored, scratch.state
    most = problem.cardinality.max()
    sent = np.empty((most if own else sent_offset[-1], lanes))
    found = np.empty((most, lanes))
    total = np.empty(lanes)
    exponent = np.empty(lanes, np.int64)
    batch = problem.leaves.shape[2]
    blocks = (batch + lanes - 1) // lanes
    for task in range(low, high):
        s = task // blocks
        begin = (task % blocks) * lanes
        size = min(lanes, batch - begin)
        sweep_up(problem, scratch, s, begin, size, sent, sent_offset)
        table = problem.flat[s if problem.flat.shape[0] > 1 else 0]
        extreme = problem.extreme[s if problem.extreme.shape[0] > 1 else 0]
        before = prior[s if prior.shape[0] > 1 else 0]
        raised = lift[s if lift.shape[0] > 1 else 0]
        for i in range(len(nodes) if own else 1):  # the nodes, or the root: prior times message
            v = nodes[i] if own else 0
            at = below[offset[v] : offset[v + 1]]
            if own and not stored[v]:
                _observed(
                    offset[v], offset[v + 1], before, raised,
                    log_prior[s if log_prior.shape[0] > 1 else 0], state[v - first_leaf, :size],
                    begin, marginals[s, i], evidence[s, i],
                )  # fmt: skip
                continue
            if not stored[v]:
                fill_leaf(state[v - first_leaf], at)
            scaled = False
            for j in range(lanes):
                exponent[j] = scale[v, j]
                scaled |= exponent[j] != 0
            apart = _finish(
                before, raised, offset[v], at, shifted[v], scratch, found, total, exponent
            )
            if scaled or apart:
                for j in range(size):
                    evidence[s, i, begin + j] = log_of(total[j], exponent[j])
            else:
                for j in range(size):
                    evidence[s, i, begin + j] = np.log(total[j])
            if own:
                _write(at, marginals[s, i], begin, size)
        if own:
            continue
        for v in range(1, count):
            if needed[v]:
                p = parent[v]
                at = below[offset[v] : offset[v + 1]]
                if not stored[v]:
                    fill_leaf(state[v - first_leaf], at)
                above = below[offset[p] : offset[p + 1]]
                rows = table[start[v] :]
                apart = False
                if shifted[v]:
                    exponents = shift[offset[v] : offset[v + 1]]
                    apart = mark_shifted(exponents, extreme[v], scratch.apart)
                    if apart:
                        _descend_apart(rows, above, at, exponents, scratch, found)
                _descend(rows, above, sent[sent_offset[v] : sent_offset[v + 1]], at, total)
                if apart:
                    _put(found, scratch.apart, at)
        for i in range(len(nodes)):
            v = nodes[i]
            _write(below[offset[v] : offset[v + 1]], marginals[s, i], begin, size)


@compiled()
def _logs(prior, lift):  # type: ignore[no-untyped-def]
    """The logarithms of the priors 2^lift."""
    found = np.empty(prior.shape)
    for s in range(len(prior)):
        for k in range(prior.shape[1]):
            found[s, k] = log_of(prior[s, k], lift[s if lift.shape[0] > 1 else 0, k])
    return found


@compiled(error_model="numpy")
def _observed(low, high, prior, lift, log_prior, state, begin, marginals, evidence):  # type: ignore[no-untyped-def]
    """Store the posterior of a leaf given itself alone: its state, or the prior where it is missing.

    Its states begin at number `low` of all states. It is what `_finish` finds, without a logarithm of
    every sample.
    """
    total = 0.0
    for k in range(low, high):
        total += math.ldexp(prior[k], max(lift[k], -2000))  # so that it fits 32 bits
    log_total = np.log(total)
    for j in range(len(state)):
        evidence[begin + j] = log_prior[low + state[j]] if state[j] >= 0 else log_total
    for k in range(high - low):
        unseen = math.ldexp(prior[low + k], max(lift[low + k], -2000)) / total
        for j in range(len(state)):
            never = state[j] >= 0 and prior[low + state[j]] <= 0.0
            known = np.nan if never else (1.0 if state[j] == k else 0.0)
            marginals[k, begin + j] = known if state[j] >= 0 else unseen
    for k in range(high - low, marginals.shape[0]):
        marginals[k, begin : begin + len(state)] = 0.0


@compiled(error_model="numpy")
def _finish(prior, lift, low, below, shifted, scratch, found, total, exponent):  # type: ignore[no-untyped-def]
    """Turn λ into a posterior in place: times the prior 2^lift, normalised; whether lanes have shifts.

    The probability of the leaves is `total` 2^exponent; `exponent` holds that of λ. The node's states
    begin at number `low` of all states, to which `prior` and `lift` belong.
    """
    everywhere, apart = False, False
    for k in range(low, low + below.shape[0]):
        everywhere |= (0.0 < prior[k] < SMALL) or lift[k] != 0
    if shifted or everywhere:
        states = slice(low, low + below.shape[0])
        shift = scratch.shift[states]
        if not shifted:
            shift[:] = 0
        apart = mark_shifted(shift, everywhere, scratch.apart)
        for j in range(below.shape[1]):
            if scratch.apart[j]:
                terms = scratch.terms
                _, top = terms_of(prior[states], lift[states], below, shift, j, terms)
                exponent[j] += top
                for k in range(below.shape[0]):
                    found[k, j] = terms[k]
    for j in range(below.shape[1]):
        total[j] = 0.0
    for k in range(below.shape[0]):
        weight = prior[low + k]
        for j in range(below.shape[1]):
            below[k, j] *= weight
            total[j] += below[k, j]
    if apart:
        _put(found, scratch.apart, below)
        for j in range(below.shape[1]):
            if scratch.apart[j]:
                total[j] = 0.0
                for k in range(below.shape[0]):
                    total[j] += below[k, j]
    for k in range(below.shape[0]):
        for j in range(below.shape[1]):
            below[k, j] /= total[j]
    return apart


@compiled(error_model="numpy")
def _put(found, apart, below):  # type: ignore[no-untyped-def]
    """Overwrite the lanes that were computed apart."""
    for j in range(below.shape[1]):
        if apart[j]:
            for k in range(below.shape[0]):
                below[k, j] = found[k, j]


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
def _descend_apart(table, above, below, shift, scratch, found):  # type: ignore[no-untyped-def]
    """`_descend` in the lanes `apart`, into `found`: the sum of P(z | r, leaves) P(r | leaves)."""
    states = below.shape[0]
    for j in range(below.shape[1]):
        if scratch.apart[j]:
            found[:states, j] = 0.0
            for r in range(above.shape[0]):
                row = table[r * states : (r + 1) * states]
                total, _ = terms_of(row, scratch.none, below, shift, j, scratch.terms)
                share = above[r, j] / (total if total > 0.0 else 1.0)
                for k in range(states):
                    found[k, j] += share * scratch.terms[k]


@compiled(error_model="numpy")
def _write(belief, out, begin, size):  # type: ignore[no-untyped-def]
    """Store a node's posterior; states that it does not have get 0."""
    for k in range(belief.shape[0]):
        for j in range(size):
            out[k, begin + j] = belief[k, j]
    for k in range(belief.shape[0], out.shape[0]):
        for j in range(size):
            out[k, begin + j] = 0.0
