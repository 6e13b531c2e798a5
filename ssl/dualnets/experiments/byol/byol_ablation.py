"""Which of BYOL's parts keep it from collapsing: the predictor, the moving average, BatchNorm?

All eight combinations, on the same trees and samples. Without the moving average the target is the
online network itself, its gradient stopped; without the predictor the projection itself is compared;
without BatchNorm the heads are Linear, ReLU, Linear.
"""

from __future__ import annotations

import itertools
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

WITHOUT: dict[str, dict[str, Any]] = {
    "predictor": {"predictor": "none"},
    "EMA": {"target": "online"},
    "BN": {"head_norm": "none"},
}


def _variants() -> dict[str, dict[str, Any]]:
    """Each part on and off; a variant is named after the parts that it has."""
    found = {}
    for has in itertools.product((False, True), repeat=len(WITHOUT)):
        parts = dict(zip(WITHOUT, has, strict=True))
        changes = [WITHOUT[part] for part, present in parts.items() if not present]
        name = " ".join(part for part, present in parts.items() if present) or "nothing"
        found[name] = {field: value for change in changes for field, value in change.items()}
    return found


VARIANTS = _variants()
USUAL, WITHOUT_EMA = "predictor EMA BN", "predictor BN"
NO_PREDICTOR, NO_NORM = ("EMA BN", "BN"), ("predictor EMA", "predictor")
REFERENCE = f"{EARLIER}: which of predictor, moving average and BatchNorm are needed"


def _claim(text: str, short: tuple[str, ...], name: str) -> Claim:
    """That some variants do not work, while those do that have all parts but perhaps the moving average."""
    works = (USUAL, WITHOUT_EMA)
    return Claim(text, REFERENCE, needed(works, short), name, ENDS, (*works, *short))


EXPERIMENT = ablation(
    __name__,
    claims=(
        _claim("BYOL with BatchNorm needs its predictor", NO_PREDICTOR, "predictor"),
        _claim("BYOL with a predictor needs BatchNorm", NO_NORM, "norm"),
        Claim(
            "BYOL with a predictor and BatchNorm doesn't need the moving average",
            REFERENCE,
            as_good(USUAL, (WITHOUT_EMA,)),
            "average",
            ENDS,
            (USUAL, WITHOUT_EMA),
        ),
    ),
    summary="BYOL needs its predictor and BatchNorm, not its average",
    variants=VARIANTS,
    common=COMMON,
    scales=flat_scales(steps=10_000),
    table=SUMMARY_TABLE,
)
