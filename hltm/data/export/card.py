"""The card of a data set for the Hugging Face hub: YAML for programs, then text for people."""

from __future__ import annotations

from hltm.data.export.recipe import ExportRecipe

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
         (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip


def dataset_card(recipe: ExportRecipe) -> str:
    """The text of README.md: front matter with the place of the data, settings, and columns."""
    import hltm  # only its version; at the top this would be a circle

    tree, total = recipe.tree, recipe.samples * len(recipe.tree.members)
    size = next((name for most, name in SIZES if total < most), "n>1B")
    shape = repr(tree).partition("(")[2][:-1]
    rows = f"{recipe.start:,}..{recipe.start + recipe.samples - 1:,}"
    lines = [
        "---",
        "pretty_name: Hierarchical latent tree model",
        f"size_categories: ['{size}']",
        "tags: [synthetic, latent-tree, representation-learning]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/*.parquet",
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
        f"| augmentation | {recipe.augment or 'none'} |",
        f"| written by | hltm {hltm.__version__} |",
        "",
        "| column | states of a row | meaning |",
        "|---|---|---|",
        "| `row` | | the row's number in the endless data set of the seed |",
    ]
    if tree.stacked:
        lines.append("| `member` | | the address of the row's tree |")
    for name, width in recipe.widths.items():
        lines.append(f"| `{name}` | {width} | {_meaning(name)} |")
    lines += ["", "`manifest.json` names the nodes of each column in order.", ""]
    return "\n".join(lines)


def _meaning(column: str) -> str:
    if column == "leaves":
        return "states of the observed nodes"
    if column == "latents":
        return "states of the unobserved nodes, the root first"
    return f"the leaves of augmented draw {column.removeprefix('view_')} of the same row"
