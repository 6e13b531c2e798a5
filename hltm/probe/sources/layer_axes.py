"""The axes of a layer: which one is the batch, and its numbers as `(B, U)` units or `(B, V, U)` blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hltm.data import encode as encoders

Pool = Literal["mean", "max", "first", "last"] | int | Callable[[Tensor], Tensor]
Positions = Literal["nodes", "leaves"] | bool | Sequence[int]
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda a: a.mean(1),
    "max": lambda a: a.amax(1),
    "first": lambda a: a[:, 0],
    "last": lambda a: a[:, -1],
}


class MixedRows(ValueError):
    """A layer in which the values of a row depend on the other rows of its batch."""


# rows of the two trials that show which axis is the batch: the few are not the middle of the many,
# which would hide that rows are reversed, and both are even, for models of pairs
MANY, FEW = 6, 2
LAST = (
    nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention,
    nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)  # fmt: skip
CONVOLUTIONS = (nn.modules.conv._ConvNd,)
FIRST = (*CONVOLUTIONS, nn.modules.batchnorm._NormBase, nn.GroupNorm)


def find_batch_axis(name: object, many: Tensor, few: Tensor, given: int | None = None) -> int:
    """The axis of a layer that holds the rows, found by running 6 rows and, of these, the second and third.

    Args:
        name: of the layer, for errors.
        many, few: what the layer returns for the 6 rows and for the 2.
        given: the axis that the user names, which is then only checked.

    Raises:
        ValueError: no axis or several that change with the rows, one that also holds other things, or
            another one than is given.
        MixedRows: where none is given, values of a row that depend on the other rows.

    Example:
        >>> rows = torch.randn(6, 5)
        >>> find_batch_axis("rnn", rows.expand(3, 6, 5), rows[1:3].expand(3, 2, 5))  # (T, B, D)
        1
        >>> find_batch_axis("rnn", rows.cumsum(0), rows[1:3].cumsum(0))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hltm.probe.sources.layer_axes.MixedRows: layer 'rnn' depends on other rows...
    """
    a, b = tuple(many.shape), tuple(few.shape)
    changed = [i for i, sizes in enumerate(zip(a, b, strict=False)) if sizes[0] != sizes[1]]
    fits = [i for i in changed if (a[i], b[i]) == (MANY, FEW)]
    if len(a) != len(b) or len(changed) != 1 or len(fits) != 1:
        where = changed[0] if len(changed) == 1 and len(a) == len(b) else None
        each = a[where] // MANY if where is not None and a[where] * FEW == b[where] * MANY else 0
        hint = "name a layer of separate rows"
        if each:
            hint = (
                f"axis {where} holds {each} entries of every row: take it apart with select=lambda a: "
                f"a.unflatten({where}, (-1, {each})), or ({each}, -1) if rows vary faster"
            )
        raise ValueError(
            f"layer {name!r} has shape {a} for {MANY} rows and {b} for {FEW}, so no axis is that of the "
            f"rows; {hint}"
        )
    axis = fits[0]
    if given is not None:
        if given not in (axis, axis - len(a)):
            raise ValueError(
                f"layer {name!r} has shape {a} for {MANY} rows, expected them on axis {given} "
                f"(batch_axis={given}), but they are on axis {axis}"
            )
        return axis
    middle, alone = (
        (torch.view_as_real(x) if x.is_complex() else x).double()
        for x in (many.narrow(axis, 1, FEW), few)
    )
    size = middle.nan_to_num(0, 0, 0).abs().amax() if middle.numel() else 0.0
    near = (0.1 if many.dtype in (torch.float16, torch.bfloat16) else 1e-3) * float(size)
    if not torch.allclose(middle, alone, rtol=0, atol=near, equal_nan=True):
        raise MixedRows(
            f"layer {name!r} depends on other rows of its batch or on chance; if right, give "
            f"batch_axis={axis}"
        )
    return axis


def find_unit_axis(name: object, part: nn.Module, model: nn.Module, axes: int) -> int:
    """The axis of a layer's units, its channels or features, counted with the batch.

    Layers of known kinds decide for themselves. Of others, two axes behind the batch are positions and
    units, as in a sequence; more are channels and positions, as in an image, in a model that convolves.

    Raises:
        ValueError: no kind that decides, in a model where both are usual.
    """
    if isinstance(part, FIRST):
        return 1
    if axes < 3 or isinstance(part, LAST):
        return axes - 1
    kinds = {type(other) for other in model.modules() if isinstance(other, CONVOLUTIONS)}
    along = {kind for kind in kinds if issubclass(kind, (nn.Conv1d, nn.ConvTranspose1d))}
    if axes == 3 and not along:
        return 2
    if axes > 3 and kinds:
        return 1
    raise ValueError(
        f"layer {name!r} has {axes} axes; for pool or positions give unit_axis, that of its units: 1 for "
        "(B, C, …), -1 for (B, …, D)"
    )


@dataclass(frozen=True)
class LayerAxes:
    """How the tensor of a layer becomes `(B, U)` units, or `(B, V, U)` blocks of units.

    Attributes:
        name: of the layer, for errors.
        batch, unit: axes of rows and of units; `unit` is needed for what follows alone.
        pool: over positions: `mean`, `max`, `first`, `last`, the number of one, or a function from
            `(B, P, U)` to `(B, U)`. Positions of several axes are counted in reading order.
        positions: whether each position is the block of a node of the layer's level, in the order of
            the nodes, or with `leaves` that of a leaf; a list has the position of each. Positions
            of a square image belong to nodes as `hltm.encode.image` lays out leaves.

    Example:
        >>> a = torch.arange(24.0).reshape(3, 2, 4)  # (T, B, D)
        >>> LayerAxes("rnn", batch=1)(a, 2).shape
        torch.Size([2, 12])
        >>> LayerAxes("rnn", batch=1, unit=2, pool="last")(a, 2).equal(a[-1])
        True
        >>> LayerAxes("rnn", batch=1, unit=2, positions=[2, 0])(a, 2).shape
        torch.Size([2, 2, 4])
    """

    name: object
    batch: int = 0
    unit: int | None = None
    pool: Pool | None = None
    positions: Positions = False

    def __call__(self, values: Tensor, rows: int) -> Tensor:
        """`(B, U)` or `(B, V, U)` from the layer's own tensor.

        Raises:
            ValueError: another number of rows, or positions that the layer does not have.
        """
        if not -values.ndim <= self.batch < values.ndim or values.shape[self.batch] != rows:
            raise ValueError(
                f"layer {self.name!r} has shape {tuple(values.shape)}, expected {rows} rows on axis "
                f"{self.batch}; give batch_axis, the axis that holds them"
            )
        batch = self.batch % values.ndim
        moved = values.movedim(batch, 0)
        if self.unit is None or moved.ndim < 2:
            return moved.flatten(1) if moved.ndim > 1 else moved[:, None]
        unit = self.unit % values.ndim
        if unit == batch:
            raise ValueError(
                f"layer {self.name!r} has its rows on axis {unit}, so units are on another"
            )
        places = moved.movedim(unit + (unit < batch), -1)  # (B, *P, U)
        sides = tuple(places.shape[1:-1])
        flat = places.flatten(1, -2) if places.ndim > 2 else places[:, None]
        return self._pooled(flat) if self.pool is not None else flat[:, self._order(sides)]

    def back(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        """Units `(B, U)` in the layer's own shape: the inverse of a call without pool and positions.

        Raises:
            ValueError: a layer with pool or positions, or another number of units.

        Example:
            >>> a = torch.arange(24.0).reshape(3, 2, 4)  # (T, B, D)
            >>> axes = LayerAxes("rnn", batch=1)
            >>> axes.back(axes(a, 2), a.shape).equal(a)
            True
        """
        if self.unit is not None:
            raise ValueError(
                f"layer {self.name!r} has pool or positions, so its units are not all of it: leave these out"
            )
        batch = self.batch % len(shape)
        moved = [shape[batch], *shape[:batch], *shape[batch + 1 :]]
        if units.numel() != torch.Size(moved).numel():
            raise ValueError(
                f"layer {self.name!r} has shape {tuple(shape)}, got units {tuple(units.shape)}"
            )
        return units.reshape(moved).movedim(0, batch)

    def _pooled(self, flat: Tensor) -> Tensor:
        """One number per unit from `(B, P, U)`."""
        pool = self.pool
        if isinstance(pool, int):
            if not -flat.shape[1] <= pool < flat.shape[1]:
                raise ValueError(
                    f"layer {self.name!r} has {flat.shape[1]} positions, so there is no pool={pool}"
                )
            return flat[:, pool]
        try:
            found = POOLS[pool](flat) if isinstance(pool, str) else pool(flat)  # type: ignore[misc]
        except Exception as error:  # of a function of the user's
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ValueError(
                f"pool of layer {self.name!r} fails on {tuple(flat.shape)}: {reason:.120}"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(flat):
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"pool made {given} of {tuple(flat.shape)} of layer {self.name!r}, expected ({len(flat)}, U)"
            )
        return found

    def _order(self, sides: tuple[int, ...]) -> Tensor:
        """The position of every node."""
        total = 1
        for side in sides:
            total *= side
        if isinstance(self.positions, (bool, str)):
            if len(sides) < 2:
                return torch.arange(total)
            square = len(sides) == 2 and sides[0] == sides[1] and not sides[0] & (sides[0] - 1)
            if not square:
                raise ValueError(
                    f"layer {self.name!r} has positions {sides}, expected a square whose side is a power "
                    "of 2; give positions=[…], the position of each node in reading order"
                )
            return encoders.image(torch.arange(total)).flatten().argsort()
        try:
            order = torch.as_tensor(self.positions, dtype=torch.int64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"positions must be places, got {self.positions!s:.80}") from error
        if order.ndim != 1 or ((order < -total) | (order >= total)).any():
            raise ValueError(
                f"layer {self.name!r} has {total} positions, got positions={self.positions}"
            )
        return order


def find_axes(
    name: str, part: nn.Module, model: nn.Module, many: Tensor, few: Tensor, own: Mapping[str, Any]
) -> LayerAxes:
    """The axes of one layer from two trials, as in `find_batch_axis`.

    Args:
        own: what the user set for this layer: `batch_axis`, `unit_axis`, `pool`, `positions`.
    """
    batch = find_batch_axis(name, many, few, own.get("batch_axis"))
    pool, positions = own.get("pool"), own.get("positions")
    unit = own.get("unit_axis")
    if unit is not None and not -many.ndim <= unit < many.ndim:
        raise ValueError(
            f"layer {name!r} has shape {tuple(many.shape)} for {MANY} rows, so there is no unit_axis={unit}"
        )
    if pool is None and (positions is None or positions is False):
        return LayerAxes(name, batch)
    unit = find_unit_axis(name, part, model, many.ndim) if unit is None else unit
    return LayerAxes(name, batch, unit, pool, positions or False)


def check_axis(name: str, axis: object) -> None:
    """Raise unless an axis is a whole number, or None.

    Raises:
        ValueError: anything else.
    """
    whole = isinstance(axis, (int, np.integer)) and not isinstance(axis, bool)
    if axis is not None and not whole:
        raise ValueError(f"{name} must be a whole number, got {axis!r:.60}")


def check_reduction(pool: object, positions: object) -> None:
    """Raise unless pool and positions, of one layer, are among what `LayerAxes` takes, and not both set.

    Raises:
        ValueError: anything else.
    """
    if isinstance(pool, str) and pool not in POOLS:
        raise ValueError(
            f"pool must be one of {', '.join(POOLS)}, a place or a function, got {pool!r}"
        )
    if pool is not None and not isinstance(pool, (str, int)) and not callable(pool):
        raise ValueError(f"pool must be a name, a place or a function, got {pool!r:.60}")
    if isinstance(positions, str) and positions not in ("nodes", "leaves"):
        raise ValueError(
            f"positions must be True, 'nodes', 'leaves' or a list of places, got {positions!r}"
        )
    if pool is not None and not (positions is None or positions is False):
        raise ValueError("give pool or positions, not both: each is what becomes of the positions")
