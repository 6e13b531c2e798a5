"""The short table of architectures, each compared with the one that has the tree's receptive fields."""

from __future__ import annotations

import pandas as pd

from dualnets.lab import variants
from dualnets.lab.variants import by_variant, contrast, variant_stats


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per architecture; `minus tree`: its share of the ceiling minus the tree network's, by tree."""
    made = variants.summary_table(table)
    found = {name: variant_stats(rows) for name, rows in by_variant(table).items()}
    shares = {name: each.value / each.ceiling for name, each in found.items()}
    same = shares.get("tree")
    beyond = [
        "–" if same is None or name == "tree" or len(share) != len(same)
        else str(contrast(share, same).difference)
        for name, share in shares.items()
    ]  # fmt: skip
    made.insert(5, "minus tree", beyond)
    made.attrs["caption"] += "; minus tree: share of the ceilings of levels >= 2, tree by tree"
    return made
