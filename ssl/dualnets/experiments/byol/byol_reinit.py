"""Must BYOL's predictor be good, or may it be drawn again every few updates?

The predictor's weights are drawn anew every T updates, all of them or those of its top or bottom
layer; the optimiser's state for them is reset. If the predictor only has to let BatchNorm's term act, a
fresh one will do; if it has to predict well, redrawing does harm.

What counts is T in units of the time to emerge, the updates until half of the gap is closed with a predictor
that is never redrawn: EMERGENCE, measured on other trees (seed 1000). A redraw after features have emerged
shows only that it undoes nothing, and one redraw per time to emerge leaves every predictor as old as the
features; the shorter T, the less any predictor can have learned. A run shows its own time to emerge beside.
"""

from __future__ import annotations

from typing import Any

from dualnets.experiments.byol._byol import COMMON, as_good, ends, flat_scales
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE, Claim, Deferred, Rule

NEVER = "never"
EMERGENCE = 50  # updates
ENOUGH = 0.5  # of the gap: what the reference must close for a comparison


def _redrawn(layers: str, *times: float) -> dict[str, dict[str, Any]]:
    """Variants whose predictor is redrawn at these multiples of the time to emerge."""
    found = {}
    for updates in (round(time * EMERGENCE) for time in times):
        found[f"{layers}, every {updates}"] = {"redraw": layers, "redraw_every": updates}
    return found


SLOW = {**_redrawn("all", 0.5, 1, 2, 4), **_redrawn("top", 0.5, 1), **_redrawn("bottom", 0.5, 1)}
FAST = _redrawn("all", 0.1, 0.2)
FRESH = _redrawn("all", 1 / EMERGENCE)
CODE = "dualnets.experiments.byol._byol_reinit"
DELAY = (
    "Time to emerge: updates until half of the gap between untrained network and ceiling is closed (levels "
    ">= 2), tree by tree; a tree that does not get there is later than all others. Holds if redraws every 5 "
    "and every 10 updates both make it later (exact paired signed ranks of its logarithm, p < "
    f"{SIGNIFICANCE} after Bonferroni), fails if one of them makes it earlier (the same test, turned round); "
    f"open otherwise, or with fewer than {FEWEST_TREES} trees."
)
NOTHING_LEARNED = (
    f"Holds if the 95% interval of the gap closed lies below {NEGLIGIBLE} while with a predictor that is "
    f"never redrawn it lies above {ENOUGH}; fails if it lies above {NEGLIGIBLE}; open otherwise, or with "
    f"fewer than {FEWEST_TREES} trees."
)
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL's predictor can be drawn again without harm every half, one, two or four times the time in "
            "which features emerge",
            "arXiv 2010.00578, BYOL (the versions of 2020): the table of predictors re-initialised every T "
            "epochs",
            as_good(NEVER, tuple(SLOW), words="all that are redrawn every 25 to 200 updates"),
            name="harm",
            plateau=ends(NEVER, *SLOW),
        ),
        Claim(
            "Redraws that are much more frequent than features emerge delay them",
            "ours: not in arXiv 2010.00578",
            Rule(DELAY, Deferred(f"{CODE}:delay", {"reference": NEVER, "others": tuple(FAST)})),
            name="delay",
            plateau=None,  # about a time
        ),
        Claim(
            "With a predictor that is drawn again at every update nothing is learned",
            "ours: not in arXiv 2010.00578",
            Rule(
                NOTHING_LEARNED,
                Deferred(
                    f"{CODE}:nothing_learned", {"reference": NEVER, "name": next(iter(FRESH))}
                ),
            ),
            name="fresh",
            plateau=ends(NEVER, *FRESH),
        ),
    ),
    summary="redrawing BYOL's predictor now and then does no harm",
    variants={NEVER: {}, **SLOW, **FAST, **FRESH},
    variants_at={"smoke": {NEVER: {}, **_redrawn("all", 0.1, 1)}},
    common=COMMON,
    scales=flat_scales(steps=2000, long={"steps": 10_000}),
    table=Deferred(f"{CODE}:summary_table"),
)
