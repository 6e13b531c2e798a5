"""How good must BYOL's predictor be: trained fast, slowly or never, linear, set, or begun small or large?

The usual predictor (Linear, BatchNorm, ReLU, Linear) with rates and weight decays of its own or with other
ranges of its initial weights, a linear one, and linear ones set from the correlation F of their inputs: W_p
with the square roots of F's eigenvalues (DirectPred), or F itself (DirectCopy).

All are trained with one learning rate until their curves are flat, where the rate does not matter any more; a
rate tuned for a few hundred updates is too high for thousands, in which the features are lost again. With the
cosine loss and BatchNorm the range of the weights leaves the predictions as they are and divides the
predictor's effective rate by its square, so it is a matter of speed first: with a hundred times the usual
weights the predictor is hardly trained. The claim's range, x 0.1 to x 10, was chosen after a pilot on other
trees had shown as much; x 0.01 and x 100 stand beside it.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.byol._byol import COMMON, ENDS, SUMMARY_TABLE, as_good, flat_scales
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import Claim

USUAL, LINEAR, ROOT, COPY = "usual", "linear", "linear, set to root of F", "linear, set to F"


def _ranges(*scales: float) -> dict[str, dict[str, Any]]:
    """Variants whose predictor starts with so many times the usual weights."""
    return {f"usual, weights x {scale:g}": {"predictor_scale": scale} for scale in scales}


RANGES, EXTREMES = _ranges(0.1, 10.0), _ranges(0.01, 100.0)
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL with a linear predictor set from its inputs' correlation does as well as with a "
            "trained one",
            "arXiv 2102.06810, DirectPred; arXiv 2110.04947, DirectCopy",
            as_good(LINEAR, (ROOT, COPY)),
            name="direct",
            plateau=ENDS,
            about=(LINEAR, ROOT, COPY),
        ),
        Claim(
            "BYOL learns as well with initial weights of the predictor x 0.1 or x 10",
            "ours: the range was chosen after a pilot; the authors' code has such ranges as an option",
            as_good(USUAL, tuple(RANGES)),
            name="range",
            plateau=ENDS,
            about=(USUAL, *RANGES),
        ),
    ),
    summary="BYOL's predictor can be set directly, not trained",
    variants={
        USUAL: {},
        "usual, rate x 10": {"predictor_lr": 10.0},
        "usual, rate x 0.1": {"predictor_lr": 0.1},
        "usual, never trained": {"predictor_lr": 0.0},
        "usual, decay x 10": {"predictor_weight_decay": 4e-3},
        "usual, no decay": {"predictor_weight_decay": 0.0},
        **RANGES,
        **EXTREMES,
        LINEAR: {"predictor": "16"},
        ROOT: {"predictor": "direct"},
        COPY: {"predictor": "copy"},
    },
    common=COMMON,
    scales=flat_scales(depth=4, steps=2000),
    table=SUMMARY_TABLE,
)
