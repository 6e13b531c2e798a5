"""Does BYOL need BatchNorm's implicit contrastive term, or is any normalisation only slower?

BatchNorm in the heads is replaced by norms that use one sample at a time: LayerNorm, GroupNorm with
standardised weights, standardised weights alone, nothing. A norm that is independent of the batch cannot
contrast samples; if BYOL learns with one, the term is not necessary. Richemond and others (arXiv
2010.10241) found that GroupNorm with standardised weights suffices on images, where the encoder is
normalised so, too; weights of the network are not standardised here, as a unit of level 1 that may
not weigh its two leaves alike cannot follow their parent.

Without BatchNorm embeddings collapse within a few updates, and some spread again after thousands. Speed is
therefore judged by the time to half of the gap, and a norm counts as useless only on flat curves; one that
works refutes the second claim while its curve still rises. Every variant has the learning rate that did best
for it in many updates: the best ones in few updates are others.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.byol._byol import (
    COMMON,
    EARLIER,
    ends_unless,
    flat_scales,
    needed,
    sooner,
    table_of_times,
)
from dualnets.lab.ablation import Sweep, ablation
from dualnets.lab.rules import Claim, Deferred

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
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL closes half of the gap for good sooner with BatchNorm than with any normalisation over one "
            "sample",
            f"ours, after the implicit contrastive term in {EARLIER}",
            sooner(BATCH, tuple(ONE_SAMPLE)),
            "sooner",
            plateau=None,  # about a time
        ),
        Claim(
            "BYOL works with BatchNorm, and with none of the normalisations over one sample",
            "ours: the strongest reading of that term; arXiv 2010.10241 refutes it on images",
            needed((BATCH,), tuple(ONE_SAMPLE), at_all=True),
            "at all",
            ends_unless(*ONE_SAMPLE),
        ),
    ),
    summary="BYOL learns soonest with BatchNorm",
    variants={BATCH: {}, **ONE_SAMPLE},
    common=COMMON,
    scales=flat_scales(depth=4, steps=20_000),
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
    table=table_of_times(),
    figure=Deferred("dualnets.experiments.byol._normalisation_figure:draw"),
)
