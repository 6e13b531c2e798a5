"""Every architecture compared with the one that has the tree's receptive fields."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from dualnets.lab.stats import Judgement
from dualnets.lab.variants import all_emerge, by_variant, contrast, variant_stats


def judge(table: pd.DataFrame, *, plural: str, excluded: Collection[str]) -> Judgement:
    """Apply `dualnets.lab.rules.all_emerge`.

    Details also hold every architecture's share of its ceiling minus the tree network's, with exact
    tests both ways.
    """
    found = all_emerge(table, plural=plural, excluded=excluded)
    variants = by_variant(table)
    if "tree" not in variants:
        return found
    tree = variant_stats(variants["tree"])
    for name, rows in variants.items():
        other = variant_stats(rows)
        if name == "tree" or len(other.value) != len(tree.value):
            continue
        against = contrast(other.value / other.ceiling, tree.value / tree.ceiling)
        found.details.append(
            {"variant": f"{name} - tree",
             **against.difference.detail("share_of_ceiling_difference"),
             "p_more": against.p_more, "p_less": against.p_less, "n": against.difference.n}
        )  # fmt: skip
    return found
