"""Does gradient descent change the weights of networks as the theorems predict?

Every identity of the theory is compared with what autograd does to the same weight of the same network:
connections and pairs (Theorem 1; docs/theory.md, Equations 1.3, 2.2 and 2.3), covariance operators (Theorem
3; 3.4 and 3.5) and β-weighted pairs (any contrastive loss; 3.3), and the tree's top operator (4.3). Data
are trees whose every sample is enumerated, trees that are sampled, and photographed digits under crops,
blur and noise. In the controls an assumption is broken (biases, a normalised output, edges that skip a
layer) and the form that rests on it must miss; the form with the outputs f must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Fixed, Grid
from dualnets.lab.rules import FEWEST_TREES, Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    TreeSettings,
    check_augment_setting,
    setting,
)

EXACT = 1e-9  # largest relative error of an identity, in float64
BROKEN = 1e-3  # smallest error of a form whose assumption is broken
EXCESS = (
    2.0  # mean square of an estimate's error in standard errors: 1 if right, 2 if off by one more
)
PRECISE = 0.1  # standard error, as a share of the update, from which an estimate decides nothing
# the identities by the names that they have in tables
CONNECTION, COVARIANCE, WEIGHTED = "Kᵀw = f", "covariance", "β-weighted pairs"
TREE = "tree operator o oᵀ"
PAIRS = {"anchor": "pair, one branch", "both": "pair, both branches"}
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
            check_augment_setting(self.augment, self.build_topology())
        if self.data == "digits" and (self.batches < 2 or self.network != "mlp"):
            raise ValueError("digits are sampled (batches of at least 2) and read by network mlp")
        if self.batches == 1:
            raise ValueError("one batch has no standard error: batches must be 0 or at least 2")
        if self.batches == 0 and self.loss in ("ntxent", "batchwise-nce"):
            raise ValueError(f"{self.loss} is a loss of whole batches: batches must be at least 2")


_TREES: dict[str, list[Any]] = {"network": ["tree", "mlp"]}
_SAMPLED: dict[str, list[Any]] = {"batches": [40], "batch": [64]}
# the simple loss's update is estimated, which takes more samples: of digits most, whose update is small
_TREES_ESTIMATED: dict[str, list[Any]] = {
    "loss": ["simple"], "batches": [40], "batch": [256], "members": [12],
}  # fmt: skip
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
IDENTITY_RULE = (
    "Whole weights of float64 networks, one comparison for every network, loss and layer. Holds if every "
    f"comparison that must be exact misses autograd by less than {EXACT:g} of the actual vector, and every "
    f"kind of control misses by more than {BROKEN:g} in the median over its networks and layers; fails if "
    "an exact comparison misses by more; open if no control was run or one did not miss (a control is a "
    "form whose assumption is broken, or another tree's prediction). Rounding errors have no interval: the "
    "largest is shown, with the number of comparisons. There is no training, so no plateau is asked for."
)
ESTIMATE_RULE = (
    "Prediction and actual update are estimated from different samples. Their difference as a norm over "
    "the weight, in standard errors, has a mean square of 1 if the prediction is right. It is averaged over "
    "layers and over networks that read the same samples (those on one tree, all those on digits), whose "
    "errors go together; the mean over these sets of samples has Student's 95% interval. Holds if it lies "
    f"below {EXCESS:g} (what is off is less than one standard error), that of predictions halved on purpose "
    f"lies above, and every standard error is below {PRECISE:g} of the update; fails if the interval lies "
    f"above {EXCESS:g}; open otherwise, or with fewer than {FEWEST_TREES} sets. There is no training, so no "
    "plateau is asked for."
)
_CODE = "dualnets.experiments.theorems._update_rules"


def identity_claim(
    name: str, text: str, reference: str, *identities: str, rule: str = IDENTITY_RULE, **more: Any
) -> Claim:
    """The claim that predictions of these identities are what autograd gives, to rounding.

    Args:
        name, text, reference: of the claim.
        *identities: the identities that it is about.
        rule: in words.
        **more: other parts of the claim.
    """
    judge = Deferred(f"{_CODE}:judge_identity", {"identities": identities})
    return Claim(text, reference, Rule(rule, judge), name=name, plateau=None, **more)


EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        identity_claim(
            "connection",
            "The transposed connection maps a weight to the output, in networks without biases or "
            "normalised outputs",
            "arXiv 2010.00578 v6, the connection (docs/theory.md, Equation 1.3)",
            CONNECTION,
        ),
        identity_claim(
            "pair",
            "The gradient of a pair's distance is the connection times the difference of outputs",
            "arXiv 2010.00578 v6, Theorem 1 (docs/theory.md, Equations 2.2 and 2.3)",
            *PAIRS.values(),
        ),
        identity_claim(
            "covariance",
            "The simple loss's expected update is the covariance operator times the weight",
            "arXiv 2010.00578 v6, Theorem 3 (docs/theory.md, Equations 3.4 and 3.5)",
            COVARIANCE,
        ),
        identity_claim(
            "weighted-pairs",
            "Any contrastive loss's update is that of its pairs, weighted by their repulsion",
            "ours: the exact form behind Theorems 3 and 4 of arXiv 2010.00578 v6 (docs/theory.md, "
            "Equation 3.3)",
            WEIGHTED,
        ),
        identity_claim(
            "tree-operator",
            "The top covariance operator of a hierarchical latent tree is the product of selectivities",
            "arXiv 2010.00578 v6, hierarchical latent trees: activation covariance (docs/theory.md, "
            "Equation 4.3)",
            TREE,
        ),
        Claim(
            "The covariance operator, estimated from views, predicts the simple loss's update on other "
            "samples",
            "arXiv 2010.00578 v6, Theorem 3 (docs/theory.md, Equation 3.4); estimates are ours",
            Rule(ESTIMATE_RULE, Deferred(f"{_CODE}:judge_estimates")),
            name="estimates",
            plateau=None,
        ),
    ),
    summary="theorem by theorem: the predicted update, the actual one",
    result_version=3,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.theorems._update",
)
