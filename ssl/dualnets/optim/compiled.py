"""Updates compiled for the CPU: all parameters of a member in one pass, all or nothing.

The rules of `optimizers` are the reference; here `SGD`, `Adam`, `AdamW` and `LARS`, exactly these classes,
are one kernel. It reads addresses rather than arrays, so that one compilation per dtype serves every
network. A member whose loss, gradient, new parameters or new memory are not finite is frozen as it was
before the update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
SLOTS = 3  # the most that a rule has
GRADIENT, SIZE, SPARED, FIRST_SLOT = 1, 2, 3, 4  # columns of the table beside 0, the parameter


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
        self.schedule = optimizer.schedule
        first = self._held[0]
        self.dtype, members = first.dtype, len(first)
        self.nesterov = bool(getattr(optimizer, "nesterov", False))
        self.rule, names = RULES[type(optimizer)]

        def each(rates: Any) -> np.ndarray:
            return np.broadcast_to(np.asarray(rates, dtype=np.float64), (members,))

        clip = np.inf if optimizer.clip is None else optimizer.clip
        rates = [optimizer.lr, clip, *(getattr(optimizer, name) for name in names)]
        self.rates = np.stack([each(own) for own in rates])
        self.table = np.zeros((len(parameters), FIRST_SLOT + SLOTS), dtype=np.int64)
        own_rates = []
        for row, (name, parameter) in zip(self.table, parameters.items(), strict=True):
            group = groups.get(name, Group())
            row[0], row[SIZE] = parameter.data_ptr(), parameter[0].numel()
            row[SPARED] = has_plain_momentum(name, parameter)
            for place, slot in enumerate(optimizer.slots, start=FIRST_SLOT):
                row[place] = memory[f"{slot}.{name}"].data_ptr()
            decay = optimizer.weight_decay if group.weight_decay is None else group.weight_decay
            own_rates.append([each(group.lr), each(decay)])
        self.own_rates = np.array(own_rates)  # (T, 2, S)
        self.slots = len(optimizer.slots)

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
        self.table[:, GRADIENT] = [gradient.data_ptr() for gradient in whole]
        if not all_finite(others):
            lost = ~finite_members(others, frozen_at)
            frozen_at.copy_(torch.where(lost & (frozen_at < 0), step, frozen_at))
        alive = _update(
            self.rule, self.slots, self.nesterov, self.table, self.own_rates, self.rates,
            self.schedule.factor(step, steps), losses.to(self.dtype).numpy(), frozen_at.numpy(), step,
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
def _update(  # type: ignore[no-untyped-def]
    rule, slots, nesterov, table, own_rates, rates, factor, losses, frozen_at, step
):
    """See `CompiledUpdate`; new numbers are written to memory of this call until all are known to be finite.

    Args:
        rule, slots, nesterov: the rule, the number of slots it uses, and its variant.
        table: `(T, 7)` int64: addresses of parameters and gradients, sizes of a member's part, whether
            LARS spares it, addresses of the slots.
        own_rates: `(T, 2, S)` float64, factors of the learning rate and decays.
        rates: `(2 + C, S)`: learning rates, largest lengths, and the rule's own.
        factor: of the schedule.
        losses, frozen_at, step: as for `CompiledUpdate.__call__`.
    """
    total = table[:, SIZE].sum()
    new = np.empty((1 + slots, total), losses.dtype)
    alive = 0
    for s in range(len(losses)):
        if frozen_at[s] >= 0:
            continue
        finite = losses[s] - losses[s] == 0
        squares = 0.0
        for k in range(len(table)):
            gradient = member_of(table[k, GRADIENT], table[k, SIZE], s, losses)
            finite = finite and is_finite(gradient)
            if rates[1, s] < np.inf:
                squares += _square(gradient)
        scale = min(rates[1, s] / max(np.sqrt(squares), 1e-12), 1.0)
        if finite:
            at = 0
            for k in range(len(table)):
                size = table[k, SIZE]
                _change(
                    rule, nesterov, table[k], own_rates[k, 1, s],
                    rates[0, s] * (factor * own_rates[k, 0, s]), rates[:, s], scale, s, losses,
                    new, at,
                )  # fmt: skip
                at += size
            for row in range(1 + slots):
                finite = finite and is_finite(new[row])
        if not finite:
            frozen_at[s] = step
            continue
        alive += 1
        at = 0
        for k in range(len(table)):
            size = table[k, SIZE]
            member_of(table[k, 0], size, s, losses)[:] = new[0, at : at + size]
            for slot in range(slots):
                # the slot that counts updates is one number
                kept = 1 if rule in (ADAPTIVE, DECOUPLED) and slot == 2 else size
                address = table[k, FIRST_SLOT + slot]
                member_of(address, kept, s, losses)[:] = new[1 + slot, at : at + kept]
            at += size
    return alive


@compiled(error_model="numpy")
def _change(  # type: ignore[no-untyped-def]
    rule, nesterov, row, decay, rate, rates, scale, s, like, new, at
):
    """New numbers of one parameter and its memory, by the rules of `optimizers`, in columns from `at` on."""
    kind = like.dtype.type
    size = row[SIZE]
    w = member_of(row[0], size, s, like)
    g = member_of(row[GRADIENT], size, s, like)
    rate, scale, decay = kind(rate), kind(scale), kind(decay)
    end = at + size
    new_w = new[0, at:end]
    if rule == DESCENT:
        momentum = kind(rates[2])
        if len(new) == 1:
            for p in range(size):
                new_w[p] = w[p] - (g[p] * scale + decay * w[p]) * rate
            return
        v, new_v = member_of(row[FIRST_SLOT], size, s, like), new[1, at:end]
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
        v, new_v = member_of(row[FIRST_SLOT], size, s, like), new[1, at:end]
        for p in range(size):
            new_v[p] = v[p] * momentum + (g[p] * scale + decay * w[p]) * local * rate
            new_w[p] = w[p] - new_v[p]
    else:
        beta1, beta2, epsilon = kind(rates[2]), kind(rates[3]), kind(rates[4])
        m, new_m = member_of(row[FIRST_SLOT], size, s, like), new[1, at:end]
        q, new_q = member_of(row[FIRST_SLOT + 1], size, s, like), new[2, at:end]
        updates = member_of(row[FIRST_SLOT + 2], 1, s, like)[0] + kind(1)
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
