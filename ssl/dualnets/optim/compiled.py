"""Updates compiled for the CPU: all parameters of a member in one pass, all or nothing.

The rules of `optimizers` are the reference; here `SGD`, `Adam`, `AdamW` and `LARS`, exactly these classes,
are one kernel. It reads addresses rather than arrays, so that one compilation per dtype serves every
network. A member whose loss, gradient, new parameters or new memory are not finite is frozen as it was
before the update. Kernels that train a member through many steps call `propose` and `commit`.
"""

from __future__ import annotations

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
from hltm._compile import compiled

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
        self.dtype, members = first.dtype, len(first)
        rule, names = RULES[type(optimizer)]

        def each(rates: Any) -> np.ndarray:
            return np.broadcast_to(np.asarray(rates, dtype=np.float64), (members,))

        clip = np.inf if optimizer.clip is None else optimizer.clip
        rates = np.zeros((2 + OWN_RATES, members))
        for place, own in enumerate((optimizer.lr, clip, *(getattr(optimizer, n) for n in names))):
            rates[place] = each(own)
        table = np.zeros((len(parameters), FIRST_SLOT + SLOTS), dtype=np.int64)
        own_rates = []
        for row, (name, parameter) in zip(table, parameters.items(), strict=True):
            group = groups.get(name, Group())
            row[0], row[SIZE] = parameter.data_ptr(), parameter[0].numel()
            row[SPARED] = has_plain_momentum(name, parameter)
            for column, slot in enumerate(optimizer.slots, start=FIRST_SLOT):
                row[column] = memory[f"{slot}.{name}"].data_ptr()
            decay = optimizer.weight_decay if group.weight_decay is None else group.weight_decay
            own_rates.append([each(group.lr), each(decay)])
        nesterov = bool(getattr(optimizer, "nesterov", False))
        self.rules = Rules(rule, len(optimizer.slots), nesterov, table, np.array(own_rates), rates)

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
        whole = [gradient.contiguous() for gradient in gradients]
        starts = np.array([gradient.data_ptr() for gradient in whole], dtype=np.int64)
        if not all_finite(others):
            lost = ~finite_members(others, frozen_at)
            frozen_at.copy_(torch.where(lost & (frozen_at < 0), step, frozen_at))
        alive = _update(
            self.rules, starts, self.schedule.factor(step, steps), losses.to(self.dtype).numpy(),
            frozen_at.numpy(), step,
        )  # fmt: skip
        return alive == len(frozen_at)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers in tensors on the CPU are finite, in one pass over each of float32 or float64.

    Example:
        >>> all_finite([torch.ones(2), torch.zeros(3, 1)]), all_finite([torch.tensor([1.0, torch.nan])])
        (True, False)
    """
    for dtype in {tensor.dtype for tensor in tensors if tensor.is_floating_point()}:
        own = [tensor.contiguous() for tensor in tensors if tensor.dtype == dtype]
        if dtype not in DTYPES:
            found = all(bool(tensor.isfinite().all()) for tensor in own)
        else:
            places = np.array([(tensor.data_ptr(), tensor.numel()) for tensor in own])
            found = _are_finite(places, LIKE[dtype])
        if not found:
            return False
    return True


def _pointer_of(context, address):  # type: ignore[no-untyped-def]
    """An address, given as a whole number, as a pointer."""

    def convert(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), convert


_pointer: Any = intrinsic(_pointer_of)


@compiled(error_model="numpy")
def member_of(address, size, s, like):  # type: ignore[no-untyped-def]
    """The `size` numbers of member s of a contiguous tensor at an address, of the dtype of `like`."""
    start = _pointer(address + s * size * like.itemsize)
    return carray(start, size, like.dtype)


@compiled(error_model="numpy")
def is_finite(values):  # type: ignore[no-untyped-def]
    """Whether all numbers are finite, without a branch, so that it runs over vectors."""
    found = 0
    for p in range(len(values)):
        found |= values[p] - values[p] != 0  # NaN for NaN and both infinities
    return found == 0


@compiled()
def _are_finite(places, like):  # type: ignore[no-untyped-def]
    """Whether all numbers at addresses and of sizes `(K, 2)` are finite."""
    found = True
    for k in range(len(places)):
        found = found and is_finite(member_of(places[k, 0], places[k, 1], 0, like))
    return found


@compiled(error_model="numpy", fastmath={"reassoc", "contract"})
def _square(values):  # type: ignore[no-untyped-def]
    """The sum of squares, in float64."""
    found = 0.0
    for p in range(len(values)):
        found += np.float64(values[p]) * np.float64(values[p])
    return found


@compiled(error_model="numpy")
def _update(rules, starts, factor, losses, frozen_at, step):  # type: ignore[no-untyped-def]
    """All members, see `CompiledUpdate`; returns how many are alive afterwards.

    Args:
        rules: `Rules`.
        starts: `(T,)` int64, addresses of the gradients of all members.
        factor: of the schedule.
        losses, frozen_at, step: as for `CompiledUpdate.__call__`.
    """
    new = new_numbers(rules, losses)
    gradients = np.empty_like(starts)
    alive = 0
    for s in range(len(losses)):
        if frozen_at[s] >= 0:
            continue
        for k in range(len(starts)):
            gradients[k] = starts[k] + s * rules.table[k, SIZE] * losses.itemsize
        if propose(rules, gradients, factor, losses[s], s, new):
            commit(rules, s, new)
            alive += 1
        else:
            frozen_at[s] = step
    return alive


@compiled()
def new_numbers(rules, like):  # type: ignore[no-untyped-def]
    """Room for the new numbers of a member: parameters in row 0, then memory, `(1 + slots, numbers)`."""
    return np.empty((1 + rules.slots, rules.table[:, SIZE].sum()), like.dtype)


@compiled(error_model="numpy")
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
    finite = loss - loss == 0
    squares = 0.0
    for k in range(len(table)):
        gradient = member_of(gradients[k], table[k, SIZE], 0, new)
        finite = finite and is_finite(gradient)
        if rates[1, s] < np.inf:
            squares += _square(gradient)
    if not finite:
        return False
    scale = min(rates[1, s] / max(np.sqrt(squares), 1e-12), 1.0)
    at = 0
    for k in range(len(table)):
        rate = rates[0, s] * (factor * rules.own_rates[k, 0, s])
        _change(
            rules.rule, rules.nesterov, table[k], gradients[k], rules.own_rates[k, 1, s], rate,
            rates[:, s], scale, s, new, at,
        )  # fmt: skip
        at += table[k, SIZE]
    for row in range(len(new)):
        finite = finite and is_finite(new[row])
    return finite


@compiled(error_model="numpy")
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


@compiled(error_model="numpy")
def _change(  # type: ignore[no-untyped-def]
    rule, nesterov, row, gradient, decay, rate, rates, scale, s, new, at
):
    """New numbers of one parameter and its memory, by the rules of `optimizers`, in columns from `at` on."""
    kind = new.dtype.type
    size = row[SIZE]
    w = member_of(row[0], size, s, new)
    g = member_of(gradient, size, 0, new)
    rate, scale, decay = kind(rate), kind(scale), kind(decay)
    end = at + size
    new_w = new[0, at:end]
    if rule == DESCENT:
        momentum = kind(rates[2])
        if len(new) == 1:
            for p in range(size):
                new_w[p] = w[p] - (g[p] * scale + decay * w[p]) * rate
            return
        v, new_v = member_of(row[FIRST_SLOT], size, s, new), new[1, at:end]
        for p in range(size):
            slope = g[p] * scale + decay * w[p]
            new_v[p] = v[p] * momentum + slope
            ahead = slope + momentum * new_v[p] if nesterov else new_v[p]
            new_w[p] = w[p] - ahead * rate
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
            new_v[p] = v[p] * momentum + (g[p] * scale + decay * w[p]) * local * rate
            new_w[p] = w[p] - new_v[p]
    else:
        beta1, beta2, epsilon = kind(rates[2]), kind(rates[3]), kind(rates[4])
        m, new_m = member_of(row[FIRST_SLOT], size, s, new), new[1, at:end]
        q, new_q = member_of(row[FIRST_SLOT + 1], size, s, new), new[2, at:end]
        updates = member_of(row[FIRST_SLOT + 2], 1, s, new)[0] + kind(1)
        first = kind(1 - rates[2] ** updates)
        second = kind(1 - rates[3] ** updates)
        coupled = decay if rule == ADAPTIVE else kind(0)
        decoupled = decay if rule == DECOUPLED else kind(0)
        for p in range(size):
            slope = g[p] * scale + coupled * w[p]
            new_m[p] = m[p] * beta1 + slope * (kind(1) - beta1)
            new_q[p] = q[p] * beta2 + slope * slope * (kind(1) - beta2)
            adapted = (new_m[p] / first) / (np.sqrt(new_q[p] / second) + epsilon)
            new_w[p] = w[p] - (adapted + decoupled * w[p]) * rate
        new[3, at:end] = updates
