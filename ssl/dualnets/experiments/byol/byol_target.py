"""What must BYOL's target be: a slow copy, any copy, a fixed random network, itself?

The target is a moving average of the online network, a hard copy renewed now and then, a fixed random
network, or the online network itself; all have BatchNorm and a predictor, and no gradient reaches the
target, except in the last variant, whose gradient flows through both branches. Every variant has the
learning rate that did best for it.
"""

from __future__ import annotations

from dualnets.experiments.byol._byol import COMMON, SUMMARY_TABLE, needed, tuned_scales
from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import Claim

ITSELF, WITH_GRADIENT = "itself", "itself, with gradient"
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL's target may be slow or the online network itself, but no gradient may reach it",
            "arXiv 2006.07733, targets and their rates; arXiv 2011.10566, the stopped gradient",
            needed(("average 0.99", ITSELF), {WITH_GRADIENT: ITSELF}, counterpart=f"`{ITSELF}`"),
        ),
    ),
    summary="BYOL's target may be itself, if no gradient reaches it",
    variants={
        "average 0.9": {"ema_decay": 0.9},
        "average 0.99": {},
        "average 0.999": {"ema_decay": 0.999},
        "copy every 10": {"target": "copy", "copy_every": 10},
        "copy every 100": {"target": "copy", "copy_every": 100},
        "random": {"target": "random"},
        ITSELF: {"target": "online"},
        WITH_GRADIENT: {"target": "online", "stop_gradient": False},
    },
    common=COMMON,
    scales=tuned_scales(steps=500),
    sweep=Sweep(
        "hltm run byol-target --seed 1000 --members 8 --steps 250 --lr 0.001 0.003 0.01 0.03 0.1 0.3 1 3",
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        {
            "average 0.9": (0.539, 0.644, 0.744, 0.786, 0.782, 0.776, 0.625, 0.433),
            "average 0.99": (0.534, 0.638, 0.717, 0.777, 0.779, 0.785, 0.782, 0.663),
            "average 0.999": (0.473, 0.595, 0.677, 0.752, 0.766, 0.791, 0.797, 0.685),
            "copy every 10": (0.522, 0.637, 0.750, 0.786, 0.796, 0.789, 0.652, 0.306),
            "copy every 100": (0.537, 0.629, 0.718, 0.771, 0.778, 0.775, 0.772, 0.459),
            "random": (0.455, 0.562, 0.641, 0.726, 0.743, 0.780, 0.774, 0.670),
            ITSELF: (0.533, 0.658, 0.732, 0.785, 0.794, 0.790, 0.713, 0.281),
            WITH_GRADIENT: (0.165, 0.193, 0.141, 0.077, 0.071, 0.007, -0.081, -0.216),
        },
    ),
    table=SUMMARY_TABLE,
)
