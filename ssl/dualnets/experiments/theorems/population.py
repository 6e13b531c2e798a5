"""How much of what we see in training is sampling noise?

On a small tree the expected loss is a finite sum, so a network can be trained on an infinite batch
(docs/theory.md, Equation 3.8). The same networks are trained with finite batches of fresh views, at the same
rate for as many updates, with several seeds of the data each. The difference from the infinite batch is
noise: its mean over seeds is the bias, its spread between seeds the variance, and both are compared with
the spread between trees and initial networks.

InfoNCE sums over triples of leaf states, 4096 of them at depth 2 but 1.7e7 at depth 3, which is too many for
every update. Deeper trees therefore have a large batch for the infinite one. Its variance is small in
proportion, and its own spread between data seeds is part of the intervals. At depth 2 both are run, which
shows how good a stand-in it is. Alignment is exact to depth 3, by enumeration of the leaf states, and
estimated from samples, the same for all batches, where trees are deeper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Grid
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    check_augment_setting,
    setting,
)

INFINITE = 0
JUDGED = 128
LARGE = 2048  # stands for the infinite batch where there is none


@dataclass(frozen=True, kw_only=True)
class Settings(ProbeSettings, TrainSettings, ContrastSettings, NetworkSettings, TreeSettings):
    """Trees, a network on each, and one size of batch, 0 for the infinite one."""

    depth: int = setting(2, "levels of the tree below its root", low=1, high=16)
    branching: int = setting(2, "children per latent", low=2, high=9)
    members: int = setting(64, "trees, each with a network of its own", low=1, high=1 << 20)
    units: int = setting(5, "units per latent (tree) or per layer (mlp)", low=1, high=1 << 16)
    batch: int = setting(
        0, "samples per update and member; 0: infinitely many", low=0, high=1 << 20
    )
    data_seeds: int = setting(4, "runs, each on its own data, for finite batches", low=2, high=1000)
    steps: int = setting(1000, "updates", low=1, high=10**9)
    lr: float = setting(0.3, "learning rate", above=0)
    snapshots: int = setting(
        8, "times the networks are probed, evenly in log steps", low=2, high=1000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch == 1:
            raise ValueError("batch must be at least 2, or 0 for the infinite one, got 1")
        self.build_loss()
        check_augment_setting(self.augment, self.build_topology())


_FINITE: list[int] = [32, 128, 512]


def _deeper(depths: list[int], members: int, **more: list[Any]) -> list[Grid]:
    """Finite batches, and the large batch that stands for the infinite one, twice."""
    common = {"depth": depths, "members": [members], **more}
    return [
        {**common, "batch": _FINITE},
        {**common, "batch": [LARGE], "data_seeds": [2]},
    ]


GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {"batch": [INFINITE, 32, 128], "steps": [100], "members": [4], "data_seeds": [2], "snapshots": [3]}
    ],
    "default": [
        {"batch": [INFINITE, *_FINITE], "members": [256]},
        {"batch": [LARGE], "data_seeds": [2]},
        *_deeper([3, 4], 64),
    ],
    "paper": [
        {"batch": [INFINITE, *_FINITE], "members": [512], "steps": [4000], "data_seeds": [8]},
        {"batch": [INFINITE, *_FINITE], "network": ["mlp"], "units": [32], "members": [256]},
        *_deeper([3, 4, 5], 128, steps=[4000]),
    ],
}  # fmt: skip
_CODE = "dualnets.experiments.theorems._population"
_REFERENCE = (
    "ours: the expected updates of arXiv 2010.00578 v6, Theorems 2 to 4, against sampled ones"
)


def _claim(text: str, name: str, column: str, ratio: str, what: str) -> Claim:
    rule = Rule(
        f"Per tree, batch {JUDGED} is compared with the infinite batch (at depths without one, with batch "
        f"{LARGE}, mean over its data seeds) in the mean best |correlation| of latents of levels >= 2 after "
        f"training. {ratio}: a ratio of means over trees with Fieller's 95% interval, simultaneous over "
        f"depths. Holds if it lies within ±{NEGLIGIBLE} at every depth, fails if it lies outside at one; "
        f"open otherwise, if the infinite batch gains nothing, or with fewer than {FEWEST_TREES} trees. The "
        f"{what} must be flat over the last doubling of updates.",
        Deferred(f"{_CODE}:judge", {"column": column}),
    )
    plateau = Deferred(f"{_CODE}:at_judged", {"column": column})
    return Claim(text, _REFERENCE, rule, name, plateau)


EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        _claim(
            f"A batch of {JUDGED} teaches what an infinite batch teaches, on average over its draws",
            "bias",
            "share",
            f"The difference, with batch {JUDGED} averaged over data seeds, is divided by the gain of the "
            "infinite batch",
            "shares",
        ),
        _claim(
            f"At batch {JUDGED} the draw of the data matters little beside the tree and the initial network",
            "noise",
            "noise",
            "The variance between the data seeds of a tree is divided by the variance between trees with the "
            "infinite batch",
            "ratios",
        ),
    ),
    summary="a large batch is as good as an infinite one",
    result_version=2,
    Settings=Settings,
    grids=GRIDS,
    code=_CODE,
)
