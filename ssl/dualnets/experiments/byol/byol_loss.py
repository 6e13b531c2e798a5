"""Does BYOL need normalised outputs in its loss, or will the squared distance of the outputs do?

The theory of BYOL's update is about the squared distance 1/2 |p(z_1) - z_2|² of prediction and target as they
are; BYOL itself compares directions, 2 - 2 cos. Nothing in the squared distance keeps the outputs from
shrinking to a point, so it is also asked whether predictor and BatchNorm are needed with it as without.
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

COSINE, SQUARED = "cosine", "squared distance"
RAW: dict[str, Any] = {"normalized_loss": False}
NO_NORM, NO_PREDICTOR = f"{SQUARED}, no BN", f"{SQUARED}, no predictor"
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL learns as well if its loss compares the outputs as they are, not their directions",
            f"{EARLIER}: the loss of its theory; the authors' code has it as an option",
            as_good(COSINE, (SQUARED,)),
            name="squared",
            plateau=ENDS,
            about=(COSINE, SQUARED),
        ),
        *(
            Claim(
                f"Without normalised outputs in the loss, too, BYOL needs {part}",
                f"ours: for the loss of the theory in {EARLIER}",
                needed((SQUARED,), (short,)),
                name=name,
                plateau=ENDS,
                about=(SQUARED, short),
            )
            for name, part, short in (
                ("norm", "BatchNorm", NO_NORM),
                ("predictor", "its predictor", NO_PREDICTOR),
            )
        ),
    ),
    summary="BYOL's loss may compare outputs that aren't normalised",
    variants={
        COSINE: {},
        SQUARED: RAW,
        NO_NORM: {**RAW, "head_norm": "none"},
        NO_PREDICTOR: {**RAW, "predictor": "none"},
    },
    common=COMMON,
    scales=flat_scales(depth=4, steps=4000, long={"steps": 20_000}),
    table=SUMMARY_TABLE,
)
