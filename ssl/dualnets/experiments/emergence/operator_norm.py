"""Which latents' covariance operators grow in training, and when?

The operator of a latent is that of the weights of its block (docs/theory.md, Section 3), V[Kbar] for views
that keep the root: of the connection's mean given the root, the covariance over the root's states. Its
Frobenius norm is what the authors' code measures, at every latent and before every epoch, with the connection
of the output before it is scaled to length 1.

A norm grows with the weights, too. The control therefore has the same networks, trees and updates, but views
that share nothing, and its norms are measured for the same views that keep the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.experiments.emergence.emergence import CONTROL, REFERENCE
from dualnets.experiments.emergence.emergence import Settings as EmergenceSettings
from dualnets.lab.experiment import Experiment, Fixed, Grid
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, Claim, Deferred, Rule
from dualnets.lab.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(EmergenceSettings):
    """One ensemble of tree networks, trained with views that keep the root or nothing."""

    evaluation_samples: int = setting(
        4096, "samples behind a norm, per member; none is trained on", low=512, high=1 << 30
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network != "tree":
            raise ValueError(f"network must be tree, whose blocks are latents, got {self.network}")
        if self.augment not in ("keep-root", CONTROL):
            raise ValueError(f"augment must be keep-root or {CONTROL}, got {self.augment}")


_COMMON: dict[str, list[Any]] = {
    "polarity_low": [0.7, 0.9],
    "loss": ["batchwise-nce"],
    "bias": [True],
    "members": [12],
}
_SMOKE: dict[str, list[Any]] = {
    "depth": [3],
    "steps": [100],
    "members": [3],
    "snapshots": [4],
    "evaluation_samples": [512],
}
GRIDS: dict[str, list[Grid]] = {
    scale: [
        {**_COMMON, **own, "units": units},
        {**_COMMON, **own, "units": units[-1:], "augment": Fixed(CONTROL)},
    ]
    for scale, own, units in (
        ("smoke", _SMOKE, [2, 5]),
        ("default", {"steps": [5000]}, [2, 10]),
        ("paper", {"steps": [10_000], "members": [30]}, [2, 10]),
    )
}
_CODE = "dualnets.experiments.emergence._operator_norm"
RULE = (
    "For the widest networks, a tree's growth at a level is the logarithm to base 2 of the mean norm of the "
    f"level's latents after training over that before it. A level grows if the mean over trees, and what it "
    f"is more than the control's on the same trees, are above {NEGLIGIBLE} with their whole 95% intervals "
    "(those of all levels and settings at once), and does not if one of them is below. Holds if every level "
    f"grows, fails if none does, open otherwise, without a control, or with fewer than {FEWEST_TREES} trees."
)
FIRST_RULE = (
    "For the widest networks with views that keep the root, an operator has started to grow when its norm "
    "(the mean over the level's latents) has doubled, between snapshots on a logarithmic axis; those that "
    "never do are later than all others, and trees in which none does are left out. Counted are the trees "
    "in which the root's starts before that of every lower level. Holds if their share is above one half "
    "with its whole exact 95% interval (Clopper and Pearson, all settings at once) in every setting, fails "
    "if it is below one half with its whole interval in every setting, and is open otherwise, or with fewer "
    f"than {FEWEST_TREES} trees."
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "Training makes the covariance operator of latents of every level grow",
            REFERENCE,
            Rule(RULE, Deferred(f"{_CODE}:judge")),
            name="growth",
            plateau=None,  # that norms grow, not where they end
        ),
        Claim(
            "In most trees the root's operator starts to grow before that of any level below",
            "ours: the paper has the upper levels' operators modulate those below",
            Rule(FIRST_RULE, Deferred(f"{_CODE}:root_first")),
            name="first",
            plateau=None,
        ),
    ),
    summary="the norm of every latent's covariance operator",
    result_version=1,
    Settings=Settings,
    grids=GRIDS,
    code=_CODE,
)
