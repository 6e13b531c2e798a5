"""Arrays of activations from torch, numpy, pandas or lists, converted when their rows are read."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm._devices import float64_device

Array = Tensor | np.ndarray
Label = int | str  # of a layer: the number of a level, or any name


def as_array(label: Any, values: Any, *, rows: int | None = None, members: int = 0) -> Array:
    """The activations of one layer as a tensor or an array, checked but neither copied nor converted.

    Args:
        label: of the layer, for errors.
        values: a torch tensor of any layout, an array of any library that numpy can read (a
            memory-mapped file stays one), a pandas or polars data frame with a column for each unit, or
            a list of arrays: batches, one after the other, or one array for each member.
        rows, members: how many there are, to tell a list of batches from one of members; `members` is
            0 where there is no axis of members.

    Raises:
        ValueError: masked entries, complex numbers, text, objects or dates, a list of arrays for
            different layers, or a tensor without numbers (nested, on the device `meta`).

    Example:
        >>> as_array("fc", [np.zeros((2, 3)), np.ones((1, 3))], rows=3).shape
        (3, 3)
        >>> as_array("fc", np.ma.masked_equal([[1, 2]], 2))
        Traceback (most recent call last):
        ValueError: activations of layer 'fc' have 1 masked entries of 2, expected none; drop or fill them
    """
    what = f"activations of layer {label!r:.60}"
    found: Array
    if isinstance(values, Tensor):
        found = _strided(what, values)
    elif isinstance(values, (list, tuple)) and any(np.ndim(x) for x in values):
        found = _joined(label, values, rows, members)
    elif "pandas" in sys.modules and isinstance(
        values, (sys.modules["pandas"].DataFrame, sys.modules["pandas"].Series)
    ):
        found = _frame(what, values, rows)
    else:
        found = _numpy(what, values)
    if found.ndim == 0:
        raise ValueError(f"{what} are a single {type(values).__name__}, expected an array")
    if 0 in found.shape[1:]:
        raise ValueError(f"{what} have shape {tuple(found.shape)}, so no units at all")
    return found


def as_label(label: Any) -> Any:
    """A label as it is, with a number of numpy as Python's."""
    return int(label) if isinstance(label, np.integer) else label


def as_floats(values: Array) -> Tensor:
    """Activations as a tensor of floats without gradient; numbers that float32 would round as float64.

    Numpy arrays are copied, whatever their strides and byte order, so slice before.

    Example:
        >>> as_floats(np.arange(3, dtype=">i4")[::-1])
        tensor([2., 1., 0.], dtype=torch.float64)
    """
    if isinstance(values, Tensor):
        found = values.detach().to(float64_device(values.device))  # metrics sum in float64
        if found.is_floating_point():
            return found if found.element_size() > 1 else found.float()  # 8 bits cannot be added
        small = found.dtype in (torch.bool, torch.uint8, torch.int8, torch.int16)
        return found.to(torch.float32 if small else torch.float64)
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "f":
        target = values.dtype.newbyteorder("=") if size <= 8 else np.dtype(np.float64)
    else:  # integers, bools, and the bfloat16 of other libraries
        target = np.dtype(np.float32 if kind == "V" or size <= 2 else np.float64)
    return torch.from_numpy(np.array(values, dtype=target, order="C"))


def _strided(what: str, values: Tensor) -> Tensor:
    """A dense tensor of real numbers."""
    if values.is_nested:
        raise ValueError(f"{what} are a nested tensor, expected one shape for all rows")
    if values.is_meta:
        raise ValueError(f"{what} are on the device 'meta', which holds no numbers")
    if values.is_complex():
        raise ValueError(_complex(what, values.dtype))
    values = values.detach()
    if values.is_quantized:
        return values.dequantize()
    return values if values.layout == torch.strided else values.to_dense()


def _complex(what: str, dtype: Any) -> str:
    return (
        f"{what} are complex ({str(dtype).removeprefix('torch.')}), expected real numbers; give their "
        "modulus, abs(), or real and imaginary parts as units of their own"
    )


def _numpy(what: str, values: Any) -> np.ndarray:
    """What numpy makes of anything else, with numbers in it."""
    if isinstance(values, np.ma.MaskedArray):
        gone = int(np.ma.getmaskarray(values).sum())
        if gone:
            raise ValueError(
                f"{what} have {gone} masked entries of {values.size}, expected none; drop or fill them"
            )
    try:  # a sparse matrix of scipy is an object to numpy
        array = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    except Exception as error:  # whatever another library's __array__ raises
        reason = str(error).partition("\n")[0][:120]
        raise ValueError(f"{what} are no array but a {type(values).__name__}: {reason}") from error
    kind, name = array.dtype.kind, str(array.dtype)
    if kind == "c":
        raise ValueError(_complex(what, name))
    if kind not in "biuf" and name != "bfloat16":
        given = type(values).__name__
        shown = f"a {given}" if array.ndim == 0 else f"a {given} of dtype {name[:40]}"
        raise ValueError(f"{what} are {shown}, expected an array of numbers")
    return array


def _frame(what: str, values: Any, rows: int | None) -> np.ndarray:
    """A pandas data frame, or a series as one unit, as `(rows, units)`."""
    frame = values.to_frame() if values.ndim == 1 else values
    pandas = sys.modules["pandas"]
    for name, dtype in frame.dtypes.items():
        if not pandas.api.types.is_numeric_dtype(dtype):
            raise ValueError(
                f"{what}: column {name!r:.60} of the data frame has dtype {dtype}, expected numbers; "
                "every column is a unit"
            )
        if pandas.api.types.is_complex_dtype(dtype):
            raise ValueError(_complex(what, dtype))
    order = frame.index
    numbered = pandas.api.types.is_any_real_numeric_dtype(order.dtype)
    # of repeated numbers, as batches have them that were put together, nothing follows
    if rows == len(order) and numbered and order.is_unique and not order.is_monotonic_increasing:
        first = ", ".join(map(str, order[:3]))
        raise ValueError(
            f"{what}: the rows of the data frame are numbered {first}, …, so they are not in order; "
            "sort_index() restores it, reset_index(drop=True) says that it is right"
        )
    if len(set(frame.dtypes)) == 1 and isinstance(frame.dtypes.iloc[0], np.dtype):
        return np.asarray(frame)
    return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))


def _joined(label: Any, values: Any, rows: int | None, members: int) -> Array:
    """A list of arrays as one: batches one after the other, an array per member, or nested numbers."""
    parts = [as_array(label, part) if np.ndim(part) else part for part in values]
    shapes = [tuple(getattr(part, "shape", ())) for part in parts]
    what = f"activations of layer {label!r:.60} are a list of {len(parts)} arrays"
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"{what} of {shapes[0]} and others, expected one number of axes")
    lengths = [shape[0] for shape in shapes]
    alike, axes = len(set(shapes)) == 1, len(shapes[0])
    if rows is None:
        rows = len(parts)
    if members and alike and len(parts) == members and lengths[0] == rows:
        return _together(parts, None)
    if members and axes > 2 and sum(shape[1] for shape in shapes) == rows:
        return _together(parts, 1)  # batches of all members
    if axes > 1 and sum(lengths) == rows and len({shape[1:] for shape in shapes}) == 1:
        return _together(parts, 0)
    if alike and len(parts) == rows:  # a row each
        return _together(parts, None)
    if set(lengths) == {rows}:
        raise ValueError(f"{what} of {rows} rows each; if they are layers, give {{name: array}}")
    raise ValueError(
        f"{what} of {sum(lengths)} rows in all, expected batches of {rows} rows and of one width"
    )


def _together(parts: list[Any], axis: int | None) -> Array:
    """Arrays one after the other on an axis, or on a new one; a tensor where the first of them is one."""
    if isinstance(parts[0], Tensor):
        tensors = [as_floats(part) for part in parts]
        return torch.stack(tensors) if axis is None else torch.cat(tensors, axis)
    arrays = [part.cpu().numpy() if isinstance(part, Tensor) else part for part in parts]
    return np.stack(arrays) if axis is None else np.concatenate(arrays, axis)
