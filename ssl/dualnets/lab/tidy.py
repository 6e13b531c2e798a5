"""Arrays of ensembles as tidy tables: one row per entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def tidy(index: Mapping[str, Any], columns: Mapping[str, Any]) -> pd.DataFrame:
    """One row per entry of arrays or tensors, with columns that identify the entry.

    Args:
        index: column -> the labels along one axis of the arrays, axis after axis, or a number or text
            that is the same in all rows.
        columns: column -> an array or tensor with these axes, or one that broadcasts to them.

    Returns:
        The columns of `index`, then those of `columns`, in their orders.

    Example:
        >>> tidy({"member": [4, 7], "level": 1, "latent": range(2)}, {"value": [[0.1, 0.2], [0.3, 0.4]]})
           member  level  latent  value
        0       4      1       0    0.1
        1       4      1       1    0.2
        2       7      1       0    0.3
        3       7      1       1    0.4
    """
    axes = {name: np.asarray(labels) for name, labels in index.items() if np.ndim(labels)}
    shape = tuple(map(len, axes.values()))
    places = dict(zip(axes, np.indices(shape).reshape(len(shape), -1), strict=True))
    return pd.DataFrame(
        {name: axes[name][places[name]] if name in axes else value for name, value in index.items()}
        | {
            name: np.broadcast_to(np.asarray(values), shape).flatten()
            for name, values in columns.items()
        }
    )
