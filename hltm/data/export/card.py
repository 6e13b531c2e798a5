"""The card of a data set for the Hugging Face hub: YAML for programs, then text for people."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from hltm.data.export.recipe import ExportRecipe

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
         (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip


def dataset_card(recipe: ExportRecipe) -> str:
    """The text of README.md: front matter with licence, types and place of the data, settings, columns."""
    import hltm  # only its version; at the top this would be a circle

    total = recipe.samples * len(recipe.tree.members)
    size = next((name for most, name in SIZES if total < most), "n>1B")
    shape = repr(recipe.tree).partition("(")[2][:-1]
    rows = f"{recipe.start:,}..{recipe.start + recipe.samples - 1:,}"
    lines = [
        "---",
        "pretty_name: Hierarchical latent tree model",
        "license: mit",
        f"size_categories: ['{size}']",
        "tags: [synthetic, latent-tree, representation-learning]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/*.parquet",
        "dataset_info:",
        "  features:",
        *_features(recipe),
        "---",
        "",
        "# Data from a hierarchical latent tree model",
        "",
        "Leaves of a latent tree, with all its latents known. Written by `hltm.export`; every state is",
        "a function of its address, and `hltm.verify` draws random rows again and compares them.",
        "",
        "| setting | value |",
        "|---|---|",
        f"| tree | {shape} (tables in `manifest.json`) |",
        f"| rows | {rows} of seed {recipe.seed}, stream data |",
        f"| augmentation | {_cell(recipe.augment or 'none')} |",
        "| licence | MIT, that of hltm; the data follow from it and from these settings |",
        f"| written by | hltm {hltm.__version__} |",
        "",
        *_columns(recipe),
    ]
    if any(map(recipe.hides, recipe.widths)):
        lines += [
            "**Missing leaves.** Null in a view is a leaf that the view misses. A view misses each leaf",
            "with its rate in `missing_rates` of `manifest.json`, whatever its state, and does not hold",
            "the state; the columns of the data before augmentation do.",
            "",
        ]
    lines += [
        "`pandas.read_parquet('data')` reads the files as one table, and so do DuckDB and polars.",
        "`manifest.json` names the nodes of each column in order.",
        "",
    ]
    return "\n".join(lines)


def _features(recipe: ExportRecipe) -> Iterator[str]:
    """The types of the columns, as `datasets.Features` reads them."""
    for name in recipe.keys:
        yield from (f"  - name: {name}", "    dtype: int64")
    if recipe.columns == "nodes":
        for names in recipe.node_columns.values():
            for name in names:
                yield from (f"  - name: {_quoted(name)}", f"    dtype: {recipe.dtype}")
        return
    for group, width in recipe.widths.items():
        yield from (f"  - name: {group}", f"    sequence: {recipe.dtype}", f"    length: {width}")


def _columns(recipe: ExportRecipe) -> Iterator[str]:
    """A table of the columns and their meaning."""
    yield from ("| column | states of a row | meaning |", "|---|---|---|")
    yield "| `row` | | the row's number in the endless data set of the seed |"
    if recipe.tree.stacked:
        yield "| `member` | | the address of the row's tree |"
    if recipe.columns == "nodes":
        for group, names in recipe.node_columns.items():
            ends = dict.fromkeys((names[0], names[-1]))
            yield f"| {' … '.join(map(_cell, ends))} | {len(names)} | {_meaning(group)} |"
    else:
        for group, width in recipe.widths.items():
            yield f"| `{group}` | {width} | {_meaning(group)} |"
    yield ""


def _meaning(group: str) -> str:
    if group == "leaves":
        return "states of the observed nodes"
    if group == "latents":
        return "states of the unobserved nodes, the root first"
    return f"the leaves of augmented draw {group.removeprefix('view_')} of the same row"


def _quoted(text: str) -> str:
    """Text as YAML in double quotes; what cannot be printed is given by its number."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(plain)}"'


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table, where it formats nothing and ends nothing."""
    printed = "".join(c if c.isprintable() else " " for c in escape(text, quote=False))
    return "".join(f"\\{c}" if c in r"\`*_[]|~#!" else c for c in printed)
