"""Manifests of stored cells and runs, read and checked: whatever is wrong with one is one line of text."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dualnets._checksums import damage_of, damage_of_file, damage_of_manifest
from dualnets._files import read_json
from hltm._names import brief

# what a manifest must have, and the type of each
OF_A_RUN: Mapping[str, type] = dict.fromkeys(("experiment", "run", "scale", "command"), str)
OF_A_CELL: Mapping[str, type] = {"cell": str, "settings": dict, "seconds": float}
OF_A_CELL_OF_A_RUN: Mapping[str, type] = {**OF_A_CELL, "cpu_seconds": float, "notes": list}
OF_A_VERDICT: Mapping[str, type] = {
    **dict.fromkeys(("name", "claim", "reference", "verdict", "rule", "effect", "reason"), str), "n": int,
}  # fmt: skip
LARGEST = 1e300  # of the numbers of a manifest
OUTCOMES = ("holds", "fails", "open")
PARQUET = b"PAR1"  # a Parquet file begins and ends with it


class DamagedError(ValueError):
    """A run or a cell cannot be read; the text says why."""


def read_run(path: Path) -> Mapping[str, Any]:
    """The manifest of a run."""
    found = _read(path)
    _check(found, OF_A_RUN, path.name)
    _check_unchanged(found, path.name)
    _check_list(found.get("cells"), OF_A_CELL_OF_A_RUN, f"'cells' in {path.name}")
    if not found["scale"].isprintable():
        raise DamagedError(f"'scale' in {path.name} is {brief(repr(found['scale']))}")
    if not found["cells"]:
        raise DamagedError(f"'cells' in {path.name} is empty")
    files = found.get("files", [])  # missing from earlier versions
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise DamagedError(f"'files' in {path.name} is no list of names")
    return dict(found)


def read_cell(path: Path) -> Mapping[str, Any]:
    """The manifest of a cell."""
    found = _read(path)
    _check(found, OF_A_CELL, path.name)
    _check_unchanged(found, path.name)
    return dict(found)


def read_verdicts(path: Path) -> list[Mapping[str, Any]]:
    """The verdicts of a run, as `Verdict.as_dict` gives them."""
    found = _read(path)
    _check_list(found, OF_A_VERDICT, path.name)
    for verdict in found:
        if verdict["verdict"] not in OUTCOMES:
            raise DamagedError(f"'verdict' in {path.name} is {brief(repr(verdict['verdict']))}")
        value, interval = verdict.get("effect_value"), verdict.get("interval")
        ends = [] if interval is None else interval
        whole = isinstance(ends, list) and len(ends) in (0, 2)
        if not whole or not all(map(is_number, (*ends, 0 if value is None else value))):
            raise DamagedError(f"the effect in {path.name} is no number with an interval")
        for key, needed in ("details", {}), ("plateau", {"flat": bool}):
            _check_list(verdict.get(key, []), needed, f"{key!r} in {path.name}")
        if not isinstance(verdict.get("of", ""), str):
            raise DamagedError(f"'of' in {path.name} is {brief(repr(verdict['of']))}")
    return list(found)


def _read(path: Path) -> Any:
    _check_file(path)
    try:
        return read_json(path)
    except OSError as error:
        raise DamagedError(f"{path.name}: {(error.strerror or '').lower()}") from None
    except (ValueError, RecursionError):
        raise DamagedError(f"{path.name} is no JSON") from None


def _check_file(path: Path) -> None:
    """Raise DamagedError unless there is a file; to open a named pipe would wait for its writer."""
    if problem := damage_of_file(path, path.name):
        raise DamagedError(problem)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of ordinary size; JSON has infinities and 400 digits too."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -LARGEST < value < LARGEST


def _check_list(found: object, needed: Mapping[str, type], what: str) -> None:
    if not isinstance(found, list):
        raise DamagedError(f"{what} is no list")
    for item in found:
        _check(item, needed, f"an entry of {what}")


def _check(found: object, needed: Mapping[str, type], what: str) -> None:
    if not isinstance(found, dict):
        raise DamagedError(f"{what} is no JSON object")
    for key, kind in needed.items():
        value = found.get(key)
        if not (is_number(value) if kind in (int, float) else isinstance(value, kind)):
            raise DamagedError(f"{what} has no {key!r}" if key not in found else
                               f"{key!r} in {what} is {brief(repr(found[key]))}")  # fmt: skip


def _check_unchanged(found: Mapping[str, Any], what: str) -> None:
    if changed := damage_of_manifest(found, what):
        raise DamagedError(changed)


def check_files(
    folder: Path, manifest: Mapping[str, Any], names: Collection[str] | None = None
) -> None:
    """Raise DamagedError unless the files of a run or a cell, or of `names`, are as they were written."""
    if damage := damage_of(folder, manifest, names):
        raise DamagedError(damage)


def check_table(path: Path) -> None:
    """Raise DamagedError where a table is missing, cut off or another file; its rows are not read."""
    _check_file(path)
    try:
        with open(path, "rb") as file:
            first, size = file.read(4), file.seek(0, os.SEEK_END)
            file.seek(-8, os.SEEK_END)
            footer, last = int.from_bytes(file.read(4), "little"), file.read()
        whole = first == last == PARQUET and footer + 12 <= size
    except OSError:  # it cannot be read, or is too short
        whole = False
    if not whole:
        raise DamagedError(f"{path.name} is cut off, or no Parquet file")
