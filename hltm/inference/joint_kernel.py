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
from hltm.inference.upward_kernel import fill_leaf, sweep_up
from hltm.model.tables import Tables
from hltm.sampling.kernels.generator import LANES as CALLS
from hltm.sampling.kernels.generator import philox_blocks
from hltm.sampling.kernels.threads import share
from hltm.sampling.philox import WORD_PLANE, Stream

PARALLEL_STATES = 1 << 16  # below this many states one thread is as fast as two

_WORD_PLANE = np.uint64(WORD_PLANE << 24)
_ONE = np.uint64(1)
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


@compiled()
def _samples(  # type: ignore[no-untyped-def]
    problem, scratch, shifts, key, members, first, start, found, low, high
):
    """Do tasks low..high-1; a task is one block of rows of one member: ancestral sampling.

    Given its parent's state, a node's posterior is proportional to its row of the table times its
    message from below; the state is where the cumulative sum passes a uniform number.
    """
    below, state, stored = scratch.below, scratch.state, scratch.stored
    lanes, offset, first_leaf = problem.lanes, problem.offset, problem.first_leaf
    batch = found.shape[3]
    blocks = (batch + lanes - 1) // lanes
    number, total, sum_so_far = np.empty(lanes), np.empty(lanes), np.empty(lanes)
    none = np.zeros(lanes, np.int64)
    calls = np.empty(lanes // 4 + CALLS + 1, np.uint64)
    words = np.empty(2 * len(calls), np.uint64)
    for task in range(low, high):
        s = task // blocks
        begin = (task % blocks) * lanes
        end = min(begin + lanes, batch)
        sweep_up(problem, scratch, shifts, s, begin, end - begin, none[:0])
        table = problem.flat[s if problem.flat.shape[0] > 1 else 0]
        for x in range(len(state)):
            if scratch.missing[x] and not stored[first_leaf + x]:
                fill_leaf(state[x], below[offset[first_leaf + x] : offset[first_leaf + x + 1]])
        for i in range(found.shape[1]):
            for v in range(len(problem.parent)):
                out = found[s, i, v, begin:end]
                if v >= first_leaf and not scratch.missing[v - first_leaf]:
                    out[:] = state[v - first_leaf, : end - begin]
                    continue
                word0 = _WORD_PLANE | np.uint64(first + i)
                word2 = np.uint64(v) << _BYTE | key[2]
                _uniform(key, word0, word2, members[s], start + begin, calls, words, number)
                above = none if v == 0 else found[s, i, problem.parent[v], begin:end]
                rows, at = table[problem.start[v] :], below[offset[v] : offset[v + 1]]
                if shifts.shifted[v]:
                    shift = shifts.shift[offset[v] : offset[v + 1]]
                    _choose_apart(rows, above, at, shift, shifts, number, total, out)
                else:
                    _choose(rows, above, at, number, total, sum_so_far, out)
                if v == 0:
                    possible = total[: end - begin] > 0.0
            for j in range(end - begin):
                if not possible[j]:
                    found[s, i, :, begin + j] = -1


@compiled()
def _choose(table, above, below, number, total, sum_so_far, out):  # type: ignore[no-untyped-def]
    """The first state of each lane at which the sum of the terms so far exceeds number times `total`.

    Terms are λ times the row of the table for the parent's state `above`; `total` is their sum. The
    last state needs no comparison. Indices without a sign are not asked whether they are negative.
    """
    states = np.uint64(below.shape[0])
    if states == 2:
        for j in range(len(out)):
            row = np.uint64(above[j]) * states
            zero = table[row] * below[0, j]
            total[j] = zero + table[row + np.uint64(1)] * below[1, j]
            out[j] = zero <= number[j] * total[j]
        return
    for j in range(len(out)):
        total[j] = table[np.uint64(above[j]) * states] * below[0, j]
    for k in range(1, below.shape[0]):
        for j in range(len(out)):
            total[j] += table[np.uint64(above[j]) * states + np.uint64(k)] * below[k, j]
    sum_so_far[:] = 0.0
    out[:] = 0
    for k in range(below.shape[0] - 1):
        for j in range(len(out)):
            sum_so_far[j] += table[np.uint64(above[j]) * states + np.uint64(k)] * below[k, j]
            out[j] += sum_so_far[j] <= number[j] * total[j]


@compiled()
def _choose_apart(table, above, below, shift, shifts, number, total, out):  # type: ignore[no-untyped-def]
    """`_choose` where states have shifts."""
    states = below.shape[0]
    for j in range(len(out)):
        row = table[above[j] * states : (above[j] + 1) * states]
        total[j], _ = terms_of(row, shifts.none, below, shift, j, shifts.terms)
        sum_so_far, out[j] = 0.0, 0
        for k in range(states - 1):
            sum_so_far += shifts.terms[k]
            out[j] += sum_so_far <= number[j] * total[j]


@compiled()
def _uniform(key, word0, word2, member, start, calls, words, out):  # type: ignore[no-untyped-def]
    """Numbers in (0, 1) of rows start, start + 1, …: those of plane 255 of `hltm.sampling.philox`.

    A call makes the words of four rows; `calls` and `words` are overwritten.
    """
    first, count = start // 4, (start + len(out) - 1) // 4 - start // 4 + 1
    for i in range(len(calls)):
        calls[i] = np.uint64(first + i)
    philox_blocks(key[0], key[1], word0, calls, word2, member, count, words)
    skipped = start - 4 * first
    for j in range(len(out)):
        place = np.uint64(skipped + j)
        unit = words[place >> _ONE] >> (_HALF * (place & _ONE)) & _WORD
        out[j] = (float(unit) + 0.5) * 2.0**-32


@compiled()
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


@compiled()
def _exclude(state, own):  # type: ignore[no-untyped-def]
    """Make the states that an observed leaf is not in impossible."""
    for k in range(own.shape[0]):
        for j in range(len(state)):
            own[k, j] = -np.inf if (state[j] >= 0) & (state[j] != k) else 0.0


@compiled()
def _largest(row, own, most):  # type: ignore[no-untyped-def]
    """The largest score of a node's states given its parent's, in every lane."""
    for j in range(len(most)):
        most[j] = row[0] + own[0, j]
    for k in range(1, own.shape[0]):
        for j in range(len(most)):
            value = row[k] + own[k, j]
            most[j] = value if value > most[j] else most[j]


@compiled()
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
