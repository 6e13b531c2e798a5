"""The settings of an export: checked where they are given, written to the manifest and read from it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from hltm._integers import as_integer
from hltm.data.export.recipe import LAYOUTS, STREAM, SUFFIXES, ExportRecipe
from hltm.formats.json import from_json, to_json
from hltm.model.nodes import Nodes
from hltm.sampling.augment import Augmentation, check_augmentation
from hltm.sampling.philox import DRAW_FORMAT, MAX_VIEWS, check_seed
from hltm.sampling.sample import check_rows
from hltm.tree import LatentTree

SHARD_ROWS, SHARD_BYTES = 1 << 20, 1 << 28  # the largest shard unless rows_per_shard is given
MOST = 10**6  # files; a manifest that claims more would fill the memory with their names
MOST_VIEWS = 10**5


def make_recipe(
    tree: LatentTree,
    samples: int,
    *,
    seed: int,
    start: int,
    views: int,
    augment: Augmentation | None,
    nodes: Nodes,
    file_format: str,
    columns: str | None,
    rows_per_shard: int | None,
) -> ExportRecipe:
    """The recipe of an export; arguments and errors are those of `hltm.export`."""
    if not isinstance(tree, LatentTree):
        raise TypeError(f"tree must be a LatentTree, got {type(tree).__name__}")
    if augment is not None:
        check_augmentation(augment)
    check_rows(start, samples)
    if not isinstance(file_format, str) or file_format not in SUFFIXES:
        raise ValueError(
            f"unknown format {file_format!r:.80}, expected one of {', '.join(SUFFIXES)}"
        )
    layouts = LAYOUTS[file_format]
    if columns is not None and columns not in layouts:
        wanted = " or ".join(map(repr, layouts))
        raise ValueError(
            f"columns of format {file_format!r:.80} must be {wanted}, got {columns!r:.80}"
        )
    if as_integer("views", views, 0) >= MAX_VIEWS:
        raise ValueError(f"views must be below 2^24, got {views}")
    if views and augment is None:
        raise ValueError(f"views={views} needs augment, e.g. augment=hltm.keep_root()")
    if augment is not None and not views:
        raise ValueError(f"augment={augment} has no effect here: it needs at least 1 view, got 0")
    if rows_per_shard is not None:
        as_integer("rows_per_shard", rows_per_shard, 1)
    made = ExportRecipe(
        tree=tree,
        seed=check_seed(seed),
        start=int(start),
        samples=int(samples),
        views=int(views),
        augment=None if augment is None else augment.name,
        rates=None if augment is None else augment.rates(tree),
        missing_rates=None if augment is None else augment.missing_rates(tree),
        flip_rates=None if augment is None else augment.flip_rates(tree),
        latents=_check_latents(tree, nodes),
        file_format=file_format,
        columns=columns or layouts[0],
        rows_per_shard=int(rows_per_shard or SHARD_ROWS),
    )
    if made.columns == "nodes":
        _ = made.node_columns  # raises if two columns have one name
    if rows_per_shard is None:
        made = replace(made, rows_per_shard=min(SHARD_ROWS, max(SHARD_BYTES // _row(made), 1)))
    check_size(made)
    return made


def check_size(recipe: ExportRecipe) -> None:
    """Raise a ValueError of more files or views than an export may have."""
    if recipe.files > MOST:
        raise ValueError(
            f"an export has at most {MOST:,} files, got {recipe.files:,}: rows_per_shard must be larger "
            f"than {recipe.rows_per_shard}"
        )
    if recipe.views > MOST_VIEWS:
        raise ValueError(f"an export has at most {MOST_VIEWS:,} views, got {recipe.views:,}")


def _row(recipe: ExportRecipe) -> int:
    """The bytes of a row of states before compression."""
    if recipe.file_format == "csv":
        return 2 * sum(recipe.widths.values())  # a digit and a comma
    arrays = SUFFIXES[recipe.file_format] != "parquet"
    return sum(
        width * (recipe.marked_dtype(group) if arrays else recipe.dtype).itemsize
        for group, width in recipe.widths.items()
    )


def _check_latents(tree: LatentTree, nodes: Nodes) -> tuple[int, ...]:
    """Numbers of the latents to export beside the leaves."""
    if isinstance(nodes, str) and nodes in ("all", "leaves"):
        return tuple(tree.latents) if nodes == "all" else ()
    found = tuple(int(v) for v in tree.topology.nodes(nodes))
    for v in found:
        if v in tree.leaves:
            name = tree.topology.names[v]
            raise ValueError(f"nodes must be latents, got the leaf {name!r:.80}")
    if len(set(found)) < len(found):
        raise ValueError(f"nodes must be distinct, got {nodes!r:.80}")
    return found


def settings(recipe: ExportRecipe) -> dict[str, Any]:
    """The part of the manifest from which `recipe_of` makes the recipe again.

    What version 1 did not have is written only where it is needed, so that the manifests of other data
    sets stay as they were.
    """
    names = recipe.tree.topology.names
    augmentation: dict[str, Any] | None = None
    if recipe.rates is not None:
        augmentation = {"name": recipe.augment, "rates": recipe.rates.tolist()}
        if recipe.missing_rates is not None and recipe.missing_rates.any():
            augmentation["missing_rates"] = recipe.missing_rates.tolist()
        if recipe.flip_rates is not None and recipe.flip_rates.any():
            augmentation["flip_rates"] = recipe.flip_rates.tolist()
    found = {
        "file_format": recipe.file_format, "draw_format": DRAW_FORMAT, "seed": recipe.seed,
        "stream": STREAM.name.lower(), "start": recipe.start, "n": recipe.samples,
        "views": recipe.views, "augmentation": augmentation,
        "leaves": [names[v] for v in recipe.tree.leaves],
        "latents": [names[v] for v in recipe.latents],
        "rows_per_shard": recipe.rows_per_shard, "tree": json.loads(to_json(recipe.tree)),
    }  # fmt: skip
    return found if recipe.columns == "arrays" else {"columns": recipe.columns} | found


def version(recipe: ExportRecipe) -> int:
    """The lowest version of the manifest that can describe the recipe.

    Version 2 has missing leaves and columns of single nodes, version 3 flipped leaves and missing rates that
    differ from row to row; readers of the version before would misread them.
    """
    flips = recipe.flip_rates is not None and bool(recipe.flip_rates.any())
    if flips or (recipe.missing_rates is not None and recipe.missing_rates.ndim == 2):
        return 3
    hidden = any(map(recipe.hides, recipe.widths))
    return 2 if hidden or recipe.columns != "arrays" else 1


def recipe_of(found: dict[str, Any]) -> ExportRecipe:
    """The recipe that `settings` describes.

    Raises:
        ValueError: a setting that is missing or malformed, or another draw format.
    """
    if found.get("draw_format") != DRAW_FORMAT:
        raise ValueError(f"draw format {found.get('draw_format')!r:.80}, expected {DRAW_FORMAT}")
    try:
        if found["stream"] != STREAM.name.lower():
            raise ValueError(f"stream {found['stream']!r:.80}, expected {STREAM.name.lower()!r}")
        tree = from_json(json.dumps(found["tree"]))
        held = found["augmentation"]
        if held is not None and not isinstance(held["name"], str):
            raise ValueError(f"the augmentation's name must be text, got {held['name']!r:.100}")
        made = ExportRecipe(
            tree=tree,
            seed=check_seed(found["seed"]),
            start=as_integer("start", found["start"], 0),
            samples=as_integer("the number of samples", found["n"], 1),
            views=as_integer("views", found["views"], 0),
            augment=held and held["name"],
            rates=_rates(held, "rates", tree),
            missing_rates=_rates(held, "missing_rates", tree),
            flip_rates=_rates(held, "flip_rates", tree),
            latents=tuple(tree.topology.node(name) for name in found["latents"]),
            file_format=found["file_format"],
            columns=found.get("columns", "arrays"),
            rows_per_shard=as_integer("rows_per_shard", found["rows_per_shard"], 1),
        )
        check_rows(made.start, made.samples)
        check_size(made)
        if made.file_format not in SUFFIXES:
            raise ValueError(
                f"file format {made.file_format!r:.80}, expected one of {', '.join(SUFFIXES)}"
            )
        if made.columns not in LAYOUTS[made.file_format]:
            raise ValueError(
                f"columns {made.columns!r:.80} do not fit format {made.file_format!r:.80}"
            )
        if (made.views > 0) != (made.rates is not None):
            raise ValueError("views and augmentation do not fit")
        if version(made) != found["version"]:
            raise ValueError(f"version {found['version']!r:.80}, expected {version(made)}")
        for key, value in settings(made).items():
            if found[key] != value:
                raise ValueError(f"its {key} do not fit the rest")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{error!r:.150} while reading it") from error
    return made


def _rates(held: dict[str, Any] | None, name: str, tree: LatentTree) -> np.ndarray | None:
    """`(V,)` float64 rates of the manifest's augmentation; None without one, 0 where it has no such rates.

    Missing rates may be `(2, V)`.
    """
    if held is None:
        return None
    count = len(tree.topology)
    listed = held["rates"] if name == "rates" else held.get(name, [0.0] * count)
    rates = np.array(listed, dtype=np.float64)
    shapes = [(count,), (2, count)] if name == "missing_rates" else [(count,)]
    if rates.shape not in shapes or not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(f"the augmentation's {name} must be in [0, 1], one per node")
    return rates


def lost_marks(recipe: ExportRecipe) -> str:
    """The reason why views are not those of the augmentation that is named; empty if there is none.

    Folders of version 1 with such a name were written by a version that did not write missing leaves.
    """
    parts = (recipe.augment or "").split(",")
    rates = [part.strip().partition(":")[2] for part in parts if part.startswith("drop-leaves:")]
    if any(map(recipe.hides, recipe.widths)) or not any(map(_positive, rates)):
        return ""
    return (
        f"the augmentation {recipe.augment} misses leaves, but an earlier version of hltm wrote these "
        "views complete, without missing leaves: export them again to another folder"
    )


def _positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
