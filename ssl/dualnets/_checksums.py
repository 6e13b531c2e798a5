"""Checksums of the files of a folder, and of its manifest, which holds them: damage is found before use."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dualnets._files import plain
from hltm._names import brief
from hltm._paths import checksum

OWN, FILES = "checksum", "checksums"  # of the manifest itself, and of files by name


def with_checksums(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the SHA-256 checksums of all files of its folder, and one of its own content.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as home:
        ...     _ = (Path(home) / "a.txt").write_text("abc")
        ...     made = with_checksums(Path(home), {"seconds": 1.5})
        ...     _ = (Path(home) / "a.txt").write_text("abd")
        ...     print(damage_of(Path(home), made))
        a.txt was changed: its SHA-256 checksum does not fit
        >>> damage_of(Path(), made | {"seconds": 9.5})
        'the manifest was changed: its checksum does not fit'
    """
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    whole = {
        **manifest,
        FILES: {path.relative_to(folder).as_posix(): checksum(path) for path in files},
    }
    return {**whole, OWN: _checksum_of(whole)}


def damage_of(
    folder: Path, manifest: Mapping[str, Any], names: Collection[str] | None = None
) -> str:
    """What is wrong with the files of a folder, in one line; empty if they are as they were written.

    Args:
        folder: of the manifest.
        manifest: as `with_checksums` made it. One of an earlier version has no checksums, and no damage.
        names: the files to look at; None for all.
    """
    if changed := damage_of_manifest(manifest):
        return changed
    for name, expected in manifest.get(FILES, {}).items():
        if names is None or name in names:
            if problem := damage_of_file(folder / name, brief(name)):
                return problem
            try:
                found = checksum(folder / name)
            except OSError as error:
                return f"{brief(name)}: {(error.strerror or '').lower()}"
            if found != expected:
                return f"{brief(name)} was changed: its SHA-256 checksum does not fit"
    return ""


def damage_of_file(path: Path, name: str) -> str:
    """Why a path is no file that can be read, in one line; empty if it is one.

    A named pipe, whose reader waits for a writer, is not opened.
    """
    try:
        return "" if stat.S_ISREG(path.stat().st_mode) else f"{name} is no file"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name}: {(error.strerror or '').lower()}"


def damage_of_manifest(manifest: Mapping[str, Any], name: str = "the manifest") -> str:
    """What is wrong with a manifest; empty if it is as it was written, or has no checksum."""
    if OWN not in manifest:
        return f"{name} has lost its own checksum" if FILES in manifest else ""
    rest = {key: value for key, value in manifest.items() if key != OWN}
    if manifest[OWN] != _checksum_of(rest):
        return f"{name} was changed: its checksum does not fit"
    listed = manifest.get(FILES, {})
    if not isinstance(listed, Mapping) or not all(map(_is_inside, listed)):
        return f"the checksums in {name} are not of files of its folder"
    return ""


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in the folder of its manifest."""
    parts = PurePosixPath(name).parts
    return name.isprintable() and bool(parts) and ".." not in parts and parts[0] != "/"


def _checksum_of(content: Mapping[str, Any]) -> str:
    """Of the content as JSON, whatever its order and its spaces."""
    text = json.dumps(plain(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
