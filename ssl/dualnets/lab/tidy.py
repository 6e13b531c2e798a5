"""Arrays of ensembles as tidy tables: one row per entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd


def tidy(
    members: Sequence[int],
    columns: Mapping[str, Any],
    axes: Sequence[str] = ("latent",),
    **constant: Any,
) -> pd.DataFrame:
    """One row per entry of arrays whose first axis is that of the members.

    Args:
        members: the addresses of the S members, for the column `member`.
        columns: column -> an array or tensor of shape `(S, ...)`, or one that broadcasts to the first.
        axes: the columns that number the positions along the axes after the first.
        **constant: columns that are the same in all rows; they stand before those of `columns`.

    Returns:
        Columns `member`, `axes`, `constant`, `columns`, in this order.

    Example:
        >>> tidy([4, 7], {"value": np.array([[0.1, 0.2], [0.3, 0.4]])}, level=1)
           member  latent  level  value
        0       4       0      1    0.1
        1       4       1      1    0.2
        2       7       0      1    0.3
        3       7       1      1    0.4
    """
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    shape = next(iter(arrays.values())).shape
    member, *places = np.indices(shape).reshape(len(shape), -1)
    return pd.DataFrame(
        {"member": np.asarray(members)[member]}
        | dict(zip(axes, places, strict=True))
        | constant
        | {name: np.broadcast_to(values, shape).flatten() for name, values in arrays.items()}
    )
