"""What the BYOL experiments share: their settings, when a variant works, and their two rules.

Settings: networks of 10 units per latent with biases, output not normalised; projector 10-32-16 and
predictor 16-32-16, each Linear, BatchNorm without gain and shift, ReLU, Linear; cosine losses of both
directions summed; moving average 0.99; SGD at rate 0.03 with momentum 0.9 and weight decay 4e-4 on
everything; batch 128; 1000 updates; trees of depth 5 with polarities ± U[0.7, 1] (theory, Section 6).

Alignment without spread is collapse in slow motion, and spread without growing alignment is no
learning, so a variant *works* only if both are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dualnets.lab import variants as comparison
from dualnets.lab.ablation import grids
from dualnets.lab.experiment import Fixed, Grid
from dualnets.lab.stats import NOTHING, Verdict, exceeds, mean_interval, verdict_of
from dualnets.lab.variants import (
    FEWEST_TREES,
    SIGNIFICANCE,
    VariantStats,
    at_once,
    by_variant,
    contrast,
    variant_stats,
)

COMMON: dict[str, Any] = {
    "method": Fixed("byol"),  # what the variants' names are about
    "units": 10,
    "bias": True,
    "normalize": False,
    "projector": "32-16",
    "predictor": "32-16",
    "ema_decay": 0.99,
    "lr": 0.03,
    "momentum": 0.9,
    "weight_decay": 4e-4,
    "batch": 128,
    "steps": 1000,
    "depth": 5,
    "members": 12,
    "snapshots": 8,
}
SMOKE: dict[str, Any] = {**COMMON, "depth": 3, "steps": 150, "batch": 64, "snapshots": 4,
                         "evaluation_samples": 2048}  # fmt: skip
PAPER: dict[str, Any] = {**COMMON, "members": 48, "steps": 10_000, "snapshots": 12}


def tuned_grids(
    variants: Mapping[str, Mapping[str, Any]], rates: Mapping[str, float], *, steps: int
) -> dict[str, list[Grid]]:
    """Grids of an experiment whose variants have tuned learning rates; by default on trees of depth 4.

    Args:
        variants: variant -> what makes it.
        rates: variant -> the best of the same rates for all by gap closed, on other trees, in half the
            updates: `hltm run … --seed 1000 --members 8 --steps … --lr …`.
        steps: updates at the default scale.
    """
    shallow = {"depth": 4, "steps": steps}
    rated = {name: {**changes, "lr": rates[name]} for name, changes in variants.items()}
    return {
        "smoke": grids(SMOKE, rated),
        "default": grids({**COMMON, **shallow}, rated),
        "paper": grids(PAPER, rated),
    }


# Spreads are near 0.8 where BYOL works on this data and near 0 where it collapses; a tenth of the
# spread of outputs that point everywhere lies far from both.
COLLAPSED = 0.1
KEPT = 0.9  # "as good as": of the reference's gain in |correlation|
WORKS = (
    "A variant works if over trees the mean best |correlation| of the latents of levels >= 2 grows and "
    f"the embedding's spread ends above {COLLAPSED}, and collapses if the spread ends below (Wilcoxon's "
    f"exact signed-rank tests, one-sided, p < {SIGNIFICANCE} after Bonferroni over variants; a spread "
    "that is not finite counts as 0)."
)


class CollapseStatus(NamedTuple):
    """What became of a variant.

    Attributes:
        found: its numbers.
        p_grown: P that alignment did not grow.
        p_spread, p_collapsed: P that the spread is not above, not below COLLAPSED.

    All P are after Bonferroni over variants.
    """

    found: VariantStats
    p_grown: float
    p_spread: float
    p_collapsed: float

    @property
    def word(self) -> Literal["works", "collapses", "neither"]:
        """`works`, `collapses`, or `neither` where neither is shown."""
        if max(self.p_grown, self.p_spread) < SIGNIFICANCE:
            return "works"
        return "collapses" if self.p_collapsed < SIGNIFICANCE else "neither"

    @property
    def gain(self) -> np.ndarray:
        """`(S,)` growth of the mean best |correlation|."""
        return self.found.value - self.found.initial


def collapse_status(table: pd.DataFrame) -> dict[str, CollapseStatus]:
    """Variant -> what became of it."""
    variants = by_variant(table)
    made = {}
    for name, rows in variants.items():
        found = variant_stats(rows)
        spread = np.where(np.isfinite(found.spread), found.spread, 0.0)
        border = np.full_like(spread, COLLAPSED)
        tests = (
            exceeds(found.value, found.initial),
            exceeds(spread, border),
            exceeds(border, spread),
        )
        made[name] = CollapseStatus(found, *(min(p * len(variants), 1.0) for p in tests))
    return made


def _details(found: Mapping[str, CollapseStatus]) -> list[dict[str, Any]]:
    entries = []
    for name, fate in found.items():
        gap, spread = fate.found.gap, mean_interval(fate.found.spread)
        if not np.isfinite(fate.found.spread).all():
            spread = NOTHING
        entries.append(
            {
                "variant": name,
                "fate": fate.word,
                "p_grown": fate.p_grown,
                "p_spread": fate.p_spread,
                "p_collapsed": fate.p_collapsed,
                "gap_closed": gap.value,
                "low": gap.low,
                "high": gap.high,
                "spread": spread.value,
                "spread_low": spread.low,
                "spread_high": spread.high,
                "rank": float(fate.found.rank.mean()),
                "n": len(fate.gain),
            }
        )
    return entries


def _cannot_tell(found: Mapping[str, CollapseStatus], needed: Sequence[str]) -> str:
    """Why a table cannot answer at all; empty if it can."""
    missing = [name for name in needed if name not in found]
    if missing:
        return f"not run, or run in several ways: {', '.join(missing)}"
    fewest = min(len(found[name].gain) for name in needed)
    return f"{fewest} trees are fewer than {FEWEST_TREES}" if fewest < FEWEST_TREES else ""


NEEDED_RULE = (
    f"{WORKS} Holds if {{works}} work and each of {{short}} falls short: it does not work, and it "
    "collapses or its alignment ends below that of its counterpart ({counterpart}; paired signed ranks, "
    f"p < {SIGNIFICANCE} after Bonferroni over these pairs). Fails if one of the former collapses or one "
    f"of the latter works; open otherwise, or with fewer than {FEWEST_TREES} trees."
)


def needed(
    table: pd.DataFrame, claim: str, rule: str, works: Sequence[str], short: Mapping[str, str]
) -> Verdict:
    """The verdict of a rule that says which variants work and which fall short.

    Args:
        table: of a run.
        claim, rule: in words.
        works: variants that must work.
        short: variant that must fall short -> the one of `works` it is compared with.
    """
    found = collapse_status(table)
    reason = _cannot_tell(found, [*works, *short])
    effect = (
        "smallest lead of a variant that should work over one that should not, mean |correlation|"
        + at_once(len(short))
    )
    if reason:
        return verdict_of(claim, "open", rule, reason, effect, NOTHING, _details(found))
    leads = {
        name: contrast(found[ahead].found.value, found[name].found.value, len(short))
        for name, ahead in short.items()
    }
    words = {name: fate.word for name, fate in found.items()}
    worse = {name: min(lead.p_more * len(leads), 1.0) for name, lead in leads.items()}
    details = _details(found)
    for entry in details:
        if entry["variant"] in short:
            entry["p_worse"] = worse[entry["variant"]]
    broken = [name for name in works if words[name] == "collapses"]
    surprising = [name for name in short if words[name] == "works"]
    unproved = [name for name in works if words[name] == "neither"]
    unclear = [
        name for name in short if words[name] == "neither" and not worse[name] < SIGNIFICANCE
    ]
    if broken or surprising:
        outcome = "fails"
        parts = [f"{name} collapses" for name in broken] + [f"{name} works" for name in surprising]
        reason = "; ".join(parts)
    elif unproved or unclear:
        outcome, reason = "open", f"not decided: {', '.join(unproved + unclear)}"
    else:
        outcome = "holds"
        reason = f"{len(works)} of {len(works)} work, {len(short)} of {len(short)} fall short"
    smallest = min((lead.difference for lead in leads.values()), key=lambda each: each.value)
    return verdict_of(claim, outcome, rule, reason, effect, smallest, details)


AS_GOOD_RULE = (
    f"{WORKS} A variant is as good as {{reference}} if it keeps {KEPT:.0%} of the latter's gain in mean "
    "best |correlation| (paired signed ranks of gain - "
    f"{KEPT} gain of the latter, p < {SIGNIFICANCE} after Bonferroni over variants compared). Holds if "
    "{reference} works, and {others} work and are as good; fails if {reference} collapses, or one of the "
    "others collapses or gains less (the same test, turned round); open otherwise, or with fewer than "
    f"{FEWEST_TREES} trees."
)


def as_good(
    table: pd.DataFrame,
    claim: str,
    rule: str,
    reference: str,
    others: Sequence[str],
    beside: Sequence[str] = (),
) -> Verdict:
    """The verdict of a rule that says which variants do no worse than a reference.

    Args:
        table: of a run.
        claim, rule: in words.
        reference: a variant.
        others: those that must be as good.
        beside: those that are compared as well, among themselves, and decide nothing.
    """
    found = collapse_status(table)
    reason = _cannot_tell(found, [reference, *others]) if others else "nothing to compare with"
    effect = f"gain in mean |correlation| against that of {reference}, the worst variant" + at_once(
        len(others)
    )
    details = _details(found)
    if reason:
        return verdict_of(claim, "open", rule, reason, effect, NOTHING, details)
    bar = KEPT * found[reference].gain
    judged = {entry["variant"]: entry for entry in details}
    for group in (others, [name for name in beside if name in found]):
        for name in group:
            test = contrast(found[name].gain, bar)
            judged[name]["p_as_good"] = min(test.p_more * len(group), 1.0)
            judged[name]["p_less"] = min(test.p_less * len(group), 1.0)
            if beside:
                judged[name]["decides"] = name in others
    broken = [name for name in (reference, *others) if judged[name]["fate"] == "collapses"]
    worse = [name for name in others if judged[name]["p_less"] < SIGNIFICANCE]
    unclear = [name for name in (reference, *others) if judged[name]["fate"] == "neither"]
    unclear += [name for name in others if not judged[name]["p_as_good"] < SIGNIFICANCE]
    if broken or worse:
        parts = [f"{name} collapses" for name in broken] + [f"{name} gains less" for name in worse]
        outcome, reason = "fails", "; ".join(parts)
    elif unclear:
        outcome, reason = "open", f"not decided: {', '.join(dict.fromkeys(unclear))}"
    else:
        outcome, reason = "holds", f"{len(others)} of {len(others)} are as good as {reference}"
    gaps = [mean_interval(found[name].gain - found[reference].gain, len(others)) for name in others]
    worst = min(gaps, key=lambda each: each.value)
    return verdict_of(claim, outcome, rule, reason, effect, worst, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the root before and after, gap closed, spread, rank, fate, n."""
    made = comparison.summary_table(table)
    words = [fate.word for fate in collapse_status(table).values()]
    made.insert(len(made.columns) - 1, "fate", words)
    return made
