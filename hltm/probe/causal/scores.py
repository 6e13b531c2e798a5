"""Scores of patched and ablated runs, from sums over rows, and their tidy table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hltm.probe.batches import Label
from hltm.probe.causal.grouped_sums import GroupedSums
from hltm.probe.causal.setup import Interchange
from hltm.probe.null import upper_point

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-12
COLUMNS = [
    "member", "layer", "level", "node", "metric", "candidates", "units", "value", "standard_error", "others",
    "null", "ceiling", "n", "note",
]  # fmt: skip


def change(after: Tensor, before: Tensor) -> Tensor:
    """after - before, and 0 where that is rounding."""
    found = after - before
    return torch.where(found.abs() <= ROUNDING * (after.abs() + before.abs()), 0.0, found)


def change_numbers(
    after: Tensor, before: Tensor, exact: Tensor, own: Tensor, target: Tensor
) -> Tensor:
    """`(S, B, 7)` sums' terms, of answers `(S, B, K)` after and before a replacement.

    Args:
        exact: the change of the exact answer; rows where it is NaN, because the swapped leaves cannot
            occur, or an answer of the network is, are all 0.
        own: the change of the network's answer when its leaves are swapped.
        target: the exact answer after the swap.
    """
    kept = (exact + after + before + own).isfinite().all(-1, keepdim=True)
    made = change(after, before)
    pairs = ((made, made), (made, exact), (made, own), (exact, exact), (own, own))
    # the likeliest state, or one of several that are equally likely up to rounding
    chosen = target.gather(-1, after.argmax(-1, keepdim=True))[..., 0]
    same = chosen >= target.amax(-1) - ROUNDING
    one = torch.ones_like(same, dtype=torch.float64)
    numbers = torch.stack([one, *((a * b).sum(-1) for a, b in pairs), same.double()], -1)
    return torch.where(kept, numbers, 0.0)


def _agreement(square: Tensor, product: Tensor, whole: Tensor) -> Tensor:
    """2 Σab / (Σ|a|² + Σ|b|²) from Σ|a|², Σab and Σ|b|², in -1..1; NaN where b is 0."""
    return _ratio(2 * product, square + whole).masked_fill(whole <= 0, torch.nan)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole; NaN where whole is 0."""
    some = whole > 0
    return torch.where(some, part / torch.where(some, whole, 1.0), torch.nan)


def _cosine(square: Tensor, product: Tensor, whole: Tensor) -> Tensor:
    """Σab / sqrt(Σ|a|² Σ|b|²): 0 where a is 0, NaN where b is."""
    size = (square * whole).sqrt()
    found = torch.where(size > 0, product / torch.where(size > 0, size, 1.0), 0.0)
    return torch.where(whole > 0, found, torch.nan)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "exact_change": lambda f: _agreement(f[..., 1], f[..., 2], f[..., 4]),
    "own_change": lambda f: _agreement(f[..., 1], f[..., 3], f[..., 5]),
    "own_share": lambda f: _ratio(f[..., 3], f[..., 5]),
    "change_correlation": lambda f: _cosine(f[..., 1], f[..., 2], f[..., 4]),
    "interchange_accuracy": lambda f: _ratio(f[..., 6], f[..., 0]),
}


def answer_numbers(truth: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """`(S, B, 1 + 8K)` moments of indicators and answers `(S, B, K)`; rows with NaN are all 0."""
    kept = (before + after).isfinite().all(-1, keepdim=True)
    one = torch.ones_like(truth[..., :1])
    parts = [one, truth, truth.square()]
    for answer in (before, after):
        parts += [answer, answer.square(), answer * truth]
    return torch.where(kept, torch.cat(parts, -1), 0.0)


def drop(f: Tensor) -> Tensor:
    """How much lower the correlation of the answer with the truth is after than before."""
    count = f[..., :1]
    t, tt, *answers = (f[..., 1:] / count).unflatten(-1, (8, -1)).unbind(-2)
    correlations = []
    for a, aa, at in (answers[:3], answers[3:]):
        variance = (aa - a.square()).sum(-1)
        variance = variance.masked_fill(variance <= ROUNDING * aa.sum(-1), 0.0)  # a constant answer
        correlations.append(_cosine(variance, (at - a * t).sum(-1), (tt - t.square()).sum(-1)))
    return correlations[0] - correlations[1]


class ChangeScore(NamedTuple):
    """One metric of the units of one latent in one layer.

    Attributes:
        statistic: a function of sums; the first of the sums counts rows.
        value: sums where the chosen units are replaced.
        null: the same for random sets of other units.
        ceiling: the same for what bounds the value, or a number; NaN for none.
        note: why there is no null, or what it is of.
    """

    statistic: Callable[[Tensor], Tensor]
    value: GroupedSums
    null: list[GroupedSums]
    ceiling: GroupedSums | float
    note: str


def to_table(
    given: Interchange, score: Callable[[Label, int], Mapping[str, ChangeScore]]
) -> pd.DataFrame:
    """One row per member, layer, latent and metric.

    Args:
        score: layer and latent -> metric -> its sums.
    """
    import pandas as pd

    topology = given.network.tree.topology
    rows: list[dict[str, Any]] = []
    for (label, v), (candidates, units) in given.chosen.items():
        for metric, own in score(label, v).items():
            found = own.value.estimate(own.statistic)
            others = null = torch.full_like(found.value, torch.nan)
            if own.null:
                nulls = [each.estimate(own.statistic).value for each in own.null]
                others, null = torch.stack(nulls).mean(0), upper_point(torch.stack(nulls), 0)
            if isinstance(own.ceiling, float):
                ceiling = torch.full_like(found.value, own.ceiling)
            else:
                ceiling = own.ceiling.estimate(own.statistic).value
            for s, member in enumerate(given.network.members):
                value = float(found.value[s])
                note = (
                    "" if value == value else "the answer never changes when the leaves are swapped"
                )
                rows.append({
                    "member": member, "layer": label, "level": int(topology.level[v]),
                    "node": topology.names[v], "metric": metric, "candidates": candidates,
                    "units": int(units[s].sum()), "value": value,
                    "standard_error": float(found.standard_error[s]),
                    "others": float(others[s]), "null": float(null[s]),
                    "ceiling": float(ceiling[s]), "note": note or own.note,
                    "n": int(own.value.sums[s, :, 0].sum()),
                })  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)
