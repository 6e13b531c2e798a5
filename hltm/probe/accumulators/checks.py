"""Checks of a batch of activations and targets, made once, where an accumulator or a metric takes it."""

from __future__ import annotations

import torch
from torch import Tensor


def check_finite(activations: Tensor, layer: object = None) -> None:
    """Raise unless all activations are finite.

    Args:
        activations: `(…, U, B)` of any real dtype.
        layer: the name that the error gives to their layer.

    Raises:
        ValueError: an activation that is not finite; the error names the layer, the unit, its place
            on the leading axes and the row.
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


def check_pair(activations: Tensor, targets: Tensor) -> Tensor:
    """Activations `(…, U, B)` as floating point numbers, if targets `(…, T, B)` belong to them.

    Raises:
        ValueError: different leading axes, different numbers of rows, no rows, or activations that
            are not finite.
    """
    a, z = tuple(activations.shape), tuple(targets.shape)
    if len(a) < 2 or len(a) != len(z) or a[:-2] != z[:-2] or a[-1] != z[-1] or a[-1] == 0:
        expected = "expected (…, U, B) and (…, T, B)"
        raise ValueError(f"activations {a} and targets {z} do not fit, {expected}")
    check_finite(activations)
    return activations if activations.is_floating_point() else activations.float()


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
