"""How the claims of `image_update` on the residue are judged, and the short table; as on trees."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from dualnets.experiments.images.image_update import RESIDUE
from dualnets.experiments.theorems._residual_rules import (
    guides_of,
    judged_guides,
    judged_rates,
    rates_of,
    setting_rows,
)
from dualnets.experiments.theorems._update_rules import ERRORS_CAPTION, error_rows
from dualnets.lab.stats import Judgement

COSINE = "cosine"  # of the form, which `residual` has in its column `form`
DEALT = "views dealt at random"
_NETWORKS = ["network", "widths", "loss", "negatives", "gain", "temperature"]
_PATHS = ["network", "widths", "loss", "normalize", "lr"]


def rate_settings(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of untrained networks: of every network and loss, by a name."""
    rows = _residues(table)
    for keys, part in rows[rows["steps"] == 0].groupby(_NETWORKS, sort=False):
        at = dict(zip(_NETWORKS, keys, strict=True))
        loss = "" if at["loss"] == "infonce" else f", {at['loss']}"
        yield f"initial weights times {at['gain']:g}, τ {at['temperature']:g}{loss}", part


def paths(table: pd.DataFrame) -> Iterator[tuple[str, bool, pd.DataFrame]]:
    """The rows of all weights of networks in training: name, whether outputs are normalised, rows."""
    rows = _residues(table)
    rows = rows[(rows["steps"] > 0) & (rows["layer"] == 0)]
    for keys, part in rows.groupby(_PATHS, sort=False):
        at = dict(zip(_PATHS, keys, strict=True))
        output = "outputs of length 1" if at["normalize"] else "raw outputs"
        yield f"{at['loss']}, {output}", bool(at["normalize"]), part


def judge_rate(table: pd.DataFrame) -> Judgement:
    """Apply the rule on the residue's rate."""
    return judged_rates(rates_of(rate_settings(table)), of="networks")


def judge_guide(table: pd.DataFrame) -> Judgement:
    """Apply the rule on the form as a guide along training."""
    found = guides_of((name, True, part) for name, _, part in paths(table))
    return judged_guides(found, "networks", other=DEALT, of="networks")


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Errors of identities by form, slopes of the residue, cosines along training."""
    errors = [
        {"what": f"{row.pop('identity')}, {row.pop('form')}", **row}
        for row in error_rows(table[table["measure"] != RESIDUE])
    ]
    guiding = guides_of((name, True, part) for name, _, part in paths(table))
    settings = setting_rows(rates_of(rate_settings(table)), guiding, DEALT)
    residues = [{"what": row.pop("setting"), **row} for row in settings]
    made = pd.DataFrame([*errors, *residues]).fillna("")
    made.attrs["caption"] = (
        f"{ERRORS_CAPTION}; slopes of logarithms on the log of the views' variance, at the layer with the "
        "smallest; cosines of the exact update and the covariance form, mean over training; 95% intervals "
        "over n networks, simultaneous over settings"
    )
    return made


def _residues(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of residues, with the columns that the rules of `residual` read."""
    return table[table["measure"] == RESIDUE].assign(form=lambda rows: rows[COSINE])
