"""Updates compiled for the CPU: all parameters of a member in one pass, all or nothing.

The rules of `optimizers` are the reference; here `SGD`, `Adam`, `AdamW` and `LARS`, exactly these classes,
are one kernel (`update_kernel`). A member whose loss, gradient, new parameters or new memory are not finite
is frozen as it was before the update.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numba import config
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
from dualnets.optim.update_kernel import (
    ADAPTIVE,
    DECOUPLED,
    DESCENT,
    LAYER_WISE,
    OWN_RATES,
    SLOTS,
    Rules,
    all_are_finite,
    update_members,
)

RULES: dict[type[Optimizer], tuple[int, tuple[str, ...]]] = {  # and the rates that a rule reads
    SGD: (DESCENT, ("momentum",)),
    Adam: (ADAPTIVE, ("beta1", "beta2", "epsilon")),
    AdamW: (DECOUPLED, ("beta1", "beta2", "epsilon")),
    LARS: (LAYER_WISE, ("momentum", "trust")),
}
LIKE = {torch.float32: np.zeros(1, np.float32), torch.float64: np.zeros(1)}
DTYPES = (*LIKE,)


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
        alive = update_members(self._header, self._pointers, factor, step, self._like)
        if alive < 0:  # one of the others is not finite, and nothing was changed
            _freeze(others, frozen_at, step)
            known = self._pointers[: many + 2]
            alive = update_members(self._header, known, factor, step, self._like)
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
            found = all_are_finite(flat)
        else:
            found = not tensor.is_floating_point() or bool(tensor.isfinite().all())
        if not found:
            return False
    return True
