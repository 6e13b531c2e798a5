"""Does BYOL need normalised outputs in its loss, or will the squared distance of the outputs do?

The theory of BYOL's update is about the squared distance 1/2 |p(z_1) - z_2|² of prediction and target as they
are; BYOL itself compares directions, 2 - 2 cos. Nothing in the squared distance keeps the outputs from
shrinking to a point, so it is also asked whether predictor and BatchNorm are needed with it as without.
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

COSINE, SQUARED = "cosine", "squared distance"
RAW: dict[str, Any] = {"normalized_loss": False}
WITHOUT: dict[str, dict[str, Any]] = {
    f"{SQUARED}, no BN": {**RAW, "head_norm": "none"},
    f"{SQUARED}, no predictor": {**RAW, "predictor": "none"},
}
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL learns as well if its loss compares the outputs as they are, not their directions",
            "arXiv 2010.00578, BYOL (the versions of 2020): its theory is about this loss; against arXiv "
            "2006.07733, which normalises",
            as_good(COSINE, (SQUARED,)),
            name="squared",
            plateau=ends(COSINE, SQUARED),
        ),
        Claim(
            "Without normalised outputs in the loss, too, BYOL needs its predictor and BatchNorm",
            "ours: for the loss of the theory in arXiv 2010.00578, BYOL (the versions of 2020)",
            needed((SQUARED,), dict.fromkeys(WITHOUT, SQUARED), counterpart=f"`{SQUARED}`"),
            name="needs",
            plateau=ends(SQUARED, *WITHOUT),
        ),
    ),
    summary="BYOL's loss may compare outputs that aren't normalised",
    variants={COSINE: {}, SQUARED: RAW, **WITHOUT},
    common=COMMON,
    scales=flat_scales(depth=4, steps=4000, long={"steps": 20_000}),
    table=SUMMARY_TABLE,
)
