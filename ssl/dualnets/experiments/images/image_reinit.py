"""On pictures, does BYOL's predictor learn anything that matters, or may it be drawn again?

As in `byol-reinit`: the predictor's weights are drawn again every T updates, in all its layers, in the top
one or in the bottom one, or all of them at every update.
"""

from __future__ import annotations

from dualnets.experiments.byol import byol_reinit
from dualnets.experiments.byol._byol import ENDS, as_good
from dualnets.experiments.byol.byol_reinit import NEVER, redrawn
from dualnets.experiments.images._pictures import on_pictures, pictures_ablation
from dualnets.lab.rules import NETWORKS, Claim

PERIODS = (50, 200)
SLOW = {
    **redrawn("all", *PERIODS),
    **redrawn("top", PERIODS[0]),
    **redrawn("bottom", PERIODS[0]),
}
EXPERIMENT = pictures_ablation(
    __name__,
    claims=(
        Claim(
            f"On pictures, BYOL's predictor can be drawn again every {PERIODS[0]} to {PERIODS[-1]} updates "
            "without harm",
            byol_reinit.REDRAWS,
            as_good(NEVER, tuple(SLOW), members=NETWORKS),
            name="harm",
            plateau=ENDS,
            about=(NEVER, *SLOW),
            members=NETWORKS,
            partner="byol-reinit: harm",
        ),
        *on_pictures(byol_reinit.EXPERIMENT, "fresh"),
    ),
    summary="on pictures: redrawing BYOL's predictor does no harm",
    variants={NEVER: {}, **SLOW, **byol_reinit.FRESH},
    fashion={"steps": 700},
)
