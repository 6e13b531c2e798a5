"""Does training by the covariance operator itself make latents emerge, and what does an intra-pair term do?

The authors' code tests Theorem 4 by an objective whose pair weights are held fixed, so that its update is the
covariance operator's: weights of the views' distances or, since then the theorem is exact, of the samples'
without augmentation. It also has a term β that attracts the two views of a sample more (β > 0) or less than
the loss does (docs/theory.md, Equations 3.6 and 3.10). Both are compared here with the losses without them.
"""

from __future__ import annotations

from typing import Any

from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, Claim, Deferred, Rule, all_emerge

_VIEWS: dict[str, Any] = {"loss": "covariance"}
_SAMPLES: dict[str, Any] = {"loss": "covariance", "weights_from": "samples"}
VIEWS, SAMPLES = "weights of views", "weights of samples"
MORE, LESS = f"{SAMPLES}, β = 0.5", f"{SAMPLES}, β = -0.5"
_WEIGHTS, _TERMS = (SAMPLES, VIEWS), (MORE, SAMPLES, LESS)
_CODE = "dualnets.experiments.objectives._pair_weights"
_DIFFERENCE = "of gap closed on the levels >= 2, on the same trees (ratios of means, 95% interval"


EQUAL = Rule(
    f"{SAMPLES.capitalize()} less {VIEWS}: the difference {_DIFFERENCE}). Holds if it lies within "
    f"±{NEGLIGIBLE} with its whole interval, fails if it lies outside with its whole interval, and is open "
    f"otherwise, or with fewer than {FEWEST_TREES} trees.",
    Deferred(f"{_CODE}:as_good"),
)
ATTRACTION = Rule(
    f"With {SAMPLES}, β = 0.5 less 0 and 0 less β = -0.5: both differences {_DIFFERENCE}s, both at once). "
    "Holds if both are above 0 with their whole intervals, fails if both are below 0, and is open otherwise, "
    f"or with fewer than {FEWEST_TREES} trees.",
    Deferred(f"{_CODE}:attraction_helps"),
)

EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "Latents emerge by the covariance operator alone: with fixed weights of views or of samples",
            "arXiv 2010.00578, Theorem 4 (the authors' code: exact covariance objective)",
            all_emerge("weighting", "weightings"),
            "emerge",
            about=_WEIGHTS,
        ),
        Claim(
            "Weights of samples without augmentation, with which Theorem 4 is exact, do as well as weights "
            "of views",
            "ours: the authors' code has both",
            EQUAL,
            "samples",
            Deferred(f"{_CODE}:gaps", {"compared": _WEIGHTS}),
            _WEIGHTS,
        ),
        Claim(
            "With weights of samples, more attraction within pairs than the loss has helps latents to emerge",
            "ours: the authors' code has the term with either sign",
            ATTRACTION,
            "attraction",
            Deferred(f"{_CODE}:gaps", {"compared": _TERMS}),
            _TERMS,
        ),
    ),
    summary="fixed pair weights and an intra-pair term",
    variants={
        "ntxent": {"loss": "ntxent"},
        "ntxent, β = 0.5": {"loss": "ntxent", "intra_pair": 0.5},
        "batch-wise": {"loss": "batchwise-nce"},
        "batch-wise, β = 0.5": {"loss": "batchwise-nce", "intra_pair": 0.5},
        VIEWS: _VIEWS,
        SAMPLES: _SAMPLES,
        MORE: {**_SAMPLES, "intra_pair": 0.5},
        LESS: {**_SAMPLES, "intra_pair": -0.5},
    },
    common={"members": 12, "depth": 4, "batch": 64, "steps": 2000, "snapshots": 6},
    scales={
        "smoke": {"depth": 3, "steps": 50, "snapshots": 3},
        "default": {},
        "paper": {"depth": 5, "batch": 128, "members": 30, "steps": 10_000, "snapshots": 12},
    },
    sweep=Sweep(
        "hltm run pair-weights --seed 1000 --members 4 --steps 500 --lr 0.03 0.1 0.3 1 3 10 30",
        (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        {
            "ntxent": (0.362, 0.537, 0.647, 0.723, 0.700, -0.027, 0.008),
            "ntxent, β = 0.5": (0.306, 0.491, 0.446, 0.267, 0.101, -0.395, -0.388),
            "batch-wise": (0.541, 0.640, 0.673, 0.145, 0.486, -0.427, -0.162),
            "batch-wise, β = 0.5": (0.230, 0.241, 0.225, 0.036, -0.203, -0.501, -0.613),
            VIEWS: (0.226, 0.368, 0.529, 0.669, 0.722, 0.762, 0.746),
            SAMPLES: (0.239, 0.367, 0.480, 0.579, 0.033, -0.154, -0.107),
            MORE: (0.293, 0.482, 0.602, 0.708, 0.741, 0.406, 0.068),
            LESS: (-0.009, -0.206, -0.125, 0.132, -0.140, -0.092, -0.523),
        },
    ),
)
