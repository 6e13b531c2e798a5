"""What must BYOL's target be: a slow copy, any copy, a fixed random network, itself?

The target is a moving average of the online network, a hard copy renewed now and then, a fixed random
network, or the online network itself; all have BatchNorm and a predictor, and no gradient reaches the
target, except in the last variant, whose gradient flows through both branches.

All variants but the last have one learning rate: higher ones learn sooner and lose again later what they
have learned, some of them all of it. The last one has the rate at which it did best.
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

USUAL, RANDOM, ITSELF, WITH_GRADIENT = "average 0.99", "random", "itself", "itself, with gradient"
MOVING: dict[str, dict[str, Any]] = {
    "average 0.9": {"ema_decay": 0.9},
    "average 0.999": {"ema_decay": 0.999},
    "copy every 10": {"target": "copy", "copy_every": 10},
    "copy every 100": {"target": "copy", "copy_every": 100},
}
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "No gradient may reach BYOL's target",
            "arXiv 2011.10566, the stopped gradient; for linear networks arXiv 2102.06810, Theorem 2",
            needed((ITSELF,), (WITH_GRADIENT,)),
            name="gradient",
            plateau=ENDS,
            about=(ITSELF, WITH_GRADIENT),
        ),
        Claim(
            "BYOL's target may be the online network itself",
            f"arXiv 2011.10566, SimSiam; {EARLIER}: the moving average is not needed",
            as_good(USUAL, (ITSELF,)),
            name="itself",
            plateau=ENDS,
            about=(USUAL, ITSELF),
        ),
        Claim(
            "Averages of other rates and hard copies do as well as the usual average",
            "ours: arXiv 2006.07733 varies the rate of averages, with some loss on images",
            as_good(USUAL, tuple(MOVING)),
            name="rate",
            plateau=ENDS,
            about=(USUAL, *MOVING),
        ),
        Claim(
            "A fixed random network does as well as a moving target",
            "ours: arXiv 2006.07733 finds that features emerge with it, but fewer",
            as_good(USUAL, (RANDOM,)),
            name="random",
            plateau=ENDS,
            about=(USUAL, RANDOM),
        ),
    ),
    summary="BYOL's target may be itself, if no gradient reaches it",
    variants={
        USUAL: {},
        **MOVING,
        RANDOM: {"target": "random"},
        ITSELF: {"target": "online"},
        WITH_GRADIENT: {"target": "online", "stop_gradient": False, "lr": 0.003},
    },
    common=COMMON,
    scales=flat_scales(steps=8000),
    table=SUMMARY_TABLE,
)
