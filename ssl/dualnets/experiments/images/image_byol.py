"""On pictures, which of BYOL's parts keep it from collapsing: the predictor, the moving average, BatchNorm?

The eight combinations of `byol-ablation`, on digits in place of trees: what was a latent's alignment there is
the accuracy of a linear probe here. An untrained network has much of it already, so gaps are closed from its
accuracy to 1, network by network, and a variant without spread has collapsed whatever its accuracy.

BatchNorm is that of the heads. The ConvNet has none inside; the ResNet-18 of the paper scale has its own, as
in the paper, so that there `BN` is the heads' alone.
"""

from __future__ import annotations

from dualnets.experiments.byol import byol_ablation
from dualnets.experiments.images._pictures import on_pictures, pictures_ablation

EXPERIMENT = pictures_ablation(
    __name__,
    claims=on_pictures(byol_ablation.EXPERIMENT),
    summary="on pictures: BYOL needs its predictor and BatchNorm",
    variants=byol_ablation.VARIANTS,
)
