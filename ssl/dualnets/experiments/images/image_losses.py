"""On pictures, does it matter which contrastive loss it is, and is the covariance operator enough?

As in `losses`: the same networks, pictures, views and number of updates, one loss after the other, on
features of length 1 without a projector, each at the learning rate that did best for it. Two of them hold
their pair weights fixed, so that their update is that of a covariance operator: with weights of the pictures
without augmentation exactly (Theorem 4 as an objective; `pair-weights` has the two on trees), with weights of
the views nearly.

Rates were tried on digits alone, with four networks each. The simple loss and the triplet loss, whose weights
do not favour near negatives, lost accuracy at every rate. Features of length 1 do not depend on the size of
the last weights, which a large rate makes large: from 1 to 100 the rate matters little, but for the weights
of samples, for which the largest rate did best and a larger one may do better.
"""

from __future__ import annotations

from dualnets.experiments.images._pictures import NUMBERS, pictures_ablation
from dualnets.experiments.objectives import losses, pair_weights
from dualnets.lab.ablation import Sweep, Variants
from dualnets.lab.rules import NETWORKS, Claim, all_emerge, claim_title

COVARIANCE: Variants = {
    name: {"loss": "covariance", **own}
    for name, own in ((pair_weights.VIEWS, {}), (pair_weights.SAMPLES, {"weights_from": "samples"}))
}
MARGIN: Variants = {"simple": {"loss": "simple"}, "triplet": {"loss": "triplet"}}
SOFTMAX: Variants = {
    "infonce 1": {"loss": "infonce", "negatives": 1},
    "infonce 4": {"loss": "infonce", "negatives": 4},
    "ntxent": {"loss": "ntxent"},
}
EXPERIMENT = pictures_ablation(
    __name__,
    claims=(
        *(
            Claim(
                f"On pictures, features emerge with losses that weigh pairs by {what}",
                losses.EXPERIMENT.claims[0].reference,
                all_emerge("loss", "losses", members=NETWORKS),
                name,
                about=tuple(own),
                members=NETWORKS,
                partner=claim_title(losses.EXPERIMENT.name, ""),
            )
            for name, what, own in (
                ("softmax", "a softmax: InfoNCE and NT-Xent", SOFTMAX),
                ("margin", "a constant or a margin: the simple and the triplet loss", MARGIN),
            )
        ),
        Claim(
            "On pictures, features emerge by the covariance operator alone: with fixed weights of views or "
            "of pictures without augmentation",
            pair_weights.EXPERIMENT.claims[0].reference,
            all_emerge("weighting", "weightings", members=NETWORKS),
            "covariance",
            about=tuple(COVARIANCE),
            members=NETWORKS,
            partner=claim_title(pair_weights.EXPERIMENT.name, "emerge"),
        ),
    ),
    summary="on pictures: features emerge whatever the loss",
    variants={**MARGIN, **SOFTMAX, **COVARIANCE},
    method="simclr",
    common={"projector": "none", "normalize": True, "momentum": 0.0, "weight_decay": 0.0},
    default={"steps": 2600},
    fashion={"steps": 700},
    sweep=Sweep(
        "hltm run image-losses --seed 1000 --members 4 --steps 1600 --snapshots 3 --lr 0.01 0.1 1 10 100",
        (0.01, 0.1, 1.0, 10.0, 100.0),
        {
            "simple": (-3.000, -2.417, -3.058, -2.988, -4.340),
            "triplet": (-2.641, -2.710, -1.695, -1.753, -1.927),
            "infonce 1": (0.236, 0.463, 0.602, 0.680, 0.579),
            "infonce 4": (0.371, 0.548, 0.583, 0.560, 0.602),
            "ntxent": (0.494, 0.606, 0.637, 0.598, 0.614),
            "weights of views": (-0.027, 0.208, 0.371, 0.517, 0.521),
            "weights of samples": (-0.232, -0.344, -0.239, -0.151, 0.023),
        },
    ),
    table=NUMBERS,
)
