"""Does BYOL with BatchNorm move the network where contrast would, and does that decide what survives?

Contrast would move the network along the update of the covariance operator, Cov_x[Kbar, fbar], with Kbar and
fbar averaged over views: uphill in the variance between samples. BYOL's loss compares unit projections,
z / |z| with z the projector's output, so f are these here and K their connection. Of every variant of
BatchNorm in the heads this measures the cosine of BYOL's update of the network with that of the operator, on
the same samples, in float64.

The gradient through a subtracted batch mean can be stopped: the forward pass is the same, and the difference
of the two updates, -E[K] E[g], is the implicit contrastive term (docs/theory.md, Equation 6.3). The cosine is
the sum of two parts, the projections of the term and of the rest of the update on the operator's direction,
both over the update's length.

The measure was chosen on seed 0 and confirmed on seed 1, so seeds 2 and 3 decide, with the trees of both.
Which variants are ahead was fixed before: those with which features emerge at once (`byol_batchnorm`). With
the deviation alone they emerge, too, but only after some 1000 updates.
"""

from __future__ import annotations

from dualnets.experiments.byol._byol import COMMON, WORKS, flat_scales
from dualnets.experiments.byol.byol_batchnorm import VARIANTS
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule

CODE = "dualnets.experiments.byol._implicit_contrast"
EARLY = 25  # updates: before the variants' spreads part
AHEAD = ("mean, std", "mean, std (stop)")


def _rule(metric: str, words: str, again: str = "") -> Rule:
    """That what is measured early as `metric` puts the variants AHEAD before the others."""
    text = (
        f"Early: the mean over snapshots in the first {EARLY} updates. A tree's score is the share of pairs "
        f"(one of `{'` and `'.join(AHEAD)}`, one of the other variants) in which {words} of the former is "
        f"larger, ties counting half; an update or an operator without a direction counts as 0. {WORKS} "
        f"Holds if over trees the score is above 1/2 (signed ranks, one-sided, p < {SIGNIFICANCE}), fails "
        "if it is below (the same test, turned round); open otherwise, if one of the former does not work, "
        f"or with fewer than {FEWEST_TREES} trees."
    )
    options = {"metric": metric, "again": again, "ahead": AHEAD}
    return Rule(text, Deferred(f"{CODE}:judge", options))


# 625 = 25 ** 2: an even logarithmic spacing then has a snapshot after 25 updates
SCALES = flat_scales(depth=4, steps=625, snapshots=8)
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "How far BYOL's update points early on along the covariance operator's update distinguishes the "
            "variants of BatchNorm with which features emerge at once from the others",
            "arXiv 2010.00578, BYOL (the versions of 2020): with BatchNorm's mean the update approximates "
            "the covariance operator's; the measure is ours",
            _rule("cosine", "the cosine of the update", again="cosine_again"),
            name="update",
            plateau=None,  # about the first updates
        ),
        Claim(
            "The implicit contrastive term alone distinguishes them: its part of the update's cosine with "
            "the covariance operator's",
            "ours: arXiv 2010.00578, BYOL (the versions of 2020), derives the term and does not measure it",
            _rule("term_along", "the term's part"),
            name="term",
            plateau=None,
        ),
    ),
    summary="BYOL's early update distinguishes what emerges at once",
    variants=VARIANTS,
    common={**COMMON, "seed": [2, 3]},
    scales={**SCALES, "smoke": {**SCALES["smoke"], "seed": 2}},
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.byol._implicit_contrast_figure:draw"),
    code=CODE,
    result_version=2,
)
