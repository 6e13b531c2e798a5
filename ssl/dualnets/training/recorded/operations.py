"""Which operations of torch the interpreter has, and the rows that each is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dualnets.training.recorded import interpreter as kinds
from dualnets.training.recorded.rows import KNOWN, Row, Rows, UnknownError

aten = torch.ops.aten
LARGE = 2**19  # multiplications of one matrix product, from which torch is faster


def _known(*targets: Any) -> Callable[[Row], Row]:
    def register(write: Row) -> Row:
        KNOWN.update(dict.fromkeys(targets, write))
        return write

    return register


def _each(op: int) -> Row:
    """An operation whose operands are its arguments."""

    def write(rows: Rows, out: Tensor, *given: Any) -> None:
        rows.float(op, out, *given)

    return write


KNOWN |= {
    aten.mul.Tensor: _each(kinds.MULTIPLY), aten.mul.Scalar: _each(kinds.MULTIPLY),
    aten.div.Tensor: _each(kinds.DIVIDE), aten.div.Scalar: _each(kinds.DIVIDE),
    aten.lerp.Tensor: _each(kinds.LERP), aten.lerp.Scalar: _each(kinds.LERP),
    aten.sqrt.default: _each(kinds.SQUARE_ROOT), aten.exp.default: _each(kinds.EXP),
    aten.sigmoid.default: _each(kinds.SIGMOID), aten.sigmoid_backward.default: _each(kinds.SIGMOID_SLOPE),
    aten.where.self: _each(kinds.WHERE), aten.threshold_backward.default: _each(kinds.KEEP_ABOVE),
    aten.maximum.default: _each(kinds.MAXIMUM), aten.clamp_min.default: _each(kinds.MAXIMUM),
}  # fmt: skip


@_known(aten.add.Tensor, aten.add.Scalar)
def _add(rows: Rows, out: Tensor, a: Tensor, b: Any, *, alpha: float = 1) -> None:
    if alpha != 1:
        raise UnknownError("alpha")
    if out.dtype != torch.int64:
        rows.float(kinds.ADD, out, a, b)
        return
    b = b if isinstance(b, Tensor) else torch.tensor(b)
    if not a.dtype == b.dtype == torch.int64:
        raise UnknownError("whole numbers")
    rows.row(kinds.INTEGERS, out, a, b)


@_known(aten.sub.Tensor, aten.sub.Scalar)
def _subtract(rows: Rows, out: Tensor, a: Tensor, b: Any, *, alpha: float = 1) -> None:
    if alpha != 1:
        raise UnknownError("alpha")
    rows.float(kinds.SUBTRACT, out, a, b)


@_known(aten.rsub.Scalar, aten.rsub.Tensor)
def _subtract_from(rows: Rows, out: Tensor, a: Tensor, b: Any, alpha: float = 1) -> None:
    _subtract(rows, out, b, a, alpha=alpha)


@_known(aten.neg.default)
def _negate(rows: Rows, out: Tensor, a: Tensor) -> None:
    rows.float(kinds.MULTIPLY, out, a, -1)


@_known(aten.reciprocal.default)
def _invert(rows: Rows, out: Tensor, a: Tensor) -> None:
    rows.float(kinds.DIVIDE, out, 1, a)


@_known(aten.pow.Tensor_Scalar)
def _power(rows: Rows, out: Tensor, a: Tensor, exponent: float) -> None:
    if exponent != 2:
        raise UnknownError("exponent")
    rows.float(kinds.MULTIPLY, out, a, a)


@_known(aten.relu.default)
def _rectify(rows: Rows, out: Tensor, a: Tensor) -> None:
    rows.float(kinds.MAXIMUM, out, a, 0)


@_known(aten.gt.Scalar, aten.gt.Tensor)
def _above(rows: Rows, out: Tensor, a: Tensor, b: Any) -> None:
    rows.row(kinds.ABOVE, out, a, b)


@_known(aten.lt.Scalar, aten.lt.Tensor)
def _below(rows: Rows, out: Tensor, a: Tensor, b: Any) -> None:
    rows.row(kinds.ABOVE, out, b, a)


@_known(aten.masked_fill.Scalar)
def _masked_fill(rows: Rows, out: Tensor, a: Tensor, mask: Tensor, value: float) -> None:
    rows.float(kinds.WHERE, out, mask, value, a)


@_known(aten.sum.dim_IntList)
def _sum(
    rows: Rows, out: Tensor, a: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    if not a.dtype == out.dtype == rows.dtype:
        raise UnknownError("dtype")
    rows.copy(out, 0)
    if not keepdim:
        for d in sorted(d % a.ndim for d in dims or range(a.ndim)):
            out = out.unsqueeze(d)
    rows.row(kinds.TOTAL, out.expand(a.shape), a, leading=1)


@_known(aten.mean.dim)
def _mean(rows: Rows, out: Tensor, a: Tensor, dims: Any = None, keepdim: bool = False) -> None:
    _sum(rows, out, a, dims, keepdim)
    rows.float(kinds.DIVIDE, out, out, a.numel() // max(out.numel(), 1))


@_known(aten.clone.default, aten._to_copy.default)
def _copy(rows: Rows, out: Tensor, a: Tensor, **_: Any) -> None:
    rows.copy(out, a)


@_known(aten.cat.default)
def _join(rows: Rows, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    at = 0
    for own in tensors:
        if own.ndim == out.ndim:  # torch takes an empty vector for anything
            rows.copy(out.narrow(dim, at, own.shape[dim]), own)
            at += own.shape[dim]


@_known(aten.stack.default)
def _stack(rows: Rows, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    for place, own in enumerate(tensors):
        rows.copy(out.select(dim, place), own)


@_known(aten.repeat.default)
def _repeat(rows: Rows, out: Tensor, a: Tensor, times: Sequence[int]) -> None:
    sizes = [1] * (len(times) - a.ndim) + [*a.shape]
    pairs = [size for pair in zip(times, sizes, strict=True) for size in pair]
    whole = a.view(sizes)
    for d in range(len(sizes)):
        whole = whole.unsqueeze(2 * d)
    rows.copy(out.view(pairs), whole)


@_known(aten.roll.default)
def _roll(
    rows: Rows, out: Tensor, a: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()
) -> None:
    if len(dims) != 1:
        raise UnknownError("several dimensions")
    size = a.shape[dims[0]]
    by = shifts[0] % size
    rows.copy(out.narrow(dims[0], by, size - by), a.narrow(dims[0], 0, size - by))
    rows.copy(out.narrow(dims[0], 0, by), a.narrow(dims[0], size - by, by))


@_known(aten.diag_embed.default)
def _diagonal_matrix(
    rows: Rows, out: Tensor, a: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1
) -> None:
    rows.copy(out, 0)
    rows.copy(out.diagonal(offset, dim1, dim2), a)


@_known(aten.diagonal_backward.default)
def _diagonal_slope(
    rows: Rows, out: Tensor, a: Tensor, _: Any, offset: int, dim1: int, dim2: int
) -> None:
    _diagonal_matrix(rows, out, a, offset, dim1, dim2)


@_known(aten.select_backward.default)
def _select_slope(rows: Rows, out: Tensor, a: Tensor, _: Any, dim: int, place: int) -> None:
    rows.copy(out, 0)
    rows.copy(out.select(dim, place), a)


@_known(aten.slice_backward.default)
def _slice_slope(
    rows: Rows, out: Tensor, a: Tensor, _: Any, dim: int, start: int, end: int, step: int
) -> None:
    rows.copy(out, 0)
    rows.copy(aten.slice.Tensor(out, dim, start, end, step), a)


def _standing(tensor: Tensor, shape: Sequence[int], dim: int) -> tuple[Tensor, tuple[int, int]]:
    """A tensor at its first place of a dimension, and the size and step of that."""
    dim %= tensor.ndim
    steps = [0 if d == dim else step for d, step in enumerate(tensor.stride())]
    own = tensor.as_strided([*shape], steps, tensor.storage_offset())
    return own, (tensor.shape[dim], tensor.stride(dim) * tensor.itemsize)


@_known(aten.gather.default)
def _gather(rows: Rows, out: Tensor, a: Tensor, dim: int, index: Tensor, **_: Any) -> None:
    if not a.dtype == out.dtype == rows.dtype:
        raise UnknownError("dtype")
    own, extra = _standing(a, index.shape, dim)
    rows.row(kinds.GATHER, out, own, index, extra=extra)


@_known(aten.index.Tensor)
def _index(rows: Rows, out: Tensor, a: Tensor, indices: Sequence[Tensor | None]) -> None:
    (dim, index), *more = [(d, own) for d, own in enumerate(indices) if own is not None]
    if more or index.ndim != 1 or index.dtype != torch.int64:
        raise UnknownError("indices")
    _gather(rows, out, a, dim, index.view(-1, *[1] * (a.ndim - dim - 1)).expand(out.shape))


@_known(aten.scatter_add.default)
def _scatter_add(
    rows: Rows, out: Tensor, a: Tensor, dim: int, index: Tensor, slopes: Tensor
) -> None:
    if not a.dtype == slopes.dtype == rows.dtype:
        raise UnknownError("dtype")
    rows.copy(out, a)
    own, extra = _standing(out, index.shape, dim)
    given = slopes.as_strided(index.shape, slopes.stride(), slopes.storage_offset())
    rows.row(kinds.SCATTER_ADD, own, given, index, extra=extra)


@_known(aten.bmm.default)
def _product(rows: Rows, out: Tensor, a: Tensor, b: Tensor) -> None:
    if out.dtype != rows.dtype or not a.numel() or a.shape[1] * a.shape[2] * b.shape[2] > LARGE:
        raise UnknownError("large product")
    # vectors are columns side by side, of b or of the transposed a, so that less is copied
    if b.stride(2) != 1 and (a.stride(1) == 1 or a.shape[1] < b.shape[2]):
        out, a, b = out.mT, b.mT, a.mT
    shape = *out.shape, a.shape[2]
    result, left, right = out.unsqueeze(3), a.unsqueeze(2), b.mT.unsqueeze(1)
    rows.row(kinds.PRODUCT, result.expand(shape), left, right, last=4)


@_known(aten._log_softmax.default)
def _log_softmax(rows: Rows, out: Tensor, a: Tensor, dim: int, _: bool) -> None:
    _along(rows, kinds.LOG_SOFTMAX, dim, out, a)


@_known(aten._log_softmax_backward_data.default)
def _log_softmax_slope(
    rows: Rows, out: Tensor, slopes: Tensor, found: Tensor, dim: int, _: Any
) -> None:
    _along(rows, kinds.LOG_SOFTMAX_SLOPE, dim, out, slopes, found)


def _along(rows: Rows, op: int, dim: int, *operands: Tensor, extra: Sequence[int] = (0, 0)) -> None:
    """An operation along one dimension."""
    if any(own.dtype != rows.dtype for own in operands) or not operands[0].numel():
        raise UnknownError("dtype")
    result, *given = (own.movedim(dim, -1) for own in operands)
    rows.row(op, result, *given, last=1, extra=extra)


@_known(aten.native_layer_norm.default)
def _norm(
    rows: Rows,
    outs: Sequence[Tensor],
    a: Tensor,
    shape: Sequence[int],
    gain: Any,
    shift: Any,
    epsilon: float,
) -> None:
    if len(shape) != 1 or gain is not None or shift is not None:
        raise UnknownError("norm")
    constant = torch.tensor(epsilon, dtype=torch.float64)
    rows.held.append(constant)
    out, mean, factor = outs
    _along(rows, kinds.NORM, -1, out, a, mean, factor, extra=(constant.data_ptr(), 0))


@_known(aten.native_layer_norm_backward.default)
def _norm_slope(
    rows: Rows, outs: Sequence[Tensor], slopes: Tensor, a: Tensor, shape: Sequence[int], mean: Tensor,
    factor: Tensor, gain: Any, shift: Any, wanted: Sequence[bool],
) -> None:  # fmt: skip
    if (
        len(shape) != 1
        or gain is not None
        or shift is not None
        or [*wanted] != [True, False, False]
    ):
        raise UnknownError("norm")
    _along(rows, kinds.NORM_SLOPE, -1, outs[0], slopes, a, mean, factor)
