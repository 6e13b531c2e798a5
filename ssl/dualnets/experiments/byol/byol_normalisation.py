"""Does BYOL need BatchNorm's implicit contrastive term, or is any normalisation only slower?

BatchNorm in the heads is replaced by norms that use one sample at a time: LayerNorm, GroupNorm with
standardised weights, standardised weights alone, nothing. A norm that is independent of the batch cannot
contrast samples; if BYOL learns with one, the term is not necessary. Richemond and others (arXiv
2010.10241) found that GroupNorm with standardised weights suffices on images, where the encoder is
normalised so, too; weights of the network are not standardised here, as a unit of level 1 that may
not weigh its two leaves alike cannot follow their parent.

Without BatchNorm embeddings collapse within a few updates, and some spread again after thousands. Speed is
therefore judged by the time to half of the gap, and a norm counts as useless only on flat curves. Every
variant has the learning rate that did best for it in many updates: the best ones in few updates are others.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.byol._byol import COMMON, flat_scales
from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import (
    COLLAPSED,
    FEWEST_TREES,
    NEGLIGIBLE,
    SIGNIFICANCE,
    Claim,
    Deferred,
    Rule,
)

BATCH = "batch"
ONE_SAMPLE: dict[str, dict[str, Any]] = {
    "group, standardised weights": {"head_norm": "group", "head_weight_standardization": True},
    "the same, group in the network": {
        "head_norm": "group",
        "head_weight_standardization": True,
        "network_norm": "group",
    },
    "group": {"head_norm": "group"},
    "layer": {"head_norm": "layer"},
    "standardised weights": {"head_norm": "none", "head_weight_standardization": True},
    "none": {"head_norm": "none"},
}
CODE = "dualnets.experiments.byol._normalisation"
SOONER = (
    "Time to half of the gap: updates until the mean best |correlation| of the latents of levels >= 2 has "
    "closed half of the gap between untrained network and ceiling, tree by tree; a tree that does not get "
    "there is later than all others. Holds if with each norm over one sample it is later than with "
    f"`{BATCH}` (signed ranks of its logarithm, paired, one-sided, p < {SIGNIFICANCE} after Bonferroni; "
    "pairs of two that do not get there are left out), fails if with one of them it is sooner (the same "
    f"test, turned round), open otherwise, or with fewer than {FEWEST_TREES} trees."
)
NONE_LEARNS = (
    "With a norm BYOL learns if the 95% interval over trees of the gap closed (levels >= 2) lies above "
    f"{NEGLIGIBLE} and that of the embedding's mean spread above {COLLAPSED} (a spread that is not finite "
    "counts as 0), and learns nothing if the former lies below (all norms' intervals at once). Fails if it "
    "learns with a norm over one sample, whether its curve is flat or still rises; holds if it learns "
    "nothing with any of them, on flat curves of gap and spread; open otherwise, or with fewer than "
    f"{FEWEST_TREES} trees."
)
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL learns sooner with BatchNorm than with any normalisation over one sample",
            "ours, after arXiv 2010.00578, BYOL (the versions of 2020): the implicit contrastive term",
            Rule(
                SOONER,
                Deferred(f"{CODE}:sooner", {"reference": BATCH, "others": tuple(ONE_SAMPLE)}),
            ),
            "sooner",
            plateau=None,  # about a time
        ),
        Claim(
            "With no normalisation over one sample does BYOL learn at all",
            "ours: the strongest reading of that term, which arXiv 2010.00578 does not claim and arXiv "
            "2010.10241 refutes on images",
            Rule(NONE_LEARNS, Deferred(f"{CODE}:none_learns", {"names": tuple(ONE_SAMPLE)})),
            "at all",
            Deferred(f"{CODE}:ends_unless_one_learns", {"names": tuple(ONE_SAMPLE)}),
        ),
    ),
    summary="BYOL learns soonest with BatchNorm",
    variants={BATCH: {}, **ONE_SAMPLE},
    common=COMMON,
    scales=flat_scales(depth=4, steps=20_000, long={"steps": 60_000}),
    sweep=Sweep(
        "hltm run byol-normalisation --seed 1000 --members 4 --steps 10000 --evaluation-samples 2048 "
        "--lr 0.01 0.03 0.1",
        (0.01, 0.03, 0.1),
        {
            "batch": (0.84, 0.86, 0.83),
            "group, standardised weights": (0.00, 0.17, 0.01),
            "the same, group in the network": (0.56, 0.33, 0.16),
            "group": (0.12, 0.01, -0.03),
            "layer": (0.08, 0.05, 0.00),
            "standardised weights": (-0.01, 0.03, 0.05),
            "none": (-0.03, -0.01, 0.03),
        },
    ),
    table=Deferred(f"{CODE}:summary_table"),
    figure=Deferred("dualnets.experiments.byol._normalisation_figure:draw"),
)
