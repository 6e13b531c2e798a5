"""Range, mean and variance of every unit, and batches of units centred and scaled for products.

All other accumulators take their batches from here, so one definition of a dead unit, one check and one
protection from overflow, underflow and cancellation serve them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hltm.probe.accumulators.checks import as_numbers, check_finite

NEAR = 20  # exponents at which squares neither overflow nor underflow
LARGEST = {torch.float32: 126, torch.float64: 1022}  # both 2^most and 2^-most are normal
OFFSET = 8  # standard deviations of a mean, beyond which the rounding of the mean counts
ROUNDING = 2  # a range of so many units in the last place of the largest value is rounding


@dataclass(frozen=True, eq=False)
class UnitBatch:
    """A batch, centred and in units of 2^exponent of its `StreamingUnits`.

    Accumulators take it in place of the activations, so that what they have in common is computed once.

    Attributes:
        given: `(…, U, B)` float32 or float64, the activations.
        values: `(…, U, B)` the same, scaled, minus a centre that their dtype can represent.
        rest: `(…, U)` float64 mean of `values`, which is 0 but for rounding.
        step: `(…, U)` float64 mean of the batch minus the mean of the rows before it.
        power: `(…, U)` float64 factor of a unit's earlier sums, because its exponent has grown.
        before: rows before the batch.
        units: the accumulator that made it.
    """

    given: Tensor
    values: Tensor
    rest: Tensor
    step: Tensor
    power: Tensor
    before: int
    units: StreamingUnits

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def owner(self, units: StreamingUnits) -> StreamingUnits:
        """The accumulator that made it, for one that has had the batches of `units` so far.

        Raises:
            ValueError: earlier rows were those of another `StreamingUnits`, or are missing.
        """
        if units is not self.units and (units.samples or self.before):
            raise ValueError(
                f"a batch that follows {self.before} rows was given to an accumulator of "
                f"{units.samples} others, expected all batches of one StreamingUnits from the first"
            )
        return self.units

    @cached_property
    def products(self) -> Tensor:
        """`(…, U, U)` of all pairs of units, summed over rows."""
        return self.values @ self.values.mT

    def join(self, parts: Sequence[UnitBatch]) -> None:
        """Make `products` of those of the latest batches of others, which have all of its rows between them.

        With values v + d of the part's values v, of mean r over n rows, the part's share is
        Σ v vᵀ + n (d rᵀ + r dᵀ + d dᵀ). Parts of another scale change nothing.
        """
        if not all(bool((part.units.exponent == self.units.exponent).all()) for part in parts):
            return
        left, right = [], []
        for part in parts:
            moved, n = part._centre() - self._centre(), part.shape[-1]
            left += [moved, n * part.rest]
            right += [n * (part.rest + moved), moved]
        shifts = (torch.stack(left, -1) @ torch.stack(right, -2)).to(self.values.dtype)
        self.__dict__["products"] = sum((part.products for part in parts), shifts)

    def _centre(self) -> Tensor:
        """`(…, U)` float64, what was taken off `values`; while this is the latest batch of `units`."""
        share = self.before / (self.before + self.shape[-1])
        return self.units.mean + share * self.step - self.rest

    def inner(self, other: UnitBatch, moved: float = 0.0) -> Tensor:
        """`(…, U, T)` float64 sums of products around the means of the batch, in memory of its own.

        To them is added `moved` times the product of the batches' steps. All that is of size U T is
        passed over few times: of a wide layer that takes longer than the products.
        """
        kind = torch.promote_types(self.values.dtype, other.values.dtype)
        same = other is self
        products = self.products if same else self.values.to(kind) @ other.values.to(kind).mT
        left = torch.stack([-self.shape[-1] * self.rest, moved * self.step], -1)
        return (left @ torch.stack([other.rest, other.step], -2)).add_(products)

    def cross(self, other: UnitBatch, old: Tensor | float) -> Tensor:
        """`(…, U, T)` the same around the means of all rows, from that of the rows before.

        By the formula of Chan, Golub and LeVeque (1983).

        Raises:
            ValueError: other rows.
        """
        if self.shape[-1] != other.shape[-1]:
            raise ValueError(
                f"expected as many rows of both, got {self.shape[-1]} and {other.shape[-1]}"
            )
        if not self.before:
            return self.inner(other)
        count = self.shape[-1]
        found = self.inner(other, self.before * count / (self.before + count))
        if bool((self.power != 1).any() | (other.power != 1).any()):
            old = old * self.power[..., :, None] * other.power[..., None, :]
        return found.add_(old)


class StreamingUnits:
    """Range, mean and variance of `(…, U, B)` activations, batch by batch.

    A unit is dead if its values on all rows differ by at most 2 units in the last place of its dtype:
    high - low <= 2 · eps · max(|low|, |high|). Every unit has a scale of its own, a power of two, so that
    neither squares of tiny or huge values nor a large common mean spoil its sums. A unit with a value
    that is not finite has NaN, and other units and members have the numbers they would have without it.

    Args:
        checked: whether activations that are not finite are refused.

    Raises:
        ValueError: in `take`, activations that are not real numbers, no rows, or, where `checked`,
            numbers that are not finite.

    Example:
        >>> units = StreamingUnits()
        >>> _ = units.take(torch.tensor([[1e30, 3e30], [7.0, 7.0]]))
        >>> units.variance().tolist()[1], units.dead().tolist()
        (0.0, [False, True])
    """

    def __init__(self, *, checked: bool = True) -> None:
        self.checked, self.samples, self.eps = checked, 0, 0.0
        # (…, U) float64: values within the range in the unit's own scale (the ends of it for units that
        # hardly vary); mean and Σ (a - mean)² in units of 2^exponent
        self.low = self.high = self.mean = self.square = torch.zeros((), dtype=torch.float64)
        self.exponent = torch.zeros((), dtype=torch.int32)

    def take(self, activations: Tensor) -> UnitBatch:
        """Add a batch, and return it ready for products with others."""
        given = x = as_numbers(activations)
        if x.shape[-1] == 0:
            raise ValueError(f"activations have shape {tuple(x.shape)}, expected at least one row")
        kind = activations.dtype if activations.is_floating_point() else x.dtype
        self.eps = max(self.eps, torch.finfo(kind).eps)
        before, count = self.samples, x.shape[-1]
        centre, values, norm = _centred(x)
        low, high, moderate = self._range(x, centre, norm)
        if not moderate:
            low, high = x.amin(-1), x.amax(-1)  # NaN where any value is
            if self.checked and not bool((low.isfinite() & high.isfinite()).all()):
                check_finite(activations)
        power = self._widen(low, high, x.dtype) if moderate else self._rescale(low, high)
        if not moderate:
            centre, values, norm = _centred(x * power_of_two(-self.exponent).to(x.dtype)[..., None])
        rest = torch.zeros_like(norm)
        far = centre.abs() > OFFSET * norm / count**0.5  # the centre was rounded
        if bool(far.any()):
            rest = torch.where(far, values.mean(-1).double(), rest)
        step = centre.double() + rest - self.mean * power
        square = norm.square() - count * rest.square()
        self.square = self.square * power.square() + square
        if before:
            self.square = self.square + before * count / (before + count) * step.square()
        self.mean = self.mean * power + step * count / (before + count)
        self.samples += count
        return UnitBatch(given, values, rest, step, power, before, self)

    def _range(self, x: Tensor, centre: Tensor, norm: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Two values between the least and the largest of every unit, and whether all are moderate.

        One standard deviation from the mean is within the range. That settles whether a unit is dead,
        except of units that hardly vary, whose exact range this is. Units are moderate if they need no
        scale, as nearly all do.
        """
        mean, spread = centre.double(), norm / x.shape[-1] ** 0.5
        size = mean.abs() + spread
        low, high = mean - spread, mean + spread
        still = ~(spread > 32 * self.eps * size)  # NaN too
        if bool(still.any()):
            few = x[still]
            low[still], high[still] = few.amin(-1).double(), few.amax(-1).double()
        near = (size > 2.0**-NEAR) & (size < 2.0**NEAR) | (low == 0) & (high == 0)
        return low, high, bool(near.all()) and not bool(self._scaled().any())

    def _scaled(self) -> Tensor:
        """`(…, U)` bool: units whose sums are not in their own scale."""
        return (self.exponent != 0) & ((self.low != 0) | (self.high != 0))

    def _widen(self, low: Tensor, high: Tensor, kind: torch.dtype) -> Tensor:
        """As `_rescale`, for moderate units."""
        if self.samples:
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.low, self.high = low, high
        # the first values of a unit that was 0 so far give its scale
        self.exponent = ((low == 0) & (high == 0)).to(torch.int32) * -LARGEST[kind]
        return torch.ones_like(low)

    def _rescale(self, low: Tensor, high: Tensor) -> Tensor:
        """Widen the range; `(…, U)` float64 factor of the sums so far, in the new exponent."""
        size = torch.maximum(low.abs(), high.abs())
        most = LARGEST[size.dtype]
        exponent = torch.frexp(size.where(size.isfinite(), 1.0)).exponent
        exponent = exponent.where(size != 0, -most).clamp(-most, most)
        exponent = exponent.masked_fill(exponent.abs() <= NEAR, 0)  # then nothing is multiplied
        low, high = low.double(), high.double()
        if not self.samples:
            self.low, self.high, self.exponent = low, high, exponent
            return torch.ones_like(low)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        larger = torch.maximum(self.exponent, exponent)
        power = power_of_two((self.exponent - larger).clamp(min=-1022))
        self.exponent = larger
        return power

    def scale(self) -> Tensor:
        """`(…, U)` float64 2^exponent, the unit of `mean` and, squared, of `square`."""
        return power_of_two(self.exponent)

    def variance(self) -> Tensor:
        """`(…, U)` float64 variance over rows in the units' own scale; 0 for a dead unit."""
        share = (self.square / self.samples).clamp(min=0).masked_fill(self.dead(), 0.0)
        return share * self.scale() * self.scale()

    def dead(self, *others: StreamingUnits) -> Tensor:
        """`(…, U)` bool: units that never varied by more than rounding, on these rows and on others."""
        low, high, eps = self.low, self.high, self.eps
        for other in others:
            low, high = torch.minimum(low, other.low), torch.maximum(high, other.high)
            eps = max(eps, other.eps)
        size = torch.maximum(low.abs(), high.abs())
        return (high - low <= ROUNDING * eps * size) & size.isfinite()


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means over the last axis, what is left, and the float64 norm of that."""
    centre = x.mean(-1)
    values = x - centre[..., None]
    return centre, values, torch.linalg.vector_norm(values, dim=-1).double()


def power_of_two(exponent: Tensor) -> Tensor:
    """Exactly 2^exponent, float64, for integers in -1022..1023.

    Example:
        >>> power_of_two(torch.tensor([-1, 10])).tolist()
        [0.5, 1024.0]
    """
    return ((exponent.long() + 1023) << 52).view(torch.float64)
