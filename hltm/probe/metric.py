"""What every metric of units and latents has in common: update, result and strength."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """A figure for every pair of a unit and a target, kept in constant memory on the device.

    `update` takes activations `(…, U, B)` and target states `(…, T, B)`, batch-last, with equal
    leading axes; `result` gives `(…, U, T)` float64; `strength` the same without its sign, so that
    more is better and a meaningless unit is near the bottom.
    """

    def update(self, activations: Tensor, targets: Tensor) -> None: ...

    def result(self) -> Tensor: ...

    def strength(self) -> Tensor: ...


def check_finite(activations: Tensor, layer: object = None) -> None:
    """Raise unless all `(…, U, B)` activations are finite.

    Args:
        activations: any real dtype.
        layer: what to call it in the error.

    Raises:
        ValueError: naming the layer, the unit (the last of the leading axes) and the rest of them.
    """
    # one pass where all is well: a sum is finite only if every term is, unless it overflows
    if not activations.is_floating_point() or bool(activations.sum().isfinite()):
        return
    wrong = ~activations.isfinite()
    if not wrong.any():
        return
    place = wrong.any(-1).nonzero()[0].tolist()
    row = int(wrong[tuple(place)].nonzero()[0, 0])
    value = float(activations[(*place, row)])
    where = f"unit {place[-1]}" + (f" at {tuple(place[:-1])}" if len(place) > 1 else "")
    of = "" if layer is None else f" of layer {layer!r}"
    raise ValueError(
        f"{where}{of} has activation {value} in row {row} of its batch, expected finite numbers"
    )


def check_pair(activations: Tensor, targets: Tensor) -> None:
    """Raise unless `(…, U, B)` activations and `(…, T, B)` targets belong together.

    Raises:
        ValueError: other leading axes, another number of rows, no rows, or activations that are
            not finite.
    """
    a, z = activations.shape, targets.shape
    if len(a) < 2 or len(a) != len(z) or a[:-2] != z[:-2] or a[-1] != z[-1] or a[-1] == 0:
        raise ValueError(
            f"activations {tuple(a)} and targets {tuple(z)} do not fit, "
            "expected (…, U, B) and (…, T, B)"
        )
    check_finite(activations)


def one_hot(targets: Tensor, states: int) -> Tensor:
    """`(…, T * states, B)` float32 indicators of `(…, T, B)` states, a target's states together.

    Raises:
        ValueError: a state outside 0..states - 1.
    """
    z = targets.to(torch.int32)
    low, high = int(z.min()), int(z.max())
    if low < 0 or high >= states:
        raise ValueError(f"targets have states {low}..{high}, expected 0..{states - 1}")
    every = torch.arange(states, dtype=torch.int32, device=z.device)[:, None]
    return (z[..., None, :] == every).float().flatten(-3, -2)
