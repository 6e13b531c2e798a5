"""Whether the predictor of linear BYOL aligns with the correlation of its inputs: cells and rule.

In the theory of arXiv 2102.06810 (Theorem 3) the eigenspaces of the predictor W_p align with those of the
correlation F of its inputs. An eigenvector v of F is one of W_p, too, if W_p v is parallel to v.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from dualnets.experiments.byol.byol_linear import ALIGNED, FEWEST_ALIGNED, NULLS
from dualnets.lab.ratios import gap_closed
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Array, Estimate, Judgement, Outcome, exceeds, last_step

if TYPE_CHECKING:
    from dualnets.theory.byol.linear_byol import Path

ALIGNMENT = "alignment"


def alignment(predictor: Array, bases: Array, weights: Array) -> Array:
    """`(...)` weighted mean over the vectors v of orthonormal bases of |v · W_p v| / |W_p v|.

    It is 1 if every v with a weight is an eigenvector of W_p; 0 counts where W_p v is 0.

    Args:
        predictor: `(..., F, F)` W_p.
        bases: `(..., F, F)`, one vector per column, e.g. the eigenvectors of F.
        weights: `(..., F)` of the vectors, e.g. the eigenvalues of F: modes that are lost have no direction.

    Example:
        >>> float(alignment(np.diag([3.0, 1.0]), np.eye(2), np.ones(2)))
        1.0
    """
    images = predictor @ bases
    lengths = np.linalg.norm(images, axis=-2)
    cosines = np.abs((bases * images).sum(-2)) / np.where(lengths > 0, lengths, 1.0)
    found: Array = (weights * cosines).sum(-1) / weights.sum(-1)
    return found


class Alignment(NamedTuple):
    """The alignment of predictors with their inputs along training, `(T, S)` each.

    Attributes:
        value: with the eigenvectors of F, weighted by its eigenvalues.
        null: the mean over NULLS random orthonormal bases in their place, with the same weights.
    """

    value: Array
    null: Array


def aligned(path: Path, moment: Array, seed: int) -> Alignment:
    """The alignment of every member at every time.

    Args:
        path: of weights with members.
        moment: `(X, X)` X + X', the second moment of views, with which F = W (X + X') W^T; on isotropic
            data this is proportional to the theorem's W X W^T.
        seed: of the random bases.
    """
    rng = np.random.default_rng([seed, 4])
    correlation = path.online @ moment @ np.swapaxes(path.online, -1, -2)
    bases = np.linalg.qr(rng.standard_normal((NULLS, *correlation.shape[-2:])))[0]
    values, vectors = np.linalg.eigh(correlation)
    weights = values.clip(0)  # rounding may leave a lost mode below 0
    return Alignment(
        alignment(path.predictor, vectors, weights),
        alignment(path.predictor[..., None, :, :], bases, weights[..., None, :]).mean(-1),
    )


def curves(table: pd.DataFrame) -> dict[str, Estimate]:
    """Predictor rate -> the share of the room at the last time of a table, which must be flat."""
    return {name: _share(rows) for name, rows in _ends(table).items()}


def _ends(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Predictor rate -> the rows of the last time, on isotropic data."""
    rows = table[(table["quantity"] == ALIGNMENT) & (table["data"] == "isotropic")]
    return {
        f"predictor rate {rate:g}": own for rate, own in last_step(rows).groupby("predictor_rate")
    }


def _share(rows: pd.DataFrame, among: int = 1) -> Estimate:
    """Alignment above its null, over the room between the null and 1: a ratio of means over networks."""
    null, value = (rows[of].to_numpy(np.float64) for of in ("null", "value"))
    return gap_closed(null, value, np.ones_like(null), among)


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the smallest share of all predictor rates."""
    effect = "alignment above its null, of the room between null and 1, smallest of all rates"
    ends = _ends(table)
    found = {name: _share(rows, len(ends)) for name, rows in ends.items()}
    details = [
        {"part": name, **found[name].detail("share"),
         "p_above_null": exceeds(rows["value"].to_numpy(), rows["null"].to_numpy(), len(ends)),
         **{of: float(rows[of].mean()) for of in ("initial", "value", "null")}}
        for name, rows in ends.items()
    ]  # fmt: skip
    count = min((share.n for share in found.values()), default=0)
    if count < FEWEST_ALIGNED:
        reason = f"{count} starts are fewer than {FEWEST_ALIGNED}"
        return Judgement("open", reason, effect, NOTHING, details, "starts")
    outcome: Outcome = "open"
    if any(share.high < ALIGNED for share in found.values()):
        outcome = "fails"
    elif all(d["low"] > ALIGNED and d["p_above_null"] < SIGNIFICANCE for d in details):
        outcome = "holds"
    smallest = min(found.values(), key=lambda share: share.value)
    reason = ", ".join(
        f"{d['initial']:.2f} -> {d['value']:.3f} over a null of {d['null']:.3f} ({d['part']})"
        for d in details
    )
    return Judgement(outcome, f"alignment {reason}", effect, smallest, details, "starts")
