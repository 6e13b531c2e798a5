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
    EARLIER,
    ENDS,
    SUMMARY_TABLE,
    as_good,
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
STOPPED = ("mean (stop), std", "mean (stop), std (stop)")
ALONE = {"mean": ("mean",), "deviation": ("std", "std (stop)")}
PARTS = f"{EARLIER}; the authors' code has mean and deviation with and without gradient as options"
OURS = "ours; the authors' code has it as an option"
PLACES = {
    "inputs": ("at the heads' inputs", "at the heads' inputs as in their hidden layers", OURS),
    "network": ("in the network", "in the network alone as in the heads' hidden layers", "ours"),
    "both": ("in heads and network", "in the network besides the heads as in the heads", "ours"),
    "affine": ("with gain and shift", "that has a trained gain and shift as without", OURS),
}
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "Where BatchNorm subtracts a mean, BYOL needs the gradient through it",
            PARTS,
            needed((WHOLE, WITHOUT_STD), STOPPED),
            "mean",
            ENDS,
            (WHOLE, WITHOUT_STD, *STOPPED),
        ),
        Claim(
            "BYOL needs no gradient through BatchNorm's deviation",
            PARTS,
            as_good(WHOLE, (WITHOUT_STD,)),
            "deviation",
            ENDS,
            (WHOLE, WITHOUT_STD),
        ),
        *(
            Claim(
                f"BatchNorm's {part} alone is not enough for BYOL",
                "ours; the authors' code has the variants as options",
                needed((WHOLE,), short),
                f"{part} alone",
                ENDS,
                (WHOLE, *short),
            )
            for part, short in ALONE.items()
        ),
        *(
            Claim(
                f"BYOL does as well with BatchNorm {where}",
                reference,
                as_good(WHOLE, (variant,)),
                name,
                ENDS,
                (WHOLE, variant),
            )
            for name, (variant, where, reference) in PLACES.items()
        ),
    ),
    summary="BYOL needs the gradient through BatchNorm's mean",
    variants={**VARIANTS, **NINTH, **ELSEWHERE},
    common=COMMON,
    scales=flat_scales(steps=5000, long={"steps": 30_000}),
    table=SUMMARY_TABLE,
)
