"""Means over the members of an ensemble, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from hltm.probe.table import gap_closed
from hltm.sampling.philox import check_seed

if TYPE_CHECKING:
    import pandas as pd


def over_members(
    table: pd.DataFrame,
    *,
    by: Sequence[str] = ("layer", "level", "metric"),
    of: Literal["value", "gap_closed"] = "value",
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> pd.DataFrame:
    """Means over the members of an ensemble, with bootstrap intervals over members.

    The rows of a member within a group are averaged first, because its latents are not independent. Its
    gap closed is Σ (value - initial) / Σ (ceiling - initial) over them: the mean of ratios would be that of
    the latents with hardly any gap.

    Args:
        table: from `measure`.
        by: columns whose values define a group.
        of: the column; `gap_closed` leaves out rows without an initial value or a ceiling, and is NaN where a
            member has no room between them.
        draws: bootstrap samples of the members.
        confidence: of the percentile interval, in (0, 1).
        seed: 64 bits, of the bootstrap.

    Returns:
        One row per group: the mean of `value`, or of the gaps closed, the ends `low` and `high` of its
        interval (NaN for fewer than 2 members), and the number of `members`.

    Raises:
        ValueError: a column that the table does not have, another `of`, no initial values for it, draws
            below 1 or a confidence outside (0, 1).

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

    if of not in ("value", "gap_closed"):
        raise ValueError(f"of must be 'value' or 'gap_closed', got {of!r:.60}")
    needed = ("value",) if of == "value" else ("value", "initial", "ceiling")
    missing = [name for name in ("member", *needed, *by) if name not in table]
    if missing:
        raise ValueError(f"the table has no column {missing[0]!r}")
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"draws must be at least 1 and confidence in (0, 1), got {draws} and {confidence}"
        )
    generator = np.random.default_rng(check_seed(seed))
    if of == "value":
        each = table.groupby([*by, "member"], sort=False)["value"].mean()
    else:
        known = table.dropna(subset=["value", "initial", "ceiling"])
        if known.empty:
            raise ValueError("no row has an initial value and a ceiling: measure with initial=")
        sums = known.groupby([*by, "member"], sort=False)[["value", "initial", "ceiling"]].sum()
        each = gap_closed(sums)
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
