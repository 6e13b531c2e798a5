"""Activations in files: what `--activations` reads, checked before any of it is loaded."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dualnets.cli._foreign_files import (
    UnreadableError,
    check_plain,
    check_size,
    load_torch,
    refusing,
)
from hltm._names import brief, listed

if TYPE_CHECKING:
    import numpy as np

Choose = Callable[[Sequence[str]], list[str]]  # the names in a file -> those to read, in order

ALONE = "activations"  # the layer of a file that has no names for layers
LEVEL = re.compile(r"[1-9][0-9]{0,3}")  # `01` and `²` are names, not levels
NUMBERS = "bool, integers or floats of at most 64 bits"


def read(path: str, layers: Sequence[str], depth: int) -> dict[int | str, Any]:
    """Layer -> array or tensor of a file, by its suffix.

    Nothing is unpickled, and shapes, types and sizes are checked before anything is loaded.

    Args:
        path: a file whose suffix is in `READERS`.
        layers: names or patterns such as `block*`, in the order wanted; all if empty.
        depth: of the tree; a name that is one of the numbers 1 .. depth is that level.

    Raises:
        UnreadableError: a damaged file, arrays that are not numbers or have no entries, a file that
            unpacks to far more than its size, or a layer that the file does not have.
        OSError: the file cannot be opened.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise UnreadableError(path, f"expected a file named {', '.join(READERS)}")
    check_plain(path)
    with refusing(path):
        found = READERS[suffix](path, lambda names: chosen(path, names, layers))
    for name, values in found.items():
        if 0 in values.shape or len(values.shape) < 2:
            shape = tuple(values.shape)
            raise UnreadableError(
                path, f"layer '{brief(name)}' has shape {shape}, expected rows and units"
            )
    return {
        int(name) if LEVEL.fullmatch(name) and int(name) <= depth else name: values
        for name, values in found.items()
    }


def chosen(path: str, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The names wanted, in their order: each is a name, or a pattern of names.

    Raises:
        UnreadableError: one that fits no name, or no names at all.

    Example:
        >>> chosen("a.npz", ["fc1", "fc2", "out"], ["out", "fc*"])
        ['out', 'fc1', 'fc2']
    """
    if not names:
        raise UnreadableError(path, "has no layers")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UnreadableError(path, f"has two layers named '{brief(twice)}'")
    found: dict[str, None] = {}
    for one in wanted or ["*"]:
        fitting = [one] if one in names else [name for name in names if fnmatchcase(name, one)]
        if not fitting:
            raise UnreadableError(
                path, f"has no layer '{brief(one)}', expected some of {listed(names)}"
            )
        found |= dict.fromkeys(fitting)
    return list(found)


def _check_kind(path: str, name: str, kind: np.dtype) -> None:
    if kind.kind not in "biuf" or kind.itemsize > 8:
        shown = "Python objects" if kind.hasobject else brief(str(kind))
        raise UnreadableError(path, f"layer '{brief(name)}' holds {shown}, expected {NUMBERS}")


def _header(path: str, name: str, file: IO[bytes], size: int) -> int:
    """The bytes of an array, from its header; the whole has `size` bytes."""
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for records with names beyond Latin-1
        raise UnreadableError(path, f"layer '{brief(name)}' holds records, expected {NUMBERS}")
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = reader(file)
    _check_kind(path, name, kind)
    expected, left = math.prod(shape) * kind.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or expected != left:
        raise UnreadableError(
            path,
            f"layer '{brief(name)}' has {left:,} bytes, expected {expected:,} for {brief(str(shape))}",
        )
    return expected


def _native(values: np.ndarray) -> np.ndarray:
    """The same numbers in the byte order of this machine, which torch needs."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _npz(path: str, choose: Choose) -> dict[str, Any]:
    from numpy.lib import format as npy

    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise UnreadableError(path, "has two arrays of one name")
        other = [info for info in members.values() if not info.filename.endswith(".npy")]
        if other:
            raise UnreadableError(path, f"'{brief(other[0].filename)}' in it is no array")
        names = choose(list(members))
        size = 0
        for name in names:
            with archive.open(members[name]) as file:
                size += _header(path, name, file, members[name].file_size)
        check_size(path, size)
        found = {}
        for name in names:
            with archive.open(members[name]) as file:
                found[name] = _native(npy.read_array(file, allow_pickle=False))
        return found


def _npy(path: str, choose: Choose) -> dict[str, Any]:
    from numpy.lib import format as npy

    choose([ALONE])
    with open(path, "rb") as file:
        _header(path, ALONE, file, os.path.getsize(path))
        file.seek(0)
        return {ALONE: _native(npy.read_array(file, allow_pickle=False))}


def _safetensors(path: str, choose: Choose) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:  # checks all sizes against the file's
        return {name: _tensor(path, name, file.get_tensor(name)) for name in choose(file.keys())}


def _torch(path: str, choose: Choose) -> dict[str, Any]:
    from torch import Tensor

    held = load_torch(path)
    if isinstance(held, Tensor):
        held = {ALONE: held}
    if not isinstance(held, dict):
        raise UnreadableError(
            path, f"holds a {type(held).__name__}, expected a tensor or layers by name"
        )
    names = choose([str(name) for name in held])
    by_name = {str(name): values for name, values in held.items()}
    return {name: _tensor(path, name, by_name[name]) for name in names}


def _tensor(path: str, name: str, values: Any) -> Any:
    """A dense tensor of real numbers."""
    import torch

    if not isinstance(values, torch.Tensor):
        raise UnreadableError(
            path, f"layer '{brief(name)}' is a {type(values).__name__}, expected a tensor"
        )
    dense = values.layout == torch.strided and not (values.is_nested or values.is_meta)
    if not dense or values.is_quantized or values.is_complex():
        kinds = {"a nested tensor": values.is_nested, "no numbers": values.is_meta}
        other = values.dtype if dense else values.layout
        kind = next((kind for kind in kinds if kinds[kind]), str(other).removeprefix("torch."))
        raise UnreadableError(path, f"layer '{brief(name)}' holds {kind}, expected {NUMBERS}")
    check_size(path, values.numel() * values.element_size())  # one stored number may be many
    return values.detach()


def _csv(path: str, choose: Choose) -> dict[str, Any]:
    import pandas as pd

    choose([ALONE])
    with open(path, encoding="utf-8", errors="replace") as file:
        cells = file.readline(1 << 20).strip().split(",")
    try:
        headless = bool([float(cell) for cell in cells])
    except ValueError:
        headless = False
    if len(cells) > 1 and cells == [str(at) for at in range(len(cells))]:
        headless = False  # the names that pandas gives to columns
    table = pd.read_csv(path, header=None if headless else 0)
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take the first cells for names
        raise UnreadableError(path, f"its lines have more cells than its first, {len(cells)}")
    if len(cells) == 1 and table.dtypes.iloc[0].kind not in "biuf":
        raise UnreadableError(path, "its lines hold no numbers that commas separate")
    return {ALONE: _columns(path, table)}


def _parquet(path: str, choose: Choose) -> dict[str, Any]:
    import pandas as pd
    import pyarrow.parquet as pq

    choose([ALONE])
    with open(path, "rb") as file:
        about = pq.ParquetFile(file).metadata
        check_size(path, about.num_rows * about.num_columns * 8)
    return {ALONE: _columns(path, pd.read_parquet(path, page_checksum_verification=True))}


def _columns(path: str, table: Any) -> np.ndarray:
    """The numbers of a table, a column for each unit."""
    names = [str(name) for name in table.columns]
    if names and names[0].startswith("Unnamed: "):
        raise UnreadableError(path, "its first column has no name; is it the index of the rows?")
    if not len(table):
        raise UnreadableError(path, "has no rows")
    order = table.index  # that pandas kept in the file
    if not (order.is_monotonic_increasing and order.is_unique):
        raise UnreadableError(
            path,
            "its rows are numbered out of order; sort_index() restores it, reset_index() keeps it",
        )
    for name, kind in zip(names, table.dtypes, strict=True):
        if getattr(kind, "kind", "O") not in "biuf":
            raise UnreadableError(path, f"column '{brief(name)}' holds {kind}, expected {NUMBERS}")
    found: np.ndarray = table.to_numpy(dtype="float64", na_value=float("nan"))
    return found


READERS: dict[str, Callable[[str, Choose], dict[str, Any]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".csv": _csv,
    ".parquet": _parquet,
}
