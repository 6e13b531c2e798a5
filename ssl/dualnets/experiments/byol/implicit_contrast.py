"""Does BatchNorm's implicit contrastive term push BYOL where contrast would, and decide what survives?

Let the gradient through a subtracted batch mean pass, or be stopped: the forward pass is the same, and the
difference of the two updates of the network, -E[K] E[g], is the term (docs/theory.md, Equation 6.3). Contrast
would move the network along the covariance operator's update Cov_x[Kbar, fbar], with Kbar and fbar averaged
over views: uphill in the variance of its outputs between samples. All along training, for every variant of
BatchNorm in the heads, this measures how large the term is in the update, how far it and the rest of the
update point along the operator's, and how far each makes the embedding's spread grow.

Found (12 trees, 500 updates): the term is some ten times as long as the update and cancels most of the
rest. That it points along the operator's update is not shown (0.31 [-0.04, 0.66] of the update's length
with BatchNorm as it is), nor that it predicts what survives: without it the update points along the
operator's no less (0.29 [0.22, 0.35] with both parts stopped), while spread is lost within ten updates.
"""

from __future__ import annotations

from dualnets.experiments.byol._byol import COMMON, WORKS, tuned_scales
from dualnets.experiments.byol.byol_batchnorm import VARIANTS
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule

CODE = "dualnets.experiments.byol._implicit_contrast"
EARLY = 0.05  # of all updates: before the variants' spreads part
RULE = (
    f"{WORKS} Early: the mean over snapshots in the first {EARLY:.0%} of the updates. A tree's score is "
    "the share of pairs (a variant that works, one that does not) in which the former's term points "
    "further along the operator's update, ties counting half. Holds if over trees the score is above 1/2 "
    "and, for every variant that works, the term early points along the operator's update (signed ranks, "
    f"one-sided, p < {SIGNIFICANCE}, the latter after Bonferroni over these variants); fails if one of "
    "them is below (the same tests, turned round); open otherwise, if all variants work or none, or with "
    f"fewer than {FEWEST_TREES} trees."
)
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            (
                "BatchNorm's implicit contrastive term points along the covariance operator's update, "
                "and how far it does early on tells which variants of BYOL survive"
            ),
            "arXiv 2010.00578, BYOL: BatchNorm's mean as an implicit contrastive term",
            Rule(RULE, Deferred(f"{CODE}:judge")),
        ),
    ),
    summary="BatchNorm's implicit contrast predicts what survives",
    variants=VARIANTS,
    common=COMMON,
    scales=tuned_scales(500),
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.byol._implicit_contrast_figure:draw"),
    code=CODE,
)
