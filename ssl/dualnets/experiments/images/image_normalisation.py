"""On pictures, does BYOL need BatchNorm, or will a normalisation over one sample do?

BatchNorm in the network and in the heads is replaced in both by GroupNorm with standardised weights, with
which Richemond and others (arXiv 2010.10241) found BYOL to work as well on ImageNet, by either of these two
alone, or by nothing. A norm over one sample cannot contrast samples; if BYOL learns with one, the implicit
contrastive term of BatchNorm (docs/theory.md, Section 6) is not necessary.

`byol-normalisation` asks the same on trees, mostly of the heads: a network that follows a tree cannot have
standardised weights.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.byol import byol_normalisation
from dualnets.experiments.byol._byol import ENDS, as_good, ends_unless, needed
from dualnets.experiments.images._pictures import pictures_ablation, sentence
from dualnets.lab.rules import NETWORKS, Claim, claim_title

BATCH, GROUP = "batch", "group, standardised weights"
_GROUP = {"head_norm": "group", "network_norm": "group"}
_STANDARDISED = {"head_weight_standardization": True, "network_weight_standardization": True}
_NOTHING = {"head_norm": "none", "network_norm": "none"}
ONE_SAMPLE: dict[str, dict[str, Any]] = {
    GROUP: {**_GROUP, **_STANDARDISED},
    "group": _GROUP,
    "standardised weights": {**_NOTHING, **_STANDARDISED},
    "none": _NOTHING,
}
(_, ON_TREES) = byol_normalisation.EXPERIMENT.claims
EXPERIMENT = pictures_ablation(
    __name__,
    claims=(
        Claim(
            sentence("BYOL does as well with GroupNorm and standardised weights as with BatchNorm"),
            "arXiv 2010.10241, on ImageNet",
            as_good(BATCH, (GROUP,), members=NETWORKS),
            "group",
            ENDS,
            (BATCH, GROUP),
            members=NETWORKS,
        ),
        Claim(
            sentence(ON_TREES.text),
            ON_TREES.reference,
            needed((BATCH,), tuple(ONE_SAMPLE), at_all=True, members=NETWORKS),
            ON_TREES.name,
            ends_unless(*ONE_SAMPLE),
            members=NETWORKS,
            partner=claim_title(byol_normalisation.EXPERIMENT.name, ON_TREES.name),
        ),
    ),
    summary="on pictures: BYOL with norms over one sample",
    variants={BATCH: {}, **ONE_SAMPLE},
    common={"network_norm": "batch"},
    fashion={"steps": 700},
)
