"""The sweep from the leaves to the root for a block of samples, compiled for the CPU by numba.

It computes the messages of `hltm.inference.messages`, which is its reference, in float64. Each sample
is a lane, an entry of the innermost loops, computed without regard to the others: a sample's result
does not depend on those beside it. The states of a node share a scale in most lanes; where one falls
far behind the best one it gets a shift of its own, and the lane leaves the fast loops
(`hltm.inference.scaling`, which says why no state is lost).

Few trees have such lanes, and the code for them is half of all that is to be compiled. So every
kernel comes in two forms from one source: with `Shifts`, and with None in their place, where numba
leaves out what is under `if shifts is not None`. The second form reports the blocks that need shifts,
and the first computes these again; elsewhere both give the same bits.

Notation as there: `below` is λ_v = P(leaves below v | v), `sent` is σ_v = P(leaves below v | parent).
"""

from __future__ import annotations

from hltm._compile import compiled
from hltm.inference.scaling import SMALL, mark_shifted, settle, settle_together, terms_of


@compiled()
def sweep_up(problem, scratch, shifts, s, begin, size, sent_offset):  # type: ignore[no-untyped-def]
    """λ of every node, and σ, of samples begin .. begin + size - 1 of member s.

    `scratch.sent` keeps σ of every node at `sent_offset`; if that is empty it holds one node at a time.
    With one scale per node, a node's λ is that of its own leaves; with one for all nodes, only the
    root's is.

    Returns:
        whether some lane needs shifts that are not given: then nothing holds.
    """
    below, sent, stored, state = scratch.below, scratch.sent, scratch.stored, scratch.state
    parent, cardinality, start = problem.parent, problem.cardinality, problem.start
    offset, first_leaf = problem.offset, problem.first_leaf
    _read(
        problem.leaves[s if problem.leaves.shape[0] > 1 else 0], begin, size, state, scratch.missing
    )
    scratch.scale[:] = 0
    stored[:] = False
    if shifts is not None:
        shifts.shifted[:] = False
    table = problem.flat[s if problem.flat.shape[0] > 1 else 0]
    each = scratch.scale.shape[0] > 1
    for v in range(len(parent) - 1, -1, -1):  # children before parents
        # a call with so many arrays takes as long as a loop over lanes, so only where it is needed
        if shifts is not None:
            extreme = shifts.extreme[s if shifts.extreme.shape[0] > 1 else 0, v]
            if extreme or shifts.given[v] >= 0:
                _prepare(problem, scratch, shifts, v, s, begin, size)
        if v == 0:
            break
        p, states = parent[v], cardinality[v]
        into, rows, first = offset[p], cardinality[p], not stored[p]
        stored[p] = True
        raised = False
        if v >= first_leaf and not stored[v]:
            small = _meet_leaf(
                table, start[v], states, state, v - first_leaf, below, into, rows, first
            )
        else:
            at = sent_offset[v] if len(sent_offset) else 0
            _send(table, start[v], states, below, offset[v], sent, at, rows)
            if shifts is not None and shifts.shifted[v]:
                raised = _send_apart(problem, scratch, shifts, v, s, table, sent[at : at + rows])
            small = _meet(sent, at, below, into, rows, first)
        if small or raised:
            if shifts is not None:
                _rescale(problem, scratch, shifts, p, raised)
            elif _rescale_together(below[into : into + rows], scratch.scale[p if each else 0]):
                return True
        if each:
            for j in range(size):
                scratch.scale[p, j] += scratch.scale[v, j]
    return False


@compiled()
def _read(leaves, begin, size, state, missing):  # type: ignore[no-untyped-def]
    """Observed states of samples begin .. begin + size - 1, and whether some are missing; lanes without
    a sample get -1."""
    for x in range(state.shape[0]):
        row = leaves[x, begin : begin + size]
        some = False
        for j in range(size):
            state[x, j] = row[j]
            some |= row[j] < 0
        missing[x] = some
        for j in range(size, state.shape[1]):
            state[x, j] = -1


@compiled()
def _prepare(problem, scratch, shifts, v, s, begin, size):  # type: ignore[no-untyped-def]
    """Store λ of a node with an extreme table or likelihoods, and multiply it by these."""
    extreme = shifts.extreme[s if shifts.extreme.shape[0] > 1 else 0, v]
    low, high = problem.offset[v], problem.offset[v + 1]
    at, shift = scratch.below[low:high], shifts.shift[low:high]
    if not scratch.stored[v]:  # a leaf
        scratch.stored[v] = True
        fill_leaf(scratch.state[v - problem.first_leaf], at)
    if not shifts.shifted[v]:
        shifts.shifted[v] = True
        shift[:] = 0
    if shifts.given[v] >= 0:
        given, lift = shifts.some[: high - low], shifts.lift[: high - low]
        place = s if shifts.likelihoods.shape[0] > 1 else 0
        scale = scratch.scale[v if scratch.scale.shape[0] > 1 else 0]
        lift[:] = 0
        for j in range(problem.lanes):
            for k in range(high - low):
                row = shifts.given[v] + k
                given[k, j] = shifts.likelihoods[place, row, begin + j] if j < size else 1.0
            scale[j] += settle(given, lift, j)
        _meet(given, 0, scratch.below, low, high - low, False)
        # not `True`, for which numba would compile the function once more
        _rescale(problem, scratch, shifts, v, shifts.given[v] >= 0)
        shifts.shifted[v] |= extreme


@compiled()
def _send_apart(problem, scratch, shifts, v, s, table, out):  # type: ignore[no-untyped-def]
    """`_send` in the lanes where states have shifts; whether there are any. Their exponents are `lift`."""
    low, states = problem.offset[v], problem.cardinality[v]
    at, shift = scratch.below[low : low + states], shifts.shift[low : low + states]
    extreme = shifts.extreme[s if shifts.extreme.shape[0] > 1 else 0, v]
    if not mark_shifted(shift, extreme, shifts.apart):
        return False
    lift = shifts.lift[: out.shape[0]]
    scale = scratch.scale[problem.parent[v] if scratch.scale.shape[0] > 1 else 0]
    lift[:] = 0
    for j in range(problem.lanes):
        if shifts.apart[j]:
            for r in range(out.shape[0]):
                row = table[problem.start[v] + r * states :][:states]
                out[r, j], lift[r, j] = terms_of(row, shifts.none, at, shift, j, shifts.terms)
            scale[j] += settle(out, lift, j)
    return True


@compiled()
def _rescale(problem, scratch, shifts, v, raised):  # type: ignore[no-untyped-def]
    """Settle a node's λ, after adding the exponents `lift` to its own if it is `raised`."""
    low, high = problem.offset[v], problem.offset[v + 1]
    at, shift = scratch.below[low:high], shifts.shift[low:high]
    scale = scratch.scale[v if scratch.scale.shape[0] > 1 else 0]
    if not shifts.shifted[v]:
        shift[:] = 0
    if raised:
        shift += shifts.lift[: high - low]
    some = False
    for j in range(problem.lanes):
        scale[j] += settle(at, shift, j)
        for k in range(high - low):
            some |= shift[k, j] != 0
    shifts.shifted[v] = some


@compiled()
def _rescale_together(value, scale):  # type: ignore[no-untyped-def]
    """`_rescale` with one exponent for all states of a lane; whether some state needs its own."""
    doubtful = False
    for j in range(value.shape[1]):
        exponent, alone = settle_together(value, j)
        scale[j] += exponent
        doubtful |= alone
    return doubtful


# The functions below are given rows of arrays by number: a slice of an array for each node would cost as
# much as a loop over its lanes.


@compiled()
def _meet_leaf(table, start, states, state, x, below, into, rows, first):  # type: ignore[no-untyped-def]
    """Multiply σ of an observed leaf into its parent's λ; whether some state got small.

    σ is the column of the leaf's table for its state, or ones if that is missing. The `first` message
    to a parent is its λ so far.
    """
    small = 0
    for r in range(rows):
        if states == 2:  # a choice between two numbers: faster than indexed loads
            zero, one = table[start + 2 * r], table[start + 2 * r + 1]
            for j in range(below.shape[1]):
                k = state[x, j]
                a = one if k == 1 else (zero if k == 0 else 1.0)
                if not first:
                    a *= below[into + r, j]
                below[into + r, j] = a
                small += (a < SMALL) & (a > 0.0)
        else:
            row = table[start + r * states : start + (r + 1) * states]
            for j in range(below.shape[1]):
                k = state[x, j]
                a = 1.0 if k < 0 else row[k]
                if not first:
                    a *= below[into + r, j]
                below[into + r, j] = a
                small += (a < SMALL) & (a > 0.0)
    return small > 0


@compiled()
def _send(table, start, states, below, low, sent, at, rows):  # type: ignore[no-untyped-def]
    """σ of a latent: the sum over its states of P(state | parent) times λ."""
    for r in range(rows):
        weight = table[start + r * states :]
        if states == 2:
            zero, one = weight[0], weight[1]
            for j in range(below.shape[1]):
                sent[at + r, j] = zero * below[low, j] + one * below[low + 1, j]
            continue
        for j in range(below.shape[1]):
            sent[at + r, j] = weight[0] * below[low, j]
        for k in range(1, states):
            for j in range(below.shape[1]):
                sent[at + r, j] += weight[k] * below[low + k, j]


@compiled()
def _meet(sent, at, below, into, rows, first):  # type: ignore[no-untyped-def]
    """Multiply a message into a node's λ, of which it may be the first; whether some state got small."""
    small = 0
    for r in range(rows):
        for j in range(below.shape[1]):
            a = sent[at + r, j]
            if not first:
                a *= below[into + r, j]
            below[into + r, j] = a
            small += (a < SMALL) & (a > 0.0)
    return small > 0


@compiled()
def fill_leaf(state, below):  # type: ignore[no-untyped-def]
    """λ of a leaf: 1 for its state and 0 for others, or ones if it is missing."""
    for k in range(below.shape[0]):
        for j in range(below.shape[1]):
            below[k, j] = 1.0 if state[j] == k or state[j] < 0 else 0.0
