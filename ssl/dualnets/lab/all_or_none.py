"""Claims about every one of several parts, such as levels or widths, each with an effect and a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, too_few
from dualnets.lab.variants import at_once


def all_or_none(
    details: list[dict[str, Any]],
    effects: Sequence[Estimate],
    what: str,
    reason: str,
    bound: float = NEGLIGIBLE,
) -> Judgement:
    """Holds if every part has p < SIGNIFICANCE; fails if none has and every effect is below a bound.

    Args:
        details: one entry per part, with its `p` after Bonferroni over parts.
        effects: of the same parts, with intervals that hold all at once. The smallest is the effect shown.
        what: the effect in words.
        reason: two places in it are for the numbers of significant parts and of all.
        bound: an effect is below it if its whole interval is.
    """
    if not details:
        return Judgement("open", "this was not measured", what, NOTHING, [])
    passed = [entry["p"] < SIGNIFICANCE for entry in details]
    reason = reason.format(sum(passed), len(passed))
    outcome: Outcome = "open"
    counts = [effect.n for effect in effects]
    if few := too_few(min(counts)):
        short = sum(bool(too_few(n)) for n in counts)
        reason = few if len({*counts}) == 1 else f"{few} in {short} of {len(counts)} cases"
    elif all(passed):
        outcome = "holds"
    elif not any(passed) and all(effect.high < bound for effect in effects):
        outcome = "fails"
    smallest = min(effects, key=lambda effect: effect.value)
    return Judgement(outcome, reason, what + at_once(len(effects)), smallest, details)
