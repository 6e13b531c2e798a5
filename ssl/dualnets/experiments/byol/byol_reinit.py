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

from dualnets.experiments.byol._byol import COMMON, SCALES, SUMMARY_TABLE, as_good
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE, Claim, Deferred, Rule

NEVER = "never"
EMERGENCE = 50  # updates


def _redrawn(layers: str, *periods: int) -> dict[str, dict[str, Any]]:
    """Variants whose predictor is redrawn every so many updates."""
    return {
        f"{layers}, every {updates}": {"redraw": layers, "redraw_every": updates}
        for updates in periods
    }


# a half, one, two and four times the time to emerge
SLOW = {
    **_redrawn("all", 25, 50, 100, 200),
    **_redrawn("top", 25, 50),
    **_redrawn("bottom", 25, 50),
}
FAST = _redrawn("all", 5, 10)  # a tenth and a fifth of it
FRESH = _redrawn("all", 1)
CODE = "dualnets.experiments.byol._byol_reinit"
DELAY = (
    "Time to emerge: updates until half of the gap between untrained network and ceiling is closed (levels >= "
    "2), tree by tree; a tree that does not get there is later than all others. Holds if redraws every 5 and "
    f"every 10 updates both make it later (exact paired signed ranks of its logarithm, p < {SIGNIFICANCE} after "
    "Bonferroni), fails if one of them makes it earlier (the same test, turned round), open otherwise, or with "
    f"fewer than {FEWEST_TREES} trees."
)
NOTHING_LEARNED = (
    f"Holds if the 95% interval of the gap closed lies below {NEGLIGIBLE} while with a predictor that is never "
    f"redrawn it lies above 0.5; fails if it lies above {NEGLIGIBLE}; open otherwise, or with fewer than "
    f"{FEWEST_TREES} trees."
)
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL's predictor can be drawn again every half to four times to emerge without harm",
            "arXiv 2010.00578, BYOL: the table of predictors re-initialised every T epochs",
            as_good(
                NEVER, tuple(SLOW), words="all that are redrawn every 25 to 200 updates and were run"
            ),
            name="harm",
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
                Deferred(f"{CODE}:nothing_learned", {"reference": NEVER, "name": next(iter(FRESH))}),
            ),
            name="fresh",
        ),
    ),
    summary="redrawing BYOL's predictor now and then does no harm",
    variants={NEVER: {}, **SLOW, **FAST, **FRESH},
    variants_at={"smoke": {NEVER: {}, **_redrawn("all", 5, 50)}},
    common={**COMMON, "snapshots": 14},
    scales={**SCALES, "default": {"steps": 2000}},
    table=Deferred(f"{CODE}:summary_table"),
)
