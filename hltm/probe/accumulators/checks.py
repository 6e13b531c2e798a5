"""Checks of a batch of activations and targets, made once, where an accumulator or a metric takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hltm.probe.accumulators.units import UnitBatch


def as_numbers(activations: Tensor) -> Tensor:
    """Activations as float32 or, where that would lose digits, float64.

    Raises:
        ValueError: complex numbers, or anything that is no tensor of numbers.

    Example:
        >>> as_numbers(torch.tensor([1, 2], dtype=torch.int64)).dtype
        torch.float64
    """
    kind = getattr(activations, "dtype", type(activations).__name__)
    if not isinstance(activations, Tensor) or activations.is_complex():
        raise ValueError(f"activations have dtype {kind}, expected real numbers")
    if kind in (torch.float32, torch.float64):
        return activations
    exact = activations.is_floating_point() or activations.element_size() <= 2
    return activations.to(torch.float32 if exact else torch.float64)


def check_finite(
    activations: Tensor, layer: object = None, members: Sequence[int] | None = None
) -> None:
    """Raise unless all activations are finite real numbers.

    Args:
        activations: `(…, U, B)` of any real dtype.
        layer: the name that the error gives to their layer.
        members: the addresses of the first axis; an error names the address.

    Raises:
        ValueError: an activation that is not finite; the error names the layer, the unit, its place
            on the leading axes and the row. Complex numbers, or no tensor of numbers.
    """
    x = as_numbers(activations)
    if not activations.is_floating_point() or x.numel() == 0:
        return
    # one pass where all is well: extremes are never wrong, as a sum is that overflows
    if all(bool(part.isfinite().all()) for part in (x.amin(-1), x.amax(-1))):
        return
    wrong = ~x.isfinite()
    place = wrong.any(-1).nonzero()[0].tolist()
    row = int(wrong[tuple(place)].nonzero()[0, 0])
    value = float(x[(*place, row)])
    where, front = f"unit {place[-1]}", place[:-1]
    frozen = ""
    if members is not None and front:
        frozen = (
            "; where training diverged a member is frozen, and can be left out (dualnets: "
            "final.without_frozen(trees))"
        )
        where += f" of block {front[1]}" if len(front) > 1 else ""
        where += f" of member {members[front[0]]}"
    elif front:
        where += f" at {tuple(front)}"
    of = "" if layer is None else f" of layer {layer!r}"
    raise ValueError(
        f"{where}{of} has activation {value} in row {row} of its batch, expected finite numbers{frozen}"
    )


def check_fit(activations: Tensor | UnitBatch, targets: Tensor | UnitBatch) -> None:
    """Raise unless targets `(…, T, B)` belong to activations `(…, U, B)`.

    Raises:
        ValueError: different leading axes, different numbers of rows, or no rows.
    """
    a, z = tuple(activations.shape), tuple(targets.shape)
    if len(a) < 2 or len(a) != len(z) or a[:-2] != z[:-2] or a[-1] != z[-1] or a[-1] == 0:
        expected = "expected (…, U, B) and (…, T, B)"
        raise ValueError(f"activations {a} and targets {z} do not fit, {expected}")


def check_pair(activations: Tensor, targets: Tensor) -> Tensor:
    """Activations `(…, U, B)` as `as_numbers` gives them, if targets `(…, T, B)` belong to them.

    Raises:
        ValueError: as `as_numbers`, `check_fit` and `check_finite`.
    """
    x = as_numbers(activations)
    check_fit(x, targets)
    check_finite(activations)
    return x


def check_states(targets: Tensor, states: int) -> None:
    """Raise unless all states are in 0..states - 1.

    Raises:
        ValueError: a state outside of it.
    """
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= states:
        raise ValueError(f"targets have states {low}..{high}, expected 0..{states - 1}")


def one_hot(targets: Tensor, states: int) -> Tensor:
    """`(…, T · K, B)` float32 indicators of `(…, T, B)` states; a target's K states are neighbours.

    Raises:
        ValueError: a state outside 0..states - 1.

    Example:
        >>> one_hot(torch.tensor([[0, 1, 1]]), states=2)
        tensor([[1., 0., 0.],
                [0., 1., 1.]])
    """
    check_states(targets, states)
    z = targets.to(torch.int32)
    every = torch.arange(states, dtype=torch.int32, device=z.device)[:, None]
    return (z[..., None, :] == every).float().flatten(-3, -2)
