"""How good must BYOL's predictor be: trained fast, slowly or never, linear, or set without training?

The usual predictor (Linear, BatchNorm, ReLU, Linear) with rates and weight decays of its own, a
linear one, and linear ones set from the correlation F of their inputs: W_p with the square roots of
F's eigenvalues (DirectPred), or F itself (DirectCopy). Every variant has the learning rate that did best
for it.
"""

from __future__ import annotations

from dualnets.experiments.byol._byol import COMMON, SUMMARY_TABLE, as_good, tuned_scales
from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import Claim

LINEAR, ROOT, COPY = "linear", "linear, set to root of F", "linear, set to F"
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL with a linear predictor set from its inputs' correlation does as well as with a "
            "trained one",
            "arXiv 2102.06810, DirectPred; arXiv 2110.04947, DirectCopy; not in arXiv 2010.00578",
            as_good(LINEAR, (ROOT, COPY)),
        ),
    ),
    summary="BYOL's predictor can be set directly, not trained",
    variants={
        "usual": {},
        "usual, rate x 10": {"predictor_lr": 10.0},
        "usual, rate x 0.1": {"predictor_lr": 0.1},
        "usual, never trained": {"predictor_lr": 0.0},
        "usual, decay x 10": {"predictor_weight_decay": 4e-3},
        "usual, no decay": {"predictor_weight_decay": 0.0},
        LINEAR: {"predictor": "16"},
        ROOT: {"predictor": "direct"},
        COPY: {"predictor": "copy"},
    },
    common=COMMON,
    scales=tuned_scales(steps=500),
    sweep=Sweep(
        "hltm run byol-predictor --seed 1000 --members 8 --steps 250 "
        "--lr 0.001 0.003 0.01 0.03 0.1 0.3 1 3",
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        {
            "usual": (0.534, 0.638, 0.717, 0.777, 0.779, 0.785, 0.782, 0.663),
            "usual, rate x 10": (0.480, 0.591, 0.694, 0.769, 0.793, 0.789, 0.668, 0.541),
            "usual, rate x 0.1": (0.374, 0.556, 0.722, 0.791, 0.793, 0.797, 0.784, 0.689),
            "usual, never trained": (0.193, 0.337, 0.424, 0.526, 0.496, 0.388, -0.012, -0.783),
            "usual, decay x 10": (0.532, 0.636, 0.717, 0.773, 0.780, 0.752, 0.772, 0.643),
            "usual, no decay": (0.533, 0.636, 0.718, 0.775, 0.778, 0.768, 0.767, 0.193),
            LINEAR: (0.438, 0.558, 0.664, 0.723, 0.755, 0.764, 0.415, 0.431),
            ROOT: (0.489, 0.608, 0.692, 0.740, 0.771, 0.757, 0.606, 0.507),
            COPY: (0.510, 0.618, 0.699, 0.740, 0.746, 0.589, 0.420, 0.410),
        },
    ),
    table=SUMMARY_TABLE,
)
