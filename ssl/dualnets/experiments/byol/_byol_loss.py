"""What must be flat before a verdict of `byol_loss`: gap closed and spread of every variant."""

from __future__ import annotations

import pandas as pd

from dualnets.lab.plateau import upper_levels
from dualnets.lab.stats import Estimate, mean_interval
from dualnets.lab.variants import by_variant, variant_stats


def gap_and_spread(table: pd.DataFrame) -> dict[str, Estimate]:
    """Gap closed and the embedding's spread per variant, at the last step of a table."""
    spreads = {
        f"{name}, spread": mean_interval(variant_stats(rows).spread)
        for name, rows in by_variant(table).items()
    }
    return {**upper_levels(table), **spreads}
