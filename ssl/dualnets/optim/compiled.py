"""Updates compiled for the CPU: all parameters of a member in one pass, all or nothing.

The rules of `optimizers` are the reference; here `SGD`, `Adam`, `AdamW` and `LARS`, exactly these classes,
are one kernel. It reads addresses rather than arrays, so that one compilation per dtype serves every
network. A member whose loss, gradient, new parameters or new memory are not finite is frozen as it was
before the update. Kernels that train a member through many steps call `propose` and `commit`.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, config, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from dualnets.optim.optimizers import (
    LARS,
    SGD,
    Adam,
    AdamW,
    Optimizer,
    finite_members,
    has_plain_momentum,
)
from dualnets.optim.per_member import Group
from dualnets.optim.schedule import Schedule
from hltm._compile import compiled, inner

DESCENT, ADAPTIVE, DECOUPLED, LAYER_WISE = range(4)
RULES: dict[type[Optimizer], tuple[int, tuple[str, ...]]] = {  # and the rates that a rule reads
    SGD: (DESCENT, ("momentum",)),
    Adam: (ADAPTIVE, ("beta1", "beta2", "epsilon")),
    AdamW: (DECOUPLED, ("beta1", "beta2", "epsilon")),
    LARS: (LAYER_WISE, ("momentum", "trust")),
}
LIKE = {torch.float32: np.zeros(1, np.float32), torch.float64: np.zeros(1)}
DTYPES = (*LIKE,)
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


def is_compiled(
    optimizer: Optimizer, parameters: Mapping[str, Tensor], memory: Mapping[str, Tensor]
) -> bool:
    """Whether `CompiledUpdate` computes what the optimiser does to these parameters."""
    tensors = [*parameters.values(), *memory.values()]
    dtypes = {tensor.dtype for tensor in tensors}
    return (
        type(optimizer) in RULES
        and type(optimizer.schedule) is Schedule
        and not config.DISABLE_JIT  # type: ignore[attr-defined]
        and len(dtypes) == 1
        and dtypes <= {*DTYPES}
        and all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors)
    )


class CompiledUpdate:
    """An optimiser's update of certain tensors, of which it keeps the addresses.

    Args:
        optimizer, parameters, memory: for which `is_compiled` holds; `(S, …)` each.
        groups: name of a parameter -> its own rates.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Mapping[str, Tensor],
        memory: Mapping[str, Tensor],
        groups: Mapping[str, Group],
    ) -> None:
        self._held = [*parameters.values(), *memory.values()]  # their addresses stay valid
        self.names = [*parameters]
        self.schedule = optimizer.schedule
        first = self._held[0]
        self.dtype, self._members = first.dtype, len(first)
        members = self._members
        rule, names = RULES[type(optimizer)]
        clip = np.inf if optimizer.clip is None else optimizer.clip
        rates = np.zeros((2 + OWN_RATES, members))
        for place, own in enumerate((optimizer.lr, clip, *(getattr(optimizer, n) for n in names))):
            rates[place] = own
        table, own_rates, slots = [], np.empty((len(parameters), 2, members)), optimizer.slots
        for k, (name, parameter) in enumerate(parameters.items()):
            group = groups.get(name)
            own_rates[k, 0] = 1.0 if group is None else group.lr
            decay = None if group is None else group.weight_decay
            own_rates[k, 1] = optimizer.weight_decay if decay is None else decay
            row = [parameter.data_ptr(), parameter.numel() // members]
            row.append(has_plain_momentum(name, parameter))
            row += [memory[f"{slot}.{name}"].data_ptr() for slot in slots]
            table.append(row + [0] * (SLOTS - len(slots)))
        nesterov = bool(getattr(optimizer, "nesterov", False))
        whole = np.array(table, dtype=np.int64)
        self.rules = Rules(rule, len(slots), nesterov, whole, own_rates, rates)
        addresses = [each.ctypes.data for each in (whole, own_rates, rates)]
        header = [rule, len(slots), nesterov, *addresses, len(whole), members]
        self._header = np.array(header, dtype=np.int64)
        self._like = LIKE[self.dtype]
        # of the last call: gradients whose addresses are known, and all addresses
        self._gradients: list[Tensor] = []
        self._pointers = np.empty(0, dtype=np.int64)

    def factors(self, first_step: int, steps: int, total_steps: int) -> np.ndarray:
        """`(steps,)` float64 factors of the schedule from a step on."""
        return np.array(
            [self.schedule.factor(first_step + step, total_steps) for step in range(steps)]
        )

    def __call__(
        self,
        gradients: Sequence[Tensor],
        losses: Tensor,
        frozen_at: Tensor,
        step: int,
        steps: int,
        others: Sequence[Tensor] = (),
    ) -> bool:
        """Change parameters and memory in place; returns whether all members are alive afterwards.

        Args:
            gradients: in the order of the parameters, of their shapes.
            losses: `(S,)`, without gradient.
            frozen_at: `(S,)` int64, changed: members that are frozen now get the number of the step.
            step, steps: as for `Optimizer.update`.
            others: more tensors `(S, …)` of any dtype that must be finite.
        """
        if len(gradients) != len(self._gradients) or not all(
            map(operator.is_, gradients, self._gradients)
        ):  # recorded steps give the same tensors every time
            self._contiguous = [own.contiguous() for own in gradients]
            self._starts = [own.data_ptr() for own in self._contiguous]
            # a copy is of this step alone
            same = all(map(operator.is_, gradients, self._contiguous))
            self._gradients = [*gradients] if same else []
            self._pointers = np.empty(0, dtype=np.int64)
        if losses.dtype != self.dtype or not losses.is_contiguous():
            losses = losses.to(self.dtype).contiguous()
        latest = [losses.data_ptr(), frozen_at.data_ptr()]
        for own in others:
            if own.dtype == self.dtype and (own.is_contiguous() or _is_batch_last(own)):
                latest += own.data_ptr(), own.numel()
            elif own.is_floating_point() and not all_finite([own]):
                _freeze(others, frozen_at, step)
        many = len(self._starts)
        if len(self._pointers) != many + len(latest):
            self._pointers = np.array([*self._starts, *latest], dtype=np.int64)
        else:
            # twice as fast as an assignment
            struct.pack_into(f"{len(latest)}q", self._pointers.data, 8 * many, *latest)
        factor = self.schedule.factor(step, steps)
        alive = _update(self._header, self._pointers, factor, step, self._like)
        if alive < 0:  # one of the others is not finite, and nothing was changed
            _freeze(others, frozen_at, step)
            known = self._pointers[: many + 2]
            alive = _update(self._header, known, factor, step, self._like)
        return alive == self._members


def _is_batch_last(tensor: Tensor) -> bool:
    return tensor.ndim == 3 and tensor.mT.is_contiguous()


def _freeze(others: Sequence[Tensor], frozen_at: Tensor, step: int) -> None:
    """Freeze members of which any of the tensors is not finite."""
    lost = ~finite_members(others, frozen_at)
    frozen_at.copy_(torch.where(lost & (frozen_at < 0), step, frozen_at))


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers in tensors on the CPU are finite, in one pass over each of float32 or float64.

    Example:
        >>> all_finite([torch.ones(2), torch.zeros(3, 1)]), all_finite([torch.tensor([1.0, torch.nan])])
        (True, False)
    """
    for tensor in tensors:
        if tensor.dtype in LIKE:
            flat = tensor.detach().reshape(-1).numpy()
            found = _is_finite(flat)
        else:
            found = not tensor.is_floating_point() or bool(tensor.isfinite().all())
        if not found:
            return False
    return True


def _pointer_of(context, address):  # type: ignore[no-untyped-def]
    """An address, given as a whole number, as a pointer."""

    def convert(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), convert


_pointer: Any = intrinsic(_pointer_of)


@inner(error_model="numpy")
def member_of(address, size, s, like):  # type: ignore[no-untyped-def]
    """The `size` numbers of member s of a contiguous tensor at an address, of the dtype of `like`."""
    start = _pointer(address + s * size * like.itemsize)
    return carray(start, size, like.dtype)


@inner(error_model="numpy")
def array_at(address, shape, dtype):  # type: ignore[no-untyped-def]
    """The array of a certain shape and dtype at an address."""
    return carray(_pointer(address), shape, dtype)


@inner(error_model="numpy")
def is_finite(values):  # type: ignore[no-untyped-def]
    """Whether all numbers are finite, without a branch, so that it runs over vectors."""
    found = 0
    for p in range(len(values)):
        found |= values[p] - values[p] != 0  # NaN for NaN and both infinities
    return found == 0


@compiled(error_model="numpy")
def _is_finite(values):  # type: ignore[no-untyped-def]
    return is_finite(values)


@inner(error_model="numpy", fastmath={"reassoc", "contract"})
def _square(values):  # type: ignore[no-untyped-def]
    """The sum of squares, in float64."""
    found = 0.0
    for p in range(len(values)):
        found += np.float64(values[p]) * np.float64(values[p])
    return found


@compiled(error_model="numpy")
def _update(header, pointers, factor, step, like):  # type: ignore[no-untyped-def]
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
        array_at(header[3], (many, FIRST_SLOT + SLOTS), np.int64),
        array_at(header[4], (many, 2, members), np.float64),
        array_at(header[5], (2 + OWN_RATES, members), np.float64),
    )  # fmt: skip
    losses = array_at(pointers[many], (members,), like.dtype)
    frozen_at = array_at(pointers[many + 1], (members,), np.int64)
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


@inner(error_model="numpy")
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


@inner(error_model="numpy")
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


@inner(error_model="numpy")
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
