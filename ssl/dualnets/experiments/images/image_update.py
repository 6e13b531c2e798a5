"""Do the theorems on updates hold for convolutional networks on pictures with real views?

Theorems 1 to 4 as `update` and `residual` test them on trees. The connection of a convolution's weight is
what autograd gives for it, and every identity is compared with autograd on the same weight: the gradient of a
pair's distance (Theorem 1), the simple loss's update as a covariance operator (Theorem 3), and any
contrastive loss's update as that of its pairs weighted by β (docs/theory.md, Equations 1.3, 2.2, 2.3, 3.3 to
3.5). In the controls an assumption is broken (biases, a normalised output), and the form that rests on it
must miss.

Random views cannot be enumerated. Where an expectation must be exact, a few pictures with a few fixed views
each are the whole distribution, other ones for every network, and all pairs and negatives are summed. With
fresh random views, losses on batches are compared on the same batches, and the covariance operator of the
simple loss with the update on other pictures and views, in standard errors.

Rate (Theorem 4): the residue of the pair-weighted covariance operator in untrained networks, as the views of
a finite set approach their pictures, in every pixel, until no ReLU changes between a picture and its views.

Guide: networks along their training with InfoNCE. The cosine of the exact update of a finite set and of the
covariance form is the share of the steepest descent that the form keeps. Beside it stand the form made of
views that are dealt to pictures at random (the null) and the form without the weights ξ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dualnets.experiments.theorems.residual import ALLOWANCE, GUIDE, ORDER, QUIETEST
from dualnets.experiments.theorems.update import (
    BROKEN,
    CONNECTION,
    COVARIANCE,
    EXACT,
    EXCESS,
    PAIR,
    PAIRS,
    PRECISE,
    WEIGHTED,
    identity_claim,
)
from dualnets.lab.experiment import Experiment, Fixed, Grid
from dualnets.lab.fields import Conditions
from dualnets.lab.image_settings import ImageNetworkSettings, ImageTrainSettings, PictureSettings
from dualnets.lab.rules import FEWEST_TREES, NETWORKS, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import ContrastSettings, setting

UPDATE, RESIDUE = "update", "residue"


@dataclass(frozen=True, kw_only=True)
class Settings(ImageTrainSettings, ContrastSettings, ImageNetworkSettings, PictureSettings):
    """Pictures, convolutional networks and a loss: whose updates are predicted, or whose residue measured."""

    CONDITIONS: ClassVar[Conditions] = {
        "strength": [{"measure": [RESIDUE]}],
        "steps": [{"measure": [RESIDUE]}],
        "snapshots": [{"measure": [RESIDUE]}],
        "gain": [{"measure": [RESIDUE]}],
        "batches": [{"measure": [UPDATE]}],
    }

    measure: str = setting(
        UPDATE, "a predicted update beside the actual one, or Theorem 4's residue",
        choices=(UPDATE, RESIDUE),
    )  # fmt: skip
    loss: str = setting(
        "infonce",
        "contrastive loss; pair: two pictures' distance alone",
        choices=(PAIR, "simple", "triplet", "infonce", "ntxent", "batchwise-nce"),
    )
    bias: bool = setting(False, "whether channels have biases")
    pictures: int = setting(24, "pictures of a finite set", low=2, high=1 << 10)
    views: int = setting(4, "views of each", low=1, high=1 << 10)
    strength: float = setting(
        1.0, "how far these lie from their picture: 1 where the augmentation puts them", above=0
    )
    batches: int = setting(0, "batches of fresh views; 0 for a finite set", low=0)
    steps: int = setting(0, "updates; 0: the untrained network alone", low=0, high=10**9)
    snapshots: int = setting(
        7, "times a network in training is measured, evenly in log steps", low=2, high=1000
    )
    gain: float = setting(1.0, "factor of the initial weights", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = self.loss in ("ntxent", "batchwise-nce")
        if self.measure == RESIDUE and (whole or self.loss in (PAIR, "simple")):
            raise ValueError(f"a residue is that of triplet or infonce, got loss {self.loss}")
        if self.measure == UPDATE and self.batches == 1:
            raise ValueError("one batch has no standard error: batches must be 0 or at least 2")
        if self.measure == UPDATE and whole and not self.batches:
            raise ValueError(f"{self.loss} is a loss of whole batches: batches must be at least 2")

    def check(self) -> None:
        """Find the pictures.

        Raises:
            FileNotFoundError: they are not on this machine; the text says what to put where.
        """
        self.build_images()


# where the rate is measured: as torch initialises networks, where β hardly varies, and where it varies
REFERENCES: list[dict[str, Any]] = [
    {"gain": 1.0, "temperature": 0.1},
    {"gain": 2.0, "temperature": 1.0},
    {"gain": 3.0, "temperature": 0.1},
]
STRENGTHS = [1.0, 0.1, 0.01, 0.001, 1e-5, 3e-6, 1e-6]
_BROKEN: list[dict[str, Any]] = [{"bias": Fixed(True)}, {"normalize": Fixed(True)}]


def _grids(
    data: str,
    estimated: dict[str, list[Any]],
    trained: dict[str, list[Any]],
    narrow: str = "8-16-16",
) -> list[Grid]:
    """The cells of a data set: where all pairs are summed with the usual widths, else narrower ones."""
    own: dict[str, Any] = {"data": Fixed(data)}
    few = {**own, "members": [3], "pictures": [12], "batch": [16]}
    small = {**own, "widths": [narrow]}
    residue = {**small, "measure": Fixed(RESIDUE)}
    return [
        {**few, "loss": [PAIR], "widths": [narrow]},
        {**few, "loss": ["simple", "triplet", "infonce"]},
        *(
            {**few, **broken, "loss": [PAIR, "simple", "infonce"], "widths": [narrow]}
            for broken in _BROKEN
        ),
        {**few, "loss": ["triplet", "infonce", "ntxent", "batchwise-nce"], "batches": [3]},
        {**small, "loss": ["simple"], **estimated},
        *(
            {**residue, **{name: [value] for name, value in at.items()}, "strength": STRENGTHS}
            for at in REFERENCES
        ),
        {**residue, "pictures": [32], "views": [8], "temperature": [0.1], "normalize": [False, True],
         "lr": [0.03], "momentum": [0.9], **trained},
    ]  # fmt: skip


GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {"loss": [PAIR, "simple", "infonce"], "widths": ["4-6"], "members": [2], "pictures": [8]},
        *(
            {**broken, "loss": ["simple"], "widths": ["4-6"], "members": [2], "pictures": [8]}
            for broken in _BROKEN
        ),
        {"loss": ["simple", "ntxent"], "batches": [4], "batch": [32], "widths": ["4-6"],
         "members": [2]},
        {"measure": Fixed(RESIDUE), "strength": STRENGTHS[-3:], "widths": ["4-6"], "members": [3],
         "pictures": [8]},
        {"measure": Fixed(RESIDUE), "steps": [20], "snapshots": [3], "normalize": [False, True],
         "widths": ["4-6"], "members": [3], "pictures": [8]},
    ],
    "default": _grids("digits", {"batches": [30], "batch": [1024]}, {"steps": [200]}),
    "fashion": _grids("fashion-mnist", {"batches": [20], "batch": [192]}, {"steps": [100]}),
    "paper": _grids("cifar10", {"batches": [30], "batch": [1024]}, {"steps": [1000]}, "usual"),
}  # fmt: skip

IDENTITY_RULE = (
    "Whole weights of convolutions in float64, one comparison for every network, loss and layer; a finite "
    "set of pictures and views stands for the distribution, or the same batches are read on both sides. "
    f"Holds if every comparison that must be exact misses autograd by less than {EXACT:g} of the actual "
    f"vector, and every kind of control misses by more than {BROKEN:g} in the median over its networks and "
    "layers; fails if an exact comparison misses by more; open if no control was run or one did not miss "
    "(a control is a form whose assumption is broken). Rounding errors have no interval: the largest is "
    "shown, with the number of comparisons. There is no training, so no plateau is asked for."
)
ESTIMATE_RULE = (
    "Prediction and actual update are estimated from different pictures and views, other ones for every "
    "network. Their difference as a norm over the weight, in standard errors, has a mean square of 1 if "
    "the prediction is right. It is averaged over the layers of a network, whose errors go together; the "
    f"mean over networks has Student's 95% interval. Holds if it lies below {EXCESS:g} (what is off is less "
    "than one standard error), that of predictions halved on purpose lies above, and every standard error "
    f"is below {PRECISE:g} of the update; fails if the interval lies above {EXCESS:g}; open otherwise, or "
    f"with fewer than {FEWEST_TREES} sets. There is no training, so no plateau is asked for."
)
RATE_RULE = (
    "For every scale of the weights and temperature, network by network and layer by layer: the slope of "
    "log |θ| on the log of the variance of the outputs over the views of a picture, by least squares over "
    f"the {QUIETEST} quietest levels of noise; the theorem's order is {ORDER}. Means over networks have "
    "Student's 95% intervals, simultaneous over all of these. Holds if every interval lies above "
    f"{ORDER - ALLOWANCE:g} (a residue that vanishes faster is within the theorem's bound), fails if one "
    f"lies below, open otherwise, or with fewer than {FEWEST_TREES} networks that have a residue. There is "
    "no training, so no plateau is asked for."
)
GUIDE_RULE = (
    "At every snapshot of training, the cosine of the exact update of all weights together and of the "
    "covariance form, on a finite set; per network the mean over snapshots, which are even in log steps. "
    "For raw outputs and for outputs of length 1, the mean over networks has Student's 95% interval, "
    f"simultaneous over both. Holds if both intervals lie above {GUIDE:g}, and the form is closer to the "
    "update than that made of views that are dealt to the pictures at random (Wilcoxon's exact signed-rank "
    f"test, one-sided, p < {SIGNIFICANCE} after Bonferroni); fails if one interval lies below {GUIDE:g}; "
    f"open otherwise, or with fewer than {FEWEST_TREES} networks. The claim is about the path and no end "
    "state, so no plateau is asked for."
)
_CODE = "dualnets.experiments.images._image_update"
_TREES = "dualnets.experiments.theorems._update_rules"


def _identity(name: str, text: str, reference: str, *identities: str) -> Claim:
    return identity_claim(
        name, text, reference, *identities, rule=IDENTITY_RULE, members=NETWORKS,
        partner=f"update: {name}",
    )  # fmt: skip


EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        _identity(
            "connection",
            "The transposed connection maps a convolution's weight to the output, in networks without biases "
            "or normalised outputs",
            "arXiv 2010.00578 v6, the connection (docs/theory.md, Equation 1.3); convolutions are ours",
            CONNECTION,
        ),
        _identity(
            "pair",
            "The gradient of the distance of two pictures is the connection times the difference of outputs",
            "arXiv 2010.00578 v6, Theorem 1 (docs/theory.md, Equations 2.2 and 2.3); convolutions are ours",
            *PAIRS.values(),
        ),
        _identity(
            "covariance",
            "On pictures, the simple loss's expected update is the covariance operator times the weight",
            "arXiv 2010.00578 v6, Theorem 3 (docs/theory.md, Equations 3.4 and 3.5); convolutions are ours",
            COVARIANCE,
        ),
        _identity(
            "weighted-pairs",
            "On pictures, any contrastive loss's update is that of its pairs, weighted by their repulsion",
            "ours: the exact form behind Theorems 3 and 4 of arXiv 2010.00578 v6 (docs/theory.md, "
            "Equation 3.3)",
            WEIGHTED,
        ),
        Claim(
            "The covariance operator, estimated from random views of pictures, predicts the simple loss's "
            "update on other pictures and views",
            "arXiv 2010.00578 v6, Theorem 3 (docs/theory.md, Equation 3.4); estimates are ours",
            Rule(ESTIMATE_RULE, Deferred(f"{_TREES}:judge_estimates", {"shared": None})),
            name="estimates",
            plateau=None,
            members=NETWORKS,
            partner="update: estimates",
        ),
        Claim(
            "On pictures, the residue of the pair-weighted covariance operator vanishes with the variance of "
            "the augmentation, at first order or faster",
            "arXiv 2010.00578 v6, Theorem 4",
            Rule(RATE_RULE, Deferred(f"{_CODE}_rules:judge_rate")),
            name="rate",
            plateau=None,
            members=NETWORKS,
            partner="residual: rate",
        ),
        Claim(
            "Along training on pictures, the pair-weighted covariance operator is a good guide to the "
            "expected update",
            "ours: Theorem 4 of arXiv 2010.00578 bounds the residue's rate, not its size at a given noise",
            Rule(GUIDE_RULE, Deferred(f"{_CODE}_rules:judge_guide")),
            name="guide",
            plateau=None,
            members=NETWORKS,
            partner="residual: guide",
        ),
    ),
    summary="Theorems 1 to 4 for convolutions on pictures",
    result_version=1,
    Settings=Settings,
    grids=GRIDS,
    code=_CODE,
)
