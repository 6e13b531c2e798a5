"""Does gradient descent change the weights of networks as the theorems predict?

Every identity of the theory is compared with what autograd does to the same weight of the same network:
connections and pairs (Theorem 1; docs/theory.md, Equations 1.3, 2.2 and 2.3), covariance operators (Theorem
3; 3.4 and 3.5) and β-weighted pairs (any contrastive loss; 3.3), and the tree's top operator (4.3). Data
are trees whose every sample is enumerated, trees that are sampled, and photographed digits under crops,
blur and noise. In the controls an assumption is broken (biases, a normalised output, edges that skip a
layer) and the form that rests on it must miss; the form with the outputs f must not.

Found: 1364 comparisons that should be exact agree to 1.3e-14. 40 updates are estimated from samples,
with standard errors of 2% to 9% of the update, and the prediction is off by 0.6 to 1.4 of them (digits:
0.8 to 1.1); half of it would be off by 6 or more. Without its assumption the operator form is wrong by a
tenth to all of the update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Fixed, Grid
from dualnets.lab.rules import Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    TreeSettings,
    check_augmentation,
    setting,
)

EXACT = 1e-9  # largest relative error of an identity, in float64
BROKEN = 1e-3  # smallest error of a form whose assumption is broken
ERRORS = 2.5  # how many standard errors an estimate may be off; right ones are off by about 1
PRECISE = 0.1  # standard error, as a share of the update, from which an estimate decides nothing
PAIR = "pair"  # no contrastive loss: r = 1/2 |f(x1) - f(x2)|² itself


@dataclass(frozen=True, kw_only=True)
class Settings(ContrastSettings, NetworkSettings, TreeSettings):
    """Networks, data and a loss whose updates are predicted."""

    data: str = setting(
        "tree",
        "balanced trees, irregular ones (edges skip levels), or scikit-learn's digits",
        choices=("tree", "irregular", "digits"),
    )
    network: str = setting(
        "mlp",
        "a block of units per latent, one block shared by a level's latents, or dense layers",
        choices=("tree", "conv", "mlp"),
    )
    loss: str = setting(
        PAIR,
        "contrastive loss; pair: two samples' distance alone",
        choices=(PAIR, "simple", "triplet", "infonce", "ntxent", "batchwise-nce"),
    )
    depth: int = setting(2, "levels of the tree below its root", low=1, high=16)
    layers: int = setting(3, "of dense networks", low=1, high=16)
    units: int = setting(8, "units per latent, or per layer (mlp)", low=1, high=1 << 16)
    normalize: bool = setting(False, "whether the output is scaled to length 1")
    members: int = setting(4, "networks, each on a tree of its own", low=1, high=1 << 10)
    augment: str = setting("resample-leaves:0.4", "what a view of a tree keeps")
    batches: int = setting(0, "batches of an estimate; 0 for expectations by enumeration", low=0)
    batch: int = setting(32, "samples in each", low=2, high=1 << 16)
    temperature: float = setting(0.2, "of the loss", above=0)
    margin: float = setting(0.2, "of the triplet loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        from hltm.sampling.augment import parse

        parse(self.augment)
        if self.data == "tree":
            check_augmentation(self.augment, self.build_topology())
        if self.data == "digits" and (self.batches < 2 or self.network != "mlp"):
            raise ValueError("digits are sampled (batches of at least 2) and read by network mlp")
        if self.batches == 1:
            raise ValueError("one batch has no standard error: batches must be 0 or at least 2")
        if self.batches == 0 and self.loss in ("ntxent", "batchwise-nce"):
            raise ValueError(f"{self.loss} is a loss of whole batches: batches must be at least 2")


_TREES: dict[str, list[Any]] = {"network": ["tree", "mlp"]}
_SAMPLED: dict[str, list[Any]] = {"batches": [40], "batch": [64]}
# the simple loss's update is estimated, which takes more samples: of digits most, whose update is small
_TREES_ESTIMATED: dict[str, list[Any]] = {"loss": ["simple"], "batches": [40], "batch": [256]}
_DIGITS_ESTIMATED: dict[str, list[Any]] = {
    "data": ["digits"], "loss": ["simple"], "units": [32], "batches": [40], "batch": [4096],
}  # fmt: skip
_ON_SAMPLES = [PAIR, "triplet", "infonce", "ntxent", "batchwise-nce"]
_IN_POPULATION = [PAIR, "simple", "triplet", "infonce"]
_BROKEN: list[dict[str, Any]] = [{"bias": Fixed(True)}, {"normalize": Fixed(True)}]
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {**_TREES, "loss": [PAIR, "simple", "infonce"], "members": [2]},
        {"data": ["irregular"], **_TREES, "loss": ["simple"], "members": [2]},
        *({**broken, "loss": ["simple"], "members": [2]} for broken in _BROKEN),
        {"data": ["digits"], "loss": ["simple"], "batches": [8], "members": [2]},
    ],
    "default": [
        {**_TREES, "loss": _IN_POPULATION},
        {"network": ["conv"], "loss": ["simple", "infonce"]},
        {"depth": [3], "augment": ["keep-root"], **_TREES, "loss": [PAIR, "simple"]},
        {"data": ["irregular"], **_TREES, "loss": _IN_POPULATION},
        *({**_TREES, **broken, "loss": [PAIR, "simple", "infonce"]} for broken in _BROKEN),
        {"depth": [4], **_TREES, "loss": _ON_SAMPLES, **_SAMPLED},
        {"depth": [4], **_TREES, **_TREES_ESTIMATED},
        {"data": ["digits"], "loss": _ON_SAMPLES, **_SAMPLED},
        _DIGITS_ESTIMATED,
    ],
    "paper": [
        {**_TREES, "loss": _IN_POPULATION, "members": [16]},
        {**_TREES, "loss": ["infonce"], "negatives": [2], "members": [4]},
        {"network": ["conv"], "loss": ["simple", "infonce"], "members": [16]},
        {"depth": [3], "augment": ["keep-root", "resample-leaves:0.4"], **_TREES,
         "loss": [PAIR, "simple"], "members": [16]},
        {"depth": [3], "augment": ["keep-root"], **_TREES, "loss": ["triplet", "infonce"],
         "members": [2]},
        {"data": ["irregular"], "depth": [3, 5], **_TREES, "loss": _IN_POPULATION, "members": [16]},
        *({**_TREES, **broken, "loss": [PAIR, "simple", "infonce"], "members": [16]}
          for broken in _BROKEN),
        {"depth": [5], **_TREES, "units": [8, 32], "loss": _ON_SAMPLES, "batches": [100],
         "batch": [128], "members": [16]},
        {"depth": [5], **_TREES, **_TREES_ESTIMATED, "units": [8, 32], "batches": [100],
         "members": [16]},
        {"data": ["digits"], "units": [8, 64], "loss": _ON_SAMPLES, "batches": [100], "batch": [128],
         "members": [8]},
        {**_DIGITS_ESTIMATED, "units": [32, 64], "batches": [80], "members": [8]},
    ],
}  # fmt: skip
RULE = (
    f"Holds if every identity that is exact misses autograd by less than {EXACT:g} of the update, in "
    "float64 (for a pair's update the connection is an array, which backpropagation does not make); "
    "every update that is estimated misses the actual one, measured on other samples, by less than "
    f"{ERRORS:g} standard errors of the difference, these being below {PRECISE:g} of the update (all as "
    "norms over the weight: right predictions are off by about 1); half of every estimated prediction "
    f"misses by more than {ERRORS:g} standard errors; and every form whose assumption is broken misses by "
    f"more than {BROKEN:g} in the median over its networks and layers (where a pattern of active units "
    "happens to be the same for all samples, a bias is a constant there and does no harm). Fails if an "
    "exact identity or an estimate misses by more. Open if the comparison could not tell: standard "
    "errors are larger, a control did not miss, or none was run."
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "Gradient descent updates a weight as the theorems predict",
            "arXiv 2010.00578, Theorems 1 to 4 and Section 5",
            Rule(RULE, Deferred("dualnets.experiments.theorems._update:judge")),
            plateau=None,
        ),
    ),
    summary="theorem by theorem: the predicted update, the actual one",
    result_version=2,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.theorems._update",
)
