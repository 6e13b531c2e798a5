"""From a rule to a verdict: what holds for every claim, whatever its rule.

A rule reads the table of a run. Besides, a claim about the end of training needs curves that are flat there,
a few members that diverged or collapsed decide nothing, and with settings of one's own there is no verdict:
a rule belongs to the settings that it was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualnets.lab.plateau import Change, changes
from dualnets.lab.stats import pooled
from dualnets.lab.variants import lost_members

if TYPE_CHECKING:
    from dualnets.lab.rules import Claim
    from dualnets.lab.stats import Judgement, Outcome


@dataclass(frozen=True)
class Verdict:
    """Whether a run supports a claim, by a rule that was fixed before the run.

    Attributes:
        name: of the claim among those of its experiment; empty where it is the only one.
        claim, reference: the claim, and where it is made.
        verdict: `holds`, `fails`, or `open` where the run does not decide.
        rule: the rule, in words.
        reason: what was found, in the terms of the rule.
        effect: what `effect_value` is.
        effect_value, interval: the effect and its 95% interval; None where it is not defined.
        n: independent values behind it.
        of: what n counts.
        details: one entry per part of the claim.
        plateau: one entry per curve that must be flat, see `dualnets.lab.plateau.Change`; empty where the
            claim is about no end of training.
    """

    name: str
    claim: str
    reference: str
    verdict: Outcome
    rule: str
    reason: str
    effect: str
    effect_value: float | None
    interval: tuple[float, float] | None
    n: int
    of: str = "trees"
    details: list[dict[str, Any]] = field(default_factory=list)
    plateau: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """The verdict that `as_dict` gave; what another version has beside its fields is left out."""
        interval = values.get("interval")
        given = {"effect_value": None, **values, "interval": tuple(interval) if interval else None}
        return cls(**{item.name: given[item.name] for item in fields(cls) if item.name in given})

    @property
    def flat(self) -> bool | None:
        """Whether every curve is flat; None where the claim is about no end of training."""
        return all(entry["flat"] for entry in self.plateau) if self.plateau else None


def verdict_on(claim: Claim, table: pd.DataFrame, own: str = "") -> Verdict:
    """Judge one claim.

    Args:
        claim: with its rule.
        table: of a run; the trees of several seeds count together.
        own: why these settings allow no verdict; empty if they do.
    """
    table = pooled(table)
    if claim.about:
        table = table[table["variant"].isin(claim.about)]
    found, kept = _without_lost(claim, table)
    curves = [] if claim.plateau is None else changes(claim.plateau, kept, claim.negligible)
    moving = [curve for curve in curves if not curve.flat]
    outcome, reason = found.outcome, found.reason
    if own:
        outcome, reason = "open", f"{own}; {reason}" if reason else own
    elif outcome != "open" and moving:
        outcome, reason = "open", f"{_still_changing(moving)}; so far: {reason}"
    low, high = found.estimate.low, found.estimate.high
    return Verdict(
        name=claim.name,
        claim=claim.text,
        reference=claim.reference,
        verdict=outcome,
        rule=claim.rule.text,
        reason=reason,
        effect=found.effect,
        effect_value=found.estimate.value if np.isfinite(found.estimate.value) else None,
        interval=(low, high) if np.isfinite(low) and np.isfinite(high) else None,
        n=found.estimate.n,
        of=found.of,
        details=[finite(detail) for detail in found.details],
        plateau=[finite(curve._asdict() | {"flat": curve.flat}) for curve in curves],
    )


def _without_lost(claim: Claim, table: pd.DataFrame) -> tuple[Judgement, pd.DataFrame]:
    """How the rule comes out, and the rows of all trees but the lost ones, which never decide alone."""
    found, lost, members = claim.rule(table), lost_members(table), claim.members
    if not lost:
        return found, table
    kept = table[~table["member"].isin(lost)]
    count = f"{len(lost)} of {table['member'].nunique()} {members.of} diverged or collapsed"
    if kept["member"].nunique() < members.fewest:
        reason = f"{count}, which leaves fewer than {members.fewest}; {found.reason}"
        return found._replace(outcome="open", reason=reason), table
    rest = claim.rule(kept)
    estimate = found.estimate if np.isfinite(found.estimate.value) else rest.estimate
    found = found._replace(estimate=estimate)
    if rest.outcome == found.outcome:
        return found._replace(reason=f"{found.reason}; {count}, and change nothing"), kept
    reason = f"{count} and would decide: {found.outcome} with them, {rest.outcome} without"
    return found._replace(outcome="open", reason=reason), kept


def _still_changing(moving: list[Change]) -> str:
    """The curves that are not flat, at most three by name."""
    unmeasured = [curve.part for curve in moving if not np.isfinite(curve.change)]
    names = [curve.part for curve in moving if np.isfinite(curve.change)]
    texts = [
        f"{what} ({', '.join(parts[:3])}{f' and {len(parts) - 3} more' if len(parts) > 3 else ''})"
        for what, parts in (("still changing", names), ("not shown to be flat", unmeasured))
        if parts
    ]
    return ", ".join(texts)


def finite(detail: Mapping[str, Any]) -> dict[str, Any]:
    """A detail of a verdict with None for numbers that are not finite, which JSON does not have.

    Example:
        >>> finite({"variant": "a", "gap": float("nan"), "n": 12})
        {'variant': 'a', 'gap': None, 'n': 12}
    """
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in detail.items()
    }
