"""One-to-one matching of units with latents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._results import by_content


@by_content
class Matching(NamedTuple):
    """A one-to-one matching of units with targets, from `match_units`.

    Attributes:
        unit: `(…, T)` int64, the unit matched with each target; -1 where there are too few units.
        strength: `(…, T)` float64, its strength; 0 where there is no unit.
    """

    unit: Tensor
    strength: Tensor


def match_units(strength: Tensor, allowed: Tensor | None = None) -> Matching:
    """The one-to-one matching of units with targets that has the largest total strength.

    Two targets may have the same best unit; here no unit is matched twice (the Hungarian method,
    `scipy.optimize.linear_sum_assignment`).

    Args:
        strength: `(…, U, T)`, more is better.
        allowed: `(U, T)` bool, which units may stand for which target; all by default.

    Raises:
        ValueError: a strength of an allowed pair that is not finite, or `allowed` of another shape.

    Example:
        >>> match_units(torch.tensor([[0.9, 0.8], [0.5, 0.1]])).unit  # 0.8 + 0.5 > 0.9 + 0.1
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    units, targets = strength.shape[-2:]
    may = torch.ones(units, targets, dtype=torch.bool) if allowed is None else allowed.cpu()
    if tuple(may.shape) != (units, targets):
        raise ValueError(f"allowed has shape {tuple(may.shape)}, expected {(units, targets)}")
    if not bool((strength.cpu().isfinite() | ~may).all()):
        raise ValueError("strengths of pairs that are allowed must be finite")
    flat = strength.detach().double().cpu().reshape(-1, units, targets)
    unit = torch.full((len(flat), targets), -1)
    value = torch.zeros(len(flat), targets, dtype=torch.float64)
    for s, table in enumerate(flat):
        # so much worse than any allowed pair that it is taken only where nothing else is left
        known = table[may]
        size = float(known.abs().max()) if len(known) else 0.0
        gain = np.where(may.numpy(), table.numpy(), -1 - 2 * size * (targets + 1))
        rows, columns = linear_sum_assignment(gain, maximize=True)
        for u, t in zip(rows.tolist(), columns.tolist(), strict=True):
            if may[u, t]:
                unit[s, t], value[s, t] = u, table[u, t]
    shape = (*strength.shape[:-2], targets)
    return Matching(unit.reshape(shape), value.reshape(shape))
