"""Which of BYOL's parts keep it from collapsing: the predictor, the moving average, BatchNorm?

All eight combinations, on the same trees and samples. Without the moving average the target is the
online network itself, its gradient stopped; without the predictor the projection itself is compared;
without BatchNorm the heads are Linear, ReLU, Linear.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from dualnets.experiments.byol._byol import (
    COMMON,
    SUMMARY_TABLE,
    as_good,
    ends,
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
NO_PREDICTOR = {"EMA BN": USUAL, "BN": WITHOUT_EMA}
NO_NORM = {"predictor EMA": USUAL, "predictor": WITHOUT_EMA}
TABLE = "arXiv 2010.00578, BYOL (the versions of 2020): the table of predictor, moving average, BatchNorm"


def _claim(text: str, without: Mapping[str, str], name: str) -> Claim:
    """That some variants fall short of those that have all parts but perhaps the moving average."""
    rule = needed(
        (USUAL, WITHOUT_EMA), without, counterpart="of the former, the one with the same target"
    )
    return Claim(text, TABLE, rule, name, ends(USUAL, WITHOUT_EMA, *without))


EXPERIMENT = ablation(
    __name__,
    claims=(
        _claim("BYOL with BatchNorm needs its predictor", NO_PREDICTOR, "predictor"),
        _claim("BYOL with a predictor needs BatchNorm", NO_NORM, "norm"),
        Claim(
            "BYOL with a predictor and BatchNorm doesn't need the moving average",
            TABLE,
            as_good(USUAL, (WITHOUT_EMA,)),
            "average",
            ends(USUAL, WITHOUT_EMA),
        ),
    ),
    summary="BYOL needs its predictor and BatchNorm, not its average",
    variants=VARIANTS,
    common=COMMON,
    scales=flat_scales(steps=10_000, long={"steps": 40_000}),
    table=SUMMARY_TABLE,
)
