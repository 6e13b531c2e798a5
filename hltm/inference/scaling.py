"""Likelihoods of any size in compiled kernels: every state may have a power of two of its own.

A kernel keeps the likelihood of state k in lane j as `value[k, j] · 2^(shift[k, j] + scale[j])`, where
`scale` is shared by the states. Scaling by powers of two is exact, and adding, multiplying and
dividing numbers that are not negative loses no digits to cancellation. So a result is exact but for
the roundings, one of 2^-53 for each operation on the way from the leaves to it, provided that no
number that is not zero gets subnormal. `settle` and the limits below keep it so:

- After every product each value is 0 or in [SMALL, 1], or it is settled: brought near 1 by a shift.
- The entries of a table are 0 or at least SMALL, or the table is *extreme*: then `terms_of` reads it,
  which multiplies mantissas and adds exponents.
- So a message that is sent is 0 or at least SMALL^2 = 1e-200, and a product of it with a value is 0 or
  at least SMALL^3 = 1e-300, a normal number.
- In a sum, a term may vanish only beside one that is 2^1000 times as large.

Hence a value is 0 if and only if its state is impossible, whatever the tables, the number of
children and their order, and n operations leave a relative error of at most about n 2^-53.
"""

from __future__ import annotations

import math

import numpy as np

from hltm._compile import compiled

SMALL = 1e-100
NEAR = -100  # a state within 2^NEAR of the best one needs no shift
FAR = -(1 << 60)  # below every exponent
LN2 = math.log(2)
LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
HALF_ROOT = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
# of 2 artanh(s) / s - 2, in powers of s^2: near 2/3, 2/5, 2/7, …
LOG = (
    0.6666666666666735130, 0.3999999999940941908, 0.2857142874366239149, 0.2222219843214978396,
    0.1818357216161805012, 0.1531383769920937332, 0.1479819860511658591,
)  # fmt: skip


@compiled()
def settle(value, shift, j):  # type: ignore[no-untyped-def]
    """Bring the states of lane j near 1 by powers of two; the exponent that they share is returned."""
    settled = True
    for k in range(value.shape[0]):
        settled &= value[k, j] == 0.0 or 2.0**NEAR <= value[k, j] <= 1.0
    if settled:
        return 0
    top = FAR
    for k in range(value.shape[0]):
        if value[k, j] > 0.0:
            top = max(top, math.frexp(value[k, j])[1] + shift[k, j])
    for k in range(value.shape[0]):
        if value[k, j] > 0.0:
            mantissa, exponent = math.frexp(value[k, j])
            exponent += shift[k, j] - top
            near = exponent >= NEAR
            value[k, j] = math.ldexp(mantissa, exponent) if near else mantissa
            shift[k, j] = 0 if near else exponent
    return top


@compiled()
def settle_together(value, j):  # type: ignore[no-untyped-def]
    """`settle` without shifts: the exponent, and whether some state is too far behind to do without."""
    settled, most = True, 0.0
    for k in range(value.shape[0]):
        settled &= value[k, j] == 0.0 or 2.0**NEAR <= value[k, j] <= 1.0
        most = max(most, value[k, j])
    if settled or not most > 0.0:
        return 0, False
    top, alone = math.frexp(most)[1], False
    for k in range(value.shape[0]):
        alone |= 0.0 < value[k, j] < math.ldexp(1.0, top + NEAR - 1)
        value[k, j] = math.ldexp(value[k, j], -top)
    return top, alone


@compiled()
def terms_of(weight, lift, value, shift, j, terms):  # type: ignore[no-untyped-def]
    """Products of weights `(K,)` and the states of lane j: they are `terms` times a power of two.

    Args:
        weight: probabilities, of any size.
        lift: exponents of two by which they are to be multiplied.

    Returns:
        the sum of the terms and the exponent.
    """
    top = FAR
    for k in range(len(weight)):
        if weight[k] > 0.0 and value[k, j] > 0.0:
            exponent = math.frexp(weight[k])[1] + math.frexp(value[k, j])[1]
            top = max(top, exponent + lift[k] + shift[k, j])
    total = 0.0
    for k in range(len(weight)):
        terms[k] = 0.0
        if weight[k] > 0.0 and value[k, j] > 0.0:
            mantissa, exponent = math.frexp(weight[k])
            below = max(exponent + lift[k] + shift[k, j] - top, -2000)  # so that it fits 32 bits
            terms[k] = math.ldexp(mantissa * value[k, j], below)
            total += terms[k]
    return total, (top if total > 0.0 else 0)


def logs_of(value: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """`log_of` of arrays."""
    with np.errstate(divide="ignore"):
        mantissa, power = np.frexp(value)
        power = power + exponent
        near = np.abs(power) < 1000
        plain = np.log(np.ldexp(mantissa, np.where(near, power, 0)))
        found: np.ndarray = np.where(near, plain, np.log(mantissa) + power * LN2)
    return found


@compiled()
def log_of(value, exponent):  # type: ignore[no-untyped-def]
    """The natural logarithm of value · 2^exponent, a function of that product alone."""
    if exponent == 0 or not value > 0.0:  # the usual case, and -inf or NaN
        return np.log(value)
    mantissa, power = math.frexp(value)
    power += exponent
    if -1000 < power < 1000:
        return np.log(math.ldexp(mantissa, power))
    return np.log(mantissa) + power * LN2


@compiled()
def store_logs(value, exponent, out):  # type: ignore[no-untyped-def]
    """`log_of` of arrays, several at a time, with an error below 1 unit in the last place.

    With value · 2^exponent = 2^n m and m from sqrt(1/2) to sqrt(2), log m = 2 artanh(f / (2 + f)) for f
    = m - 1, by the series of the C library FDLIBM (`e_log.c`). Values are 0, normal or NaN; `value`
    and `exponent` are overwritten.
    """
    bits = value.view(np.int64)
    for j in range(len(out)):
        out[j] = 0.0 if value[j] > 0.0 else (-np.inf if value[j] == 0.0 else np.nan)
        power = (bits[j] - HALF_ROOT) >> 52
        exponent[j] += power
        bits[j] -= power << 52
    for j in range(len(out)):
        f, n = value[j] - 1.0, float(np.int32(exponent[j]))
        s = f / (2.0 + f)
        z, half = s * s, 0.5 * f * f
        w = z * z
        odd = z * (LOG[0] + w * (LOG[2] + w * (LOG[4] + w * LOG[6])))
        even = w * (LOG[1] + w * (LOG[3] + w * LOG[5]))
        out[j] += n * LN2_HIGH - ((half - (s * (half + odd + even) + n * LN2_LOW)) - f)


@compiled()
def mark_shifted(shift, everywhere, shifted):  # type: ignore[no-untyped-def]
    """Mark in `shifted` the lanes where some state has a shift, or all; whether there are any."""
    some = False
    for j in range(len(shifted)):
        marked = everywhere
        for k in range(shift.shape[0]):
            marked |= shift[k, j] != 0
        shifted[j] = marked
        some |= marked
    return some
