"""manifest.json: what a folder of data claims to be, and which of its shards are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hltm.data.export.files import checksum, replacing
from hltm.data.export.recipe import FORMAT, VERSION, ExportRecipe, Shard

MANIFEST = "manifest.json"
ENTRY = {"file", "member", "start", "rows", "bytes", "sha256"}


def describe(recipe: ExportRecipe) -> dict[str, Any]:
    """The manifest of a recipe of which nothing is written yet."""
    import hltm  # only its version; at the top this would be a circle

    head = {"format": FORMAT, "version": VERSION, "hltm": hltm.__version__, "complete": False}
    return head | recipe.settings() | {"shards": []}


def shard_entry(folder: Path, shard: Shard) -> dict[str, Any]:
    """What the manifest says of a shard that is written."""
    path = folder / shard.file
    return {
        "file": shard.file,
        "member": shard.member,
        "start": shard.rows.start,
        "rows": len(shard.rows),
        "bytes": path.stat().st_size,
        "sha256": checksum(path),
    }


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Replace the manifest: one line per key, and one per shard."""
    parts = [f"{json.dumps(key)}: {json.dumps(content[key])}" for key in content if key != "shards"]
    shards = ",\n".join(json.dumps(entry) for entry in content["shards"])
    parts.append(f'"shards": [\n{shards}\n]')
    with replacing(folder / MANIFEST) as partial:
        partial.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file that is not a manifest of ours.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no exported data: there is no {path}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a manifest: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is not a manifest: its format is not {FORMAT!r}")
    if found.get("version") != VERSION:
        raise ValueError(f"{path} has version {found.get('version')}, expected {VERSION}")
    entries = found.get("shards")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and entry.keys() >= ENTRY for entry in entries
    ):
        raise ValueError(f"{path} is not a manifest: its shards are not listed as they should be")
    return found


def check_same(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise ValueError, naming what differs, unless a folder holds what is asked for."""
    for key, value in asked.items():
        if found.get(key) == value:
            continue
        if key in ("tree", "leaves", "latents"):
            what = f"its {key} {'is' if key == 'tree' else 'are'} not the same"
        else:
            what = f"its {key.replace('_', ' ')} is {_short(found.get(key))}, not {_short(value)}"
        raise ValueError(f"{folder} holds another data set: {what}; choose another folder")


def _short(value: Any) -> str:
    return str(value["name"]) if isinstance(value, dict) else str(value)
