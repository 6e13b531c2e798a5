"""What the BYOL experiments share: their settings, when a variant works, and their rules in words.

Settings: networks of 10 units per latent with biases, output not normalised; projector 10-32-16 and
predictor 16-32-16, each Linear, BatchNorm without gain and shift, ReLU, Linear; cosine losses of both
directions summed; moving average 0.99; SGD at rate 0.03 with momentum 0.9 and weight decay 4e-4 on
everything; batch 128; trees of depth 5 with polarities ± U[0.7, 1] (docs/theory.md,
Section 6).

Alignment without spread is collapse in slow motion, and spread without alignment is no learning, so a
variant *works* only if both are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dualnets.lab.experiment import Fixed
from dualnets.lab.rules import (
    COLLAPSED,
    NEGLIGIBLE,
    SIGNIFICANCE,
    TREES,
    Deferred,
    Members,
    Rule,
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


def flat_scales(*, long: Mapping[str, Any] | None = None, **default: Any) -> dict[str, Any]:
    """The scales of an experiment about the end of training, with more than the fewest trees by default.

    A few trees that diverge or collapse then leave enough for a verdict.

    Args:
        long: settings of a scale `long`, where they are not the default's; None for no such scale.
        **default: settings of the default scale, `steps` among them.
    """
    default = {"members": 16, "snapshots": 16, **default}
    longer = {"long": {**default, **long}} if long else {}
    paper = {**PAPER, "steps": max(PAPER["steps"], default["steps"])}
    return {"smoke": SMOKE, "default": default, **longer, "paper": paper}


KEPT, LESS = 0.9, 0.5  # of a gain in mean best |correlation|: as good as it, most of it is lost
# We could not read these versions; the authors' code is github.com/facebookresearch/luckmatters
EARLIER = "arXiv 2010.00578 on BYOL (earlier versions, by our notes)"


def works_text(members: Members = TREES) -> str:
    """When a variant works, in words."""
    return (
        f"A variant works if the 95% interval over {members.of} of the gap closed ({members.gap}) lies above "
        f"{NEGLIGIBLE} and that of the embedding's mean spread above {COLLAPSED}; it does not work if one of "
        f"them lies below (all intervals of the claim's variants at once; a {members.one} that diverged "
        "closes nothing and has no spread)."
    )


WORKS = works_text()
_VERDICTS = "dualnets.experiments.byol._verdicts"
ENDS = Deferred(f"{_VERDICTS}:ends")  # gap closed and spread: what must be flat
_TIMES = "dualnets.experiments.byol._times"
SUMMARY_TABLE = Deferred(f"{_VERDICTS}:summary_table")


def table_of_times(**options: Any) -> Deferred:
    """The short table with times to half of the gap."""
    return Deferred(f"{_TIMES}:summary_table", options)


def needed(
    works: Sequence[str], short: Sequence[str], *, at_all: bool = False, members: Members = TREES
) -> Rule:
    """The rule that some variants work and others fall short of them.

    Args:
        works: variants that must work.
        short: variants that must fall short.
        at_all: whether these must be shown not to work; else that they lose most of the gain is enough.
        members: what the members are.
    """
    lost = (
        f" or keeps less than {LESS:.0%} of the gain of each of the former ({members.test} of gain - "
        f"{LESS} gain of the former, one-sided, p < {SIGNIFICANCE} after Bonferroni over the latter)"
    )
    text = (
        f"{works_text(members)} Holds if each of {_named(works)} works and each of {_named(short)} is shown "
        f"not to work{'' if at_all else lost}; fails if one of the latter works; open otherwise, "
        f"{_few(members)}"
    )
    options = {"works": works, "short": short, "at_all": at_all, **_of(members)}
    return Rule(text, Deferred(f"{_VERDICTS}:needed", options))


def as_good(reference: str, others: Sequence[str], *, members: Members = TREES) -> Rule:
    """The rule that some variants do no worse than a reference."""
    text = (
        f"{works_text(members)} A variant is as good as `{reference}` if it keeps {KEPT:.0%} of the "
        f"latter's gain in {members.score}, both gains from the latter's untrained network "
        f"({members.test} of gain - {KEPT} gain of the latter, p < {SIGNIFICANCE} after Bonferroni over "
        "variants compared). "
        f"Holds if `{reference}` works, and {_named(others)} work and are as good; fails if `{reference}` "
        "works and one of the others does not, or gains less (the same test, turned round); open otherwise, "
        f"{_few(members)}"
    )
    options = {"reference": reference, "others": others, **_of(members)}
    return Rule(text, Deferred(f"{_VERDICTS}:as_good", options))


def sooner(reference: str, others: Sequence[str]) -> Rule:
    """The rule that half of the gap is closed for good sooner with a reference than with others."""
    text = (
        "A tree's time: updates from which on the mean best |correlation| of its latents of levels >= 2 "
        "keeps half of the gap between untrained network and ceiling closed; a tree that has lost it again, "
        "or never got there, by the last update is later than all others. Holds if times are later with "
        f"{_named(others)}, each, than with `{reference}` (exact paired signed ranks of the logarithm, "
        f"one-sided, p < {SIGNIFICANCE} after Bonferroni; pairs of two without a time are left out); fails "
        "if with one of them they are sooner (the same test, turned round); open otherwise, "
        f"{_few(TREES)}"
    )
    return Rule(text, Deferred(f"{_TIMES}:sooner", {"reference": reference, "others": others}))


def ends_unless(*names: str) -> Deferred:
    """As ENDS, for a claim that these variants never work: one that does refutes it, flat or not."""
    return Deferred(f"{_VERDICTS}:ends", {"unless": names})


def _few(members: Members) -> str:
    return f"or with fewer than {members.fewest} {members.of}."


def _of(members: Members) -> dict[str, Any]:
    """The option of a rule that is not about trees."""
    return {} if members is TREES else {"members": members}


def _named(variants: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in variants)
