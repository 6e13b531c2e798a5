"""Which part of BatchNorm keeps BYOL from collapsing, in which pass, and where must it stand?

BatchNorm subtracts a mean and divides by a deviation; each part is on, off, or on without gradient
(stop), which makes nine combinations. If the gradient goes through the mean, the gradient g_i of sample i
above the norm arrives below it as g_i - mean_j g_j, a covariance over the batch: an implicit contrastive
term. If so, stopping that gradient alone must bring the collapse back, although the forward pass stays the
same.

The term arises wherever a batch mean is subtracted (docs/theory.md, Section 6), so BatchNorm also stands at
the inputs of both heads or inside the network instead of in the heads' hidden layers, in both, and in the
heads with a trained gain and shift.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.byol._byol import (
    COMMON,
    SUMMARY_TABLE,
    as_good,
    ends,
    flat_scales,
    needed,
)
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import Claim

# the experiment `implicit_contrast` has these, by a rule that was fixed for them
VARIANTS: dict[str, dict[str, Any]] = {
    "no part": {"head_norm": "none"},
    "mean": {"head_norm_std": "off"},
    "mean (stop)": {"head_norm_mean": "stop", "head_norm_std": "off"},
    "std": {"head_norm_mean": "off"},
    "mean, std": {},
    "mean, std (stop)": {"head_norm_std": "stop"},
    "mean (stop), std": {"head_norm_mean": "stop"},
    "mean (stop), std (stop)": {"head_norm_mean": "stop", "head_norm_std": "stop"},
}
NINTH: dict[str, dict[str, Any]] = {
    "std (stop)": {"head_norm_mean": "off", "head_norm_std": "stop"}
}
ELSEWHERE: dict[str, dict[str, Any]] = {
    "at the heads' inputs": {"head_norm": "none", "head_input_norm": "batch"},
    "in the network": {"head_norm": "none", "network_norm": "batch"},
    "in heads and network": {"network_norm": "batch"},
    "with gain and shift": {"head_norm_affine": True},
}
WHOLE, WITHOUT_STD = "mean, std", "mean, std (stop)"
ALONE = ("mean", "std", "std (stop)")
PARTS = (
    "arXiv 2010.00578, BYOL (the versions of 2020): the table of BatchNorm's mean and deviation, with and "
    "without gradient"
)
TERM = "ours: the term of arXiv 2010.00578, BYOL, arises wherever a batch mean is subtracted"
OURS = "ours: not in arXiv 2010.00578"
PLACES = [
    (
        "at the heads' inputs",
        "inputs",
        "BYOL does as well with BatchNorm at the heads' inputs as in their hidden layers",
        TERM,
    ),
    (
        "in the network",
        "network",
        "BYOL does as well with BatchNorm in the network alone as in the heads' hidden layers",
        TERM,
    ),
    (
        "in heads and network",
        "both",
        "BYOL does as well with BatchNorm in the network besides the heads",
        OURS,
    ),
    (
        "with gain and shift",
        "affine",
        "BYOL does as well where BatchNorm has a trained gain and shift",
        OURS,
    ),
]
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "What BatchNorm does for BYOL is done by the gradient through its mean",
            PARTS,
            needed(
                (WHOLE, WITHOUT_STD),
                {"mean (stop), std": WHOLE, "mean (stop), std (stop)": WITHOUT_STD},
                counterpart="of the former, the one with the same std",
            ),
            name="mean",
            plateau=ends(WHOLE, WITHOUT_STD, "mean (stop), std", "mean (stop), std (stop)"),
        ),
        Claim(
            "BYOL needs no gradient through BatchNorm's deviation",
            PARTS,
            as_good(WHOLE, (WITHOUT_STD,)),
            name="deviation",
            plateau=ends(WHOLE, WITHOUT_STD),
        ),
        Claim(
            "Neither the mean alone nor the deviation alone is enough for BYOL",
            "ours: arXiv 2010.00578, BYOL (the versions of 2020), has the variants and makes no such claim",
            needed(
                (WHOLE,),
                dict.fromkeys(ALONE, WHOLE),
                counterpart=f"`{WHOLE}`",
            ),
            name="alone",
            plateau=ends(WHOLE, *ALONE),
        ),
        *(
            Claim(text, reference, as_good(WHOLE, (variant,)), name, ends(WHOLE, variant))
            for variant, name, text, reference in PLACES
        ),
    ),
    summary="BatchNorm saves BYOL by the gradient through its mean",
    variants={**VARIANTS, **NINTH, **ELSEWHERE},
    common=COMMON,
    scales=flat_scales(steps=5000, long={"steps": 30_000}),
    table=SUMMARY_TABLE,
)
