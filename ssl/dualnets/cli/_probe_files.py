"""What `hltm probe --out` writes: the table, a heatmap of each layer and a page."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnets._files import add_files
from hltm._names import brief
from hltm._paths import local_path

if TYPE_CHECKING:
    import pandas as pd

    from hltm import LatentTree

TABLE, PAGE = "table.csv", "index.html"
# in the first bytes of these files, which tells them from those of other programs
MINE = {TABLE: ("member", "layer", "metric"), PAGE: ("<title>hltm probe</title>",)}
PLAIN = re.compile(r"[a-z0-9_.-]{1,60}")  # lower case: some file systems take `A` and `a` for one
HASHED = re.compile(r"-[0-9a-f]{8}$")


def check_folder(out: str) -> None:
    """Raise ValueError, before any work, unless files can be written to this folder.

    Files of the names that a probe writes must be those of an earlier probe.
    """
    folder = local_path(out)
    if not out:
        return
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        raise ValueError(f"{brief(above, 80)}: is a file, expected a folder")
    if not os.access(above, os.W_OK):
        raise ValueError(f"{brief(above, 80)}: no files can be written there")
    for name, texts in MINE.items():
        path = folder / name
        if os.path.lexists(path) and not _begins_with(path, texts):
            raise ValueError(
                f"{brief(path, 80)}: is no file of hltm probe, and would be replaced; choose another --out"
            )


def _begins_with(path: Path, texts: Iterable[str]) -> bool:
    """Whether it is a file with all these texts in its first bytes."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        first = file.read(400)
    return all(text.encode() in first for text in texts)


def heatmap_name(layer: int | str) -> str:
    """A file name for the heatmap of a layer; no two layers share one.

    Example:
        >>> heatmap_name("fc1"), heatmap_name("a_b"), heatmap_name("a/b")
        ('heatmap-fc1.png', 'heatmap-a_b.png', 'heatmap-a_b-c14cddc0.png')
    """
    name = str(layer)
    if not PLAIN.fullmatch(name) or HASHED.search(name):
        code = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:40] + f"-{code}"
    return f"heatmap-{name}.png"


def write_files(
    out: str, table: pd.DataFrame, found: Mapping[int | str, Any], tree: LatentTree
) -> list[Path]:
    """Write all files or none; those of an earlier probe in the folder go, all others stay.

    Returns:
        The paths of the table, the heatmaps (of the first member) and the page.
    """
    from dualnets.lab.report import probe_page
    from hltm.probe import heatmap_figure

    folder = Path(out)
    before = _earlier(folder / TABLE)
    pictures = {label: heatmap_name(label) for label in found}
    with add_files(folder) as new, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        _write_table(new / TABLE, table)
        for label, layer in found.items():
            heatmap_figure(layer, tree).savefig(new / pictures[label], dpi=140)
        paths = {label: new / name for label, name in pictures.items()}
        probe_page.write(new / PAGE, table, paths, repr(tree))
    for name in before - set(pictures.values()):
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in (TABLE, *pictures.values(), PAGE)]


def _write_table(path: Path, table: pd.DataFrame) -> None:
    names = _texts(table["layer"]) | _texts(table["node"])
    # Python 3.11 leaves a carriage return without quotes, and readers take it for the end of a line
    quoting = csv.QUOTE_NONNUMERIC if any("\r" in name for name in names) else csv.QUOTE_MINIMAL
    table.to_csv(path, index=False, encoding="utf-8", errors="backslashreplace", quoting=quoting)


def _texts(names: Iterable[object]) -> set[str]:
    return set(map(str, names))


def _earlier(path: Path) -> set[str]:
    """Names of the heatmaps that the probe of an earlier table wrote."""
    import pandas as pd

    try:
        layers = pd.read_csv(path, usecols=["layer"], dtype=str, keep_default_na=False)["layer"]
    except (OSError, ValueError):  # there is none, or another program's
        return set()
    return {heatmap_name(name) for name in _texts(layers)}
