"""Does it matter which contrastive loss it is?

The same networks, trees, samples and number of updates, one contrastive loss after the other, and two
losses that are nothing but pair weights held fixed. Every loss has the learning rate that did best for
it, because losses carry different factors.
"""

from __future__ import annotations

from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import Claim, all_emerge

EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "The latents of a tree emerge whatever the contrastive loss",
            "arXiv 2010.00578, Section 3, Theorems 2-4: one covariance operator behind all losses",
            all_emerge("loss", "losses"),  # the effect is the smallest gap closed
        ),
    ),
    summary="latents emerge whatever the contrastive loss",
    variants={
        "simple": {"loss": "simple"},
        "triplet": {"loss": "triplet"},
        "infonce 1": {"loss": "infonce", "negatives": 1},
        "infonce 4": {"loss": "infonce", "negatives": 4},
        "infonce 16": {"loss": "infonce", "negatives": 16},
        "ntxent": {"loss": "ntxent"},
        "batchwise": {"loss": "batchwise-nce"},
        "spectral": {"loss": "spectral"},
        "weights exp(-r/τ)": {"loss": "exponential"},
        "weights 1/r": {"loss": "inverse-distance"},
    },
    common={"members": 16, "depth": 4, "batch": 64, "steps": 4000, "snapshots": 8},
    scales={
        "smoke": {"depth": 3, "steps": 150, "snapshots": 3},
        "default": {},
        "paper": {"depth": 5, "batch": 128, "members": 30, "steps": 10_000, "snapshots": 12},
    },
    sweep=Sweep(
        "hltm run losses --seed 1000 --members 8 --steps 500 --lr 0.003 0.01 0.03 0.1 0.3 1 3 10 30",
        (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        {
            "simple": (0.429, 0.609, 0.661, 0.637, 0.599, -0.019, -0.093, -0.429, -0.790),
            "triplet": (0.377, 0.553, 0.638, 0.719, 0.739, 0.740, 0.737, 0.711, 0.615),
            "infonce 1": (0.139, 0.243, 0.381, 0.516, 0.621, 0.685, 0.708, 0.726, 0.653),
            "infonce 4": (0.163, 0.294, 0.424, 0.557, 0.659, 0.726, 0.731, 0.410, 0.337),
            "infonce 16": (0.175, 0.312, 0.449, 0.575, 0.669, 0.715, 0.735, 0.389, 0.320),
            "ntxent": (0.179, 0.319, 0.446, 0.589, 0.672, 0.718, 0.716, 0.364, 0.167),
            "batchwise": (0.311, 0.487, 0.591, 0.684, 0.641, 0.372, -0.106, -0.163, -0.232),
            "spectral": (0.394, 0.578, 0.664, 0.727, 0.748, 0.748, 0.731, 0.467, 0.112),
            "weights exp(-r/τ)": (0.083, 0.209, 0.355, 0.516, 0.614, 0.711, 0.750, 0.688, 0.730),
            "weights 1/r": (0.497, 0.628, 0.704, 0.739, 0.764, 0.752, 0.704, 0.685, 0.640),
        },
    ),
)
