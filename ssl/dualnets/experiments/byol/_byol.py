"""What the BYOL experiments share: their settings, when a variant works, and their two rules in words.

Settings: networks of 10 units per latent with biases, output not normalised; projector 10-32-16 and
predictor 16-32-16, each Linear, BatchNorm without gain and shift, ReLU, Linear; cosine losses of both
directions summed; moving average 0.99; SGD at rate 0.03 with momentum 0.9 and weight decay 4e-4 on
everything; batch 128; trees of depth 5 with polarities ± U[0.7, 1] (docs/theory.md,
Section 6).

Alignment without spread is collapse in slow motion, and spread without growing alignment is no
learning, so a variant *works* only if both are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dualnets.lab.experiment import Fixed
from dualnets.lab.rules import COLLAPSED, FEWEST_TREES, SIGNIFICANCE, Deferred, Rule

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


KEPT = 0.9  # "as good as": of the reference's gain in |correlation|
WORKS = (
    "A variant works if over trees the mean best |correlation| of the latents of levels >= 2 grows and "
    f"the embedding's spread ends above {COLLAPSED}, and collapses if the spread ends below (Wilcoxon's "
    f"exact signed-rank tests, one-sided, p < {SIGNIFICANCE} after Bonferroni over the claim's variants; a "
    "spread that is not finite counts as 0)."
)
_VERDICTS = "dualnets.experiments.byol._verdicts"
SUMMARY_TABLE = Deferred(f"{_VERDICTS}:summary_table")


def needed(
    works: Sequence[str],
    short: Mapping[str, str],
    *,
    counterpart: str,
) -> Rule:
    """The rule that some variants work and others fall short of them.

    Args:
        works: variants that must work.
        short: variant that must fall short -> the one of `works` that it is compared with.
        counterpart: which one that is, in words.
    """
    text = (
        f"{WORKS} Holds if {_named(works)} work and each of {_named(short)} falls short: "
        "it does not work, and it collapses or its alignment ends below that of its counterpart "
        f"({counterpart}; paired signed ranks, p < {SIGNIFICANCE} after Bonferroni over these pairs). "
        "Fails if one of the former collapses or one of the latter works; open otherwise, or with fewer "
        f"than {FEWEST_TREES} trees."
    )
    options = {"works": works, "short": short}
    return Rule(text, Deferred(f"{_VERDICTS}:needed", options))


def _named(variants: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in variants)


def as_good(
    reference: str,
    others: Sequence[str],
    *,
    words: str = "",
) -> Rule:
    """The rule that some variants do no worse than a reference.

    Args:
        reference: a variant.
        others: those that must be as good.
        words: which variants they are, in words; by default their names.
    """
    text = (
        f"{WORKS} A variant is as good as `{reference}` if it keeps {KEPT:.0%} of the latter's gain in "
        "mean best |correlation|, both gains from the latter's untrained network (paired signed ranks of "
        f"gain - {KEPT} gain of the latter, p < {SIGNIFICANCE} after Bonferroni over variants compared). "
        f"Holds if `{reference}` works, and "
        f"{words or _named(others)} work and are as good; fails if `{reference}` collapses, or one of the "
        "others collapses or gains less (the same test, turned round); open otherwise, or with fewer than "
        f"{FEWEST_TREES} trees."
    )
    options = {"reference": reference, "others": others}
    return Rule(text, Deferred(f"{_VERDICTS}:as_good", options))


def ends(*names: str) -> Deferred:
    """What must be flat for a claim about these variants: their gap closed and their spread.

    A spread has the scale of a gap, so that the same change of it is allowed.
    """
    return Deferred(f"{_VERDICTS}:ends", {"names": names})
