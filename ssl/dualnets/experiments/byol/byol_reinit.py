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

from dualnets.experiments.byol._byol import (
    COMMON,
    EARLIER,
    ENDS,
    as_good,
    flat_scales,
    needed,
    sooner,
    table_of_times,
)
from dualnets.lab.ablation import ablation
from dualnets.lab.rules import Claim

NEVER = "never"
EMERGENCE = 50  # updates


REDRAWS = f"{EARLIER}: predictors drawn again now and then; the authors' code has it as an option"


def redrawn(layers: str, *periods: int) -> dict[str, dict[str, Any]]:
    """Variants whose predictor is redrawn with these periods, in updates."""
    return {
        f"{layers}, every {updates}": {"redraw": layers, "redraw_every": updates}
        for updates in periods
    }


def _redrawn(layers: str, *times: float) -> dict[str, dict[str, Any]]:
    """Variants whose predictor is redrawn at these multiples of the time to emerge."""
    return redrawn(layers, *(round(time * EMERGENCE) for time in times))


SLOW = {**_redrawn("all", 0.5, 1, 2, 4), **_redrawn("top", 0.5, 1), **_redrawn("bottom", 0.5, 1)}
FAST = _redrawn("all", 0.1, 0.2)
FRESH = _redrawn("all", 1 / EMERGENCE)
(ALWAYS,) = FRESH
EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "BYOL's predictor can be drawn again every 25 to 200 updates, half to four times the time to "
            "emerge, without harm",
            REDRAWS,
            as_good(NEVER, tuple(SLOW)),
            name="harm",
            plateau=ENDS,
            about=(NEVER, *SLOW),
        ),
        Claim(
            "Redraws every 5 and 10 updates, more often than features emerge, delay them",
            "ours",
            sooner(NEVER, tuple(FAST)),
            name="delay",
            plateau=None,  # about a time
            about=(NEVER, *FAST),
        ),
        Claim(
            "With a predictor that is drawn again at every update BYOL does not work",
            "ours",
            needed((NEVER,), (ALWAYS,), at_all=True),
            name="fresh",
            plateau=ENDS,
            about=(NEVER, ALWAYS),
        ),
    ),
    summary="redrawing BYOL's predictor now and then does no harm",
    variants={NEVER: {}, **SLOW, **FAST, **FRESH},
    variants_at={"smoke": {NEVER: {}, **_redrawn("all", 0.1, 1)}},
    common=COMMON,
    scales=flat_scales(steps=2000),
    table=table_of_times(redraws=NEVER),
)
