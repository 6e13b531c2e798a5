"""The manifest: the settings of a folder of data, and the list of its shards that are written.

It is `manifest.json`, and `_manifest.json` in a folder of Parquet files: programs that read such a folder
as one table, pandas for one, take every file for a part of it whose name does not begin with `_` or `.`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hltm._names import brief
from hltm._paths import check_file, checksum
from hltm.data.export.files import replacing
from hltm.data.export.recipe import ExportRecipe, Shard
from hltm.data.export.settings import recipe_of, settings, version

FORMAT, VERSIONS = "hltm.export", (1, 2, 3)
NAMES = ("manifest.json", "_manifest.json")
ENTRY = {"file": str, "member": int, "start": int, "rows": int, "bytes": int, "sha256": str}


def describe(recipe: ExportRecipe) -> dict[str, Any]:
    """The manifest of a recipe before any shard is written."""
    import hltm  # only its version; at the top this would be a circle

    head = {"format": FORMAT, "version": version(recipe), "hltm": hltm.__version__}
    return head | {"complete": False} | settings(recipe) | {"shards": []}


def manifest_path(folder: Path, file_format: str | None = None) -> Path:
    """The manifest of a folder; where there is none, the one that an export of a format writes."""
    present = [folder / name for name in NAMES if (folder / name).is_file()]
    return present[0] if present else folder / NAMES[file_format == "parquet"]


def shard_entry(folder: Path, shard: Shard) -> dict[str, Any]:
    """The entry of a written shard in the manifest."""
    path = folder / shard.file
    return {
        "file": shard.file, "member": shard.member, "start": shard.rows.start,
        "rows": len(shard.rows), "bytes": path.stat().st_size, "sha256": checksum(path),
    }  # fmt: skip


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Replace the manifest; its file has one line per key and one per shard."""
    parts = [f"{json.dumps(key)}: {json.dumps(content[key])}" for key in content if key != "shards"]
    shards = ",\n".join(json.dumps(entry) for entry in content["shards"])
    parts.append(f'"shards": [\n{shards}\n]')
    with replacing(manifest_path(folder, content.get("file_format"))) as partial:
        partial.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file that is not a manifest of this format and version.
    """
    path = manifest_path(folder)
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no exported data: there is no {path}")
    check_file(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a manifest: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is not a manifest: expected format {FORMAT!r}")
    if found.get("version") not in VERSIONS:
        wanted = " or ".join(map(str, VERSIONS))
        raise ValueError(
            f"{path} has version {brief(repr(found.get('version')))}, expected {wanted}"
        )
    held = found.get("shards")
    if not isinstance(held, list) or not all(
        isinstance(e, dict) and all(type(e.get(key)) is kind for key, kind in ENTRY.items())
        for e in held
    ):
        wanted = ", ".join(f"{key} ({kind.__name__})" for key, kind in ENTRY.items())
        raise ValueError(f"{path} is not a manifest: its shards do not have {wanted}")
    return found


def read_recipe(folder: Path) -> tuple[dict[str, Any], ExportRecipe]:
    """The manifest of a folder, and the recipe that it describes.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a manifest that is damaged or of another version.
    """
    manifest = read_manifest(folder)
    try:
        return manifest, recipe_of(manifest)
    except ValueError as error:
        raise ValueError(f"{manifest_path(folder)}: {error}") from error


def check_same(folder: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise a ValueError of the first setting of a folder's manifest that is not as expected."""
    if what := difference(found, expected):
        raise ValueError(f"{folder} holds another data set: {what}; choose another folder")


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first setting of a manifest that is not as expected, in words; empty if there is none."""
    by_default = {"columns": "arrays"}
    found, expected = by_default | found, by_default | expected
    for key, value in expected.items():
        if found.get(key) == value:
            continue
        if key in ("tree", "leaves", "latents"):  # too long to print
            return f"its {key} {'is' if key == 'tree' else 'are'} not the same"
        if key == "augmentation" and _short(found.get(key)) == _short(value):
            what = f"its augmentation {_short(value)} has other rates"
            if "missing_rates" in value and "missing_rates" not in found[key]:
                what += ", because an earlier version wrote its views without missing leaves"
            return what
        name = "number of samples" if key == "n" else key.replace("_", " ")
        return f"its {name} is {_short(found.get(key))}, not {_short(value)}"
    return ""


def _short(value: Any) -> str:
    return str(value["name"]) if isinstance(value, dict) else str(value)
