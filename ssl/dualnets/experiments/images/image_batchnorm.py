"""On pictures, which part of BatchNorm keeps BYOL from collapsing, and must it stand in the heads?

The nine combinations of `byol-batchnorm`: mean and deviation each off, on, or on without gradient (stop), in
the heads' hidden layers; and BatchNorm inside the network in place of the heads. If it is the gradient
through the mean that contrasts samples (docs/theory.md, Section 6), then stopping that gradient alone must
bring the collapse back on pictures, too.

At the paper scale the ResNet-18 has BatchNorm inside whatever the heads have, and there is no variant without
it.
"""

from __future__ import annotations

from dualnets.experiments.byol import byol_batchnorm
from dualnets.experiments.images._pictures import on_pictures, pictures_ablation

PARTS = {**byol_batchnorm.VARIANTS, **byol_batchnorm.NINTH}
(NETWORK, *_) = byol_batchnorm.PLACES["network"]
EXPERIMENT = pictures_ablation(
    __name__,
    claims=on_pictures(
        byol_batchnorm.EXPERIMENT, "mean", "deviation", "mean alone", "deviation alone", "network"
    ),
    summary="on pictures: BYOL needs the gradient through the mean",
    variants={**PARTS, NETWORK: byol_batchnorm.ELSEWHERE[NETWORK]},
    variants_at={"paper": PARTS},
    default={"steps": 2500},
    fashion={"steps": 500},
)
