"""The kernel of `optim.compiled`: one member's update as a whole, proposed first, then made or left.

It reads addresses rather than arrays, so that one compilation per dtype serves every network. Kernels that
train a member through many steps call `propose` and `commit`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from hltm._compile import compiled, inner
from hltm._separate import pointer

DESCENT, ADAPTIVE, DECOUPLED, LAYER_WISE = range(4)  # rules
SLOTS, OWN_RATES = 3, 3  # the most that a rule has
SMALLEST = tuple(float(np.finfo(kind).tiny) for kind in (np.float32, np.float64))
SIZE, SPARED, FIRST_SLOT = 1, 2, 3  # columns of the table beside 0, the parameter


class Rules(NamedTuple):
    """An optimiser and its tensors, as kernels read them; T tensors, S members.

    Attributes:
        rule, slots, nesterov: the rule, the number of slots it uses, and its variant.
        table: `(T, 6)` int64: addresses of parameters, sizes of a member's part, whether LARS spares it,
            addresses of the slots.
        own_rates: `(T, 2, S)` float64, factors of the learning rate, and decays.
        rates: `(5, S)` float64: learning rates, largest lengths, and the rule's own.
    """

    rule: int
    slots: int
    nesterov: bool
    table: np.ndarray
    own_rates: np.ndarray
    rates: np.ndarray


@inner()
def member_of(address, size, s, like):  # type: ignore[no-untyped-def]
    """The `size` numbers of member s of a contiguous tensor at an address, of the dtype of `like`."""
    return carray(pointer(address + s * size * like.itemsize), size, like.dtype)


@inner()
def is_finite(values):  # type: ignore[no-untyped-def]
    """Whether all numbers are finite, without a branch, so that it runs over vectors."""
    found = 0
    for p in range(len(values)):
        found |= values[p] - values[p] != 0  # NaN for NaN and both infinities
    return found == 0


@compiled()
def all_are_finite(values):  # type: ignore[no-untyped-def]
    """`is_finite` of a contiguous array, for callers from Python."""
    return is_finite(values)


@inner(fastmath={"reassoc", "contract"})
def _square(values):  # type: ignore[no-untyped-def]
    """The sum of squares, in float64."""
    found = 0.0
    for p in range(len(values)):
        found += np.float64(values[p]) * np.float64(values[p])
    return found


@compiled()
def update_members(header, pointers, factor, step, like):  # type: ignore[no-untyped-def]
    """All members, see `CompiledUpdate`; returns how many are alive afterwards.

    Arrays are given by their addresses, since a call from Python takes as long as its arguments are many.

    Args:
        header: `(8,)` int64: the fields of `Rules`, arrays by address; then T and S.
        pointers: `(T + 2 + 2K,)` int64: addresses of the gradients, the losses and `frozen_at`; of K more
            tensors that must be finite, address and size of each. If they are not, nothing is
            changed, and -1 returned.
        factor: of the schedule.
        step: its number.
        like: an array of the parameters' dtype.
    """
    many, members = header[6], header[7]
    for k in range(many + 2, len(pointers), 2):
        if not is_finite(member_of(pointers[k], pointers[k + 1], 0, like)):
            return -1
    rules = Rules(
        header[0], header[1], header[2] != 0,
        carray(pointer(header[3]), (many, FIRST_SLOT + SLOTS), np.int64),
        carray(pointer(header[4]), (many, 2, members), np.float64),
        carray(pointer(header[5]), (2 + OWN_RATES, members), np.float64),
    )  # fmt: skip
    losses = carray(pointer(pointers[many]), (members,), like.dtype)
    frozen_at = carray(pointer(pointers[many + 1]), (members,), np.int64)
    new = new_numbers(rules, like)
    gradients = np.empty(many, np.int64)
    alive = 0
    for s in range(members):
        if frozen_at[s] >= 0:
            continue
        for k in range(many):
            gradients[k] = pointers[k] + s * rules.table[k, SIZE] * like.itemsize
        if propose(rules, gradients, factor, losses[s], s, new):
            commit(rules, s, new)
            alive += 1
        else:
            frozen_at[s] = step
    return alive


@inner()
def new_numbers(rules, like):  # type: ignore[no-untyped-def]
    """Room for the new numbers of a member: parameters in row 0, then memory, `(1 + slots, numbers)`."""
    return np.empty((1 + rules.slots, rules.table[:, SIZE].sum()), like.dtype)


@inner()
def propose(rules, gradients, factor, loss, s, new):  # type: ignore[no-untyped-def]
    """Fill `new` with what the update makes of member s; returns whether that and all it is from is finite.

    Args:
        rules: `Rules`.
        gradients: `(T,)` int64, addresses of this member's gradients.
        factor: of the schedule.
        loss: of this member.
        s: the member.
        new: `new_numbers`.
    """
    table, rates = rules.table, rules.rates
    scale = 1.0
    if rates[1, s] < np.inf:
        squares = 0.0
        for k in range(len(table)):
            squares += _square(member_of(gradients[k], table[k, SIZE], 0, new))
        scale = min(rates[1, s] / max(np.sqrt(squares), 1e-12), 1.0)
    finite = loss - loss == 0
    at = 0
    for k in range(len(table)):
        rate = rates[0, s] * (factor * rules.own_rates[k, 0, s])
        found = _change(
            rules.rule, rules.nesterov, table[k], gradients[k], rules.own_rates[k, 1, s], rate,
            rates[:, s], scale, s, new, at,
        )  # fmt: skip
        finite = finite and found
        at += table[k, SIZE]
    return finite


@inner()
def commit(rules, s, new):  # type: ignore[no-untyped-def]
    """Give member s the numbers that `propose` found."""
    at = 0
    for k in range(len(rules.table)):
        size = rules.table[k, SIZE]
        own = member_of(rules.table[k, 0], size, s, new)
        for p in range(size):
            own[p] = new[0, at + p]
        for slot in range(rules.slots):
            # the slot that counts updates is one number
            kept = 1 if rules.rule in (ADAPTIVE, DECOUPLED) and slot == 2 else size
            own = member_of(rules.table[k, FIRST_SLOT + slot], kept, s, new)
            for p in range(kept):
                own[p] = new[1 + slot, at + p]
        at += size


@inner()
def _change(  # type: ignore[no-untyped-def]
    rule, nesterov, row, gradient, decay, rate, rates, scale, s, new, at
):
    """New numbers of one parameter and its memory, by the rules of `optimizers`, in columns from `at` on.

    Returns whether they are finite, which they are not where a number of the gradient is not.
    """
    kind = new.dtype.type
    size = row[SIZE]
    w = member_of(row[0], size, s, new)
    g = member_of(gradient, size, 0, new)
    rate, scale, decay = kind(rate), kind(scale), kind(decay)
    # Averages that decay towards 0, as those of units without gradient do, are 0 below the smallest normal
    # number: processors take a hundred times as long for smaller ones, where they would stay for ever.
    tiny = kind(SMALLEST[0] if new.itemsize == 4 else SMALLEST[1])
    end = at + size
    new_w = new[0, at:end]
    lost = False
    if rule == DESCENT:
        momentum = kind(rates[2])
        if len(new) == 1:
            for p in range(size):
                new_w[p] = w[p] - (g[p] * scale + decay * w[p]) * rate
                lost |= new_w[p] - new_w[p] != 0
            return not lost
        v, new_v = member_of(row[FIRST_SLOT], size, s, new), new[1, at:end]
        for p in range(size):
            slope = g[p] * scale + decay * w[p]
            velocity = v[p] * momentum + slope
            velocity = kind(0) if abs(velocity) < tiny else velocity
            ahead = slope + momentum * velocity if nesterov else velocity
            value = w[p] - ahead * rate
            new_v[p], new_w[p] = velocity, value
            lost |= (velocity - velocity) + (value - value) != 0
    elif rule == LAYER_WISE:
        momentum, local = kind(rates[2]), kind(1)
        if row[SPARED]:
            decay = kind(0)
        else:
            length, slope = np.sqrt(_square(w)), scale * np.sqrt(_square(g))
            if length > 0 and slope > 0:
                local = kind(rates[3] * length / (slope + decay * length))
        v, new_v = member_of(row[FIRST_SLOT], size, s, new), new[1, at:end]
        for p in range(size):
            velocity = v[p] * momentum + (g[p] * scale + decay * w[p]) * local * rate
            velocity = kind(0) if abs(velocity) < tiny else velocity
            value = w[p] - velocity
            new_v[p], new_w[p] = velocity, value
            lost |= (velocity - velocity) + (value - value) != 0
    else:
        beta1, beta2, epsilon = kind(rates[2]), kind(rates[3]), kind(rates[4])
        m, new_m = member_of(row[FIRST_SLOT], size, s, new), new[1, at:end]
        q, new_q = member_of(row[FIRST_SLOT + 1], size, s, new), new[2, at:end]
        updates = member_of(row[FIRST_SLOT + 2], 1, s, new)[0] + kind(1)
        first = kind(1 / (1 - rates[2] ** updates))
        second = kind(1 / (1 - rates[3] ** updates))
        coupled = decay if rule == ADAPTIVE else kind(0)
        decoupled = decay if rule == DECOUPLED else kind(0)
        if rates[4] < 1e-12:
            tiny = kind(0)  # beside such an epsilon the smallest numbers count
        for p in range(size):
            slope = g[p] * scale + coupled * w[p]
            average = m[p] * beta1 + slope * (kind(1) - beta1)
            average = kind(0) if abs(average) < tiny else average
            square = q[p] * beta2 + slope * slope * (kind(1) - beta2)
            square = kind(0) if square < tiny else square
            adapted = (average * first) / (np.sqrt(square * second) + epsilon)
            value = w[p] - (adapted + decoupled * w[p]) * rate
            new_m[p], new_q[p], new_w[p] = average, square, value
            lost |= (average - average) + (square - square) + (value - value) != 0
        new[3, at] = updates
    return not lost
