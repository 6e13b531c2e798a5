"""Means over the members of an ensemble, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hltm.sampling.philox import check_seed

if TYPE_CHECKING:
    import pandas as pd


def over_members(
    table: pd.DataFrame,
    *,
    by: Sequence[str] = ("layer", "level", "metric"),
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> pd.DataFrame:
    """Means over the members of an ensemble, with bootstrap intervals over members.

    The rows of a member within a group are averaged first, because its latents are not independent.

    Args:
        table: from `measure`.
        by: columns whose values define a group.
        draws: bootstrap samples of the members.
        confidence: of the percentile interval, in (0, 1).
        seed: 64 bits, of the bootstrap.

    Returns:
        One row per group: the mean of `value`, the ends `low` and `high` of its interval (NaN for
        fewer than 2 members), and the number of `members`.

    Raises:
        ValueError: a column that the table does not have, draws below 1 or a confidence outside (0, 1).

    Example:
        >>> import hltm
        >>> trees = hltm.symmetric_binary(depth=2, members=5, seed=0)
        >>> draw = trees.sample(1000, seed=1)
        >>> table = hltm.probe.measure(draw.leaves.float(), trees, draw=draw)
        >>> found = over_members(table[table.metric == "correlation"], seed=0)
        >>> bool(((found.low <= found["mean"]) & (found["mean"] <= found.high)).all())
        True
    """
    import pandas as pd

    missing = [name for name in ("member", "value", *by) if name not in table]
    if missing:
        raise ValueError(f"the table has no column {missing[0]!r}")
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"draws must be at least 1 and confidence in (0, 1), got {draws} and {confidence}"
        )
    generator = np.random.default_rng(check_seed(seed))
    each = table.groupby([*by, "member"], sort=False)["value"].mean()
    rows = []
    groups = list(range(len(by))) if len(by) > 1 else 0  # pandas before 3 warns of a list of one
    for key, values in each.groupby(level=groups, sort=False):
        x = values.to_numpy()
        ends = (float("nan"),) * 2
        if len(x) > 1:
            means = x[generator.integers(len(x), size=(draws, len(x)))].mean(1)
            ends = tuple(np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]))
        parts = key if isinstance(key, tuple) else (key,)
        rows.append([*parts, x.mean(), *ends, len(x)])
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "members"])
