"""Joint states of all nodes given leaves, compiled for the CPU by numba: samples, and the most likely one.

Both go up and then down the tree for a block of samples at a time, and equal the torch code of
`hltm.inference.most_probable`, which is their reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hltm._compile import compiled
from hltm.inference.blocks import Problem, problem_of, scratch_of, shifts_of
from hltm.inference.messages import Likelihoods
from hltm.inference.scaling import terms_of
from hltm.inference.upward_kernel import sweep_up
from hltm.model.tables import Tables
from hltm.sampling.kernels.generator import LANES as CALLS
from hltm.sampling.kernels.generator import philox_blocks
from hltm.sampling.kernels.threads import share
from hltm.sampling.philox import WORD_PLANE, Stream

PARALLEL_STATES = 1 << 16  # below this many states one thread is as fast as two

_WORD_PLANE = np.uint64(WORD_PLANE << 24)
_BYTE = np.uint64(8)
_HALF = np.uint64(32)
_WORD = np.uint64(0xFFFFFFFF)


def samples(
    tables: Tables,
    leaves_SXB: Tensor,
    numbers: range,
    *,
    seed: int,
    members: Sequence[int],
    start: int,
    likelihoods: Likelihoods | None,
) -> Tensor:
    """`(S, N, V, B)` int64 joint states, see `hltm.inference.most_probable.posterior_samples`."""
    problem = problem_of(tables, leaves_SXB)
    shape = (len(leaves_SXB), len(numbers), len(tables.topology), leaves_SXB.shape[-1])
    found = np.empty(shape, dtype=np.int64)
    key = np.array([seed & 0xFFFFFFFF, seed >> 32, Stream.POSTERIOR], dtype=np.uint64)
    address = np.array(members, dtype=np.uint64)

    def work(shares: Iterator[tuple[int, int]]) -> None:
        scratch = scratch_of(problem, scales=1, sent=problem.most)
        shifts = shifts_of(problem, likelihoods)
        for low, high in shares:
            _samples(problem, scratch, shifts, key, address, numbers.start, start, found, low, high)

    _share(problem, work, found.size)
    return torch.from_numpy(found)


def most_likely(
    tables: Tables,
    leaves_SXB: Tensor,
    likelihoods: Likelihoods | None,
    slack: float,
    relative_slack: float,
) -> tuple[Tensor, Tensor]:
    """`(S, V, B)` int64 states and `(S, B)` scores, see `hltm.inference.most_probable.most_likely`.

    Scores x and y count as equal if |x - y| <= slack + relative_slack * |x|.
    """
    problem = problem_of(tables, leaves_SXB)
    members, _, batch = problem.leaves.shape
    with np.errstate(divide="ignore"):
        given = shifts_of(problem, likelihoods)
        problem = problem._replace(flat=np.log(problem.flat))
        soft = np.log(given.likelihoods)
    states = np.empty((members, len(tables.topology), batch), dtype=np.int64)
    score = np.empty((members, batch))

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            _most_likely(
                problem, given.given, soft, slack, relative_slack, states, score, low, high
            )

    _share(problem, work, states.size)
    return torch.from_numpy(states), torch.from_numpy(score)


def _share(problem: Problem, work, states: int) -> None:  # type: ignore[no-untyped-def]
    """Split the blocks of all members over threads."""
    members, _, batch = problem.leaves.shape
    threads = torch.get_num_threads() if states >= PARALLEL_STATES else 1
    share(work, members * -(-batch // problem.lanes), threads=threads)


@compiled(error_model="numpy")
def _samples(  # type: ignore[no-untyped-def]
    problem, scratch, shifts, key, members, first, start, found, low, high
):
    """Do tasks low..high-1; a task is one block of rows of one member: ancestral sampling.

    Given its parent's state, a node's posterior is proportional to its row of the table times its
    message from below; the state is where the cumulative sum passes a uniform number.
    """
    below, shift, terms = scratch.below, shifts.shift, shifts.terms
    lanes, offset, first_leaf = problem.lanes, problem.offset, problem.first_leaf
    batch = found.shape[3]
    blocks = (batch + lanes - 1) // lanes
    number = np.empty(lanes)
    possible = np.empty(lanes, np.bool_)
    for task in range(low, high):
        s = task // blocks
        begin = (task % blocks) * lanes
        size = min(lanes, batch - begin)
        sweep_up(problem, scratch, shifts, s, begin, size, None)
        table = problem.flat[s if problem.flat.shape[0] > 1 else 0]
        for i in range(found.shape[1]):
            for v in range(len(problem.parent)):
                out = found[s, i, v, begin : begin + size]
                p, states = problem.parent[v], problem.cardinality[v]
                unseen = v < first_leaf or np.any(scratch.state[v - first_leaf, :size] < 0)
                if unseen:
                    _uniform(key, members[s], v, first + i, start + begin, number[:size])
                for j in range(size):
                    if v > 0 and not possible[j]:
                        out[j] = -1
                        continue
                    if v >= first_leaf and scratch.state[v - first_leaf, j] >= 0:
                        out[j] = scratch.state[v - first_leaf, j]
                        continue
                    row = 0 if v == 0 else found[s, i, p, begin + j]
                    weight = table[problem.start[v] + row * states :][:states]
                    if shifts.shifted[v]:
                        at, up = below[offset[v] :][:states], shift[offset[v] :][:states]
                        total, _ = terms_of(weight, shifts.none, at, up, j, terms)
                    else:
                        total = 0.0
                        for k in range(states):
                            value = below[offset[v] + k, j] if scratch.stored[v] else 1.0
                            terms[k] = weight[k] * value
                            total += terms[k]
                    if v == 0:
                        possible[j] = total > 0.0
                    out[j] = _choose(terms[:states], number[j] * total) if total > 0.0 else -1


@compiled(error_model="numpy")
def _choose(terms, limit):  # type: ignore[no-untyped-def]
    """The first state at which the cumulative sum of the terms exceeds the limit."""
    cumulative = 0.0
    chosen = 0
    for k in range(len(terms)):
        cumulative += terms[k]
        chosen += cumulative <= limit
    return chosen


@compiled(error_model="numpy")
def _uniform(key, member, node, view, start, out):  # type: ignore[no-untyped-def]
    """Numbers in (0, 1) of rows start, start + 1, …: those of plane 255 of `hltm.sampling.philox`."""
    numbers = np.empty(CALLS, np.uint64)
    words = np.empty(2 * CALLS, np.uint64)
    word0 = _WORD_PLANE | np.uint64(view)
    word2 = np.uint64(node) << _BYTE | key[2]
    for low in range(start // 4, (start + len(out) - 1) // 4 + 1, CALLS):
        for i in range(CALLS):
            numbers[i] = np.uint64(low + i)
        philox_blocks(key[0], key[1], word0, numbers, word2, member, CALLS, words)
        for at in range(max(4 * low, start), min(4 * (low + CALLS), start + len(out))):
            place = at - 4 * low
            unit = words[place >> 1] >> (_HALF * np.uint64(place & 1)) & _WORD
            out[at - start] = (float(unit) + 0.5) * 2.0**-32


@compiled(error_model="numpy")
def _most_likely(  # type: ignore[no-untyped-def]
    problem, given, likelihoods, slack, relative_slack, states, score, low, high
):
    """Do tasks low..high-1 in logarithms; a task is one block of rows of one member."""
    offset, lanes, first_leaf = problem.offset, problem.lanes, problem.first_leaf
    parent, start, batch = problem.parent, problem.start, states.shape[2]
    blocks = (batch + lanes - 1) // lanes
    best = np.empty((offset[-1], lanes))  # of the joint states below a node, for each of its states
    most = np.empty(lanes)
    none = np.zeros(lanes, np.int64)
    for task in range(low, high):
        s = task // blocks
        begin = (task % blocks) * lanes
        end = min(begin + lanes, batch)
        table = problem.flat[s if problem.flat.shape[0] > 1 else 0]
        soft = likelihoods[s if likelihoods.shape[0] > 1 else 0]
        best[:] = 0.0
        for v in range(len(parent) - 1, -1, -1):
            own = best[offset[v] : offset[v + 1]]
            if v >= first_leaf:
                _exclude(problem.leaves[s, v - first_leaf, begin:end], own)
            for k in range(own.shape[0] if given[v] >= 0 else 0):
                own[k, : end - begin] += soft[given[v] + k, begin:end]
            if v > 0:
                above = best[offset[parent[v]] : offset[parent[v] + 1]]
                for r in range(above.shape[0]):
                    _largest(table[start[v] + r * own.shape[0] :], own, most)
                    above[r] += most
        for v in range(len(parent)):
            own, out = best[offset[v] : offset[v + 1]], states[s, v, begin:end]
            above = none[: end - begin] if v == 0 else states[s, parent[v], begin:end]
            _decide(table[start[v] :], own, above, slack, relative_slack, out)
        _largest(table, best[: offset[1]], most)
        score[s, begin:end] = most[: end - begin]
        for j in range(end - begin):
            if most[j] == -np.inf:
                states[s, :, begin + j] = -1


@compiled(error_model="numpy")
def _exclude(state, own):  # type: ignore[no-untyped-def]
    """Make the states that an observed leaf is not in impossible."""
    for k in range(own.shape[0]):
        for j in range(len(state)):
            own[k, j] = -np.inf if (state[j] >= 0) & (state[j] != k) else 0.0


@compiled(error_model="numpy")
def _largest(row, own, most):  # type: ignore[no-untyped-def]
    """The largest score of a node's states given its parent's, in every lane."""
    for j in range(len(most)):
        most[j] = row[0] + own[0, j]
    for k in range(1, own.shape[0]):
        for j in range(len(most)):
            value = row[k] + own[k, j]
            most[j] = value if value > most[j] else most[j]


@compiled(error_model="numpy")
def _decide(table, own, above, slack, relative_slack, out):  # type: ignore[no-untyped-def]
    """The lowest of a node's best states given the state `above` of its parent."""
    states = own.shape[0]
    for j in range(len(out)):
        row = max(above[j], 0) * states
        most = table[row] + own[0, j]
        for k in range(1, states):
            most = max(most, table[row + k] + own[k, j])
        limit = most - slack - relative_slack * abs(most)
        chosen = 0
        for k in range(states - 1, -1, -1):
            chosen = k if table[row + k] + own[k, j] >= limit else chosen
        out[j] = chosen
