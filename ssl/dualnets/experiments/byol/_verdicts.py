"""Which variants of BYOL work and which do not, and the rules of `_byol.py` about them applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dualnets.experiments.byol._byol import KEPT, LESS
from dualnets.lab import variants
from dualnets.lab.ratios import ratio_difference
from dualnets.lab.rules import COLLAPSED, NEGLIGIBLE, SIGNIFICANCE, TREES, Members
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, mean_interval, too_few
from dualnets.lab.variants import VariantStats, at_once, by_variant, contrast, variant_stats


class VariantEnd(NamedTuple):
    """What became of a variant, with intervals that hold for all variants of a table at once.

    Attributes:
        found: its numbers; a tree that diverged has its initial alignment and no spread.
        gap: gap closed.
        spread: of the embedding.
    """

    found: VariantStats
    gap: Estimate
    spread: Estimate

    @property
    def status(self) -> Literal["works", "collapses", "learns nothing", "unclear"]:
        """As `_byol.WORKS` has it; both of the middle two are ways not to work."""
        if self.spread.high < COLLAPSED:
            return "collapses"
        if self.gap.high < NEGLIGIBLE:
            return "learns nothing"
        works = self.gap.low > NEGLIGIBLE and self.spread.low > COLLAPSED
        return "works" if works else "unclear"

    @property
    def falls_short(self) -> bool:
        """Whether it is shown not to work."""
        return self.status in ("collapses", "learns nothing")


def variant_ends(table: pd.DataFrame, names: Sequence[str] = ()) -> dict[str, VariantEnd]:
    """Variant -> its end, of those of these names that were run; of all by default."""
    rows_of = by_variant(table[table["variant"].isin(list(names))] if names else table)
    made = {}
    for name, rows in rows_of.items():
        own = variant_stats(rows)
        own = own._replace(
            value=np.where(np.isfinite(own.value), own.value, own.initial),
            spread=np.where(np.isfinite(own.spread), own.spread, 0.0),
        )
        count = 2 * len(rows_of)
        made[name] = VariantEnd(own, own.gap_among(count), mean_interval(own.spread, count))
    return made


def _details(ends: Mapping[str, VariantEnd]) -> dict[str, dict[str, Any]]:
    """Variant -> its entry in the details of a verdict."""
    return {
        name: {
            "variant": name, "status": end.status, **end.gap.detail("gap_closed"),
            "spread": end.spread.value, "spread_low": end.spread.low, "spread_high": end.spread.high,
            "rank": float(end.found.rank.mean()),
        }
        for name, end in ends.items()
    }  # fmt: skip


def quoted(names: Iterable[str]) -> str:
    """The names of variants, which contain commas themselves, as a list in a sentence.

    Example:
        >>> quoted(["mean (stop), std", "none"])
        '`mean (stop), std`, `none`'
    """
    return ", ".join(f"`{name}`" for name in names)


def undecidable(
    found: Mapping[str, Any], names: Sequence[str], n: int, members: Members = TREES
) -> str:
    """Why n members and the variants found cannot answer at all; empty if they can."""
    if missing := [name for name in names if name not in found]:
        return f"not run, or run in several ways: {quoted(missing)}"
    return too_few(n, members.fewest, members.of)


def _outcome(refuted: Sequence[str], unclear: Sequence[str], confirmed: str) -> tuple[Outcome, str]:
    """The outcome of a rule and its reason, from what contradicts the claim and what is not decided."""
    if refuted:
        return "fails", "; ".join(refuted)
    if unclear:
        return "open", f"not decided: {quoted(dict.fromkeys(unclear))}"
    return "holds", confirmed


def _fewest(ends: Mapping[str, VariantEnd]) -> int:
    return min((end.gap.n for end in ends.values()), default=0)


def needed(
    table: pd.DataFrame, *, works: Sequence[str], short: Sequence[str], at_all: bool = False,
    members: Members = TREES,
) -> Judgement:  # fmt: skip
    """Apply `_byol.needed`; the effect is the lead of the worst that should work over the best other."""
    pairs = len(works) * len(short)
    effect = "smallest lead, in gap closed, of a variant that should work over one that should not"
    effect += at_once(pairs)
    ends = variant_ends(table, [*works, *short])
    details = _details(ends)
    if reason := undecidable(ends, [*works, *short], _fewest(ends), members):
        return Judgement("open", reason, effect, NOTHING, list(details.values()), members.of)
    worst = min((ends[name] for name in works), key=lambda end: end.gap.value).found
    best = max((ends[name] for name in short), key=lambda end: end.gap.value).found
    one, other = ((own.gain, own.ceiling - own.initial) for own in (worst, best))
    lead = ratio_difference(one, other, pairs)
    refuted = [
        f"`{n}` works (gap closed {ends[n].gap})" for n in short if ends[n].status == "works"
    ]
    unclear = [name for name in works if ends[name].status != "works"]
    for name in short:
        gain = ends[name].found.gain
        less = [
            contrast(gain, LESS * ends[n].found.gain, len(short), exact=members.exact).p_less
            for n in works
        ]
        details[name]["p_less_than_half"] = max(less)
        falls_short = ends[name].falls_short or (not at_all and max(less) < SIGNIFICANCE)
        unclear += [] if falls_short else [name]
    confirmed = f"{len(works)} of {len(works)} work, {len(short)} of {len(short)} fall short"
    outcome, reason = _outcome(refuted, unclear, confirmed)
    return Judgement(outcome, reason, effect, lead, list(details.values()), members.of)


def as_good(
    table: pd.DataFrame, *, reference: str, others: Sequence[str], members: Members = TREES
) -> Judgement:
    """Apply `_byol.as_good`; the effect is the difference to the reference of the worst variant."""
    effect = f"{members.score.replace(' best', '')} against that of {reference}"
    effect += f", the worst variant{at_once(len(others))}" if len(others) > 1 else ""
    ends = variant_ends(table, [reference, *others])
    details = _details(ends)
    if reason := undecidable(ends, [reference, *others], _fewest(ends), members):
        return Judgement("open", reason, effect, NOTHING, list(details.values()), members.of)
    # a variant that changes the untrained network must not gain by a lower start
    start = ends[reference].found.initial
    gain = {name: end.found.value - start for name, end in ends.items()}
    for name in others:
        test = contrast(gain[name], KEPT * gain[reference], len(others), exact=members.exact)
        details[name] |= {"p_as_good": test.p_more, "p_less": test.p_less}
    refuted, unclear = [], [name for name, end in ends.items() if end.status != "works"]
    if reference not in unclear:
        refuted = [f"`{name}` {ends[name].status}" for name in others if ends[name].falls_short]
        less = [name for name in others if details[name]["p_less"] < SIGNIFICANCE]
        refuted += [f"`{name}` gains less" for name in less]
    unclear += [name for name in others if not details[name]["p_as_good"] < SIGNIFICANCE]
    confirmed = f"{len(others)} of {len(others)} are as good as `{reference}`"
    outcome, reason = _outcome(refuted, unclear, confirmed)
    ahead = (mean_interval(gain[name] - gain[reference], len(others)) for name in others)
    worst = min(ahead, key=lambda each: each.value)
    return Judgement(outcome, reason, effect, worst, list(details.values()), members.of)


def ends(table: pd.DataFrame, *, unless: Sequence[str] = ()) -> dict[str, Estimate]:
    """Gap closed and spread of every variant at the last step: what must be flat; see `_byol.ends_unless`.

    A spread has the scale of a gap, so that the same change of it is allowed.
    """
    found = variant_ends(table)
    if any(found[name].status == "works" for name in unless if name in found):
        return {}
    parts: dict[str, Estimate] = {}
    for name, (own, _, _) in found.items():
        parts |= {f"{name}, gap": own.gap, f"{name}, spread": mean_interval(own.spread)}
    return parts


def summary_table(
    table: pd.DataFrame, *, numbers: Callable[[pd.DataFrame], pd.DataFrame] = variants.summary_table
) -> pd.DataFrame:
    """One row per variant: its numbers, such as the root before and after and gap closed, status, n."""
    made = numbers(table)
    words = [end.status for end in variant_ends(table).values()]
    made.insert(len(made.columns) - 1, "status", words)
    return made
